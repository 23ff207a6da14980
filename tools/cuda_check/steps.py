"""Runs kernels from their PTX and holds every number to its formula in csrc/rules."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import formulas, ptx
from .binary import Name
from .memory import Memory, Stop
from .thread import Thread

ROOT = Path(__file__).resolve().parents[2]
THREADS = 5  # as many as there are elements in the steps of steps.cpp


@dataclass
class Expected:
    """What steps.cpp prints: the labels of the rules' variants, and steps for each kernel."""

    labels: dict[tuple[str, int], str] = field(default_factory=dict)
    steps: dict[Name, list[dict[str, Any]]] = field(default_factory=dict)

    def title(self, name: Name) -> str:
        """Returns a kernel's readable name."""
        return f"{name.kind} {self.labels[name.rule, name.present]} {name.real}"

    def is_fused(self, name: Name) -> bool:
        """Says whether the rule itself asks for a fused operation."""
        return any(
            "fma" in result[2] for step in self.steps.get(name, []) for result in step["results"]
        )


def objects(text: str) -> Iterator[dict[str, Any]]:
    """Yields the objects in JSON that stand in a text one after the other."""
    decoder, start = json.JSONDecoder(), 0
    text = text.rstrip()
    while start < len(text):
        found, end = decoder.raw_decode(text, start)
        start = end + 1
        yield found


def expected() -> Expected:
    """Compiles and runs steps.cpp."""
    found = Expected()
    with tempfile.TemporaryDirectory(prefix="cuda-check-") as folder:
        program = Path(folder, "steps")
        compiler = os.environ.get("CXX", "c++").split()
        # Coefficients that a rule does not set yet keep the zeros of the memory they are made in.
        flags = ["-std=c++20", "-O0", "-ffp-contract=off", "-fno-lifetime-dse", f"-I{ROOT}/csrc"]
        source = Path(__file__).with_name("steps.cpp")
        subprocess.run([*compiler, *flags, str(source), "-o", str(program)], check=True)
        text = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    for one in objects(text):
        if "label" in one:
            found.labels[one["class"].removeprefix("onepass::"), one["present"]] = one["label"]
        else:
            found.steps.setdefault(Name.of(one["kernel"]), []).append(one)
    return found


def _number(data: bytes) -> float:
    (number,) = struct.unpack("<f" if len(data) == 4 else "<d", data)
    return float(number)


def _difference(memory: Memory, address: int, wanted: bytes, postfix: str) -> str:
    bits = memory.get(address, len(wanted))
    if postfix:
        formula = formulas.from_postfix(postfix)
        computed = memory.computed.get(bits, set()) | {formulas.leaf(_number(wanted))}
        if bits != int.from_bytes(wanted, "little") or formula not in computed:
            return f"computes {' or '.join(sorted(computed))}, and the rule {formula}"
    elif bits != int.from_bytes(wanted, "little"):
        return f"computes {bits.to_bytes(len(wanted), 'little').hex()}, the rule {wanted.hex()}"
    return ""


def problem(kernel: ptx.Kernel, step: dict[str, Any]) -> str:
    """Returns the first thing in which a kernel differs from its rule in a step, or nothing."""
    memory = Memory()
    for address, data, _ in step["memory"]:
        memory.put(address, bytes.fromhex(data))
    allowed: set[int] = set()
    try:
        for index in range(THREADS):
            Thread(kernel, bytes.fromhex(step["launch"]), memory, index).run()
        for address, data, postfix in step["results"]:
            wanted = bytes.fromhex(data)
            allowed.update(range(address, address + len(wanted)))
            if difference := _difference(memory, address, wanted, postfix):
                return difference
    except Stop as stop:
        return str(stop)
    if stray := memory.written - allowed:
        return f"writes {len(stray)} bytes it should not, the first at {min(stray):#x}"
    return ""


def problems(title: str, kernel: ptx.Kernel, steps: list[dict[str, Any]]) -> list[str]:
    """Returns a line for each step in which a kernel differs from its rule."""
    found = [problem(kernel, step) for step in steps]
    return [
        f"{title}, PTX, step {k}: {text}; look for another arithmetic in csrc/cuda or the flags"
        for k, text in enumerate(found)
        if text
    ]

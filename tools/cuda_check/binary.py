"""What NVIDIA's cuobjdump says of a compiled file: kernels, registers, machine code, PTX."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

PACKAGES = {"cuobjdump": "nvidia-cuda-cuobjdump", "nvdisasm": "nvidia-cuda-nvdisasm"}


class Name(NamedTuple):
    """Which kernel it is, from its C++ name."""

    kind: str  # prepare, sweep, sum_blocks, finish
    rule: str  # the class in csrc/rules
    present: int  # which variant of the rule
    states: int
    real: str  # float32 or float64

    @classmethod
    def of(cls, demangled: str) -> Name:
        """Reads a C++ name.

        >>> Name.of("sweep<onepass::Adam::Update<float, 3u>, 2, float>")
        Name(kind='sweep', rule='Adam', present=3, states=2, real='float32')
        """
        found = re.search(
            r"(\w+)<onepass::(\w+)(?:::Update<\w+, |, )(\d+)u>?(?:, (\d+))?.*?(float|double)>",
            demangled,
        )
        if found is None:
            raise SystemExit(f"cuda-check: no kernel of ours: {demangled}")
        kind, rule, present, states, real = found.groups()
        width = "float32" if real == "float" else "float64"
        return cls(kind, rule, int(present), int(states or 0), width)


@dataclass
class Usage:
    """What a kernel needs on one architecture."""

    registers: int
    stack: int
    local: int
    constants: int  # bytes of the bank that holds the arguments, and what CUDA puts before them


@dataclass
class MachineCode:
    """What is of interest in a kernel's SASS."""

    wide_loads: int = 0
    wide_stores: int = 0
    loop_start: int | None = None  # the first address that a branch goes back to
    doubles: list[tuple[int, str]] = field(default_factory=list)


class Tools:
    """The executables of the two packages, or of a toolkit that is on the path."""

    def __init__(self) -> None:
        """Finds and copies them."""
        # A wheel does not say that a file is executable: pip leaves the bit out.
        self._folder = tempfile.TemporaryDirectory(prefix="cuda-check-")
        for name, package in PACKAGES.items():
            copy = shutil.copyfile(self._found(name, package), Path(self._folder.name, name))
            copy.chmod(0o755)
        self._environment = os.environ | {
            "PATH": f"{self._folder.name}{os.pathsep}{os.environ['PATH']}"  # nvdisasm is called
        }

    @staticmethod
    def _found(name: str, package: str) -> Path:
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            files = []
        for file in files:
            if file.name == name:
                return Path(str(file.locate()))
        if path := shutil.which(name):
            return Path(path)
        raise SystemExit(f'cuda-check: no {name}: pip install -e ".[cuda-check]"')

    def sizes(self, file: Path) -> dict[str, int]:
        """Returns the bytes of machine code by architecture, unpacked."""
        sizes: dict[str, int] = {}
        with tempfile.TemporaryDirectory(prefix="cuda-check-") as folder:
            list(self.lines("-xelf", "all", str(file.resolve()), folder=folder))
            for cubin in Path(folder).glob("*.cubin"):
                architecture = cubin.name.split(".")[-2]
                sizes[architecture] = sizes.get(architecture, 0) + cubin.stat().st_size
        return sizes

    def lines(self, *arguments: str, folder: str | None = None) -> Iterator[str]:
        """Yields what cuobjdump prints while it does."""
        command = [str(Path(self._folder.name, "cuobjdump")), *arguments]
        with subprocess.Popen(
            command, env=self._environment, cwd=folder, text=True, stdout=subprocess.PIPE
        ) as running:
            assert running.stdout is not None
            yield from running.stdout
        if running.returncode != 0:
            raise SystemExit(
                f"cuda-check: cuobjdump {' '.join(arguments)} failed; if the library has no "
                "kernels, compile it anew with ONEPASS_CUDA=1"
            )


def demangled(names: Iterable[str]) -> dict[str, Name]:
    """Returns the kernels that mangled names stand for."""
    unique = sorted(set(names))
    filtered = subprocess.run(
        ["c++filt"], input="\n".join(unique), text=True, capture_output=True, check=True
    )
    return {m: Name.of(d) for m, d in zip(unique, filtered.stdout.splitlines(), strict=True)}


def listed(lines: Iterable[str]) -> list[str]:
    """Returns the architectures of a listing by -lelf or -lptx, as often as they come."""
    return [found[1] for line in lines if (found := re.search(r"\.(sm_\w+)\.\w+$", line.rstrip()))]


def usages(lines: Iterable[str]) -> dict[tuple[str, str], Usage]:
    """Returns the resources by mangled name and architecture, from cuobjdump -res-usage."""
    found: dict[tuple[str, str], Usage] = {}
    architecture = name = ""
    for line in lines:
        if line.startswith("arch = "):
            architecture = line.split()[-1]
        elif match := re.match(r" Function (\w+):", line):
            name = match[1]
        elif "REG:" in line:
            number = {k: int(v) for k, v in re.findall(r"([A-Z]+(?:\[0\])?):(\d+)", line)}
            usage = Usage(number["REG"], number["STACK"], number["LOCAL"], number["CONSTANT[0]"])
            known = found.get((name, architecture), usage)  # a kernel may be in two objects
            found[name, architecture] = Usage(*map(max, astuple(usage), astuple(known)))
    return found


_INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*) ?(.*?) ?;")
# Arithmetic in double and conversions to and from it.
_DOUBLE = re.compile(r"D(?:ADD|MUL|FMA|SETP|MNMX)\b|[FI]2[FI]\S*\.F64|MUFU\S*64")


def machine_code(lines: Iterable[str]) -> Iterator[tuple[str, MachineCode]]:
    """Yields each kernel's mangled name and code, from cuobjdump -sass of one architecture."""
    name, code = "", MachineCode()
    for line in lines:
        if "Function : " in line:
            if name:
                yield name, code
            name, code = line.split()[-1], MachineCode()
        elif found := _INSTRUCTION.match(line):
            _note(code, int(found[1], 16), found[2], found[3])
    if name:
        yield name, code


def _note(code: MachineCode, address: int, opcode: str, operands: str) -> None:
    if opcode.startswith(("LDG.", "STG.")):
        code.wide_loads += opcode.startswith("LDG") and ".128" in opcode
        code.wide_stores += opcode.startswith("STG") and ".128" in opcode
    elif opcode.startswith("BRA"):
        target = int(operands.split()[-1].strip("`()"), 16)
        if target < address and (code.loop_start is None or target < code.loop_start):
            code.loop_start = target
    elif _DOUBLE.match(opcode):
        code.doubles.append((address, f"{opcode} {operands}"))

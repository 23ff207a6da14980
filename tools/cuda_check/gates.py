"""The promises. Each function returns a line for everything that breaks one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from . import ptx
from .binary import MachineCode, Name, Usage

# So that three blocks of 128 threads of the sweep fit a multiprocessor of 65536 registers, or two
# of 256 that sum; the others run few threads.
REGISTERS = {"prepare": 80, "sweep": 168, "sum_blocks": 128, "finish": 64}
ARGUMENT_BYTES = 4096
LIBRARY_BYTES = 20 * 2**20

# Rounded once, to nearest: the only operations that give the same bits on every device. Without
# its .rn a sum may be joined with a product when the PTX is compiled for a device.
_EXACT = re.compile(r"(?:(?:add|sub|mul|div|rcp|sqrt|fma)\.rn|neg|abs|min|max)\.f(?:32|64)")
_NO_ARITHMETIC = ("ld", "st", "mov", "selp", "setp", "cvt", "shfl")


def architectures(listed: list[str], ptx_listed: list[str], wanted: str) -> list[str]:
    """Machine code for all architectures in every object, and PTX for later ones.

    `wanted` is as in TORCH_CUDA_ARCH_LIST.
    """
    names = ["sm_" + name.replace(".", "") for name in wanted.removesuffix("+PTX").split(";")]
    count = Counter(listed)
    objects = max(count.values(), default=0)
    advice = f"unset TORCH_CUDA_ARCH_LIST, or set it to {wanted}, and compile anew"
    problems = [
        f"{name}: in {count[name]} of {objects or 'no'} objects; {advice}"
        for name in names
        if objects == 0 or count[name] < objects
    ]
    if ptx_listed.count(names[-1]) < max(objects, 1):
        problems.append(f"PTX of {names[-1]}: not in every object; {advice}")
    return problems


def resources(kernel: str, name: Name, architecture: str, usage: Usage) -> list[str]:
    """No spills, no more registers than the budget, and arguments that fit."""
    where = f"{kernel}, {architecture}"
    problems = []
    if usage.stack or usage.local:
        problems.append(
            f"{where}: {usage.stack} bytes of stack and {usage.local} of local memory; keep fewer "
            "values at a time, or let __launch_bounds__ allow more registers"
        )
    if usage.registers > REGISTERS[name.kind]:
        problems.append(
            f"{where}: {usage.registers} registers, over {REGISTERS[name.kind]}; keep fewer values "
            "at a time"
        )
    if usage.constants >= ARGUMENT_BYTES:
        problems.append(
            f"{where}: {usage.constants} bytes of constants, not under {ARGUMENT_BYTES}; make "
            "Launch smaller"
        )
    return problems


def sweep_code(kernel: str, name: Name, architecture: str, code: MachineCode) -> list[str]:
    """Loads and stores of 128 bits for all operands; no double arithmetic for float elements."""
    where = f"{kernel}, {architecture}"
    problems = []
    loads, stores = 2 + name.states, 1 + name.states
    if code.wide_loads < loads or code.wide_stores < stores:
        problems.append(
            f"{where}: {code.wide_loads} loads and {code.wide_stores} stores of 128 bits, not "
            f"{loads} and {stores}; keep Raw's words together"
        )
    if code.loop_start is None:
        problems.append(f"{where}: no loop found; look whether branches are still read rightly")
    elif name.real == "float32":
        problems += [
            f"{where}: {text} at {address:#06x}, in or after the loop over elements; compute in "
            "Real there"
            for address, text in code.doubles
            if address >= code.loop_start
        ]
    return problems


def exact_operations(kernel: str, code: ptx.Kernel, fused: bool) -> list[str]:
    """Every operation rounded once, to nearest; a fused one only where the rule says std::fma."""
    count = Counter(
        instruction.opcode
        for instruction in code.instructions
        if instruction.opcode.endswith((".f32", ".f64"))
        and instruction.opcode.partition(".")[0] not in _NO_ARITHMETIC
    )
    return [
        f"{kernel}, PTX: {times} {opcode}; look for --fmad, -use_fast_math, --prec-div, "
        "--prec-sqrt, --ftz in the flags, and for intrinsics in the kernel"
        for opcode, times in sorted(count.items())
        if not _EXACT.fullmatch(opcode) or (opcode.startswith("fma") and not fused)
    ]


def argument_size(kernel: str, code: ptx.Kernel) -> list[str]:
    """Arguments that every driver takes."""
    if 0 < code.parameter_bytes < ARGUMENT_BYTES:
        return []
    return [f"{kernel}, PTX: {code.parameter_bytes} bytes of arguments; make Launch smaller"]


def library_size(size: int) -> list[str]:
    """A library that nobody minds to download."""
    if size < LIBRARY_BYTES:
        return []
    return [f"the library: {size} bytes, not under {LIBRARY_BYTES}; look for kernels made twice"]


def same_kernels(by_architecture: Mapping[str, Iterable[Name]]) -> list[str]:
    """The same kernels for every architecture."""
    every = set().union(*by_architecture.values())
    return [
        f"{architecture}: no kernel {name.kind} of {name.rule}, variant {name.present}, "
        f"{name.real}; compile anew"
        for architecture, names in by_architecture.items()
        for name in sorted(every - set(names))
    ]

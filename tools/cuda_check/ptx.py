"""Kernels as the text of the PTX that the library holds for later architectures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Instruction(NamedTuple):
    """One line: `@%p1 add.rn.f32 %f1, %f2, %f3;`."""

    guard: str
    opcode: str
    operands: list[str]

    def __str__(self) -> str:
        """Returns it as it was read."""
        return f"{self.guard} {self.opcode} {', '.join(self.operands)}".strip()


@dataclass
class Kernel:
    """The instructions of a kernel and where its labels stand."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    parameter_bytes: int = 0


_LINE = re.compile(r"\s*(?:@(!?%p\d+)\s+)?([a-z][\w.]*)\s*(.*?);\s*$")
_OPERANDS = re.compile(r"\{[^}]*\}|\[[^]]*\]|[^,\s][^,]*")


def kernels_of(lines: Iterable[str]) -> Iterator[Kernel]:
    """Yields the kernels of a listing by cuobjdump -ptx or of nvcc's file."""
    kernel = None
    for line in lines:
        if found := re.search(r"\.entry (\w+)", line):
            kernel = Kernel(found[1])
        elif kernel is None:
            continue
        elif found := re.match(r"\s*\.param .*\[(\d+)\]", line):
            kernel.parameter_bytes += int(found[1])
        elif found := re.match(r"\s*(\$\w+):", line):
            kernel.labels[found[1]] = len(kernel.instructions)
        elif line.startswith("}"):
            yield kernel
            kernel = None
        elif found := _LINE.match(line):
            operands = [operand.strip() for operand in _OPERANDS.findall(found[3])]
            kernel.instructions.append(Instruction(found[1] or "", found[2], operands))

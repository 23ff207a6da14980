"""docs/cuda-registers.md: the registers of each kernel, so that a change shows in review."""

from __future__ import annotations

import re
from pathlib import Path

TABLE = Path(__file__).resolve().parents[2] / "docs" / "cuda-registers.md"

_TOP = """\
# Registers of the CUDA kernels

`python -m tools.cuda_check --update` writes this page, and `make cuda-check` holds every build by
the same compiler to it. Compiled by {compiler}.

"""

Registers = dict[str, dict[str, int]]  # by the kernel's title and the architecture


def number(architecture: str) -> int:
    """Returns what architectures are ordered by."""
    return int(re.sub(r"\D", "", architecture))


def page(registers: Registers, compiler: str) -> str:
    """Returns the whole page."""
    columns = sorted({name for row in registers.values() for name in row}, key=number)
    lines = [f"| kernel | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
    for kernel, row in sorted(registers.items()):
        lines.append(f"| {kernel} | {' | '.join(str(row.get(c, '')) for c in columns)} |")
    return _TOP.format(compiler=compiler) + "\n".join(lines) + "\n"


def read(text: str) -> tuple[Registers, str]:
    """Returns what a page says, and of which compiler."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    columns = rows[0][1:] if rows else []
    registers = {
        kernel: {c: int(n) for c, n in zip(columns, numbers, strict=False) if n}
        for kernel, *numbers in rows[1:]
    }
    compiler = re.search(r"Compiled by (.+)\.\n", text)
    return registers, compiler[1] if compiler else ""


def problems(registers: Registers, compiler: str, text: str) -> list[str]:
    """Returns a line for each number that is not the committed one."""
    committed, by = read(text)
    if by != compiler:  # another compiler allocates in another way
        return []
    found = []
    for kernel in sorted(registers.keys() | committed.keys()):
        now, then = registers.get(kernel, {}), committed.get(kernel, {})
        found += [
            f"{kernel}, {a}: {now.get(a, 'no')} registers, in {TABLE.name} {then.get(a, 'none')}; "
            "if that is meant, python -m tools.cuda_check --update"
            for a in sorted(now.keys() | then.keys(), key=number)
            if now.get(a) != then.get(a)
        ]
    return found

"""`python -m tools.cuda_check`: the gates on the compiled kernels."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from build_backend.toolchain import cuda_home, default_archs

from . import binary, gates, ptx, registers, steps
from .binary import Name

ROOT = Path(__file__).resolve().parents[2]


class Check:
    """The library, what cuobjdump says of it, and the problems found so far."""

    def __init__(self, library: Path) -> None:
        """Reads what all gates need."""
        self.library = library
        self.tools = binary.Tools()
        self.expected = steps.expected()
        self.problems: list[str] = []
        usages = binary.usages(self._dump("-res-usage"))
        self.names = binary.demangled(mangled for mangled, _ in usages)
        self.usages = {(self.names[m], a): usage for (m, a), usage in usages.items()}
        self.architectures = sorted({a for _, a in self.usages}, key=registers.number)

    def _dump(self, *options: str) -> Iterator[str]:
        return self.tools.lines(*options, str(self.library))

    def registers(self) -> registers.Registers:
        """Returns the table of registers."""
        found: registers.Registers = {}
        for (name, architecture), usage in self.usages.items():
            found.setdefault(self.expected.title(name), {})[architecture] = usage.registers
        return found

    def run(self, wanted: str) -> None:
        """Goes through all gates but the table."""
        elf, ptx_files = (binary.listed(self._dump(option)) for option in ("-lelf", "-lptx"))
        self.problems += gates.architectures(elf, ptx_files, wanted)
        self.problems += gates.library_size(self.library.stat().st_size)
        kernels = {a: {n for n, of in self.usages if of == a} for a in self.architectures}
        self.problems += gates.same_kernels(kernels)
        for (name, architecture), usage in self.usages.items():
            title = self.expected.title(name)
            self.problems += gates.resources(title, name, architecture, usage)
        with ThreadPoolExecutor(max_workers=2) as pool:
            for found in pool.map(self._machine_code, self.architectures):
                self.problems += found
        self._ptx()

    def _machine_code(self, architecture: str) -> list[str]:
        found: set[str] = set()
        for mangled, code in binary.machine_code(self._dump("-sass", "-arch", architecture)):
            name = self.names[mangled]
            if name.kind == "sweep":
                found |= set(gates.sweep_code(self.expected.title(name), name, architecture, code))
        return sorted(found)

    def _ptx(self) -> None:
        found: set[str] = set()
        seen: set[Name] = set()
        for code in ptx.kernels_of(self._dump("-ptx")):
            name = self.names[code.name]
            if name in seen:  # in two objects
                continue
            seen.add(name)
            title = self.expected.title(name)
            found |= set(gates.exact_operations(title, code, self.expected.is_fused(name)))
            found |= set(gates.argument_size(title, code))
            found |= set(steps.problems(title, code, self.expected.steps.get(name, [])))
        for name in self.expected.steps.keys() - seen:
            found.add(f"{self.expected.title(name)}: no PTX; compile anew")
        self.problems += sorted(found)


def built_library() -> Path:
    """Returns the library of kernels of the editable install."""
    found = ROOT / "python/onepass/libonepass_kernels.so"
    if not found.is_file():
        raise SystemExit(f"cuda-check: no {found.relative_to(ROOT)}: make test")
    return found


def compiler_of(home: Path) -> str:
    """Returns the name and number of the toolkit's nvcc."""
    text = subprocess.run(
        [str(home / "bin" / "nvcc"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"V([\d.]+)", text)
    return f"nvcc {found[1]}" if found else "an nvcc without a number"


def summary(check: Check) -> Table:
    """Returns the most registers of each kind of kernel."""
    table = Table(title="most registers, and size")
    table.add_column("kernels")
    for architecture in check.architectures:
        table.add_column(architecture, justify="right")
    most: dict[str, dict[str, int]] = {}
    for (name, architecture), usage in check.usages.items():
        row = most.setdefault(f"{name.kind} {name.real}", {})
        row[architecture] = max(usage.registers, row.get(architecture, 0))
    for kind, row in sorted(most.items()):
        table.add_row(kind, *(str(row.get(a, "")) for a in check.architectures))
    sizes = check.tools.sizes(check.library)
    table.add_section()
    table.add_row("MiB of code", *(f"{sizes[a] / 2**20:.1f}" for a in check.architectures))
    return table


def main(
    library: Annotated[Path | None, typer.Argument(help="a file with kernels")] = None,
    update: Annotated[bool, typer.Option(help="rewrite the table of registers")] = False,
) -> None:
    """Checks the kernels that were compiled into the library."""
    console = Console()
    home = cuda_home()
    if home is None:
        if os.environ.get("REQUIRE_NVCC") == "1":
            raise SystemExit("cuda-check: REQUIRE_NVCC=1, but there is no nvcc")
        console.print("cuda-check: left out, because there is no nvcc")
        return
    compiler = compiler_of(home)
    check = Check(library or built_library())
    check.run(default_archs(home))
    table = check.registers()
    if update:
        registers.TABLE.write_text(registers.page(table, compiler))
    check.problems += registers.problems(table, compiler, registers.TABLE.read_text())
    console.print(summary(check))
    size = check.library.stat().st_size / 2**20
    console.print(f"{len(check.names)} kernels, {size:.1f} MiB, {compiler}")
    for problem in check.problems:
        console.print(problem, markup=False, highlight=False, soft_wrap=True)
    if check.problems:
        raise SystemExit(f"cuda-check: {len(check.problems)} problems")
    console.print("cuda-check: all promises kept")


if __name__ == "__main__":
    typer.run(main)

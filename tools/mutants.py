"""Plants faults in csrc/, one at a time, and says which of them the fast tests do not notice.

Faults are found by patterns and drawn by a seed. What one changes is compiled with the flags of the
build and linked with its other objects, in a copy. Some mutants compute what the original does, and
some are noticed by slow tests only: so what is asked for is a share, and the survivors are printed.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from build_backend.toolchain import cuda_home
from tests.built import GLUE, KERNELS, ROOT, TORCH_MINOR, built_object, files_of, flags, folder_of

CSRC = ROOT / "csrc"
UNITS = sorted(file.relative_to(ROOT) for file in CSRC.glob("**/*.cpp"))
SOURCES = ("rules/*.h", "sweep/*.cpp", "sweep/flat_index.h", "sweep/tile.h", "storage/floats.h",
           "step/*", "tensor/*.cpp", "registry/algorithm.cpp", "bindings/option_values.cpp",
           "bindings/param_groups.cpp")  # fmt: skip
TABLES = {"rules.h", "variants.h", "plan.h", "devices.cpp"}  # or for devices
TESTS = ["algorithms", "never_stale", "copies", "claims", "parity", "sparse", "layouts", "gaps"]
MOST_SECONDS = 900  # of the tests; more is a loop without an end
OPERATORS = (  # what is looked for where neither comments nor texts stand, what takes its place
    (r" \+ ", " - "), (r" - ", " + "), (r" \* ", " / "), (r" / ", " * "),
    (r" < ", " <= "), (r" <= ", " < "), (r" > ", " >= "), (r" >= ", " > "),
    (r" == ", " != "), (r" != ", " == "), (r" && ", " || "), (r" \|\| ", " && "),
    (r" [-+*] [\w.]+(?:\[\w+\])?(?=[ ;,)])", ""),  # a term or a factor
    (r"\bh\.beta1\b", "h.beta2"), (r"\bh\.beta2\b", "h.beta1"), (r"std::sqrt\(", "("),
    (r"\breturn true\b", "return false"), (r"\breturn false\b", "return true"),
    (r"(?m)^ +[\w.]+(?:\[\w+\])? [-+*|&]?= [^;]*;$", ";"),  # an assignment
    (r"(?m)^ *\bif \([^;{}]*\) return\b[^;]*;$", ";"),
    (r"(?m)^ *(?:TORCH_CHECK\w*|check_\w+)\([^;]*\);$", ";"),
)  # fmt: skip
# What is for the compiler, or for speed alone.
LEFT_ALONE = re.compile(r"^ *(?:#|template|static_assert)|constexpr|prefetch|Ahead|reserve")


@dataclass(frozen=True)
class Mutant:
    """A change at a place of a file below csrc/."""

    file: Path
    start: int
    end: int
    new: str

    def plant(self, text: str) -> tuple[str, str]:
        """Returns the file's text with the change, and the lines that differ, for people."""
        first, last = text.rfind("\n", 0, self.start + 1) + 1, text.find("\n", self.end)
        old, new = text[first:last], text[first : self.start] + self.new + text[self.end : last]
        shown = [f"csrc/{self.file}:{text.count(chr(10), 0, first) + 1}"]
        shown += [f"  - {line}" for line in old.splitlines()]
        shown += [f"  + {line}" for line in new.splitlines()]
        return text[:first] + new + text[last:], "\n".join(shown)


def mutants() -> Iterator[Mutant]:
    """Yields everything that the patterns find."""
    files = (file for pattern in SOURCES for file in sorted(CSRC.glob(pattern)))
    for file in (file for file in files if file.name not in TABLES):
        text = file.read_text()
        code = re.sub(r'//[^\n]*|"[^"\n]*"', lambda found: "_" * len(found[0]), text)
        for pattern, new in OPERATORS:
            for found in re.finditer(pattern, code):
                first = code.rfind("\n", 0, found.start() + 1) + 1
                if not LEFT_ALONE.search(code[first : code.find("\n", first)]):
                    yield Mutant(file.relative_to(CSRC), *found.span(), new)


def units_of(file: Path) -> list[Path]:
    """Returns the units to compile anew: of a header, all loops and sweeps that include it."""
    if file.suffix == ".cpp":
        return [Path("csrc", file)]
    users = [unit for unit in UNITS if unit.parent.name in ("registry", "sweep")]
    users = [unit for unit in users if CSRC / file in files_of(ROOT / unit)]
    rules = re.findall(r"^struct (\w+) :", (CSRC / file).read_text(), re.MULTILINE)
    table = (CSRC / "rules/rules.h").read_text()
    families = re.findall(r"using (\w+) =\s+Family<([^>]*)>", table)
    own = [name for name, all in families if set(rules) & set(re.findall(r"\w+", all))]
    return [u for u in users if any(f"<{name}>" in (ROOT / u).read_text() for name in own)] or users


class Copy:
    """A copy of csrc/ and python/ whose extension is linked anew for each mutant."""

    def __init__(self, folder: Path) -> None:
        """Copies the checkout without what was built in it."""
        self.folder = folder
        for part in ("csrc", "python"):
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        self.package = folder / "python/onepass"

    def compile(self, unit: Path) -> Path | None:
        """Returns the object, or None where the compiler refuses; -O1 changes no bits."""
        compiler, before, after = flags(folder_of(unit))
        ours = {f"-I{CSRC}": f"-I{self.folder / 'csrc'}"}
        before = [ours.get(flag, flag) for flag in before if flag != "-c"]
        made = self.folder / unit.with_suffix(".o").name
        line = [*compiler, *before, "-c", self.folder / unit, "-o", made, *after]
        return made if run([*line, "-O1", "-w"]).returncode == 0 else None

    def link(self, changed: dict[Path, Path]) -> None:
        """Links; what was changed stands first, where several objects hold an inline function."""
        kernels = self.package / "libonepass_kernels.so"
        cuda = [KERNELS / f.relative_to(ROOT).with_suffix(".o") for f in CSRC.glob("**/*.cu")]
        more: list[object] = [f"-Wl,-soname,{kernels.name}"]
        if (home := cuda_home()) is not None and all(kernel.exists() for kernel in cuda):
            more += [*cuda, f"-L{home / 'lib64'}", "-lcudart_static", "-lrt", "-ldl", "-lpthread"]
        self.link_library(KERNELS, changed, kernels, more)
        module = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
        names = [f"-l{name}" for name in ("c10", "torch", "torch_cpu", "torch_python")]
        more = [kernels, f"-L{Path(torch.__file__).parent / 'lib'}", *names]
        folder = self.package / f"_torch_{TORCH_MINOR}"
        folder.mkdir(exist_ok=True)
        self.link_library(GLUE, changed, folder / module, [*more, "-Wl,-rpath,$ORIGIN/.."])

    def link_library(
        self, folder: Path, changed: dict[Path, Path], made: Path, more: Sequence[object]
    ) -> None:
        """Links one of the two libraries."""
        units = [unit for unit in UNITS if folder_of(unit) == folder]
        objects = [made for unit, made in changed.items() if unit in units]
        objects += [built_object(unit) for unit in units if unit not in changed]
        run([*flags()[0], "-shared", *objects, *more, "-o", made]).check_returncode()

    def noticed(self, tests: Sequence[str]) -> str:
        """Returns what the tests say of the copy, nothing where all pass."""
        env = {**os.environ, "PYTHONPATH": f"{self.folder / 'python'}:{ROOT}"}
        ask = run([sys.executable, "-c", "from onepass import _C; print(_C.__file__)"], env=env)
        if not ask.stdout.startswith(str(self.folder)):
            return f"no import: {(ask.stderr.splitlines() or [ask.stdout])[-1]}"
        line = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider"]
        files = [f"tests/test_{name}.py" for name in tests]
        try:
            done = run(
                [*line, "-m", "not slow and not compile", *files], env=env, timeout=MOST_SECONDS
            )
        except subprocess.TimeoutExpired:
            return "out of time"
        failed = re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE)
        return "" if done.returncode == 0 else (failed or [f"exit code {done.returncode}"])[0]


def run(command: Sequence[object], **more: object) -> subprocess.CompletedProcess[str]:
    """Runs a command in the checkout."""
    return subprocess.run([*map(str, command)], cwd=ROOT, text=True, capture_output=True, **more)


def judged(drawn: Sequence[Mutant], given: argparse.Namespace, copy: Copy) -> Iterator[str]:
    """Tests so many mutants of those that compile and prints each; yields who survive."""
    count = given.count
    for mutant in drawn:
        original = (CSRC / mutant.file).read_text()
        text, shown = mutant.plant(original)
        planted = copy.folder / "csrc" / mutant.file
        planted.write_text(text)
        changed = {unit: copy.compile(unit) for unit in units_of(mutant.file)}
        planted.write_text(original)
        if not all(changed.values()):
            continue
        copy.link(changed)
        why = copy.noticed(given.tests)
        print(f"killed   {shown}\n  {why}" if why else f"SURVIVED {shown}", flush=True)
        if not why:
            yield shown
        if (count := count - 1) == 0:
            return


def main() -> int:
    """Returns 1 where too few are noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=30, help="how many mutants that compile")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=0.9, help="the share that must be noticed")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="test files, of tests/test_*.py")
    given = parser.parse_args()
    if stale := [unit for unit in UNITS if built_object(unit) is None]:
        parser.error(f"{stale[0]} is newer than its object: make test first")
    drawn = list(mutants())
    random.Random(given.seed).shuffle(drawn)
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        copy.link({})
        if why := copy.noticed(given.tests):
            parser.error(f"without a fault the tests fail: {why}")
        survivors = list(judged(drawn, given, copy))
    share = 1 - len(survivors) / given.count
    print(f"\n{share:.0%} of {given.count} noticed. Survivors:", *survivors, sep="\n")
    return 0 if share >= given.least else 1


if __name__ == "__main__":
    sys.exit(main())

"""A copy of the checkout in which one fault is planted: compiled, linked and tested by itself.

Only what the fault changes is compiled, with the flags of the build in build/ and cheaper
optimisation, which changes no bits. All other objects are those of the build, or, where a source is
newer than its object, compiled once for all faults.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from build_backend.toolchain import cuda_home

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / f"release-{sysconfig.get_config_var('SOABI')}"
PARTS = ("csrc", "python", "tests")
CHEAPER = "-O1"
TORCH_HEADERS = (
    "torch/csrc/autograd/python_variable.h",
    "ATen/Functions.h",
    "ATen/core/dispatch/Dispatcher.h",
    "torch/library.h",
)
# An editable install puts the checkout on the path of every process: this stops a run on it.
GUARD = """
from pathlib import Path
import onepass
from onepass import _C

for module in (onepass, _C):
    assert Path(module.__file__).is_relative_to(Path(__file__).parent), module
"""


@dataclass(frozen=True)
class Outcome:
    code: int
    output: str

    @property
    def passed(self) -> bool:
        return self.code == 0

    @property
    def failed(self) -> bool:
        """Whether tests failed; errors in collecting or starting them do not count."""
        last = self.output.strip().splitlines()[-1:] or [""]
        return self.code == 1 and re.search(r"\b[1-9]\d* failed\b", last[0]) is not None


def _kernels() -> list[object]:
    """Returns the objects of the build that nvcc made, and what they are linked with."""
    made = [BUILD / file.relative_to(ROOT).with_suffix(".o") for file in ROOT.glob("csrc/**/*.cu")]
    home = cuda_home()
    if home is None or not all(file.exists() for file in made):
        return []
    return [*made, f"-L{home / 'lib64'}", "-lcudart_static", "-lrt", "-ldl", "-lpthread"]


def units() -> list[Path]:
    """Returns what is compiled, relative to the root."""
    return sorted(file.relative_to(ROOT) for file in ROOT.glob("csrc/**/*.cpp"))


def built_object(unit: Path) -> Path | None:
    """Returns the object that the build made of a unit, or None where a source is newer."""
    built = BUILD / unit.with_suffix(".o")
    sources = _files_of(ROOT / unit)
    is_new = built.exists() and built.stat().st_mtime > max(s.stat().st_mtime for s in sources)
    return built if is_new else None


def uses_torch(unit: Path) -> bool:
    """Returns whether a unit reads many of torch's headers: those of the loops read none."""
    return unit.parent == Path("csrc")


class Scratch:
    """One copy of the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
        for part in PARTS:
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        shutil.copy2(ROOT / "pyproject.toml", folder)
        (folder / "scratch_guard.py").write_text(GUARD)

    def plant(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        count = text.count(old)
        if count != 1:
            raise LookupError(f"{file} holds {count} times, not once:\n{old}")
        path.write_text(text.replace(old, new))

    def compile(self, unit: Path, header: Path | None = None) -> Path:
        """Compiles a unit; most of the time goes into torch's headers, which may be given read."""
        made = self.folder / "objects" / unit.with_suffix(".o")
        made.parent.mkdir(parents=True, exist_ok=True)
        before, after = flags(self.folder)
        given = ["-include", header] if header is not None and uses_torch(unit) else []
        _call([*before, *given, self.folder / unit, "-o", made, *after, CHEAPER])
        return made

    def link(self, objects: Sequence[Path]) -> None:
        libraries = Path(torch.__file__).parent / "lib"
        names = ("c10", "torch", "torch_cpu", "torch_python")
        module = self.folder / "python" / "onepass" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
        compiler = flags(self.folder)[0][0]
        given = [f"-L{libraries}", *(f"-l{name}" for name in names), "-o", module]
        _call([compiler, "-shared", *objects, *_kernels(), *given])

    def run(self, tests: Sequence[str], *options: str, timeout: float = 240.0) -> Outcome:
        """Runs tests of the copy on the copy."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        path = [str(self.folder), str(self.folder / "python")]
        env |= {"PYTHONPATH": os.pathsep.join(path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        always = [
            "-p",
            "pytest_timeout",
            "-p",
            "scratch_guard",
            "-p",
            "no:cacheprovider",
            "-q",
            "--tb=line",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *always, *options, *tests],
            cwd=self.folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
        return Outcome(done.returncode, done.stdout)


class Base:
    """The copy without a fault, shared by all processes of a test run."""

    def __init__(self, shared: Path) -> None:
        self.shared = shared / "scratch"
        self.shared.mkdir(exist_ok=True)

    def once(self, name: str, make: Callable[[], str]) -> str:
        """Returns what the first process to come here made; the others wait for it."""
        kept = self.shared / re.sub(r"\W", "_", name)
        with _lock(kept.with_suffix(".lock")):
            if not kept.exists():
                kept.write_text(make())
            return kept.read_text()

    def folder(self) -> Path:
        return Path(self.once("folder", lambda: str(Scratch(self.shared / "clean").folder)))

    def header(self) -> Path:
        """Returns a header of torch's beside which lies what the compiler has made of it."""

        def read() -> str:
            header = self.shared / "torch.h"
            header.write_text("".join(f"#include <{name}>\n" for name in TORCH_HEADERS))
            before, after = flags(ROOT)
            compiler = [flag for flag in before if flag != "-c"]
            made = header.with_suffix(".h.gch")
            _call([*compiler, "-x", "c++-header", header, "-o", made, *after, CHEAPER])
            return str(header)

        return Path(self.once("header", read))

    def object_of(self, unit: Path) -> Path:
        """Returns the object of a unit without a fault."""
        if (built := built_object(unit)) is not None:
            return built
        folder = self.folder()
        return Path(
            self.once(f"object {unit}", lambda: str(_opened(folder).compile(unit, self.header())))
        )

    def failures(self, tests: Sequence[str]) -> list[str]:
        """Runs tests of one file without a fault; returns pytest's lines of failures."""
        folder = self.folder()

        def link() -> str:
            _opened(folder).link([self.object_of(unit) for unit in units()])
            return "linked"

        def run() -> str:
            outcome = _opened(folder).run(tests)
            assert outcome.passed or outcome.failed, outcome.output
            return outcome.output

        self.once("module", link)
        output = self.once(f"outcome of {tests[0].partition('::')[0]}", run)
        return [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]


def _opened(folder: Path) -> Scratch:
    scratch = object.__new__(Scratch)
    scratch.folder = folder
    return scratch


def _files_of(file: Path) -> set[Path]:
    """Returns a source and all of ours that it includes, by whatever way."""
    found, left = set(), [file.resolve()]
    while left:
        here = left.pop()
        found.add(here)
        for name in re.findall(r'^#include "(.*)"', here.read_text(), re.MULTILINE):
            other = (here.parent / name).resolve()
            if not other.exists():
                other = (ROOT / "csrc" / name).resolve()
            if other not in found:
                left.append(other)
    return found


def flags(folder: Path = ROOT) -> tuple[list[str], list[str]]:
    """Returns the compiler and its flags, those before and those after the file's name.

    Those after it are what setup.py gives.
    """
    file = BUILD / "build.ninja"
    if not file.exists():
        raise FileNotFoundError(f"{file}: tests compile as onepass was compiled; make test first")
    found = dict(re.findall(r"^(\w+) = (.*)$", file.read_text(), re.MULTILINE))
    before = shlex.split(found["cxx"]) + shlex.split(found["cflags"])
    ours = {f"-I{ROOT / 'csrc'}": f"-I{folder / 'csrc'}"}
    return [ours.get(flag, flag) for flag in before], shlex.split(found["post_cflags"])


def _call(command: Sequence[object]) -> None:
    done = subprocess.run([*map(str, command)], text=True, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(map(str, command))}\n{done.stderr}")


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[None]:
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield

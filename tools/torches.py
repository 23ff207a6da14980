"""Runs the suite of `make test` with other versions of torch and Python, on the CPU.

    python tools/torches.py                              all of TESTED
    python tools/torches.py 2.11.0 -- -x tests/test_ops.py   one of them; pytest takes the rest

For each version there are a virtual environment and a copy of the checkout, in which onepass is
built and tested, below the folder TORCHES (default: ~/.cache/onepass/torches). The checkout is left
alone. pip's own index settings are honoured; PyPI has wheels of these versions with CUDA only, of
nearly a GB, whose CUDA libraries (2 GB more) are stood in for by empty ones: never ship that.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("TORCHES") or Path.home() / ".cache/onepass/torches")
MADE_HERE = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "*.egg-info", "*.so", "__pycache__",
    ".*_cache", ".hypothesis",
)  # fmt: skip
FLAGS = "import sys, os; sys.setdlopenflags(os.RTLD_LAZY)\n"  # functions of stand-ins are missing
TORCHS = (
    "from importlib import metadata; print(*(r for r in metadata.requires('torch') "
    "if 'extra ==' not in r and not r.startswith(('nvidia-', 'cuda-', 'triton'))), sep='\\n')"
)


class Failed(Exception):
    """Says in a sentence or two what went wrong and what to do."""


@dataclass(frozen=True)
class Version:
    """A version of torch, the Python that it is tested with, and what must be real of its CUDA.

    Torch starts the runtime and the profiler when it is loaded, and reads variables of nvshmem.
    """

    torch: str
    python: str
    real: tuple[str, ...]


CUDA_12_8 = ("nvidia-cuda-runtime-cu12==12.8.*", "nvidia-cuda-cupti-cu12==12.8.*")
CUDA_13_0 = ("nvidia-cuda-runtime==13.0.*", "nvidia-cuda-cupti==13.0.*")
CUDA_13_2 = ("nvidia-cuda-runtime==13.2.*", "nvidia-cuda-cupti==13.2.*")
# One of each minor version; these are tested where no other is asked for: TESTED.
VERSIONS = (
    Version("2.9.1", "3.11", CUDA_12_8),
    Version("2.10.0", "3.11", CUDA_12_8),
    Version("2.11.0", "3.12", CUDA_13_0),
    Version("2.12.1", "3.12", CUDA_13_0),
    Version("2.13.0", "3.13", ()),  # its wheel on PyPI is for the CPU
    Version("2.14.1", "3.13", (*CUDA_13_0, "nvidia-nvshmem-cu13==3.4.*")),
    Version("2.15.0", "3.13", (*CUDA_13_2, "nvidia-nvshmem-cu13==3.7.*")),
)
TESTED = ("2.9.1", "2.11.0", "2.15.0")


def run(*command: object, cwd: Path = ROOT, quiet: bool = True, **settings: str) -> str:
    """Runs a command; returns what it printed, and raises CalledProcessError where it fails."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "LD_PRELOAD")
    env = {k: v for k, v in os.environ.items() if k not in hidden} | settings
    into = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if quiet else {}
    return str(
        subprocess.run(
            list(map(str, command)), cwd=cwd, env=env, check=True, text=True, **into
        ).stdout
    )


def find_python(minor: str, or_this: bool = True) -> str | None:
    """Returns a Python of this minor version, else the one that runs here, and says so, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    places = [shutil.which(f"python{minor}"), *pyenv.glob(f"versions/{minor}.*/bin/python")]
    for python in filter(None, places):
        code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
        try:
            if run(python, "-c", code).strip() == minor:
                return str(python)
        except subprocess.CalledProcessError:
            continue  # a shim of pyenv for a version that is not there
    if not or_this:
        return None
    here = "{}.{}".format(*sys.version_info)
    print(f"no Python {minor} here: tested with {here} in its place", flush=True)
    return sys.executable


def mirror(source: Path, target: Path) -> None:
    """Makes the target like the source, but for what is made in them; what is equal stays."""

    def copy(a: str, b: str) -> None:
        before = Path(b)
        if not before.is_file() or before.read_bytes() != Path(a).read_bytes():
            shutil.copy(a, b)  # with a new time, so that ninja compiles it

    shutil.copytree(source, target, ignore=MADE_HERE, copy_function=copy, dirs_exist_ok=True)
    for folder, subfolders, files in os.walk(target):
        made = MADE_HERE(folder, [*subfolders, *files])
        subfolders[:] = set(subfolders) - made
        for name in set(files) - made:
            if not (source / Path(folder, name).relative_to(target)).exists():
                Path(folder, name).unlink()


class Environment:
    """A virtual environment with a version of torch, and what it needs beside it."""

    def __init__(self, version: Version, folder: Path, packages: Sequence[str]) -> None:
        """Names the places; nothing is made yet."""
        self.version = version
        self.folder = folder
        self.packages = packages
        self.python = self.folder / "venv/bin/python"

    @property
    def path(self) -> str:
        """The PATH with the environment's commands first."""
        return f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"

    def pip(self, *arguments: str, **settings: str) -> None:
        """Installs something, or raises Failed with pip's own words."""
        command = [self.python, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        try:
            run(*command, *arguments, **settings)
        except subprocess.CalledProcessError as error:
            said = [line for line in error.output.splitlines() if line.startswith("ERROR")]
            raise Failed(
                f"pip cannot install {' '.join(arguments)}: {' '.join(said) or error.output}"
            ) from None

    def set_up(self) -> None:
        """Installs torch and the packages, unless they are there already."""
        stamp = self.folder / "ready"
        wanted = hashlib.sha256(repr((self.version, self.packages)).encode()).hexdigest()
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        if not self.python.is_file():
            run(find_python(self.version.python), "-m", "venv", self.folder / "venv")
        print(f"installing torch {self.version.torch} in {self.folder}", flush=True)
        self.pip("--no-deps", f"torch=={self.version.torch}", *self.version.real)
        self.pip(*self.packages, *run(self.python, "-c", TORCHS).splitlines())
        self.stand_in()
        stamp.write_text(wanted)

    def stand_in(self) -> None:
        """Makes an empty library for each one that torch's own ask for and that is not there."""
        site = Path(run(self.python, "-c", "import site; print(site.getsitepackages()[0])").strip())
        libraries = site / "torch/lib"
        asked = (run("ldd", library) for library in libraries.glob("*.so*"))
        for name in set(re.findall(r"(\S+) => not found", "\n".join(asked))):
            empty = ["gcc", "-shared", "-x", "c", os.devnull, f"-Wl,-soname,{name}"]
            run(*empty, "-o", libraries / name)
        (site / "stand_ins.pth").write_text(FLAGS)


def project() -> dict[str, Any]:
    """Returns what pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test(version: Version, arguments: list[str]) -> bool:
    """Builds onepass from a copy of the checkout and runs pytest there."""
    extras = project()["project"]["optional-dependencies"]
    tests = [*extras["test"], *extras["demo"], *extras["bench"]]
    needed = [*project()["build-system"]["requires"], *(t for t in tests if "[" not in t)]
    environment = Environment(version, FOLDER / f"torch-{version.torch}", needed)
    source = environment.folder / "source"
    mirror(ROOT, source)
    environment.set_up()
    print(f"building for torch {version.torch}", flush=True)
    own = ["--no-build-isolation", "--no-deps", "-e", str(source)]
    environment.pip(*own, ONEPASS_CUDA="0", PATH=environment.path)
    try:
        pytest = [environment.python, "-m", "pytest", *arguments]
        # Threads that spin while they wait would hold up the other processes of pytest-xdist.
        settings = {"PATH": environment.path, "OMP_WAIT_POLICY": "PASSIVE"}
        run(*pytest, cwd=source, quiet=False, **settings)
    except subprocess.CalledProcessError:
        return False
    return True


def main() -> int:
    """Runs the command line; returns the exit code."""
    known = {version.torch: version for version in VERSIONS}
    parser = argparse.ArgumentParser(prog="tools/torches.py", description=__doc__.split("\n")[0])
    parser.add_argument(
        "versions", nargs="*", help=f"of {', '.join(known)}; default: {' '.join(TESTED)}"
    )
    given = [*sys.argv[1:], "--"]
    asked = parser.parse_args(given[: given.index("--")]).versions or list(TESTED)
    if unknown := set(asked) - known.keys():
        parser.error(f"unknown versions: {', '.join(unknown)}")
    arguments = given[given.index("--") + 1 : -1] or ["-m", "not slow"]
    results = {}
    for torch in asked:
        try:
            passed = test(known[torch], arguments)
            results[torch] = "passed" if passed else "tests failed"
        except Failed as error:
            results[torch] = f"not tested: {error}"
    print("\n".join(f"torch {torch}: {result}" for torch, result in results.items()))
    return int(any(result != "passed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())

"""How the build in build/ compiled, for tests that compile as it did or take its objects."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
# A folder for each of the two libraries.
KERNELS = ROOT / "build/release/kernels"
TORCH_MINOR = "_".join(torch.__version__.split(".")[:2])
GLUE = ROOT / f"build/release/torch-{TORCH_MINOR}-{sysconfig.get_config_var('SOABI')}"


def variable(name: str, folder: Path) -> list[str]:
    """Returns the words of a variable of build.ninja."""
    file = folder / "build.ninja"
    if not file.exists():
        raise FileNotFoundError(f"{file}: tests compile as onepass was compiled; make test first")
    found = dict(re.findall(r"^(\w+) = (.*)$", file.read_text(), re.MULTILINE))
    return shlex.split(found[name])


def flags(folder: Path = KERNELS) -> tuple[list[str], list[str], list[str]]:
    """Returns the compiler, its flags before the file's name, and those after it, of setup.py.

    The compiler may be of several words, such as `ccache g++`: all before the first flag.
    """
    words = [*variable("cxx", folder), *variable("cflags", folder)]
    first = next(k for k, word in enumerate(words) if word.startswith("-"))
    return words[:first], words[first:], variable("post_cflags", folder)


def built_object(unit: Path) -> Path | None:
    """Returns the object that the build made of a unit, or None where a source is newer."""
    built = folder_of(unit) / unit.with_suffix(".o")
    newest = max(source.stat().st_mtime for source in files_of(ROOT / unit))
    return built if built.exists() and built.stat().st_mtime > newest else None


@functools.cache
def compiled_library(name: str) -> ctypes.CDLL:
    """Returns tests/{name}.cpp, compiled: plain arithmetic of csrc without a tensor."""
    options = ("-std=c++20", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}")
    compiler = os.environ.get("CXX", "g++").split()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / f"{name}.so"
        source = ROOT / "tests" / f"{name}.cpp"
        subprocess.run([*compiler, *options, source, "-o", made], check=True)
        return ctypes.CDLL(str(made))  # stays when the file goes


def folder_of(unit: Path) -> Path:
    """Returns the folder of the library that a unit is compiled into."""
    return KERNELS if (KERNELS / unit.parent).is_dir() else GLUE


def files_of(file: Path) -> set[Path]:
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

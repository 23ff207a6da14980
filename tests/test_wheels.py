"""tools/wheels.py: what it does beside compiling for each torch."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import onepass
from onepass import _versions

wheels = pytest.importorskip("tools.wheels", reason="tools/wheels.py needs Python 3.11")
PACKAGE = Path(onepass.__file__).parent


def wheel_of(folder: Path, files: Mapping[str, str]) -> Path:
    """Returns a wheel of a package with these files."""
    tree = folder / "onepass-1.0"
    info = tree / "onepass-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onepass\nVersion: 1.0\n")
    (info / "WHEEL").write_text(
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\n"
        "Tag: cp311-cp311-linux_x86_64\n"
    )
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    wheels.run(sys.executable, "-m", "wheel", "pack", tree, "--dest-dir", folder)
    return next(folder.glob("*.whl"))


def part(folder: Path, torch: str, kernels: str = "the same") -> Path:
    files = {
        wheels.KERNELS: kernels,
        "onepass/__init__.py": "",
        f"onepass/_torch_{torch}/_C.so": torch,
    }
    return wheel_of(folder / torch, files)


def test_a_merged_wheel_has_the_glue_of_every_torch_and_the_kernels_once(tmp_path: Path) -> None:
    parts = [part(tmp_path, torch) for torch in ("2_9", "2_13", "2_15")]
    merged = wheels.merge(parts, tmp_path / "merged", Path(sys.executable))
    with zipfile.ZipFile(merged) as wheel:
        names = wheel.namelist()
        record = wheel.read("onepass-1.0.dist-info/RECORD").decode()
    assert {name for name in names if name.endswith(".so")} == {
        *(f"onepass/_torch_{torch}/_C.so" for torch in ("2_9", "2_13", "2_15")),
        wheels.KERNELS,
    }
    assert len(names) == len(set(names)) == len(record.splitlines())


def test_parts_with_different_kernels_are_refused(tmp_path: Path) -> None:
    parts = [part(tmp_path, "2_9"), part(tmp_path, "2_13", kernels="others")]
    with pytest.raises(wheels.Failed, match=r"has other kernels than .*build both from one source"):
        wheels.merge(parts, tmp_path / "merged", Path(sys.executable))


def test_there_is_an_environment_for_every_torch_and_python() -> None:
    oldest, newest = _versions.PYTHON
    pythons = [_versions.text((3, minor)) for minor in range(oldest[1], newest[1] + 1)]
    assert [*wheels.PYTHONS] == pythons
    folders = {
        wheels.environment_of(version.torch, python).folder
        for version in wheels.VERSIONS
        for python in pythons
    }
    assert len(folders) == len(wheels.VERSIONS) * len(pythons)


def test_the_kernels_need_neither_torch_nor_python() -> None:
    libraries = [PACKAGE / "libonepass_kernels.so", *PACKAGE.glob("_torch_*/_C.*so")]
    needed = []
    for library in libraries:
        lines = subprocess.run(
            ["readelf", "-d", library], capture_output=True, text=True, check=True
        )
        needed.append(set(re.findall(r"NEEDED.*\[(.*)\]", lines.stdout)))
    kernels, glue = needed
    assert not [name for name in kernels if re.search("torch|c10|python|gomp|cuda", name)]
    assert {"libonepass_kernels.so", "libtorch_cpu.so", "libc10.so"} <= glue

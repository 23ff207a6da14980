"""PEP 517 backend: setuptools, building against the torch of the environment installed into.

pip hides that environment from the build and would download a torch of its own choice: gigabytes,
and kernels for the wrong version. But pip runs the build with the target's interpreter, so a
child process without pip's PYTHONPATH sees the target's packages. (uv and `python -m build` make
an environment elsewhere: there use --no-build-isolation, or --no-isolation.)
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  (hooks passed on as they are)
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from toolchain import check_compiler

VERSIONS = runpy.run_path(str(Path(__file__).parents[1] / "python/onepass/_versions.py"))
UNTESTED = os.environ.get("ONEPASS_UNTESTED") == "1"


def _target_path() -> list[str]:
    hidden = ("PYTHONPATH", "PYTHONNOUSERSITE")
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    code = "import json, sys; print(json.dumps(sys.path[1:]))"
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout
    return [*sys.path, *json.loads(out)]


def _check_versions(torch: str | None) -> None:
    """Stops in words where this torch or Python is not one that onepass works with."""
    obstacle = VERSIONS["obstacle"](sys.version_info[:2], torch)
    if obstacle and not UNTESTED:
        raise SystemExit(f"{obstacle}\nONEPASS_UNTESTED=1 builds for it all the same.")


def _requires() -> list[str]:
    check_compiler()
    found = next(iter(metadata.distributions(name="torch", path=_target_path())), None)
    _check_versions(found and found.version)
    return [] if found else [VERSIONS["REQUIREMENT"]]


def _prepare() -> None:
    check_compiler()
    if not importlib.util.find_spec("torch"):
        sys.path[:] = dict.fromkeys(_target_path())
    if not importlib.util.find_spec("torch"):
        raise SystemExit(f"onepass: no torch to build against: {VERSIONS['INSTALL_TORCH']}")
    _check_versions(metadata.version("torch"))


def get_requires_for_build_wheel(config_settings=None):
    """Asks for torch only where the target environment has none."""
    return _requires()


def get_requires_for_build_editable(config_settings=None):
    """Asks for torch only where the target environment has none."""
    return _requires()


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Builds a wheel for the target's torch."""
    _prepare()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """Builds an editable install for the target's torch."""
    _prepare()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)

"""Loads the compiled module `onepass._C`, or says in words why it cannot be loaded.

LibTorch keeps no binary promise between minor versions: kernels built for another one fail with
a mangled symbol at best and crash at worst. So the versions are compared before loading.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.machinery
import importlib.util
import platform
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from . import _versions
from ._versions import minor, text

__all__ = ["C"]
_REBUILD = "in the folder of onepass's source: pip install --force-reinstall --no-deps ."


@dataclasses.dataclass(frozen=True)
class Facts:
    """What decides whether the compiled module can be loaded here."""

    version: str | None  # onepass, as built; None: nothing was built
    built_torch: str | None
    torch: str  # the one imported
    files: tuple[str, ...]  # the compiled modules that lie in the package
    suffix: str  # what this Python's compiled modules end with
    checkout: str | None  # the source tree that the package was imported from
    said: str | None = None  # the loader's error


def _python_of(file: str) -> str:
    tag = file.split(".")[1] if file.count(".") > 1 else ""
    digits = tag.removeprefix("cpython-").split("-")[0]
    return f"{digits[:1]}.{digits[1:]}" if digits.isdecimal() else tag or "unknown"


def _obstacle(facts: Facts) -> str | None:
    """Returns what stands against loading, known without loading; None: nothing."""
    if facts.version is None or facts.built_torch is None or not facts.files:
        return "not tried: no compiled module here, onepass was not built"
    if f"_C{facts.suffix}" not in facts.files:
        return f"not tried: {facts.files[0]} is not for this Python"
    if minor(facts.torch) != minor(facts.built_torch):
        return f"not tried: kernels for torch {text(minor(facts.built_torch))} could crash this one"
    return None


def _fix(facts: Facts) -> str:
    built, supported = facts.built_torch, _versions.is_supported(facts.torch)
    if not supported and not built:
        return _versions.INSTALL_TORCH
    if facts.checkout and supported:
        return f'pip install -e "{facts.checkout}"'
    if built and (not supported or minor(facts.torch) < minor(built)):
        return f'pip install "torch=={text(minor(built))}.*"'
    return _REBUILD


def explain(facts: Facts) -> str:
    """Returns the text of the ImportError: what was found, what fits, the cause and the fix."""
    python = ".".join(platform.python_version_tuple()[:2])
    system = f"{platform.system()} {platform.machine()}"
    supports = "no torch: it was never compiled"
    if facts.built_torch and facts.files:
        pythons = ", ".join(sorted({_python_of(f) for f in facts.files}))
        built_minor = text(minor(facts.built_torch))
        supports = f"torch {built_minor} (compiled with {facts.built_torch}), Python {pythons}"
    said = " ".join((facts.said or _obstacle(facts) or "nothing").split())
    return (
        f"onepass {facts.version or '(unbuilt)'} cannot load its kernels with torch {facts.torch} "
        f"(Python {python}, {system}).\n"
        f"This build is for {supports}.\n"
        f"onepass works with {_versions.WORKS_WITH}.\n"
        f"Files:  {', '.join(facts.files) or 'none'}\n"
        f"Loader said:  {said}\n"
        f"Fix:  {_fix(facts)}"
    )


def _torch_version() -> str:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"onepass needs torch:  {_versions.INSTALL_TORCH}") from None
    return str(torch.__version__)


def _gather() -> Facts:
    here = Path(__file__).resolve().parent
    built: dict[str, str] = {}
    if importlib.util.find_spec("onepass._build_info"):
        built = vars(importlib.import_module("onepass._build_info"))
    root = here.parents[1]
    return Facts(
        version=built.get("VERSION"),
        built_torch=built.get("TORCH_VERSION"),
        torch=_torch_version(),
        files=tuple(sorted(f.name for f in here.glob("_C.*so"))),
        suffix=importlib.machinery.EXTENSION_SUFFIXES[0],
        checkout=str(root) if (root / "csrc").is_dir() and (root / "setup.py").is_file() else None,
    )


def _load() -> ModuleType:
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    obstacle = _versions.obstacle(sys.version_info[:2])
    if obstacle and not Path(__file__).with_name(f"_C{suffix}").is_file():
        raise ImportError(obstacle)
    facts = _gather()
    if _obstacle(facts) is None:
        try:
            return importlib.import_module("onepass._C")
        except ImportError as error:
            facts = dataclasses.replace(facts, said=str(error))
    raise ImportError(explain(facts))


def load() -> ModuleType:
    """Returns `onepass._C`; nothing of another version is loaded on the way.

    Raises:
        ImportError: with the text of `explain`.
    """
    try:
        return _load()
    except ImportError as error:
        # `python -m onepass` imports the package before it runs __main__.py, and would print a
        # traceback: there the text is the answer.
        line = getattr(sys, "orig_argv", ())  # since Python 3.10
        if sys.argv[:1] == ["-m"] and any(a.split(".")[0] == "onepass" for a in line):
            places = [sys.executable, str(Path(__file__).parent)]
            if torch := sys.modules.get("torch"):
                places.append(str(torch.__file__))
            raise SystemExit("\n".join([str(error), *places])) from None
        raise


if TYPE_CHECKING:
    from onepass import _C as C
else:
    C = load()

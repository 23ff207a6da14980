"""Loads the compiled module `onepass._C`, or says in words why it cannot be loaded.

LibTorch keeps no binary promise between minor versions: glue compiled for another one fails with a
mangled symbol at best and crashes at worst. So each minor version has a folder of its own, such as
_torch_2_13, beside the one library of kernels, and only the running torch's is looked into.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import platform
import re
import sys
from importlib import metadata
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

    torch: str  # the one imported
    files: tuple[str, ...]  # the compiled modules in the package: _torch_2_13/_C.cpython-...so
    suffix: str  # what this Python's compiled modules end with
    checkout: str | None  # the source tree that the package was imported from
    version: str | None = None  # onepass, as installed
    said: str | None = None  # the loader's error

    @property
    def torches(self) -> list[tuple[int, int]]:
        """The minor versions of torch that something was compiled for."""
        found = (re.match(r"_torch_(\d+)_(\d+)/", file) for file in self.files)
        return sorted({(int(folder[1]), int(folder[2])) for folder in found if folder})

    @property
    def wanted(self) -> str:
        """The one file that fits."""
        return f"{folder_of(self.torch)}/_C{self.suffix}"


def folder_of(torch: str) -> str:
    """Returns the folder of the glue for a version of torch."""
    return "_torch_{}_{}".format(*minor(torch))


def _python_of(file: str) -> str:
    tag = file.split(".")[1] if file.count(".") > 1 else ""
    digits = tag.removeprefix("cpython-").split("-")[0]
    return f"{digits[:1]}.{digits[1:]}" if digits.isdecimal() else tag or "unknown"


def _obstacle(facts: Facts) -> str | None:
    """Returns what stands against loading, known without loading; None: nothing."""
    if not facts.files:
        return "not tried: no compiled module here, onepass was not built"
    if facts.wanted in facts.files:
        return None
    if minor(facts.torch) in facts.torches:
        (file, *_) = (f for f in facts.files if f.startswith(folder_of(facts.torch)))
        return f"not tried: {file} is not for this Python"
    return "not tried: kernels for another torch could crash this one"


def _fix(facts: Facts) -> str:
    torches, supported = facts.torches, _versions.is_supported(facts.torch)
    if not supported and not torches:
        return _versions.INSTALL_TORCH
    if facts.checkout and supported:
        return f'pip install -e "{facts.checkout}"'
    if torches and (not supported or minor(facts.torch) < torches[0]):
        return f'pip install "torch=={text(torches[-1])}.*"'
    return _REBUILD


def explain(facts: Facts) -> str:
    """Returns the text of the ImportError: what was found, what fits, the cause and the fix."""
    python = ".".join(platform.python_version_tuple()[:2])
    system = f"{platform.system()} {platform.machine()}"
    supports = "no torch: it was never compiled"
    if facts.torches:
        pythons = ", ".join(sorted({_python_of(f) for f in facts.files}))
        supports = f"torch {', '.join(map(text, facts.torches))}, Python {pythons}"
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


def _installed_version() -> str | None:
    try:
        return metadata.version("onepass")
    except metadata.PackageNotFoundError:
        return None


def _gather(here: Path) -> Facts:
    root = here.parents[1]
    return Facts(
        torch=_torch_version(),
        files=tuple(sorted(str(f.relative_to(here)) for f in here.glob("_torch_*/_C.*so"))),
        suffix=importlib.machinery.EXTENSION_SUFFIXES[0],
        checkout=str(root) if (root / "csrc").is_dir() and (root / "setup.py").is_file() else None,
        version=_installed_version(),
    )


def _import(file: Path) -> ModuleType:
    """Imports a compiled module under the one name that it has for every torch."""
    spec = importlib.util.spec_from_file_location("onepass._C", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["onepass._C"] = module
    return module


def _load() -> ModuleType:
    here = Path(__file__).resolve().parent
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    obstacle = _versions.obstacle(sys.version_info[:2])
    if obstacle and not any(here.glob(f"_torch_*/_C{suffix}")):
        raise ImportError(obstacle)
    facts = _gather(here)
    if _obstacle(facts) is None:
        try:
            return _import(here / facts.wanted)
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

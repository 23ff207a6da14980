"""Finds Fashion-MNIST in Debian's package, or gets that package through apt."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

PACKAGE = "dataset-fashion-mnist"
_MARKER = "train-images-idx3-ubyte.gz"
_TIMEOUT_SECONDS = 300
# A dead mirror or another apt at work must end in a message, not in a demo that hangs.
_APT_OPTIONS = (
    *("-o", "Acquire::Retries=1"),
    *("-o", "Acquire::http::Timeout=20"),
    *("-o", "Acquire::https::Timeout=20"),
    *("-o", "DPkg::Lock::Timeout=60"),
)


class AptError(Exception):
    """The package cannot be had; the message says in one line why."""


def find() -> Path | None:
    """Returns the folder of the data when the package is installed or was unpacked before."""
    for folder in (_installed(), *_caches()):
        if folder is not None and (folder / _MARKER).is_file():
            return folder
    return None


def obtain() -> Path:
    """Gets the package through apt and returns the folder of its data.

    Root installs it; anyone else, and root where installing fails, downloads it and unpacks it
    next to the virtual environment's own files.

    Raises:
        AptError: no way worked.
    """
    ways: list[Callable[[], None]] = [_unpack, _unpack_with_fresh_lists]
    if os.geteuid() == 0:
        ways = [_install, _install_with_fresh_lists, *ways]
    reason = ""
    for way in ways:
        try:
            way()
        except (AptError, OSError) as error:
            # The first reason is the telling one: later ways fail for the same cause.
            reason = reason or str(error)
        folder = find()
        if folder is not None:
            return folder
    raise AptError(reason or f"{PACKAGE} came without {_MARKER}")


def _installed() -> Path | None:
    """Returns the folder where the installed package has its data."""
    try:
        listing = _output("dpkg", "-L", PACKAGE)
    except AptError:
        return None
    return next((Path(line).parent for line in listing.splitlines() if _MARKER in line), None)


def _caches() -> list[Path]:
    """Returns where an unpacked package may lie: in the virtual environment, and the user's."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    caches = [Path(base, "onepass", PACKAGE)]
    if sys.prefix != sys.base_prefix:
        caches.insert(0, Path(sys.prefix, "share", "onepass", PACKAGE))
    return caches


def _cache_to_fill() -> Path:
    """Returns the first of them that can be made, its parent folder made."""
    *others, last = _caches()
    for cache in others:
        with contextlib.suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            if os.access(cache.parent, os.W_OK):
                return cache
    last.parent.mkdir(parents=True, exist_ok=True)
    return last


def _install() -> None:
    _output("apt-get", *_APT_OPTIONS, "install", "-y", "--no-install-recommends", PACKAGE)


def _install_with_fresh_lists() -> None:
    """Installs where the package lists are missing or old, as in a fresh container."""
    _output("apt-get", *_APT_OPTIONS, "update")
    _install()


def _unpack(*, fresh_lists: bool = False) -> None:
    """Downloads the package and unpacks it into a cache."""
    cache = _cache_to_fill()
    with tempfile.TemporaryDirectory(dir=cache.parent) as name:
        scratch = Path(name)
        apt = ["apt-get", *_APT_OPTIONS]
        if fresh_lists:
            apt += ["-o", f"Dir::State::Lists={name}/lists", "-o", f"Dir::Cache={name}/cache"]
            for made in ("lists/partial", "cache/archives/partial"):
                (scratch / made).mkdir(parents=True)
            _output(*apt, "update")
        _output(*apt, "download", PACKAGE, folder=scratch)
        for package in scratch.glob("*.deb"):
            _output("dpkg-deb", "-x", str(package), str(scratch / "unpacked"))
        for found in list(scratch.glob(f"unpacked/**/{_MARKER}")):
            # One rename, so that nobody ever sees half a folder. It fails when another process
            # was faster, and then the data is there.
            found.parent.rename(cache)


def _unpack_with_fresh_lists() -> None:
    """Does so with package lists of its own, which need no root."""
    _unpack(fresh_lists=True)


def _output(*command: str, folder: Path | None = None) -> str:
    """Runs a command and returns what it printed, or raises AptError with its last line."""
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except FileNotFoundError:
        raise AptError(f"there is no {command[0]} here") from None
    except subprocess.TimeoutExpired:
        raise AptError(f"{command[0]} took more than {_TIMEOUT_SECONDS} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise AptError(f"{command[0]}: {lines[-1]}")
    return done.stdout

"""What the numbers were measured on: hardware, compiler, versions, commit."""

import importlib
import os
import platform
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

UNKNOWN_CACHE_BYTES = 32 << 20
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def describe() -> dict[str, Any]:
    """Everything about the machine that belongs beside a number."""
    onepass = optional_module("onepass")
    native = optional_module("onepass._C")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "last_level_cache_bytes": last_level_cache_bytes(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "onepass": getattr(onepass, "__version__", None),
        "onepass_build": native.build_info() if hasattr(native, "build_info") else None,
        "commit": commit(),
    }


def optional_module(name: str) -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Bystanders:
    """What other programs take of the cores, from its making on: the noise in the numbers."""

    def __init__(self) -> None:
        self.start = self.now()

    def share(self) -> float | None:
        """Part of all cores' time that others had, 0 to 1; None where the system does not say."""
        if self.start is None or (end := self.now()) is None:
            return None
        total, others = (after - before for after, before in zip(end, self.start, strict=True))
        return min(1.0, max(0.0, others / total)) if total > 0 else 0.0

    @staticmethod
    def now() -> tuple[float, float] | None:
        """Seconds since boot of all cores together: in total, and busy for others."""
        try:
            fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        except (OSError, IndexError):
            return None
        seconds = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields]
        idle = seconds[3] + seconds[4]
        return sum(seconds), sum(seconds) - idle - time.process_time()


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not say."""
    try:
        return sizes_of("/proc/meminfo").get("MemAvailable")
    except OSError:
        return None


def sizes_of(file: str) -> dict[str, int]:
    """The bytes of each line of a file of Linux's that counts in kB."""
    lines = (line.partition(":") for line in Path(file).read_text().splitlines())
    return {name: int(size.split()[0]) * 1024 for name, _, size in lines if size.endswith("kB")}


def last_level_cache_bytes() -> int:
    """Size of the largest cache of the first core; a guess where the system does not say."""
    found = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    sizes = [parse_size(path.read_text().strip()) for path in found]
    return max(sizes, default=UNKNOWN_CACHE_BYTES)


def parse_size(text: str) -> int:
    """Bytes of a size as Linux prints it: 48K, 32M."""
    return int(text[:-1]) * UNITS[text[-1]] if text[-1:] in UNITS else int(text)


def commit() -> str | None:
    """The commit of this repository, marked when files differ from it; None outside of git."""
    try:
        head = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changes else "")


def output_of(*command: str) -> str | None:
    """What a program prints; None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def git(*arguments: str) -> str:
    """Output of a git command run beside this file."""
    line = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()

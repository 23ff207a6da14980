"""What the machine is, as reports name it, and what memory it has left."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def cpu() -> str:
    """Returns the processor's name, the cores that this process may use, and torch's threads."""
    names = [line.partition(":")[2].strip() for line in _lines("cpuinfo", "model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = names[0] if names else platform.machine()
    return f"{name}, {cores} cores, {torch.get_num_threads()} threads"


def free_bytes() -> int | None:
    """Returns the memory that can be had without swapping; None where the system does not say."""
    counts = [int(line.split()[1]) * 1024 for line in _lines("meminfo", "MemAvailable")]
    return counts[0] if counts else None


def _lines(file: str, start: str) -> list[str]:
    try:
        lines = Path("/proc", file).read_text().splitlines()
    except OSError:
        return []
    return [line for line in lines if line.startswith(start)]

"""Reads and writes the bytes of a step in float32 and computes nothing."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path(__file__).with_suffix(".cpp")
MOST_STATES = 4


@functools.cache
def library() -> ctypes.CDLL:
    """Returns the compiled loop, which a C++ compiler makes at the first use of a checkout."""
    made = ROOT / "build/benchmarks/bare_sweep.so"
    newest = max(f.stat().st_mtime for f in [SOURCE, *ROOT.glob("csrc/*/*.h")])
    if not made.exists() or made.stat().st_mtime < newest:
        made.parent.mkdir(parents=True, exist_ok=True)
        torchs = Path(torch.__file__).parent / "lib"
        fresh = made.with_suffix(f".{os.getpid()}")
        # Threads by torch's OpenMP, as in a step: linked with torch, not with a libgomp of its own.
        flags = ["-O3", "-std=c++20", "-fPIC", "-fopenmp", f"-I{ROOT / 'csrc'}"]
        compiler = os.environ.get("CXX", "g++").split()
        objects = fresh.with_suffix(f".{os.getpid()}.o")
        subprocess.run([*compiler, *flags, "-c", SOURCE, "-o", objects], check=True)
        link = ["-shared", "-Wl,--no-as-needed", f"-L{torchs}", "-ltorch_cpu"]
        subprocess.run([*compiler, objects, *link, "-o", fresh], check=True)
        objects.unlink()
        fresh.replace(made)
    return ctypes.CDLL(str(made))


def sweep_without_arithmetic(param: Tensor, grad: Tensor, states: Sequence[Tensor]) -> None:
    """Sweeps tensors of float32 on the CPU, contiguous and of one size."""
    tensors = [param, grad, *states]
    if len(states) > MOST_STATES:
        raise ValueError(f"at most {MOST_STATES} states, got {len(states)}")
    if not all(_fits(tensor, param.numel()) for tensor in tensors):
        raise ValueError("all tensors must be float32 on the CPU, contiguous and of one size")
    addresses: Any = (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
    size = ctypes.c_int64(param.numel())
    library().bare_sweep(addresses, len(states), size, torch.get_num_threads())


def _fits(tensor: Tensor, size: int) -> bool:
    is_plain = tensor.dtype == torch.float32 and tensor.device.type == "cpu"
    return is_plain and tensor.is_contiguous() and tensor.numel() == size

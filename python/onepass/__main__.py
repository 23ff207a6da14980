"""`python -m onepass`: what was built. `python -m onepass doctor`: a try on every device."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator
from typing import Any

import torch

from onepass import optimizers
from onepass._native import C

_STEPS = 5
# Largest allowed difference, relative to the parameter. torch's loop rounds a bfloat16 parameter or
# its states up to three times a step where one pass rounds once: half of the last place each time.
_TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 3 * _STEPS * 2.0**-8}


def info() -> str:
    """Returns what was built and what runs it, one fact a line."""
    built = C.build_info()
    cuda = f"compiled for {built['cuda_archs']}"
    if not built["cuda_archs"]:
        cuda = "no CUDA: built without kernels for it"
    elif not torch.cuda.is_available():
        cuda += "; no device found"
    rows = {
        "onepass": built["version"],
        "torch": f"{torch.__version__} (built for {built['torch']})",
        "compiler": built["compiler"],
        "CPU": f"using {built['instruction_set']} of {', '.join(built['instruction_sets'])}",
        "CUDA": cuda,
        "Python": f"{platform.python_version()} on {platform.platform()}",
    }
    return "\n".join(f"{name:<9} {value}" for name, value in rows.items())


def _devices() -> list[torch.device]:
    devices = [torch.device("cpu")]
    if C.build_info()["cuda_archs"]:
        devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return devices


def _train(cls: Any, start: torch.Tensor, **options: bool) -> torch.Tensor:
    """Returns `start` after a few steps along gradients that are the same at every call."""
    param = torch.nn.Parameter(start.clone())
    optimizer = cls([param], lr=0.1, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(_STEPS):
        param.grad = torch.randn(param.shape, generator=generator).to(param)
        optimizer.step()
    return param.detach().double().cpu()


def _difference(name: str, device: torch.device, dtype: torch.dtype) -> float:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(33, 65, generator=generator).to(device, dtype)
    ours = _train(getattr(optimizers, name), start)
    if not hasattr(torch.optim, name):
        return 0.0 if bool(ours.isfinite().all()) else float("inf")
    theirs = _train(getattr(torch.optim, name), start, foreach=False)
    return float(((ours - theirs).abs() / theirs.abs().clamp(min=1.0)).max())


def _rows() -> Iterator[tuple[bool, str]]:
    for device in _devices():
        for name in optimizers.__all__:
            for dtype, tolerance in _TOLERANCE.items():
                try:
                    found = _difference(name, device, dtype)
                    good, text = found <= tolerance, f"{found:.1e} (at most {tolerance:.1e})"
                except Exception as error:  # the report goes on: it is what is asked for
                    good, text = False, f"{type(error).__name__}: {error}"
                label = f"{device!s:<7} {name:<9} {str(dtype).removeprefix('torch.'):<9}"
                yield good, f"{'ok  ' if good else 'FAIL'} {label} {text}"


def doctor() -> bool:
    """Prints each class's largest difference from torch.optim's; returns whether all are small."""
    print(f"largest relative difference from torch.optim after {_STEPS} steps:")
    verdicts = []
    for good, row in _rows():
        print(row)
        verdicts.append(good)
    return all(verdicts)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m onepass", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["info", "doctor"], default="info")
    arguments = parser.parse_args(argv)
    print(info())
    if arguments.command == "doctor":
        print()
        return 0 if doctor() else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

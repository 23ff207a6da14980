"""What was built; `doctor`: a try on every device; `bytes`: what training will take of memory.

python -m onepass
python -m onepass doctor
python -m onepass bytes --params 8e9 --optimizer AdamW --dtype bfloat16 --state float32
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator
from typing import Any

import torch

from onepass import optimizers
from onepass._native import C
from onepass.convert import class_named
from onepass.state import state_bytes

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
    if not hasattr(torch.optim, name):  # there is nothing to differ from
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
                    if good and not hasattr(torch.optim, name):
                        text = "finite; torch has no such class"
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


def memory(params: float, name: str, dtype: str, state: str | None) -> str:
    """Returns what weights, gradients and state take in one tensor of so many elements."""
    if not 1 <= params < 2**62:
        raise ValueError(f"--params must be a number of elements, got {params:g}")
    shape = (1, int(params))  # a matrix of one row: what has one dimension keeps float32
    weights = torch.empty(shape, dtype=_dtype_of(dtype), device="meta", requires_grad=True)
    size = weights.numel() * weights.element_size()
    rows = {
        "weights": size,
        "gradients": size,
        "state": state_bytes([weights], class_named(name), state_dtype=state),
    }
    rows["together"] = sum(rows.values())
    return "\n".join(
        f"{row:<10} {count / 1e9:12.3f} GB {count / weights.numel():7.2f} bytes a parameter"
        for row, count in rows.items()
    )


def _dtype_of(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"--dtype must be a floating-point dtype of torch, got {name}")
    return dtype


def _parser() -> argparse.ArgumentParser:
    description, examples = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m onepass",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("info", help="what was built, and what runs it (default)")
    commands.add_parser("doctor", help="takes steps beside torch.optim on every device")
    asked = commands.add_parser("bytes", help="what training will take of memory")
    asked.add_argument("--params", type=float, required=True, help="how many, as 8e9")
    asked.add_argument("--optimizer", default="AdamW", help="a class of onepass (AdamW)")
    asked.add_argument("--dtype", default="float32", help="of weights and gradients (float32)")
    asked.add_argument("--state", help="dtype of the states, as the option state_dtype")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = _parser()
    asked = parser.parse_args(argv)
    if asked.command == "bytes":
        try:
            print(memory(asked.params, asked.optimizer, asked.dtype, asked.state))
        except ValueError as error:
            parser.error(str(error))
        return 0
    print(info())
    if asked.command == "doctor":
        print()
        return 0 if doctor() else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

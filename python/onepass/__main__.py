"""What was built, whether it works here, how fast it is here, and what training takes of memory.

python -m onepass
python -m onepass doctor
python -m onepass bench --shape resnet50 --optimizer AdamW
python -m onepass bytes --params 8e9 --optimizer AdamW --dtype bfloat16 --state float32
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, NoReturn

import torch

from onepass import optimizers
from onepass._native import C
from onepass.bench import bench
from onepass.convert import class_named, did_you_mean
from onepass.host import cpu
from onepass.model_shapes import MODELS
from onepass.state import DTYPES, state_bytes

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
    known = ", ".join(built["instruction_sets"])
    rows = {
        "onepass": built["version"],
        "torch": f"{torch.__version__} (built for {built['torch']})",
        "compiler": built["compiler"],
        "CPU": f"{cpu()}; using {built['instruction_set']} of {known}",
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
    known = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
    if name not in known:
        raise ValueError(
            f"--dtype must be one of {', '.join(known)}, got {name}{did_you_mean(name, known)}"
        )
    return known[name]


def _bench(asked: argparse.Namespace) -> str:
    for name, least in (("steps", 2), ("threads", 1)):
        value = getattr(asked, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} must be {least} or more, got {value}")
    before = torch.get_num_threads()
    torch.set_num_threads(asked.threads or before)
    try:
        return bench(asked.shape, asked.optimizer, _dtype_of(asked.dtype), asked.steps)
    finally:
        torch.set_num_threads(before)


_COMMANDS = {
    "info": "what was built, and what runs it (default)",
    "doctor": "takes steps beside torch.optim on every device; exit code 1 where they differ",
    "bench": "how long one step takes on this machine's CPU, beside torch.optim",
    "bytes": "what training takes of memory, to the byte",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with what may have been meant."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '(.*?)'", message)
        hint = did_you_mean(wrong[1], _COMMANDS) if wrong else ""
        self.exit(2, f"{self.prog}: {message}{hint}\n")


def _parser() -> _Parser:
    description, examples = (__doc__ or "").split("\n\n")
    parser = _Parser(
        prog="python -m onepass",
        description=description,
        epilog="examples:\n" + textwrap.indent(examples, "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    made = {
        name: commands.add_parser(name, help=text, description=text)
        for name, text in _COMMANDS.items()
    }
    for name in ("bench", "bytes"):
        add = made[name].add_argument
        add("--optimizer", default="AdamW", metavar="CLASS", help="a class of onepass (AdamW)")
        add("--dtype", default="float32", help="of weights and gradients (float32)")
    add = made["bytes"].add_argument
    add("--params", type=float, required=True, metavar="NUMBER", help="how many, as 8e9")
    add("--state", metavar="DTYPE", help="dtype of the states, as the option state_dtype")
    add = made["bench"].add_argument
    shapes = f"{', '.join(MODELS)}, or shapes such as 1000x1000,1000 (resnet50)"
    add("--shape", default="resnet50", metavar="MODEL", help=shapes)
    add("--steps", type=int, help="how often each is measured (as fits into ten seconds)")
    add("--threads", type=int, help="threads of torch and onepass (as many as torch takes)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = _parser()
    asked, unknown = parser.parse_known_args(argv)
    if unknown:
        options = [f"--{name}" for name in vars(asked) if name != "command"]
        parser.error(f"there is no {unknown[0]} here{did_you_mean(unknown[0], options)}")
    try:
        if asked.command == "bytes":
            print(memory(asked.params, asked.optimizer, asked.dtype, asked.state))
        elif asked.command == "bench":
            print(_bench(asked))
        else:
            print(info())
    except ValueError as error:
        parser.error(str(error))
    if asked.command == "doctor":
        print()
        return 0 if doctor() else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

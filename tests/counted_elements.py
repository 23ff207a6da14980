"""Takes steps by every loop that an algorithm has, whose instructions valgrind counts.

Argument: the library of callgrind_marks.c.
"""

import ctypes
import sys
from typing import Any

import torch

from onepass import _C
from tests.cases import CASES, Case
from tests.oracle import state_names
from tests.support import instruction_sets

ELEMENTS = 2048
STEPS = 6  # the last of them is RAdam's first that is rectified
# The dtypes of parameters and gradients, and of the states, that have loops of their own.
MIXES = {
    "float32": (torch.float32, torch.float32),
    "float64": (torch.float64, torch.float64),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "bfloat16-float32": (torch.bfloat16, torch.float32),
    "float32-bfloat16": (torch.float32, torch.bfloat16),
}


def variants(case: Case) -> list[dict[str, Any]]:
    """Returns settings of a class that have loops of their own: other states, or a flag."""
    defaults = case.ours([torch.ones(1)]).defaults
    found: dict[Any, dict[str, Any]] = {}
    for options in (*case.settings, *case.extras):
        names = tuple(state_names(case, {**defaults, **options}))
        found.setdefault((names, options.get("cautious", False)), options)
    return list(found.values())


def step(case: Case, options: dict[str, Any], mix: str) -> None:
    dtype, state_dtype = MIXES[mix]
    param = torch.ones(ELEMENTS, dtype=dtype, requires_grad=True)
    param.grad = torch.full_like(param, 0.5)
    optimizer = case.ours([param], **options, state_dtype=state_dtype)
    for _ in range(STEPS):
        optimizer.step()


def main() -> None:
    marks = ctypes.CDLL(sys.argv[1])
    torch.set_num_threads(1)
    marks.instrument()
    for name in instruction_sets():
        _C.set_instruction_set(name)
        for case in CASES:
            for number, options in enumerate(variants(case)):
                for mix in MIXES:
                    step(case, options, mix)
                    marks.dump(f"{name} {case} {number} {mix}".encode())


if __name__ == "__main__":
    main()

"""What print(opt) says after torch's text: the parameters, how they are stepped, the state."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._native import C
from ._torch import is_memory
from .codes import CODES
from .options import stores_codes
from .parts import is_dtensor
from .rules import RULES
from .state import DTYPES, bytes_of, state_dtype

if TYPE_CHECKING:
    from .optimizer import OnePass

_STEPPED = (*DTYPES, torch.complex64, torch.complex128)


def summary(optimizer: OnePass) -> str:
    """Returns lines to follow torch's text; none where the groups hold what cannot be counted.

    No tensor is read: dtypes, shapes and devices are enough.
    """
    try:
        return "\n" + "\n".join(_lines(optimizer))
    except Exception:  # what is printed, often in the middle of another error, must not fail
        return ""


def _lines(optimizer: OnePass) -> list[str]:
    pairs = [(param, group) for group in optimizer.param_groups for param in group["params"]]
    stepped = [(param, group) for param, group in pairs if param.requires_grad]
    kinds = Counter(f"of {_short(param.dtype)} on {param.device}" for param, _ in pairs)
    steps = Counter(_step_of(*pair) for pair in pairs)
    states = Counter(_states_of(optimizer, *pair) for pair in stepped)
    del states[""]
    taken = bytes_of(optimizer.state)
    elements = sum(param.numel() for param, _ in pairs)
    return [
        f"Parameters: {_listed(kinds)} ({elements:,} elements)",
        f"Step: {_listed(steps)}",
        f"State: {_listed(states) + ', ' if states else ''}"
        + (f"{taken:,} bytes now" if taken else "no bytes yet"),
    ]


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _step_of(param: Tensor, group: dict[str, Any]) -> str:
    if not param.requires_grad:
        return "frozen"
    if group.get("differentiable"):
        return "by torch's code (differentiable)"
    refusal = _refusal(param)
    if refusal:
        return f"refused ({refusal})"
    if is_dtensor(param):
        return "by what this process holds of DTensors"
    return "in one pass" if is_memory(param) else "by inner tensors where they can be told"


def _refusal(param: Tensor) -> str | None:
    if param.dtype not in _STEPPED:
        return f"{_short(param.dtype)} is not stepped"
    if param.is_cuda and not C.build_info()["cuda_archs"]:
        return "no kernels for CUDA in this build"
    if not (param.is_cpu or param.is_cuda):
        return f"no kernels for {param.device.type}"
    if param.layout != torch.strided:
        return "its layout is not dense"
    return None


def _states_of(optimizer: OnePass, param: Tensor, group: dict[str, Any]) -> str:
    """Returns in what the states of a parameter are, or will be."""
    rule = RULES[optimizer.rule]
    dtypes = [state_dtype(one, param, group) for one in rule.states_in(group)]
    if not dtypes:
        return ""
    names = ["8 bits" if dtype in CODES else _short(dtype) for dtype in dtypes]
    text = f"in {' and '.join(dict.fromkeys(names))}"
    is_small = stores_codes(group) and param.dim() < 2
    return f"{text} (fewer than two dimensions)" if is_small else text

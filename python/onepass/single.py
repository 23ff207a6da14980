"""What a step of a single parameter refuses beside what the native half does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._native import C
from .capture import is_capturing
from .shards import refuse_shard
from .state import parameter_name

if TYPE_CHECKING:
    from .optimizer import OnePass


def check_single(optimizer: OnePass, param: Tensor) -> None:
    """Refuses a step of one parameter where only a step of all can be right."""
    why_not = _why_not(optimizer)
    if why_not is not None:
        raise RuntimeError(f"step_one() cannot step a single parameter {why_not}")
    refuse_shard(optimizer, param)


def _why_not(optimizer: OnePass) -> str | None:
    if torch.compiler.is_compiling():
        return "in a compiled program; compile step(), or call step_one() outside of torch.compile"
    if C.dispatch_mode_is_active():
        return "under a dispatch mode or a function transform; call step(), or leave the mode first"
    if optimizer.defaults.get("differentiable"):
        return "with differentiable=True, whose steps are torch's own code; call step()"
    if optimizer._scaler() != (None, None):
        return (
            "while grad_scale or found_inf is set: a gradient scaler knows only after backward "
            "whether gradients overflowed; call step(), or train without a scaler"
        )
    if is_capturing():
        return "into a CUDA graph, which is to hold whole steps; call step()"
    return None


def unknown_class(optimizer: OnePass, param: Tensor) -> TypeError:
    """Returns the error for a parameter that the native half cannot step by itself."""
    i, k = optimizer._natively(optimizer._native().place_of, {}, param)
    groups = optimizer.param_groups
    return TypeError(
        f"{parameter_name(groups[i], i, k)}, its gradient or its state is a tensor subclass, or "
        "they are DTensors that are placed unlike one another; step_one() takes plain tensors and "
        "DTensors that are sharded or replicated alike, so redistribute the gradient or call step()"
    )

"""What a step of a single parameter refuses beside what the native half does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.nn.parameter import is_lazy

from ._native import C
from ._torch import is_flat, is_flattened
from .capture import is_capturing
from .grad_hooks import is_hooked
from .grad_norm import needs_grad_norm
from .shards import refuse_shard
from .state import parameter_name
from .step import moves_averages

if TYPE_CHECKING:
    from .optimizer import OnePass


def check_single(optimizer: OnePass, param: Tensor) -> None:
    """Refuses a step of one parameter where only a step of all can be right."""
    why_not = why_not_single(optimizer)
    if why_not is not None:
        raise RuntimeError(f"step_one() cannot step a single parameter {why_not}")
    refuse_shard(optimizer, param)


def why_not_single(optimizer: OnePass) -> str | None:
    """Returns why an optimizer cannot step parameters by themselves now, in words; None: it can."""
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
    if moves_averages(optimizer):
        return (
            "while averages follow it, which are of whole steps; make the EMA without optimizer= "
            "and call its update() after backward"
        )
    if is_capturing():
        return "into a CUDA graph, which is to hold whole steps; call step()"
    return None


def check_hooked_group(optimizer: OnePass, index: int, has_ddp: bool) -> None:
    """Refuses a group whose parameters in_backward() cannot step where autograd calls hooks."""
    group = optimizer.param_groups[index]
    if needs_grad_norm(group):
        raise RuntimeError(
            f"in_backward() cannot step parameter group {index} with max_grad_norm or "
            "skip_nonfinite, which need the gradients of all parameters; leave them out, or call "
            "step() instead"
        )
    for k, param in enumerate(group["params"]):
        name = parameter_name(group, index, k)
        optimizer._natively(optimizer._native().place_of, {}, param)  # refuses what is listed twice
        _check_hooked(param, name)
        refuse_shard(optimizer, param)
        if not has_ddp and param.requires_grad and _is_distributed() and _is_held(param):
            raise RuntimeError(
                f"the gradient of {name} is waited for, as by DDP, which would average it only "
                "after the step; pass in_backward(opt, ddp=model). If there is no DDP, let go of "
                "losses and outputs of earlier steps first"
            )


def _check_hooked(param: Tensor, name: str) -> None:
    if is_lazy(param):
        raise ValueError(f"{name} is not initialized yet; run the model on a batch first")
    if is_flat(param) or is_flattened(param) or hasattr(param, "ds_id"):
        raise TypeError(
            f"{name} belongs to FSDP1 or DeepSpeed's ZeRO 3, which would reduce its gradient only "
            "after the step; wrap the model by fully_shard, or call step()"
        )
    if is_hooked(param):
        raise RuntimeError(
            f"{name} is stepped inside backward() by another optimizer already; call remove() on "
            "the handle of that in_backward() first"
        )


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _is_held(param: Tensor) -> bool:
    """Returns whether anything holds what accumulates a gradient: DDP, or a graph that is left."""
    node: Any = get_gradient_edge(param).node  # made anew each time where nothing holds it
    node.metadata[_is_held] = True
    del node
    node = get_gradient_edge(param).node
    return _is_held in node.metadata


def hook_added_group(optimizer: OnePass) -> None:
    """Lets in_backward(), where it holds, step the parameters of a group that was added."""
    stepping = optimizer.__dict__.get("_in_backward")
    if stepping is not None:
        stepping.hook_group(len(optimizer.param_groups) - 1)


def unknown_class(optimizer: OnePass, param: Tensor) -> TypeError:
    """Returns the error for a parameter that the native half cannot step by itself."""
    i, k = optimizer._natively(optimizer._native().place_of, {}, param)
    groups = optimizer.param_groups
    return TypeError(
        f"{parameter_name(groups[i], i, k)}, its gradient or its state is a tensor subclass, or "
        "they are DTensors that are placed unlike one another; step_one() takes plain tensors and "
        "DTensors that are sharded or replicated alike, so redistribute the gradient or call step()"
    )

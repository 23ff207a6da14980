"""What a step may do while a CUDA graph captures it: nothing that a replay would get wrong."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._torch import check_graph_capture
from .options import REFERENCE_LR, torch_has
from .rules import RULES
from .state import parameter_name

if TYPE_CHECKING:
    from .optimizer import OnePass


def is_capturing() -> bool:
    """Returns whether the current stream's work is recorded for a graph."""
    return _is_recorded()


def _is_recorded() -> bool:
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def is_captured(param: Tensor) -> bool:
    """Returns whether a parameter is on the device whose work is recorded."""
    return param.is_cuda and param.get_device() == torch.cuda.current_device()


def check_capture(optimizer: OnePass) -> None:
    """Refuses a step in a capture that torch refuses, or whose replays would go wrong."""
    if torch.compiler.is_compiling():
        return
    if torch_has(type(optimizer), "capturable"):
        check_graph_capture(optimizer)
    elif _is_recorded() and not _may_be_captured(optimizer):
        raise RuntimeError(  # in torch's words
            f"Attempting CUDA graph capture of step() for an instance of "
            f"{type(optimizer).__name__} but param_groups' capturable is False."
        )
    if is_capturing():
        check_captured(optimizer)


def _may_be_captured(optimizer: OnePass) -> bool:
    """Returns whether torch would capture it: it asks for `capturable` in all groups or in none."""
    asked = [bool(group.get("capturable")) for group in optimizer.param_groups]
    return all(asked) or (optimizer._torch_lacks_capturable and not any(asked))


def check_captured(optimizer: OnePass) -> None:
    """Refuses a step that replays would repeat wrongly, and warns once of what they will not see.

    Raises:
        RuntimeError: a parameter has no state yet or is elsewhere, or an option is a tensor on the
            CPU.
    """
    frozen: dict[str, None] = {}  # in order
    for i, group in enumerate(optimizer.param_groups):
        frozen |= dict.fromkeys(_numbers_of_host(optimizer.rule, group, i))
        for k, param in enumerate(group["params"]):
            if param.grad is None:
                continue
            if not is_captured(param):
                raise RuntimeError(
                    f"{parameter_name(group, i, k)} is on {param.device}, which this graph does "
                    "not capture; its replays would leave the parameter out"
                )
            _check_state(optimizer, param, group, parameter_name(group, i, k))
            step = optimizer.state.get(param, {}).get("step")
            if isinstance(step, Tensor) and step.is_cpu:
                frozen["step"] = None
    if frozen and not optimizer.__dict__.get("_warned_of_frozen"):
        optimizer.__dict__["_warned_of_frozen"] = True
        warnings.warn(
            f"replays of this graph will not see changes of {', '.join(frozen)}: the host holds "
            "them; for what is to change use tensors on the device (and capturable=True for step)",
            stacklevel=4,
        )


def _numbers_of_host(rule: str, group: dict[str, Any], index: int) -> list[str]:
    """Returns the keys of what schedulers change and the host alone knows."""
    found = []
    for hyper in RULES[rule].hypers:
        # The device sees to it that the reference rate is not below lr.
        if not hyper.scheduled or hyper.key == REFERENCE_LR or hyper.key not in group:
            continue
        value = group[hyper.key]
        value = value[hyper.index] if hyper.index >= 0 else value
        if not isinstance(value, Tensor):
            found.append(hyper.key)
        elif value.is_cpu:
            raise RuntimeError(
                f"{hyper.key} of parameter group {index} is a tensor on the CPU, which a graph "
                "would read only once; move it to the device of the parameters"
            )
    return found


def _check_state(optimizer: OnePass, param: Tensor, group: dict[str, Any], name: str) -> None:
    rule = RULES[optimizer.rule]
    keys = [*(["step"] if rule.counts_steps else []), *(one.name for one in rule.states_in(group))]
    state = optimizer.state.get(param, {})
    if any(state.get(key) is None for key in keys):
        raise RuntimeError(
            f"{name} has no state yet, and a graph that makes it would start anew at every "
            "replay; take a step before the capture"
        )

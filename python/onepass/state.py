"""What state a parameter has: its dtype, how saved state is cast to it, how many bytes it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ._torch import number_dtype
from .codes import CODES, check_rule, code_dtype, encoded, zeros
from .options import dtype_name, stores_codes
from .parts import all_parts_of, computes_by_parts, parts_of, wrapper_in
from .rules import Rule, State

if TYPE_CHECKING:
    from .optimizer import OnePass

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def state_dtype(state: State, param: Tensor, group: dict[str, Any]) -> torch.dtype:
    """Returns the dtype of one of a parameter's states; int8 or uint8 where it is codes."""
    wanted = group.get("state_dtype")
    if stores_codes(group):
        return code_dtype(state, param)
    if wanted is None:
        # Deviation from torch: (1 - beta2) g^2 underflows in float16 and the step would explode.
        return torch.float32 if param.dtype == torch.float16 else param.dtype
    named = dtype_name(wanted)
    known = (dtype for dtype in DTYPES if dtype_name(dtype) == named)
    return dtype_for(param, next(known, wanted), "state_dtype", (*DTYPES, torch.int8))


def check_state_dtype(rule: Rule, group: dict[str, Any]) -> None:
    """Refuses a dtype that the states of a rule, or those of a parameter, do not take."""
    if stores_codes(group):
        check_rule(rule)
    for param in group["params"]:
        for state in rule.states:
            state_dtype(state, param, group)


def started(state: State, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
    """Returns a state before the first step, laid out in memory as the parameter, by its key.

    Codes lie in the order of the indices, and have their exponents beside them.
    """
    start, dtype = state.start_in(group), state_dtype(state, param, group)
    if stores_codes(group) and dtype in CODES:
        if not start:
            return zeros(state, param)
        return encoded(state, torch.full_like(param, start, dtype=torch.float32))
    if not start and not param.is_quantized:  # torch has no zeros of these
        return {state.name: torch.zeros_like(param, dtype=dtype)}
    value = complex(start, start) if param.is_complex() else start
    return {state.name: torch.full_like(param, value, dtype=dtype)}


def new_state(rule: Rule, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
    """Returns the state of a parameter before its first step, as torch's for-loop makes it."""
    state: dict[str, Tensor] = {}
    number = number_dtype(group.get("fused"))
    with torch.inference_mode(False):  # so that steps outside inference mode go on with it
        if rule.counts_steps:
            state["step"] = torch.zeros((), dtype=number, device=count_device(param, group))
        for one in rule.numbers:
            start, device = one.start_in(group), number_device(param)
            state[one.name] = torch.full((), start, dtype=number, device=device)
        for one in rule.states_in(group):
            state |= started(one, param, group)
    return state


def dtype_for(
    param: Tensor,
    wanted: torch.dtype,
    argument: str,
    offered: tuple[torch.dtype, ...] = DTYPES,
) -> torch.dtype:
    """Returns a dtype that the user wants as a parameter takes it: complex where it is complex."""
    if wanted not in DTYPES:
        raise ValueError(f"Invalid {argument} value: {wanted} (it must be one of {offered})")
    if not param.is_complex():
        return wanted
    if wanted not in (torch.float32, torch.float64):
        raise ValueError(
            f"Invalid {argument} value: {dtype_name(wanted)} (complex parameters need float32 or "
            "float64, for each of the two parts)"
        )
    return wanted.to_complex()


def number_device(param: Tensor) -> torch.device:
    """Returns where the numbers of a parameter's state are: with it on a GPU, else on the CPU."""
    return param.device if param.is_cuda else torch.device("cpu")


def count_device(param: Tensor, group: dict[str, Any]) -> torch.device:
    """Returns where a parameter's steps are counted, as in torch."""
    on_device = group.get("capturable") or group.get("fused")
    return number_device(param) if on_device else torch.device("cpu")


def parameter_name(group: dict[str, Any], group_index: int, index: int) -> str:
    """Returns what error messages call a parameter: its name, where it has one, and its place."""
    place = f"parameter {index} of group {group_index}"
    names = group.get("param_names") or ()
    return f"'{names[index]}' ({place})" if index < len(names) else place


def readable(name: str, value: Tensor) -> Tensor:
    """Returns the tensor detached; one without the memory that its sizes need is refused."""
    if value.is_meta:
        raise ValueError(f"{name} is on meta and holds no numbers; load it with its data")
    if value.layout == torch.strided and type(value) in (Tensor, torch.nn.Parameter):
        spans = zip(value.shape, value.stride(), strict=True)
        last = value.storage_offset() + sum((size - 1) * stride for size, stride in spans)
        if value.numel() and (last + 1) * value.itemsize > value.untyped_storage().nbytes():
            raise ValueError(f"the memory of {name} was freed or resized; load it with its data")
    return value.detach()


def cast_state(name: str, value: Any, param: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a copy of a saved state for a parameter; one that cannot belong to it is refused."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor, got {value!r}")
    if value.shape != param.shape:
        raise ValueError(
            f"{name} has shape {list(value.shape)}, but the parameter has shape "
            f"{list(param.shape)}; load a state dict of this model"
        )
    if not (value.is_complex() if param.is_complex() else value.is_floating_point()):
        raise ValueError(
            f"{name} has dtype {value.dtype}, but the parameter has dtype {param.dtype}; load a "
            "state dict of this model"
        )
    if value.is_meta and param.is_meta:
        return torch.empty_like(value, dtype=dtype)
    return readable(name, value).to(device=param.device, dtype=dtype, copy=True)


def _is_number(value: Any, is_count: bool) -> bool:
    """Returns whether a number can be what it is loaded as; on a GPU nobody looks at it again."""
    if isinstance(value, complex) or not math.isfinite(value):
        return False
    return not is_count or (0 <= value < 2**53 and value == int(value))


def _float(value: Any) -> float:
    try:
        return float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        return math.inf


def as_number(
    name: str, value: Any, is_count: bool, group: dict[str, Any], device: torch.device
) -> Tensor:
    """Returns a copy of a number of a state on a device, as a tensor that a step can read.

    Python's and numpy's numbers become the tensors that torch makes of them.
    """
    if isinstance(value, Tensor):
        value = readable(name, value)
        if value.numel() == 1 and not _is_number(value.item(), is_count):
            wanted = "a whole number from 0 up: the steps so far" if is_count else "finite"
            raise ValueError(f"{name} is {value.item()}, but must be {wanted}")
        # Narrow floats count to 256 or 2048 only; torch keeps them and stands still there.
        known = (torch.float32, torch.float64, *((torch.int64,) if is_count else ()), torch.bool)
        is_kept = value.dtype in known or value.is_complex()
        dtype = value.dtype if is_kept else torch.float32
        copied: Tensor = value.to(device, dtype, copy=True)
        return copied
    number = _float(value)
    if _is_number(number, is_count):
        return torch.tensor(number, dtype=number_dtype(group.get("fused")), device=device)
    wanted = "a number or a tensor with one, " + (
        "whole and from 0 up: the steps so far" if is_count else "finite"
    )
    raise ValueError(f"{name} must be {wanted}, got {value!r}")


def localize(tensor: Tensor, name: str) -> Tensor:
    """Returns the plain tensor that holds a tensor's numbers in this process."""
    parts, wrapper = parts_of(tensor), wrapper_in(tensor)
    if len(parts) != 1 or not (wrapper is None or computes_by_parts(wrapper)):
        raise TypeError(
            f"onepass cannot average a {type(tensor).__name__}, {name}: it takes plain tensors, "
            "DTensors and subclasses with one inner tensor of their own shape and dtype"
        )
    return parts[0].tensor


def bytes_of(state: Mapping[Any, Mapping[Any, Any]]) -> int:
    """Returns the bytes that a state takes in this process; tensors that share them count once."""
    storages = {
        part.untyped_storage()._cdata: part.untyped_storage().nbytes()
        for entries in state.values()
        if isinstance(entries, Mapping)  # users keep what they like beside it
        for value in entries.values()
        if isinstance(value, Tensor) and value.layout == torch.strided
        for part in all_parts_of(value)
    }
    return sum(storages.values())


def state_bytes(params: ParamsT | torch.nn.Module, optimizer: type[OnePass], **options: Any) -> int:
    """Returns the exact bytes of state that an optimizer will hold after its first step.

    Args:
        params: a module or what the optimizer's constructor takes; tensors of ``meta`` will do.
        optimizer: the class, for example ``onepass.AdamW``.
        options: the constructor's other arguments.

    Example:
        >>> import torch, onepass
        >>> with torch.device("meta"):
        ...     model = torch.nn.Linear(1000, 1000)
        >>> onepass.state_bytes(model, onepass.AdamW)
        8008008
        >>> onepass.state_bytes(model, onepass.AdamW, state_dtype=torch.bfloat16)
        4004008
    """
    is_module = isinstance(params, torch.nn.Module)
    given: Any = params.parameters() if isinstance(params, torch.nn.Module) else params
    made = optimizer(_on_meta(given), **options)
    for group in made.param_groups:
        for param in group["params"]:
            if param.requires_grad or not is_module:  # what is frozen gets no gradient
                made.state[param] = made._new_state(param, group)
    return made.state_bytes()


def _on_meta(params: Any) -> Any:
    if isinstance(params, Tensor):
        return params.detach().to("meta").requires_grad_(params.requires_grad)
    if isinstance(params, dict):
        return {k: _on_meta(v) if k == "params" else v for k, v in params.items()}
    if isinstance(params, tuple) and len(params) == 2 and isinstance(params[0], str):
        return params[0], _on_meta(params[1])
    return [_on_meta(param) for param in params]

"""States of 8 bits: a tensor of codes, and beside it one of the exponents of their blocks.

`csrc/storage/blocks.h` says what a code stands for. Codes are int8, or uint8 where a state is never
negative, and have the parameter's shape; exponents are int8, with a row for each index of its first
dimension and a number for each 64 elements of it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._native import C
from .options import stores_codes
from .parts import is_dtensor, wrapper_in
from .rules import RULES, Rule, State

if TYPE_CHECKING:
    from .optimizer import OnePass

CODES = (torch.int8, torch.uint8)
_BLOCK, _SMALLEST_EXPONENT = 64, -126


def is_codes(value: Any) -> bool:
    """Returns whether a tensor has the dtype of codes; exponents must stand beside it."""
    return isinstance(value, Tensor) and value.dtype in CODES


def holds_codes(optimizer: OnePass) -> bool:
    """Returns whether an optimizer has states of 8 bits, or would make some.

    While torch.compile traces, the options alone decide.
    """
    if any(map(stores_codes, optimizer.param_groups)):
        return True
    if torch.compiler.is_compiling():  # a state that is looked at would be part of the graph
        return False
    states = (own for own in optimizer.state.values() if isinstance(own, Mapping))
    names = [state.name for state in RULES[optimizer.rule].states]
    return any(is_codes(own.get(name)) for own in states for name in names)


def code_dtype(state: State, param: Tensor) -> torch.dtype:
    """Returns the dtype of a state where 8 bits are asked for: floats where they do not serve.

    Parameters of fewer than two dimensions keep floats: their rows are single numbers.
    """
    if param.is_complex():
        raise ValueError(
            "Invalid state_dtype value: int8 (complex parameters need float32 or float64, for each "
            "of the two parts)"
        )
    if param.dim() < 2 or state.keeps_floats:
        return torch.float32
    return torch.uint8 if state.is_non_negative else torch.int8


def check_rule(rule: Rule) -> None:
    """Refuses 8 bits where a rule has nothing to store in them, or cannot round."""
    if not rule.counts_steps:
        raise ValueError(
            f"Invalid state_dtype value: int8 ({rule.name} keeps no count of its steps, without "
            "which stochastic rounding would repeat itself; take a class that counts them, as "
            "onepass.Momentum)"
        )
    if all(state.keeps_floats for state in rule.states):
        raise ValueError(
            f"Invalid state_dtype value: int8 (the states of {rule.name} do not survive in 8 bits; "
            "take float32 or bfloat16)"
        )


def encoded(state: State, numbers: Tensor) -> dict[str, Tensor]:
    """Returns the codes and exponents of a state, rounded to nearest, under their keys."""
    return _keyed(state, _by_part(numbers, lambda x: C.encode_state(x, state.is_non_negative)))


def zeros(state: State, param: Tensor) -> dict[str, Tensor]:
    """Returns the codes and exponents of a state that is 0 everywhere, under their keys."""

    def convert(local: Tensor) -> tuple[Tensor, Tensor]:
        codes = torch.zeros_like(
            local, dtype=code_dtype(state, local), memory_format=torch.contiguous_format
        )
        shape = _exponent_shape(codes)
        return codes, codes.new_full(shape, _SMALLEST_EXPONENT, dtype=torch.int8)

    return _keyed(state, _by_part(param.detach(), convert))


def _exponent_shape(codes: Tensor) -> tuple[int, int]:
    return codes.shape[0], math.ceil(math.prod(codes.shape[1:]) / _BLOCK)


def _keyed(state: State, pair: tuple[Tensor, ...]) -> dict[str, Tensor]:
    codes, exponents = pair
    return {state.name: codes, state.exponent_key: exponents}


def decoded(codes: Tensor, exponents: Tensor) -> Tensor:
    """Returns a state in float32."""
    if not is_dtensor(codes):
        return C.decode_state(codes, exponents)
    inner = exponents.to_local() if is_dtensor(exponents) else exponents  # type: ignore[attr-defined]
    return _by_part(codes, lambda local: (C.decode_state(local, inner),))[0]


def check_saved(name: str, codes: Tensor, exponents: Any, state: State, param: Tensor) -> None:
    """Refuses codes that do not belong to a parameter's state, or without their exponents."""
    if codes.shape != param.shape or param.dim() < 2:
        raise ValueError(
            f"{name} is codes of shape {list(codes.shape)}, but the parameter has shape "
            f"{list(param.shape)}; load a state dict of this model"
        )
    wanted = _exponent_shape(codes)
    if not isinstance(exponents, Tensor) or exponents.dtype != torch.int8:
        raise ValueError(
            f"{name} has dtype {codes.dtype}, but no exponents of int8 stand beside it under "
            f"'{state.exponent_key}': these are no codes of onepass; load a whole state dict"
        )
    if exponents.shape != wanted:
        raise ValueError(
            f"the exponents of {name} have shape {list(exponents.shape)} and not {list(wanted)}; "
            "load a state dict of this model"
        )
    if (codes.dtype == torch.uint8) != state.is_non_negative:
        raise ValueError(
            f"{name} has dtype {codes.dtype}, but its codes are "
            f"{'uint8' if state.is_non_negative else 'int8'}; load a state dict of this class"
        )


def _by_part(tensor: Any, convert: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Converts what this process holds of a tensor, and places the results alike."""
    wrapper = wrapper_in(tensor)
    if wrapper is not None:
        raise ValueError(
            f"Invalid state_dtype value: int8 (a parameter or its state is a "
            f"{type(wrapper).__name__}, but states of 8 bits go with plain tensors and DTensors; "
            "give it a group with state_dtype=None)"
        )
    if not is_dtensor(tensor):
        return convert(tensor)
    mesh, placements = tensor.device_mesh, tensor.placements
    if not all(one.is_replicate() or _is_by_rows(one) for one in placements):
        raise ValueError(
            f"Invalid state_dtype value: int8 (a parameter is placed as {placements}, but states "
            "of 8 bits are shared between processes by rows, Shard(0), only; give it a group "
            "with state_dtype=None)"
        )
    whole = []
    for local in convert(tensor.to_local()):
        shape = torch.Size([tensor.shape[0], *local.shape[1:]])
        stride = torch.empty(shape, device="meta").stride()
        whole.append(
            type(tensor).from_local(
                local, mesh, placements, run_check=False, shape=shape, stride=stride
            )
        )
    return tuple(whole)


def _is_by_rows(placement: Any) -> bool:
    # isinstance would take _StridedShard, which some versions of torch derive from Shard.
    return type(placement) is sys.modules["torch.distributed.tensor"].Shard and placement.dim == 0


def to_float32_state_dict(optimizer: OnePass) -> dict[str, Any]:
    """Returns a state dict whose states of 8 bits are float32, which ``torch.optim`` loads.

    torch then casts the moments to the parameter's dtype.

    Args:
        optimizer: one of onepass's.

    Raises:
        ValueError: a state of 8 bits lacks its exponents.
        TypeError: it is no optimizer of onepass.

    Example:
        >>> import torch, onepass
        >>> weight = torch.ones(2, 64, requires_grad=True)
        >>> opt = onepass.AdamW([weight], state_dtype=torch.int8)
        >>> weight.sum().backward()
        >>> opt.step()
        >>> opt.state[weight]["exp_avg"].dtype
        torch.int8
        >>> torch.optim.AdamW([weight]).load_state_dict(onepass.to_float32_state_dict(opt))
    """
    if not hasattr(optimizer, "rule"):
        raise TypeError(
            f"to_float32_state_dict() takes an optimizer of onepass, got {type(optimizer).__name__}"
        )
    given = optimizer.state_dict()
    states = {state.name: state for state in RULES[optimizer.rule].states}
    groups = [
        {key: value for key, value in group.items() if (key, value) != ("state_dtype", "int8")}
        for group in given["param_groups"]
    ]
    return {
        **given,
        "state": {key: _with_floats(state, states) for key, state in given["state"].items()},
        "param_groups": groups,
    }


def _with_floats(state: Any, states: dict[str, State]) -> Any:
    if not isinstance(state, Mapping):
        return state
    coded = {name: one for name, one in states.items() if is_codes(state.get(name))}
    exponents = {one.exponent_key for one in coded.values()}
    for name, one in coded.items():
        check_saved(name, state[name], state.get(one.exponent_key), one, state[name])
    return {
        key: decoded(value, state[coded[key].exponent_key]) if key in coded else value
        for key, value in state.items()
        if key not in exponents
    }

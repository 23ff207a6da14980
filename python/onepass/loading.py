"""Loading: a state dict in any containers, its states cast to their parameters."""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .codes import CODES, check_saved, decoded, encoded, is_codes
from .rules import RULES, State
from .state import (
    as_number,
    cast_state,
    count_device,
    number_device,
    parameter_name,
    readable,
    state_dtype,
)

if TYPE_CHECKING:
    from .optimizer import OnePass


@dataclass
class Saved:
    """Carries a parameter's saved state past torch's cast, which knows one policy only."""

    state: Any


def wrap_states(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a state dict of dicts and lists, its states wrapped; refuses what is none."""
    state, groups = state_dict.get("state"), state_dict.get("param_groups")
    if not isinstance(state, Mapping):
        raise ValueError(f"the 'state' of a state dict must be a dict, got {state!r}")
    if not _is_list(groups):
        raise ValueError(f"the 'param_groups' of a state dict must be a list, got {groups!r}")
    plain = []
    for group in groups or ():
        if not isinstance(group, Mapping) or not _is_list(group.get("params")):
            raise ValueError(f"a parameter group must be a dict with a list of 'params': {group!r}")
        plain.append({**group, "params": [*group["params"]]})
    wrapped = {key: Saved(value) for key, value in state.items()}
    return {**state_dict, "state": wrapped, "param_groups": plain}


def _is_list(values: Any) -> bool:
    """Returns whether values have an order and can be read again; a tensor holds no keys."""
    return isinstance(values, Collection) and not isinstance(values, (str, Mapping, Set, Tensor))


def unwrap_states(optimizer: OnePass, state: dict[str, Any]) -> Any:
    """Returns the states of a state dict cast to their parameters; others are copied."""
    if not any(isinstance(saved, Saved) for saved in state["state"].values()):
        return state["state"]
    places = {
        param: (group, parameter_name(group, i, k))
        for i, group in enumerate(state["param_groups"])
        for k, param in enumerate(group["params"])
    }
    loaded = state["state"].__class__(dict)
    for param, saved in state["state"].items():
        if param in places:
            loaded[param] = _loaded(optimizer, param, *places[param], saved.state)
        else:
            loaded[param] = copy.deepcopy(saved.state)
    return loaded


def _loaded(
    optimizer: OnePass, param: Tensor, group: dict[str, Any], name: str, saved: Any
) -> dict[Any, Any]:
    rule = RULES[optimizer.rule]
    numbers = rule.number_names()
    if not isinstance(saved, Mapping) or (saved and not saved.keys() >= set(numbers)):
        wanted = " with " + ", ".join(map(repr, numbers)) if numbers else ""
        found = list(saved) if isinstance(saved, Mapping) else saved
        raise ValueError(f"the state of {name} must be a dict{wanted}, got {found!r}")
    states = {state.name: state for state in rule.states if _can_step(param)}
    exponents = {state.exponent_key for state in states.values()}
    options = {**optimizer.defaults, **group}
    loaded: dict[Any, Any] = {}
    for key, value in saved.items():
        key = sys.intern(key) if isinstance(key, str) else key
        if key in exponents:
            continue  # with their state
        if key in states:
            if value is not None:  # as torch's SGD keeps a buffer that it has not made yet
                dtype = state_dtype(states[key], param, options)
                loaded |= _loaded_state(states[key], saved, param, dtype, name)
        elif key in (*numbers, "step"):
            is_count = key == "step"
            device = count_device(param, group) if is_count else number_device(param)
            loaded[key] = as_number(f"{key} of {name}", value, is_count, group, device)
        elif isinstance(value, Tensor):
            loaded[key] = readable(f"{key} of {name}", value).to(param.device, copy=True)
        else:
            loaded[key] = copy.deepcopy(value)
    return loaded


def _copied(name: str, value: Tensor, param: Tensor) -> Tensor:
    if value.is_meta and param.is_meta:
        return torch.empty_like(value)
    return readable(name, value).to(param.device, copy=True).contiguous()


def _loaded_state(
    state: State, saved: Mapping[Any, Any], param: Tensor, dtype: torch.dtype, name: str
) -> dict[str, Tensor]:
    """Returns a saved state as the optimizer keeps it, codes or floats."""
    value, label = saved[state.name], f"{state.name} of {name}"
    if is_codes(value):
        exponents: Any = saved.get(state.exponent_key)
        check_saved(label, value, exponents, state, param)
        value, exponents = (
            _copied(name, one, param)
            for name, one in ((label, value), (f"the exponents of {label}", exponents))
        )
        if value.dtype == dtype:
            return {state.name: value, state.exponent_key: exponents}
        value = decoded(value, exponents)
    if dtype not in CODES:
        return {state.name: cast_state(label, value, param, dtype)}
    return encoded(state, cast_state(label, value, param, torch.float32))


def split_states(states: Any, groups: Iterable[dict[str, Any]]) -> tuple[Any, dict[Any, Any]]:
    """Returns the states of parameters, but for empty ones, and what users keep beside them.

    torch looks at the first state of all to tell whether to convert Python's numbers: it fails at
    an empty one and at what is no state.
    """
    params = {id(param) for group in groups for param in group["params"]}
    full, beside = copy.copy(states), {}
    for param, own in [*full.items()]:
        if id(param) not in params or not isinstance(own, Mapping):
            beside[param] = full.pop(param)
        elif not own:
            del full[param]
    return full, beside


def place_numbers(optimizer: OnePass) -> None:
    """Moves the numbers that torch has made of Python's to their parameters."""
    numbers = RULES[optimizer.rule].numbers
    params = [param for group in optimizer.param_groups for param in group["params"] if numbers]
    for param in params:
        own = optimizer.state.get(param, {})
        for one in numbers:
            if param.is_cuda and isinstance(own.get(one.name), Tensor):
                own[one.name] = own[one.name].to(param.device)


def _can_step(param: Tensor) -> bool:
    """Returns whether a parameter may be given a gradient; torch keeps state for others too."""
    is_number = param.is_floating_point() or param.is_complex()
    return is_number and param.layout == torch.strided and not param.is_nested

"""Groups and state as users may keep them, for the native half: it reads lists, dicts, tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, cast

import torch
from torch import Tensor

from .rules import RULES
from .state import as_number, count_device, number_device, parameter_name


def natively(rule: str, call: Callable[..., Any], groups: Any, state: Any, *rest: Any) -> Any:
    """Calls the native half on groups and state, whatever containers they are kept in.

    The call is made as it is first, which costs nothing where all is a list or a dict. Only where
    that is refused are plain containers made, and what the call adds to them is handed back.
    """
    try:
        return call(groups, state, *rest)
    except (TypeError, RuntimeError):
        plain_groups = _plain_groups(groups)
        plain_state = _plain_state(rule, plain_groups, state)
        if plain_groups is groups and plain_state is state:
            raise
    result = call(plain_groups, plain_state, *rest)
    _hand_back(plain_state, state)
    return result


def _hand_back(plain_state: dict[Any, Any], state: Any) -> None:
    """Puts into the user's containers what the native half was given or added in plain ones."""
    for param, own in plain_state.items():
        if param not in state:
            state[param] = own
            continue
        kept = state[param]
        if kept is not own:
            for key in [k for k in own if k not in kept or kept[k] is not own[k]]:
                kept[key] = own[key]


def _plain_groups(groups: Any) -> list[dict[str, Any]]:
    """Returns the groups in a list of dicts with lists of parameters; the same ones if they are."""
    plain = [_plain_group(group, i) for i, group in enumerate(_listed(groups, "param_groups"))]
    is_plain = isinstance(groups, list) and all(
        own is given for own, given in zip(plain, groups, strict=True)
    )
    return groups if is_plain else plain


def _plain_group(group: Any, index: int) -> dict[str, Any]:
    if not isinstance(group, Mapping) or "params" not in group:
        raise TypeError(f"parameter group {index} must be a dict with 'params', got {group!r}")
    if isinstance(group, dict) and isinstance(group["params"], list):
        return group
    params = _listed(group["params"], f"'params' of parameter group {index}")
    return {**group, "params": params}


def _listed(values: Any, name: str) -> list[Any]:
    # An iterator would be empty from the second step on, in which torch does nothing then.
    if not isinstance(values, Iterable) or isinstance(values, (Iterator, str, Tensor, Mapping)):
        raise TypeError(
            f"{name} must be a list or another container that can be read again, got "
            f"{type(values).__name__}; store a list"
        )
    return values if isinstance(values, list) else [*values]


def _plain_state(rule: str, groups: list[dict[str, Any]], state: Any) -> dict[Any, Any]:
    """Returns the state in dicts, with tensors for Python's numbers; the same one if it is so."""
    if not isinstance(state, Mapping):
        raise TypeError(f"the optimizer's state must be a dict, got {type(state).__name__}")
    changed: dict[Any, Any] = {}
    for i, group in enumerate(groups):
        for k, param in enumerate(group["params"]):
            own = state.get(param)
            if isinstance(own, Mapping):
                plain = _plain_own(rule, param, group, own, parameter_name(group, i, k))
                if plain is not own:
                    changed[param] = plain
    if isinstance(state, dict) and not changed:
        return state
    return {**state, **changed}


def _plain_own(
    rule: str, param: Tensor, group: dict[str, Any], own: Mapping[Any, Any], name: str
) -> dict[Any, Any]:
    numbers = {}
    for key in RULES[rule].number_names():
        value = own.get(key)
        if isinstance(own, MutableMapping) and _is_loose_number(value, key == "step"):
            place = count_device(param, group) if key == "step" else number_device(param)
            numbers[key] = as_number(f"{key} of {name}", value, key == "step", group, place)
    is_plain = isinstance(own, dict) and not numbers
    return cast(dict[Any, Any], own) if is_plain else {**own, **numbers}


def _is_loose_number(value: Any, is_count: bool) -> bool:
    """Returns whether a step cannot read a number as it is, but could as another tensor."""
    if isinstance(value, Tensor):
        known = (torch.float32, torch.float64, torch.int64 if is_count else None, torch.bool)
        return value.numel() == 1 and not value.is_complex() and value.dtype not in known
    return value is not None

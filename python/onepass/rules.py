"""The optimizers of the native table of algorithms, as Python needs them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._native import C


@dataclass(frozen=True)
class State:
    """Describes a state of a parameter: its name, the option that turns it on, where it starts."""

    name: str
    only_if: str | None
    start: float
    start_at: str | None
    is_non_negative: bool
    keeps_floats: bool  # where the others are stored in 8 bits
    exponent_key: str  # of the exponents, where it is stored so

    def start_in(self, group: dict[str, Any]) -> float:
        """Returns the value before the first step; a rate that rounding brought below 0 is 0."""
        return max(0.0, float(group[self.start_at])) if self.start_at else self.start


@dataclass(frozen=True)
class Hyper:
    """Describes a hyper-parameter: the op's argument, and where a group keeps it."""

    name: str
    key: str
    index: int
    scheduled: bool
    is_flag: bool

    def argument(self, group: dict[str, Any]) -> Any:
        """Returns the value in a group as the op takes it."""
        value = group[self.key]
        if self.index >= 0:
            value = value[self.index]
        if self.is_flag:
            return bool(value)
        if not self.scheduled:
            return float(value)
        if isinstance(value, Tensor):
            return value
        # A tensor made from a number that changes is not compiled anew at each change; the bare
        # number, as an argument of the op, would be.
        if isinstance(value, (int, float)):
            return torch.zeros((), dtype=torch.float64) + value
        return torch.as_tensor(value)  # a scalar of NumPy keeps its dtype


@dataclass(frozen=True)
class Rule:
    """Describes an algorithm; csrc/rules/ says the same in C++."""

    name: str
    counts_steps: bool
    sums: bool  # whether an element's step depends on its whole parameter
    numbers: tuple[State, ...]
    states: tuple[State, ...]
    hypers: tuple[Hyper, ...]

    def lists(self) -> list[str]:
        """Returns what the op's lists of tensors hold, in their order."""
        return ["params", "grads", *(one.name for one in (*self.states, *self.numbers)), "step"]

    def number_names(self) -> list[str]:
        """Returns the names of the numbers in a parameter's state, its step first."""
        return [*(["step"] if self.counts_steps else []), *(one.name for one in self.numbers)]

    def arguments_in(self, group: dict[str, Any]) -> dict[str, Any]:
        """Returns the group's options as arguments of the op; those that it lacks are neutral."""
        return {one.name: one.argument(group) for one in self.hypers if one.key in group}

    def states_in(self, group: dict[str, Any]) -> Iterator[State]:
        """Yields the states that the group's options turn on."""
        for state in self.states:
            if state.only_if is None or _is_on(group[state.only_if]):
                yield state


def _is_on(option: Any) -> bool:
    """Returns whether an option is on; what a number on a GPU is now is not waited for."""
    return True if isinstance(option, Tensor) and option.is_cuda else bool(option)


def _states(rows: list[dict[str, Any]]) -> tuple[State, ...]:
    # Interned, so that the native half finds a state by comparing addresses.
    names = [sys.intern(row["name"]) for row in rows]
    return tuple(
        State(**{**row, "name": name}, exponent_key=sys.intern(f"{name}_exponent"))
        for row, name in zip(rows, names, strict=True)
    )


RULES = {
    row["name"]: Rule(
        row["name"],
        row["counts_steps"],
        row["sums"],
        _states(row["numbers"]),
        _states(row["states"]),
        tuple(Hyper(**hyper) for hyper in row["hypers"]),
    )
    for row in C.rules()
    if row["is_optimizer"]
}

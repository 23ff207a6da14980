"""One step in terms of plain tensors: what stands in it for DTensors and tensor subclasses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._torch import Spec, is_memory, spec_of
from .options import hand_over_reference_rates
from .parts import (
    Part,
    as_replicated,
    computes_by_parts,
    inner_tensors,
    is_dtensor,
    parts_of,
    wrapper_in,
)
from .placement import Place, check_placement
from .rules import RULES

if TYPE_CHECKING:
    from .optimizer import OnePass


_NOTHING = object()  # where a dict had no entry


@dataclass(slots=True)
class _Row:
    """A parameter of which something is no plain tensor."""

    param: Tensor
    grad: Any
    place: Place
    spec: Spec | None  # of a DTensor
    parts: list[Part]


class LocalStep:
    """What one step of an optimizer is in plain tensors.

    Gradients and states that are placed otherwise than their parameter are redistributed. That is
    collective, and comes after everything that can be refused without it.
    """

    def __init__(self, optimizer: OnePass, strict: bool = True) -> None:
        """Checks and localizes everything; `strict` refuses classes that cannot be looked into."""
        self.groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        self._optimizer = optimizer
        self._strict = strict
        states = RULES[optimizer.rule].states
        self._states = {key for one in states for key in (one.name, one.exponent_key)}
        self._rows: dict[Tensor, _Row] = {}
        self._owners: dict[Tensor, tuple[Tensor, int]] = {}  # of the parts
        self._made: dict[Tensor, dict[str, Any]] = {}
        self._before: list[tuple[Any, Any, Any]] = []  # (dict, key, what was there)
        self._grads: list[tuple[Tensor, Any]] = []  # of parameters that were given others
        self._moved: dict[Tensor, dict[str, Tensor]] = {}  # gradients and states, redistributed
        with torch.no_grad():
            for i, group in enumerate(optimizer.param_groups):
                for k, param in enumerate(group["params"]):
                    self._check(param, Place(group, i, k))
            self._redistribute()
            for group in optimizer.param_groups:
                self._localize(group)

    # ---- what is asked before the first collective

    def _check(self, param: Tensor, place: Place) -> None:
        grad = param.grad
        if grad is None or (is_memory(param) and is_memory(grad)):
            return
        grad = as_replicated(grad, param)
        spec = check_placement(param, grad, place)
        parts = self._parts(param)
        if not parts or parts[0].keys:
            self._check_wrapper(param, place)
        self._rows[param] = _Row(param, grad, place, spec, parts)
        if spec is not None and spec_of(grad) != spec:
            self._moved[param] = {"grad": grad}
        for key, value in self._items(param):
            if key in self._states and is_dtensor(value):
                own = spec_of(value)
                if own == spec:
                    continue
                if spec is None or own[0] != spec[0]:
                    raise TypeError(
                        f"{key} of {place} is placed as {own}, but the parameter as {spec}; load a "
                        "state dict of this model"
                    )
                self._moved.setdefault(param, {})[key] = value

    def _items(self, param: Tensor) -> Iterable[tuple[str, Any]]:
        state = self._optimizer.state.get(param)
        return state.items() if isinstance(state, Mapping) else ()

    def _check_wrapper(self, param: Tensor, place: Place) -> None:
        wrapper = wrapper_in(param)
        if wrapper is None:
            return
        known = self._optimizer.__dict__.setdefault("_known_wrappers", set())
        if type(wrapper) not in known or not self._optimizer.state.get(param):
            if computes_by_parts(wrapper):
                known.add(type(wrapper))
            elif self._strict:
                raise TypeError(_unknown(wrapper, place))
        rule = RULES[self._optimizer.rule]
        if rule.sums and rule.numbers and len(parts_of(wrapper)) > 1:
            raise TypeError(
                f"{type(self._optimizer).__name__} keeps a number of each whole parameter, but "
                f"{place} is a {type(wrapper).__name__} of several; take another class"
            )

    def _redistribute(self) -> None:
        for param, tensors in self._moved.items():
            _, placements = spec_of(param)
            for key, tensor in tensors.items():
                there: Any = tensor
                tensors[key] = there.redistribute(placements=placements)
            if "grad" in tensors:
                self._rows[param].grad = tensors["grad"]

    # ---- groups and states

    def _localize(self, group: dict[str, Any]) -> None:
        params: list[Tensor] = []
        more: list[Tensor] = []  # behind all others, whose places in the group so stay
        for param in group["params"]:
            row = self._rows.get(param)
            first, *others = [param] if row is None else self._locals_of(row)
            for number, local in enumerate((first, *others)):
                self._owners[local] = param, number
                if param.grad is not None and self._optimizer.state.get(param):
                    state = self._optimizer.state[param]
                    self.state[local] = self._local_state(state, param, number)
            params.append(first)
            more += others
        self.groups.append({**group, "params": params + more})

    def _locals_of(self, row: _Row) -> list[Tensor]:
        grads = self._beside(row, "the gradient", row.grad)
        if len(grads) > 1 and any(grad.tensor.layout != torch.strided for grad in grads):
            raise TypeError(
                f"the gradient of {row.place} is sparse, which a {type(row.param).__name__} does "
                "not take; make it dense"
            )
        return [
            _with_grad(part, grad, row.place) for part, grad in zip(row.parts, grads, strict=True)
        ]

    def _beside(self, row: _Row, name: str, tensor: Tensor) -> list[Part]:
        """Returns the parts of a gradient or a state, as many as those of the parameter."""
        parts, others = row.parts, self._parts(tensor)
        if len(others) == 1 and len(parts) == 1:
            return others
        if [part.keys for part in parts] != [part.keys for part in others] or not parts:
            raise TypeError(
                f"{name} of {row.place} is a {type(tensor).__name__} of {_shown(others)}, but the "
                f"parameter is a {type(row.param).__name__} of {_shown(parts)}; give "
                "it gradients and states of the same inner tensors"
            )
        return others

    def _parts(self, tensor: Tensor) -> list[Part]:
        parts = parts_of(tensor)
        opaque = None if parts or self._strict else wrapper_in(tensor)
        if opaque is None:
            return parts
        return [Part(opaque, spec_of(tensor) if is_dtensor(tensor) else None, ())]

    def _local_state(self, state: Any, param: Tensor, number: int) -> Any:
        row = self._rows.get(param)
        if not isinstance(state, Mapping) or (row is None and isinstance(state, dict)):
            return state
        if row is None:
            return dict(state)
        local = dict(state)
        moved = self._moved.get(param, {})
        for key, value in state.items():
            if key in self._states and isinstance(value, Tensor):
                local[key] = self._beside(row, key, moved.get(key, value))[number].tensor
            elif isinstance(value, Tensor):  # one number for all parts: each has its own to count
                parts = parts_of(value)
                one = parts[0].tensor if len(parts) == 1 else value
                local[key] = one.clone() if number else one
        return local

    def new_state(self, local: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Returns the state of a part that has none yet, out of a new one of its parameter."""
        param, number = self._owners[local]
        if param not in self._made:
            self._made[param] = self._optimizer._first_state(param, group)
            self._put(self._optimizer.state, param, self._made[param])
        return self._local_state(self._made[param], param, number)  # type: ignore[no-any-return]

    def count_key(self, local: Tensor) -> Any:
        """Returns what the steps of a part are counted under, where its state keeps no count."""
        param, number = self._owners[local]
        return (param, number) if number else param

    def is_new(self, local: Tensor) -> bool:
        """Returns whether the state of a part was made for this step."""
        return self._owners[local][0] in self._made

    # ---- what the optimizer gets of it, before the step so that none is left half taken

    def put_moved(self, is_scaled: bool) -> None:
        """Gives the optimizer what was redistributed, until take_back()."""
        for param, moved in self._moved.items():
            for key in moved.keys() & self._states:
                self._put(self._optimizer.state[param], key, moved[key])
            if is_scaled and "grad" in moved:  # the caller is promised unscaled gradients
                self._grads.append((param, param.grad))
                param.grad = moved["grad"]

    def _put(self, entries: Any, key: Any, value: Any) -> None:
        self._before.append((entries, key, entries.get(key, _NOTHING)))
        entries[key] = value

    def take_back(self) -> None:
        """Takes out again what the optimizer got for a step that was not taken."""
        for entries, key, value in reversed(self._before):
            if value is _NOTHING:
                entries.pop(key, None)
            else:
                entries[key] = value
        for param, grad in self._grads:
            param.grad = grad

    def finish(self) -> None:
        """Notes what only the step itself could know."""
        hand_over_reference_rates(self.groups, self._optimizer.param_groups)
        state = self._optimizer.state
        for local, own in self.state.items():  # to which a first sparse gradient adds
            param, number = self._owners[local]
            if number == 0 and own is not state[param]:
                state[param].update({key: own[key] for key in own.keys() - state[param].keys()})
        # The memory was written behind the back of the tensor that autograd knows.
        torch.autograd.graph.increment_version([p for p in self._rows if not p.is_inference()])


def _with_grad(part: Part, grad: Part, place: Place) -> Tensor:
    if part.spec != grad.spec:
        raise TypeError(
            f"{place} is placed as {part.spec}, but its gradient as {grad.spec}; redistribute it"
        )
    local = part.tensor.detach()
    one = grad.tensor
    if one.shape != local.shape or one.device != local.device:
        raise RuntimeError(
            f"the gradient of {place} has shape {list(one.shape)} on {one.device} in this process, "
            f"but the parameter has shape {list(local.shape)} on {local.device}; make them alike"
        )
    if one.dtype != local.dtype:
        local.grad_dtype = None
    local.grad = one
    return local


def _shown(parts: list[Part]) -> str:
    return f"inner tensors ({', '.join('.'.join(part.keys) or 'itself' for part in parts)})"


def _unknown(wrapper: Tensor, place: Place) -> str:
    inner = ", ".join(
        f"'{key}' of {value.dtype} and shape {list(value.shape)}"
        for key, value in inner_tensors(wrapper).items()
    )
    return (
        f"onepass cannot step a {type(wrapper).__name__} of {wrapper.dtype} and shape "
        f"{list(wrapper.shape)}, {place}"
        + (f", which holds {inner}" if inner else "")
        + ": it takes plain tensors and DTensors, and of other classes those that compute element "
        "by element on inner tensors of their own shape and dtype; train it with another optimizer"
    )

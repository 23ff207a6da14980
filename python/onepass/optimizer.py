"""The plumbing that all optimizers share: options, state, the step, loading."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, _get_scalar_dtype

from ._native import C
from .state import (
    Saved,
    bytes_of,
    cast_state,
    cast_step,
    localize,
    parameter_name,
    readable,
    state_dtype,
    wrap_states,
)

# Interned, so that the native half finds a state by comparing addresses.
_RULES = {
    name: ([(sys.intern(state), only_if) for state, only_if in states], hypers)
    for name, states, hypers in C.rules()
}


class OnePass(Optimizer):
    """Makes a class of ``torch.optim`` take its steps in one pass; stands first among the bases.

    A subclass names its algorithm of the native table in ``rule`` and puts the options that torch
    does not have into ``_extras`` before it calls torch's constructor.
    """

    rule: str
    _extras: dict[str, Any]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step.

        Args:
            closure: evaluates the model again and returns the loss; it runs with gradients enabled.

        Raises:
            ValueError: a hyper-parameter is out of range; nothing has changed.
            RuntimeError: a tensor cannot be stepped; nothing has changed.
        """
        if self.defaults["differentiable"]:
            self._native().check(self.param_groups, {})
            return self._torch_step(closure)
        self._accelerator_graph_capture_health_check()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if torch.compiler.is_compiling() or C.dispatch_mode_is_active():
            self._step_by_op()
        elif not self._native_step(self.param_groups, self.state):
            self._step_locally()
        return loss

    def _native(self) -> C.Step:
        """Returns the native half, made when it is first needed: it is never pickled or copied."""
        native: C.Step | None = self.__dict__.get("_native_half")
        if native is None:
            native = self.__dict__["_native_half"] = C.Step(self.rule)
        return native

    def _native_step(self, groups: list[dict[str, Any]], state: dict[Tensor, Any]) -> bool:
        return self._native().step(groups, state, self._new_state, *self._scaler())

    def _torch_step(self, closure: Callable[[], Any] | None) -> Any:
        # torch wraps the step of a class once one of it was made, which would fire hooks twice.
        step = super().step
        if getattr(step, "hooked", False):
            return step.__wrapped__(self, closure)  # type: ignore[attr-defined]
        return step(closure)

    # ---- the step where tensors are more than memory: DTensor, torch.compile, fake tensors

    def _step_locally(self) -> None:
        """Takes the step on the local tensors of DTensors, all or nothing like any other."""
        new: dict[Tensor, Any] = {}
        local_state: dict[Tensor, Any] = {}
        local_groups = []
        for i, group in enumerate(self.param_groups):
            params = []
            for k, param in enumerate(group["params"]):
                name = parameter_name(group, i, k)
                params.append(localize(param, name))
                if param.grad is None:
                    continue
                state = self.state.get(param) or new.setdefault(
                    param, self._new_state(param, group)
                )
                local_state[params[-1]] = {
                    key: localize(value, name) if isinstance(value, Tensor) else value
                    for key, value in state.items()
                }
            local_groups.append({**group, "params": params})
        self._native_step(local_groups, local_state)
        found_inf = self._scaler()[1]
        if found_inf is None or not found_inf:
            self.state.update(new)

    def _step_by_op(self) -> None:
        states, hypers = _RULES[self.rule]
        op = getattr(torch.ops.onepass, f"{self.rule}_")
        if not torch.compiler.is_compiling():  # one op a group: refuse before the first of them
            self._native().rehearse(self.param_groups, self.state, self._new_state)
        with torch.no_grad():
            for group in self.param_groups:
                lists: list[list[Tensor]] = [[] for _ in range(3 + len(states))]
                self._init_group(group, *lists)
                options = {
                    name: _option(group, key, index, scheduled)
                    for name, key, index, scheduled in hypers
                }
                self._unscale(lists[1])
                op(*lists, **options, maximize=group["maximize"], found_inf=self._scaler()[1])

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> Any:
        """Fills torch's lists for one group; by this name torch.compile runs it while tracing."""
        if not group["differentiable"]:
            for param in group["params"]:
                if param.grad is not None and not self.state[param]:
                    self.state[param] = self._new_state(param, group)
        return super()._init_group(group, *lists)  # type: ignore[misc]

    def _unscale(self, grads: list[Tensor]) -> None:
        scale, found_inf = self._scaler()
        if scale is None:
            return
        if found_inf is not None:
            scale = torch.where(found_inf != 0, torch.ones_like(scale), scale)
        torch._foreach_div_(grads, scale)

    # ---- options

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group, as torch, and refuses options that are out of range."""
        for name, value in self.__dict__.pop("_extras", {}).items():
            self.defaults.setdefault(name, value)
        super().add_param_group(param_group)
        try:
            self._native().check(self.param_groups, self.state, len(self.param_groups) - 1)
            self._check_group(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        for param in group["params"]:
            state_dtype(param, group)
        if group["decouple_lr"]:
            group.setdefault("initial_lr", float(group["lr"]))
        ours = [name for name in ("eps_root", "decouple_lr", "state_dtype") if group[name]]
        if group["differentiable"] and ours:
            raise ValueError(
                f"differentiable=True takes torch's own path, which has no {ours[0]}; leave one out"
            )

    def _scaler(self) -> tuple[Tensor | None, Tensor | None]:
        """Returns the scale and the overflow flag that GradScaler sets around a step, or None."""
        return getattr(self, "grad_scale", None), getattr(self, "found_inf", None)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether GradScaler leaves unscaling and skipping to the step: wherever fused is set."""
        return any(group.get("fused") for group in self.param_groups)

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, value: bool) -> None:
        # torch's constructor assigns here; the groups alone decide, so that loading and pickling
        # cannot leave the two at odds.
        pass

    # ---- state

    def _state_names(self, group: dict[str, Any]) -> Iterator[str]:
        for name, only_if in _RULES[self.rule][0]:
            if only_if is None or group[only_if]:
                yield name

    def _new_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Returns the state of a parameter before its first step, as torch's for-loop makes it."""
        dtype = state_dtype(param, group)
        with torch.inference_mode(False):  # so that steps outside inference mode go on with it
            count = _get_scalar_dtype(is_fused=group["fused"])
            state = {"step": torch.zeros((), dtype=count, device="cpu")}
            for name in self._state_names(group):
                state[name] = torch.zeros_like(
                    param, dtype=dtype, memory_format=torch.preserve_format
                )
        return state

    def state_bytes(self) -> int:
        """Returns the bytes of memory that the state takes now; nothing before the first step."""
        return bytes_of(self.state)

    # ---- loading

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state dict of this class or of torch's.

        Moments are cast to the dtype of ``state_dtype`` and never share memory with the source.

        Raises:
            ValueError, RuntimeError: the state dict does not fit; nothing has changed.
        """
        # torch casts all state to the parameter's dtype, by a rule that cannot be overridden. What
        # it does not know it hands on: so the states are wrapped, after all hooks of the user.
        if not isinstance(state_dict, dict):
            raise ValueError(f"a state dict must be a dict, got {state_dict!r}")
        wrap = self.register_load_state_dict_pre_hook(lambda _, given: wrap_states(given))
        try:
            super().load_state_dict(state_dict)
        finally:
            wrap.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes over a state, whole or not at all: from a pickle, a copy or load_state_dict."""
        before = {key: self.__dict__[key] for key in state if key in self.__dict__}
        try:
            super().__setstate__({**state, "state": self._unwrap(state)})
            for group in self.param_groups:
                for name in ("eps_root", "decouple_lr", "state_dtype"):
                    group.setdefault(name, self.defaults[name])
            self._native().check(self.param_groups, self.state)
            for group in self.param_groups:
                self._check_group(group)
        except Exception:
            self.__dict__.update(before)
            raise

    def _unwrap(self, state: dict[str, Any]) -> Any:
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
                loaded[param] = self._load(param, *places[param], saved.state)
            else:
                loaded[param] = copy.deepcopy(saved.state)
        return loaded

    def _load(self, param: Tensor, group: dict[str, Any], name: str, saved: Any) -> dict[Any, Any]:
        if not isinstance(saved, dict) or (saved and "step" not in saved):
            found = list(saved) if isinstance(saved, dict) else saved
            raise ValueError(f"the state of {name} must be a dict with a 'step', got {found!r}")
        dtype = state_dtype(param, {**self.defaults, **group})
        names = {state for state, _ in _RULES[self.rule][0]}
        loaded: dict[Any, Any] = {}
        for key, value in saved.items():
            key = sys.intern(key) if isinstance(key, str) else key
            if key in names:
                loaded[key] = cast_state(f"{key} of {name}", value, param, dtype)
            elif key == "step":
                loaded[key] = cast_step(f"step of {name}", value)
            elif isinstance(value, Tensor):
                loaded[key] = readable(f"{key} of {name}", value).to(param.device, copy=True)
            else:
                loaded[key] = copy.deepcopy(value)
        return loaded


def _option(group: dict[str, Any], key: str, index: int, scheduled: bool) -> Any:
    """Returns a hyper-parameter of a group as the op takes it."""
    value = group.get(key, 0.0)
    if index >= 0:
        value = value[index]
    if not scheduled:
        return value if isinstance(value, bool) else float(value)
    # A tensor made from a number that changes is not compiled anew at each change; the bare number,
    # as an argument of the op, would be.
    return value if isinstance(value, Tensor) else torch.zeros((), dtype=torch.float64) + value

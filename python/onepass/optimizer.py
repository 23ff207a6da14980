"""The plumbing that all optimizers share: options, state, the step, loading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from ._native import C
from ._torch import in_order, without_wrapper
from .capture import check_capture
from .containers import natively
from .grad_norm import last_norm, no_norm_of_op
from .hook_bypass import bypass_hooks
from .loading import place_numbers, split_states, unwrap_states, wrap_states
from .op_step import fill_lists
from .options import (
    check_options,
    fill,
    has_torchs,
    split,
    start_reference_rate,
    tidy,
    warn_of_misspelt,
)
from .rules import RULES
from .shards import refuse_shards
from .single import check_single, hook_added_group, unknown_class
from .state import bytes_of, check_state_dtype, new_state
from .step import take_step
from .summary import summary


class OnePass(Optimizer):
    """Makes a class of ``torch.optim`` take its steps in one pass; stands first among the bases.

    A subclass names its algorithm of the native table in ``rule``.
    """

    rule: str
    _torch_lacks_capturable = (
        False  # torch's class knows no `capturable` and never refuses a capture
    )

    def __init__(self, params: ParamsT, options: dict[str, Any]) -> None:
        """Checks a subclass's arguments and gives torch's constructor those that it knows."""
        self._norms = no_norm_of_op()
        has_torch = has_torchs(type(self))
        # First, since torch compares before it looks at types. Ranges are refused in torch's words.
        self._native().check_arguments(options, ranges=not has_torch)
        known, self._extras = split(type(self), options)
        if has_torch:
            super().__init__(in_order(params), **known)
        else:
            super().__init__(in_order(params), known)

    @bypass_hooks
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step.

        Args:
            closure: evaluates the model again and returns the loss; it runs with gradients enabled.

        Raises:
            ValueError: a hyper-parameter is out of range; nothing has changed.
            RuntimeError: a tensor cannot be stepped; nothing has changed.
        """
        if self.defaults.get("differentiable"):
            self._natively(self._native().check, {})
            return self._torch_step(closure)
        check_capture(self)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        refuse_shards(self)
        take_step(self)
        return loss

    def step_one(self, param: Tensor) -> None:
        """Steps one parameter by itself, as step() would have; for hooks that step in backward.

        What it takes does not depend on how many parameters there are. Threads may step different
        parameters at the same time, as those of autograd do. Step hooks do not run.

        Args:
            param: one of the optimizer's parameters, with its whole gradient.

        Raises:
            ValueError: the tensor is none of the parameters, or is listed twice, or a
                hyper-parameter is out of range; nothing has changed.
            RuntimeError: it has no gradient or cannot be stepped, another thread is stepping it or
                all, or only step() can be right: under a gradient scaler, ``differentiable=True``,
                torch.compile, a dispatch mode, in a CUDA graph; nothing has changed.
            TypeError: it is a tensor subclass or a DTensor that only step() takes.

        Example:
            >>> import torch, onepass
            >>> model = torch.nn.Linear(4, 2)
            >>> opt = onepass.AdamW(model.parameters(), lr=0.1)
            >>> def step(param):
            ...     opt.step_one(param)
            ...     param.grad = None  # its memory is free before the next gradient is made
            >>> hooks = [p.register_post_accumulate_grad_hook(step) for p in model.parameters()]
            >>> before = model.weight.detach().clone()
            >>> model(torch.ones(4)).sum().backward()
            >>> torch.allclose(model.weight, before * (1 - 0.1 * 0.01) - 0.1)
            True
        """
        check_single(self, param)
        if not self._natively(self._native().step_one, self.state, param, self._first_state):
            raise unknown_class(self, param)

    def catch_up(self) -> None:
        """Lets decoupled decay catch up in rows that had no gradient; call it before evaluation.

        A step with a sparse gradient reads and writes only the rows that the gradient has values
        for. Of the decay that other rows miss a log is kept, and they catch up when they next get a
        gradient, or all of them here. Where gradients are dense this does nothing.

        Example:
            >>> import torch, onepass
            >>> words = torch.nn.Embedding(4, 2, sparse=True)
            >>> opt = onepass.AdamW(words.parameters(), lr=0.1, weight_decay=0.1)
            >>> before = words.weight.detach().clone()
            >>> words(torch.tensor([1])).sum().backward()
            >>> opt.step()
            >>> torch.equal(words.weight[0], before[0])
            True
            >>> opt.catch_up()
            >>> torch.allclose(words.weight[0], 0.99 * before[0])
            True
        """
        self._natively(self._native().check, self.state)
        for param, state in self.state.items():
            if isinstance(state, Mapping) and "decay_log" in state:
                C.catch_up(param, state["decay_log"], state["row_decay_log"])

    def _native(self) -> C.Step:
        """Returns the native half, made when it is first needed: it is never pickled or copied."""
        native: C.Step | None = self.__dict__.get("_native_half")
        if native is None:
            native = self.__dict__["_native_half"] = C.Step(self.rule)
        return native

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm of all gradients in the last step, before clipping; None where nothing asked.

        Groups ask for it with ``max_grad_norm`` or ``skip_nonfinite``. It is a 0-dim tensor, of
        float64 where a tensor of the step is and else of float32. A step that was refused leaves
        it; after one that a gradient scaler skipped it is None.

        Example:
            >>> import torch, onepass
            >>> weight = torch.zeros(2, requires_grad=True)
            >>> opt = onepass.SGD([weight], lr=1.0, max_grad_norm=1.0)
            >>> weight.grad = torch.tensor([3.0, 4.0])
            >>> opt.step()
            >>> opt.grad_norm, weight.detach(), weight.grad
            (tensor(5.), tensor([-0.6000, -0.8000]), tensor([3., 4.]))
        """
        return last_norm(self)

    def _natively(self, call: Callable[..., Any], state: Any, *rest: Any) -> Any:
        """Calls a function of the native half on the groups and a state of any containers."""
        return natively(self.rule, call, self.param_groups, state, *rest)

    def _torch_step(self, closure: Callable[[], Any] | None) -> Any:
        # torch wraps the step of a class once one of it was made, which would fire hooks twice.
        step = super().step
        inner = without_wrapper(step)
        return step(closure) if inner is None else inner(self, closure)

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> Any:
        """Fills torch's lists for one group; by this name torch.compile runs it while tracing."""
        if group.get("differentiable"):
            return super()._init_group(group, *lists)  # type: ignore[misc]
        for param in group["params"]:
            if param.grad is not None:
                fill_lists(self, param, group, lists)
        return False

    # ---- options

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group, as torch, and refuses options that are out of range."""
        self.defaults.update(self.__dict__.pop("_extras", {}))
        if isinstance(param_group, dict):
            warn_of_misspelt(type(self), param_group, self.defaults)
        super().add_param_group(param_group)
        try:
            check_options(self.param_groups[-1])
            self._natively(self._native().check, self.state, len(self.param_groups) - 1)
            self._settle(self.param_groups[-1])
            hook_added_group(self)
        except Exception:
            self.param_groups.pop()
            raise

    def _settle(self, group: dict[str, Any]) -> None:
        check_state_dtype(RULES[self.rule], group)
        start_reference_rate(group)
        tidy(type(self), group, self.defaults)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state dict, which torch's class loads too."""
        for group in self.param_groups:  # which may have been edited
            tidy(type(self), group, self.defaults)
        return super().state_dict()

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

    def _first_state(self, param: Tensor, group: dict[str, Any]) -> dict[Any, Any]:
        """Returns a new state with what the user has put beside it already."""
        return {**self.state.get(param, {}), **self._new_state(param, group)}

    def _new_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Returns the state of a parameter before its first step, as torch's for-loop makes it."""
        return new_state(RULES[self.rule], param, group)

    def __repr__(self) -> str:
        """Returns torch's text of the groups, and after it what a step does with the parameters."""
        return super().__repr__() + summary(self)

    def state_bytes(self) -> int:
        """Returns the bytes of memory that the state takes now; nothing before the first step."""
        return bytes_of(self.state)

    # ---- loading

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads a state dict of this class or of torch's.

        Moments are cast to the dtype of ``state_dtype`` and never share memory with the source.

        Raises:
            ValueError, RuntimeError: the state dict does not fit; nothing has changed.
        """
        # torch casts all state to the parameter's dtype, by a rule that cannot be overridden. What
        # it does not know it hands on: so the states are wrapped, after all hooks of the user.
        if not isinstance(state_dict, Mapping):
            raise ValueError(f"a state dict must be a dict, got {state_dict!r}")
        if not isinstance(state_dict, dict):  # torch takes a copy by a method that not all have
            state_dict = dict(state_dict)
        wrap = self.register_load_state_dict_pre_hook(lambda _, given: wrap_states(given))
        try:
            super().load_state_dict(state_dict)
        finally:
            wrap.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes over a state, whole or not at all: from a pickle, a copy or load_state_dict."""
        before = {key: self.__dict__[key] for key in state if key in self.__dict__}
        self._norms = no_norm_of_op()
        try:
            full, beside = split_states(unwrap_states(self, state), state["param_groups"])
            super().__setstate__({**state, "state": full})
            self.state.update(beside)
            place_numbers(self)
            if "defaults" in state:  # of a pickle
                tidy(type(self), self.defaults, {})
            for group in self.param_groups:
                fill(group, self.defaults)
                check_options(group)
            self._natively(self._native().check, self.state)
            for group in self.param_groups:
                self._settle(group)
        except Exception:
            self.__dict__.update(before)
            raise

"""torch's wrapper around step(), spared where nothing watches the step.

torch wraps the step() of every optimizer class: hooks run before and after it, and a profiler sees
its name. The wrapper alone takes longer than a small step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import optimizer as torchs
from torch.optim.optimizer import Optimizer

from ._native import C

_WRAPPER_CODE = Optimizer.profile_hook_step(lambda _: None).__code__


def watched(step: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a step torch's wrapper, which is entered only where it has something to do."""
    with_torchs_wrapper = Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def watched_step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        watches = _is_watched(self) or _runs_code(*args, **kwargs)
        if watches and not _wraps_already(type(self).step):
            return with_torchs_wrapper(self, *args, **kwargs)
        return step(self, *args, **kwargs)

    watched_step.hooked = True  # type: ignore[attr-defined]  # torch wraps no step that says so
    return watched_step


def _is_watched(optimizer: Optimizer) -> bool:
    return bool(
        torch.compiler.is_compiling()
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torchs._global_optimizer_pre_hooks
        or torchs._global_optimizer_post_hooks
        or C.is_profiled()
    )


def _runs_code(closure: Any = None, *_: Any, **__: Any) -> bool:
    """Returns whether the step is given a closure, which might add hooks."""
    return closure is not None


def _wraps_already(step: Callable[..., Any]) -> bool:
    """Returns whether torch has wrapped a subclass's own step: hooks fire around that alone."""
    return getattr(step, "__code__", None) is _WRAPPER_CODE

"""torch's wrapper around step(), spared where nothing watches the step.

torch wraps the step() of every optimizer class: hooks run before and after it, and a profiler sees
its name. The wrapper alone takes longer than a small step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch.optim.optimizer import Optimizer

from ._native import C
from ._torch import has_step_hooks, is_wrapped_by_torch, keep_unwrapped, wrapped_by_torch

Step = TypeVar("Step", bound=Callable[..., Any])


def bypass_hooks(step: Step) -> Step:
    """Gives a step torch's wrapper, which is entered only where it has something to do."""
    with_torchs_wrapper = wrapped_by_torch(step)

    @functools.wraps(step)
    def watched_step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        watches = (
            torch.compiler.is_compiling()
            or has_step_hooks(self)
            or C.is_profiled()
            or _runs_code(*args, **kwargs)
        )
        if watches and not is_wrapped_by_torch(type(self).step):  # hooks fire around that alone
            return with_torchs_wrapper(self, *args, **kwargs)
        return step(self, *args, **kwargs)

    keep_unwrapped(watched_step)
    return cast(Step, watched_step)


def _runs_code(closure: Any = None, *_: Any, **__: Any) -> bool:
    """Returns whether the step is given a closure, which might add hooks."""
    return closure is not None

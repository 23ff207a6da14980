"""The hooks by which autograd hands over a gradient that it has accumulated."""

from __future__ import annotations

import functools
import warnings
import weakref
from typing import Protocol

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ._torch import accumulate_hooks


class Taker(Protocol):
    """What takes gradients."""

    def take_gradient(self, param: Tensor) -> None:
        """Takes the gradient of a parameter."""


def hook(param: Tensor, taker: Taker) -> list[RemovableHandle]:
    """Lets a taker have the gradients of a parameter, as long as both live, also once it unfreezes.

    Nothing is hooked where there can never be one.
    """
    is_frozen = not param.requires_grad
    if is_frozen and not _can_unfreeze(param):
        return []
    param.requires_grad_()  # torch takes no hook otherwise
    try:
        call = functools.partial(_hand_over, weakref.ref(taker))
        return [param.register_post_accumulate_grad_hook(call)]
    finally:
        param.requires_grad_(not is_frozen)


def _can_unfreeze(param: Tensor) -> bool:
    is_number = param.is_floating_point() or param.is_complex()
    return is_number and param.is_leaf and not param.is_inference()


def is_hooked(param: Tensor) -> bool:
    """Returns whether a taker that lives has a parameter's gradients."""
    return any(
        isinstance(call, functools.partial) and call.func is _hand_over and call.args[0]()
        for call in accumulate_hooks(param)
    )


def _hand_over(taker: weakref.ref[Taker], param: Tensor) -> None:
    # Python's garbage collector cannot see through hooks: what they hold would never be freed.
    living = taker()
    if living is not None:
        living.take_gradient(param)
        return
    warnings.warn(
        "the optimizer that stepped a parameter inside backward() is gone, so that the gradient "
        "is kept; hold on to the optimizer or to the handle of in_backward()",
        stacklevel=2,
    )

"""The norm of all gradients: who asks for it, the last one, and clipping where the op steps.

The native half computes it on the memory of plain tensors (csrc/step/measure.cpp).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .optimizer import OnePass


def needs_grad_norm(group: dict[str, Any]) -> bool:
    """Returns whether a group asks for the norm of all gradients."""
    return group.get("max_grad_norm") is not None or bool(group.get("skip_nonfinite"))


def last_norm(optimizer: OnePass) -> Tensor | None:
    """Returns the norm of the last step, or None where nothing asked for it."""
    compiled = optimizer._norms.get("last")
    if compiled is not None:
        return compiled
    norm = optimizer._native().grad_norm
    if norm is None:
        return None
    value, is_wide = norm
    return torch.tensor(value, dtype=torch.float64 if is_wide else torch.float32)


def clip(
    optimizer: OnePass,
    filled: list[tuple[dict[str, Any], list[list[Tensor]]]],
    found_inf: Tensor | None,
) -> Tensor | None:
    """Replaces gradients in the op's lists by clipped ones; returns whether the step is skipped."""
    grads = [grad for _, lists in filled for grad in lists[1]]
    norms = [torch.linalg.vector_norm(grad, dtype=_wide(grad)) for grad in grads]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
    is_wide = any(tensor.dtype in _DOUBLE for _, lists in filled for one in lists for tensor in one)
    # Into a dict, since a compiled step loses what it assigns to an attribute of an optimizer.
    optimizer._norms["last"] = norm.to(torch.float64 if is_wide else torch.float32)
    for group, lists in filled:
        if group.get("max_grad_norm") is not None:
            clip = (group["max_grad_norm"] / (norm + 1e-6)).clamp(max=1.0)
            lists[1] = [_clipped(grad, clip) for grad in lists[1]]
    if not any(group.get("skip_nonfinite") for group, _ in filled):
        return found_inf
    is_bad = torch.logical_not(torch.isfinite(norm)).to(torch.float32)
    return is_bad if found_inf is None else torch.maximum(is_bad, found_inf.to(is_bad))


_DOUBLE = (torch.float64, torch.complex128)


def _clipped(grad: Tensor, clip: Tensor) -> Tensor:
    real = torch.float32 if grad.dtype in (torch.float16, torch.bfloat16) else grad.dtype
    return grad.to(real) * clip.to(real)


def _wide(grad: Tensor) -> torch.dtype:
    return torch.complex128 if grad.is_complex() else torch.float64

"""The norm of all gradients: who asks for it, the last one, and clipping where the op steps.

The native half computes it on the memory of plain tensors (csrc/step/measure.cpp).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._torch import is_memory

if TYPE_CHECKING:
    from .optimizer import OnePass


def needs_grad_norm(group: dict[str, Any]) -> bool:
    """Returns whether a group asks for the norm of all gradients."""
    return group.get("max_grad_norm") is not None or bool(group.get("skip_nonfinite"))


def no_norm_of_op() -> dict[str, Tensor | bool | None]:
    """Returns where a step by the op leaves its norm, or False where nothing asked for one.

    None: the last step was the native half's. It is a dict whose key is always there, since a
    compiled step loses what it assigns to an attribute, and is compiled anew for another key.
    """
    return {"last": None}


def last_norm(optimizer: OnePass) -> Tensor | None:
    """Returns the norm of the last step, or None where nothing asked for it."""
    by_op = optimizer._norms["last"]
    if by_op is not None:
        return by_op if isinstance(by_op, Tensor) else None
    norm = optimizer._native().grad_norm
    if norm is None:
        return None
    value, is_wide = norm
    return torch.tensor(value, dtype=torch.float64 if is_wide else torch.float32, device="cpu")


def clip(
    optimizer: OnePass,
    filled: list[tuple[dict[str, Any], list[list[Tensor]]]],
    found_inf: Tensor | None,
) -> Tensor | None:
    """Replaces gradients in the op's lists by clipped ones; returns whether the step is skipped.

    The native half's bits are others: it adds up squares in an order of its own.
    """
    for index, (group, _) in enumerate(filled):
        _check_range(group.get("max_grad_norm"), index)
    norm = _norm_of([grad for _, lists in filled for grad in lists[1]])
    operands = [tensor for _, lists in filled for one in lists[:-1] for tensor in one]
    last = optimizer._norms["last"] = _as_told(norm, operands)
    for group, lists in filled:
        if group.get("max_grad_norm") is not None:
            coefficient = (group["max_grad_norm"] / (norm + 1e-6)).clamp(max=1.0)
            lists[1] = [_clipped(grad, coefficient) for grad in lists[1]]
    if not any(group.get("skip_nonfinite") for group, _ in filled):
        return found_inf
    is_bad = torch.logical_not(torch.isfinite(last)).to(torch.float32)
    return is_bad if found_inf is None else torch.maximum(is_bad, found_inf.to(is_bad))


def forbid_step(optimizer: OnePass, groups: list[dict[str, Any]], scale: Tensor | None) -> bool:
    """Returns whether the norm forbids a step, as far as its value can be read; then it is kept."""
    if not any(group.get("skip_nonfinite") for group in groups):
        return False
    params = [param for group in groups for param in group["params"] if param.grad is not None]
    norm = _norm_of([param.grad for param in params])
    if scale is not None:
        norm = norm / scale
    if type(norm) is not Tensor or not is_memory(norm):
        return False
    norm = _as_told(norm, [*params, *(param.grad for param in params)])
    if bool(torch.isfinite(norm)):
        return False
    optimizer._norms["last"] = norm
    return True


def _check_range(bound: Any, index: int) -> None:
    if isinstance(bound, (int, float)) and not 0.0 < bound < math.inf:
        raise ValueError(
            f"Invalid max_grad_norm value: {bound} (parameter group {index}; max_grad_norm must be "
            "finite and over 0)"
        )


def _as_told(norm: Tensor, operands: list[Tensor]) -> Tensor:
    is_wide = any(tensor.dtype in _DOUBLE for tensor in operands)
    return norm.to(torch.float64 if is_wide else torch.float32)


def _norm_of(grads: list[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(grad, dtype=_wide(grad)) for grad in grads]
    if not norms:
        return torch.zeros((), dtype=torch.float64)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


_DOUBLE = (torch.float64, torch.complex128)


def _clipped(grad: Tensor, clip: Tensor) -> Tensor:
    real = torch.float32 if grad.dtype in (torch.float16, torch.bfloat16) else grad.dtype
    return grad.to(real) * clip.to(real)


def _wide(grad: Tensor) -> torch.dtype:
    return torch.complex128 if grad.is_complex() else torch.float64

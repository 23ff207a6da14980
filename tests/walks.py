"""Paths of a parameter along given gradients or down a function, for what is claimed of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def path(cls: Any, grads: Iterable[Tensor], start: Any = 0.0, **options: Any) -> Tensor:
    """Returns where a parameter is before the first and after every step along these gradients."""
    grads = list(grads)
    param = (torch.zeros_like(grads[0]) + start).requires_grad_()
    optimizer = cls([param], **options)
    points = [param.detach().clone()]
    for grad in grads:
        param.grad = grad.clone()
        optimizer.step()
        points.append(param.detach().clone())
    moved = torch.stack(points)
    assert (moved[-1] != moved[0]).any() == any(grad.any() for grad in grads)
    return moved


def descend(
    cls: Any, start: Sequence[float], gradient: Callable[[Tensor], Tensor], steps: int = 200,
    **options: Any,
) -> Tensor:  # fmt: skip
    """Returns the path down a function whose gradient is given."""
    param = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = cls([param], **options)
    points = []
    for _ in range(steps):
        param.grad = gradient(param.detach())
        optimizer.step()
        points.append(param.detach().clone())
    return torch.stack(points)


def gradients(steps: int, size: int) -> Tensor:
    return torch.randn(steps, size, dtype=torch.float64)


def close(a: Any, b: Any, relative: float, absolute: float = 0.0) -> None:
    torch.testing.assert_close(a, b, rtol=relative, atol=absolute)


def state_of(optimizer: Any) -> dict[str, Any]:
    (state,) = optimizer.state.values()
    return state

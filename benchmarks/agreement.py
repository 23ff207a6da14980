"""Whether contestants compute the same: a step that does nothing is not a fast one."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

ParamGroups = list[dict[str, Any]]

# How far the moves of a tensor may lie apart, as a part of the move: it is rounded in every step,
# by some more than once. In bfloat16 torch's NAdam ends 0.14 of the way from where ours does.
ROUNDED_MOVE = 0.25


def check_same(name: str, params: ParamGroups, reference: ParamGroups) -> None:
    """Refuse a contestant that is elsewhere than the first."""
    for mine, theirs in zip(tensors_of(params), tensors_of(reference), strict=True):
        torch.testing.assert_close(mine, theirs, msg=lambda text: f"{name}: {text}")


def check_same_move(
    name: str, params: ParamGroups, reference: ParamGroups, start: ParamGroups
) -> None:
    """Refuse a contestant that went elsewhere: for numbers so short that rounding shows."""
    rows = zip(*(tensors_of(one) for one in (params, reference, start)), strict=True)
    for row in rows:
        apart = difference(*([{"params": [tensor]}] for tensor in row))
        if not apart <= ROUNDED_MOVE:  # NaN is not
            raise AssertionError(f"{name}: its move differs by {apart:.1%}")


@torch.no_grad()
def difference(params: ParamGroups, reference: ParamGroups, start: ParamGroups) -> float:
    """How far two sets of parameters that started alike are apart, as a part of the move."""
    apart, moved = [], []
    rows = zip(*(tensors_of(one) for one in (params, reference, start)), strict=True)
    for own, other, first in rows:
        apart.append((own.float() - other.float()).norm())
        moved.append((other.float() - first.float()).norm())
    far, move = (math.hypot(*torch.stack(norms).tolist()) for norms in (apart, moved))
    return far / move if move else math.inf


def tensors_of(params: ParamGroups) -> Iterator[Tensor]:
    """All parameters, group by group."""
    for group in params:
        yield from group["params"]

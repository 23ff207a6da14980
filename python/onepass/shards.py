"""Parameters of which a process holds a part: rules that sum over whole parameters refuse them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch.distributed as dist
from torch import Tensor

from ._torch import is_flat, is_flattened, spec_of
from .grad_norm import needs_grad_norm
from .parts import is_dtensor
from .rules import RULES
from .state import parameter_name

if TYPE_CHECKING:
    from .optimizer import OnePass


def refuse_shards(optimizer: OnePass) -> None:
    """Refuses parts of parameters where an element's step depends on its whole parameter.

    Raises:
        TypeError: a parameter with a gradient is a part of one, or several laid end to end.
    """
    if not dist.is_available() or not dist.is_initialized():
        return
    reasons = _reasons(optimizer)
    if not any(reasons):
        return
    whole = _whole_storages(optimizer)
    for i, group in enumerate(optimizer.param_groups):
        reason = reasons[i]
        if reason is None:
            continue
        for k, param in enumerate(group["params"]):
            held = None if param.grad is None else _what_is_held(param, whole)
            if held is not None:
                raise _refusal(optimizer, (i, k), held, reason)


class _Reason(NamedTuple):
    """What sums over whole parameters, and how to do without."""

    what: str
    remedy: str


_NORM = _Reason("the norm of all gradients", "leave max_grad_norm and skip_nonfinite out")


def _of_rule(optimizer: OnePass) -> _Reason:
    return _Reason(type(optimizer).__name__, "take another class")


def _reasons(optimizer: OnePass) -> list[_Reason | None]:
    """Returns for each group why its parameters must be whole, if they must."""
    groups = optimizer.param_groups
    if any(map(needs_grad_norm, groups)):
        return [_NORM] * len(groups)
    sums, of_rule = RULES[optimizer.rule].sums, _of_rule(optimizer)
    return [of_rule if sums or group.get("cautious") else None for group in groups]


def refuse_shard(optimizer: OnePass, param: Tensor) -> None:
    """Refuses the same for one parameter; only of a part the groups are looked at."""
    if not dist.is_available() or not dist.is_initialized():
        return
    if not RULES[optimizer.rule].sums and "cautious" not in optimizer.defaults:
        return
    if _what_is_held(param, set()) is None:
        return
    i, k = optimizer._natively(optimizer._native().place_of, {}, param)
    if not RULES[optimizer.rule].sums and not optimizer.param_groups[i].get("cautious"):
        return
    held = _what_is_held(param, _whole_storages(optimizer))
    if held is not None:
        raise _refusal(optimizer, (i, k), held, _of_rule(optimizer))


def _refusal(optimizer: OnePass, place: tuple[int, int], held: str, reason: _Reason) -> TypeError:
    i, k = place
    return TypeError(
        f"{reason.what} sums over whole parameters, but of "
        f"{parameter_name(optimizer.param_groups[i], i, k)} each process holds {held}; replicate "
        f"it or {reason.remedy}"
    )


def _what_is_held(param: Any, whole: set[int]) -> str | None:
    """Returns which part of a parameter this process holds, in words; None is all of it."""
    if is_dtensor(param):
        mesh, placements = spec_of(param)
        is_whole = mesh.size() == 1 or all(placement.is_replicate() for placement in placements)
        return None if is_whole else f"a part ({', '.join(map(str, placements))})"
    if is_flat(param):
        return "a flat parameter of FSDP, several parameters laid end to end"
    if is_flattened(param):
        is_whole = dist.get_world_size() == 1 or _storage(param) in whole
        return None if is_whole else "a part, flattened by FSDP"
    if hasattr(param, "ds_id"):
        return "a partition of DeepSpeed's ZeRO, several parameters laid end to end"
    return None


def _whole_storages(optimizer: OnePass) -> set[int]:
    """Returns the memory in which FSDP has parameters in their own shapes: it does not shard them.

    Where it does, each is a vector, as a bias is too.
    """
    return {
        _storage(param)
        for group in optimizer.param_groups
        for param in group["params"]
        if is_flattened(param) and param.ndim != 1
    }


def _storage(param: Tensor) -> int:
    return param.untyped_storage().data_ptr()

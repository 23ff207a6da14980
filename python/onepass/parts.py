"""The plain tensors that hold a tensor's numbers in this process: of DTensors, of subclasses."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ._torch import Spec, is_async, is_memory, local_of, replicates_implicitly, spec_of


class Part(NamedTuple):
    """A plain tensor, and where in the tensor of the user it was found."""

    tensor: Tensor
    spec: Spec | None  # mesh and placements of the DTensor around it
    keys: tuple[str, ...]  # the attributes of the subclasses around it


def is_dtensor(tensor: Tensor) -> bool:
    """Returns whether a tensor is a DTensor, without importing what defines them."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def as_replicated(tensor: Tensor, like: Tensor) -> Tensor:
    """Returns a plain tensor as a DTensor on the mesh of another, where torch would take it so.

    It does of single numbers, and of all tensors within implicit_replication().
    """
    if not is_dtensor(like) or is_dtensor(tensor):
        return tensor
    if tensor.numel() != 1 and not replicates_implicitly():
        return tensor
    module = sys.modules["torch.distributed.tensor"]
    mesh, placements = spec_of(like)
    everywhere = [module.Replicate() for _ in placements]
    made: Tensor = module.DTensor.from_local(tensor, mesh, everywhere, run_check=False)
    return made


def inner_tensors(tensor: Any) -> dict[str, Tensor]:
    """Returns the tensors that a wrapper holds, by the names of its attributes."""
    if not is_traceable_wrapper_subclass(tensor):
        return {}
    names, _ = tensor.__tensor_flatten__()
    found = {name: getattr(tensor, name) for name in names}
    return {name: inner for name, inner in found.items() if isinstance(inner, Tensor)}


def parts_of(tensor: Tensor, spec: Spec | None = None, keys: tuple[str, ...] = ()) -> list[Part]:
    """Returns the parts of a tensor; none where it is of a class that cannot be looked into.

    Of a wrapper these are the inner tensors of its shape and dtype. What else it holds, as a scale,
    belongs to how it is used, and a step leaves it alone.
    """
    if is_memory(tensor):
        return [Part(tensor, spec, keys)]
    if is_dtensor(tensor):
        return parts_of(local_of(tensor), spec_of(tensor), keys)
    if is_async(tensor):
        return parts_of(tensor.wait(), spec, keys)
    return [
        part
        for name, inner in inner_tensors(tensor).items()
        if _is_part(inner, tensor)
        for part in parts_of(inner, spec, (*keys, name))
    ]


def all_parts_of(tensor: Tensor) -> Iterable[Tensor]:
    """Yields every plain tensor in a tensor, whatever it means; itself where none is known."""
    if is_dtensor(tensor):
        yield from all_parts_of(local_of(tensor))
        return
    inner = {} if is_memory(tensor) else inner_tensors(tensor)
    for each in inner.values():
        yield from all_parts_of(each)
    if not inner:
        yield tensor


def wrapper_in(tensor: Tensor) -> Tensor | None:
    """Returns the outermost wrapper of a tensor that is neither a DTensor nor on its way."""
    while not is_memory(tensor):
        if is_dtensor(tensor):
            tensor = local_of(tensor)
        elif is_async(tensor):
            tensor = tensor.wait()
        else:
            return tensor
    return None


def computes_by_parts(wrapper: Any) -> bool:
    """Returns whether arithmetic on a wrapper is arithmetic on its parts.

    One result tells, of a wrapper like it that is full of 1.5: for a tensor that is its part times
    a scale, or plus a zero point, or the logarithm of its part, x x + 3 is another number.
    """
    with torch.no_grad():
        try:
            value = _filled(wrapper, 1.5)
            parts = parts_of(value * value + 3.0)
        except Exception:  # of the wrapper's own code: it knows no such arithmetic
            return False
        is_as_many = len(parts) == len(parts_of(wrapper)) > 0
        return is_as_many and all(bool((part.tensor == 5.25).all()) for part in parts)


def _filled(tensor: Any, value: float) -> Any:
    if is_memory(tensor):
        return torch.full_like(tensor.detach(), value)
    _, context = tensor.__tensor_flatten__()
    inner = {
        name: _filled(each, value) if _is_part(each, tensor) else each
        for name, each in inner_tensors(tensor).items()
    }
    return type(tensor).__tensor_unflatten__(inner, context, tensor.shape, tensor.stride())


def _is_part(inner: Tensor, tensor: Tensor) -> bool:
    return inner.shape == tensor.shape and inner.dtype == tensor.dtype

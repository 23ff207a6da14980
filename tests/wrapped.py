"""Tensor subclasses that hold other tensors, as quantized training and float8 have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

KEPT = {torch.ops.aten.detach.default, torch.ops.aten.view.default, torch.ops.aten.alias.default}


class Wrapper(torch.Tensor):
    """Holds the tensor `inner` and a scale, and computes on values: what `value` makes of them."""

    inner: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, scale: Tensor | None = None) -> Any:
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=cls.dtype_of(inner), strides=inner.stride()
        )
        made.inner, made.scale = inner, torch.tensor(2.0) if scale is None else scale
        return made

    @staticmethod
    def dtype_of(inner: Tensor) -> torch.dtype:
        return inner.dtype

    def value(self) -> Tensor:
        return self.inner

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["inner", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: Any, meta: Any, size: Any, stride: Any) -> Any:
        return cls(inner["inner"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in KEPT:
            return cls(func(args[0].inner, *args[1:]), args[0].scale)
        args, kwargs = pytree.tree_map_only(cls, lambda own: own.value(), (args, kwargs or {}))
        return func(*args, **kwargs)


class Float8Weight(Wrapper):
    """A weight with the scale of its next cast beside it: gradients and states are plain."""


class Scaled(Wrapper):
    """A weight whose numbers are those of the inner tensor times a scale."""

    def value(self) -> Tensor:
        return self.inner * self.scale


class Int8Weight(Scaled):
    """A weight that is stored as whole numbers."""

    @staticmethod
    def dtype_of(inner: Tensor) -> torch.dtype:
        return torch.float32

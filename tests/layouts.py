"""The ways in which a tensor can lie in memory: from a shape to (strides, offset)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Strides = list[int]
Layout = Callable[[Sequence[int]], tuple[Strides, int]]


def packed(shape: Sequence[int], order: Sequence[int], inner: int = 1, gap: int = 0) -> Strides:
    """Returns strides that walk the dimensions `order`, outermost first.

    The innermost has stride `inner`; `gap` elements are left out after each row of each dimension.
    """
    strides, reach = [0] * len(shape), inner
    for dim in reversed(order):
        strides[dim] = reach
        reach = reach * max(shape[dim], 1) + gap
    return strides


def _forward(shape: Sequence[int]) -> list[int]:
    return list(range(len(shape)))


def _rotated(shape: Sequence[int], by: int) -> list[int]:
    by = by % len(shape) if shape else 0
    return _forward(shape)[by:] + _forward(shape)[:by]


def _channels_last(shape: Sequence[int]) -> list[int]:
    dims = _forward(shape)
    return dims if len(dims) < 3 else [dims[0], *dims[2:], dims[1]]


def _odd_ones(shape: Sequence[int], stride: int) -> Strides:
    strides = packed(shape, _forward(shape))
    return [stride if size == 1 else s for size, s in zip(shape, strides, strict=True)]


def _offset(offset: int) -> Layout:
    return lambda shape: (packed(shape, _forward(shape)), offset)


# No element is reached twice: for parameters, gradients and states.
WRITABLE: dict[str, Layout] = {
    "contiguous": lambda s: (packed(s, _forward(s)), 0),
    "transposed": lambda s: (packed(s, _forward(s)[::-1]), 0),
    "channels last": lambda s: (packed(s, _channels_last(s)), 0),
    "permuted": lambda s: (packed(s, _rotated(s, 1)), 0),
    "permuted twice": lambda s: (packed(s, _rotated(s, 2)), 3),
    "permuted with gaps": lambda s: (packed(s, _rotated(s, -1), inner=2, gap=1), 2),
    "every 2nd": lambda s: (packed(s, _forward(s), inner=2), 1),
    "every 3rd": lambda s: (packed(s, _forward(s), inner=3), 0),
    "gaps after rows": lambda s: (packed(s, _forward(s), gap=5), 7),
    "gaps everywhere": lambda s: (packed(s, _forward(s), inner=3, gap=2), 5),
    "transposed with gaps": lambda s: (packed(s, _forward(s)[::-1], gap=1), 1),
    "strides of ones 0": lambda s: (_odd_ones(s, 0), 0),
    "strides of ones 97": lambda s: (_odd_ones(s, 97), 0),
    **{f"offset {k}": _offset(k) for k in range(1, 16)},
}

# Some elements are reached more than once: for gradients.
READABLE: dict[str, Layout] = {
    "expanded": lambda s: ([0] * len(s), 4),
    "expanded along the first": lambda s: ([0, *packed(s, _forward(s))[1:]][: len(s)], 0),
    "expanded along the last": lambda s: ([*packed(s, _forward(s))[:-1], 0][: len(s)], 0),
    "windows": lambda s: ([1] * len(s), 2),
}


@dataclass
class Placed:
    """A view, the memory around it and which of that memory is the view's."""

    view: Tensor
    memory: Tensor
    before: Tensor
    own: Tensor

    def neighbours_unchanged(self) -> bool:
        return bool((bits(self.memory) == bits(self.before))[~self.own].all())

    def all_unchanged(self) -> bool:
        return same_bits(self.memory, self.before)


def place(values: Tensor, layout: Layout) -> Placed:
    """Returns the values in that layout, between NaNs that nobody may read or write.

    Where the layout reaches an element twice, one of its values is there.
    """
    strides, offset = layout(values.shape)
    reach = sum((size - 1) * s for size, s in zip(values.shape, strides, strict=True))
    length = offset + (reach + 1 if values.numel() else 0) + 9
    memory = torch.full((length,), torch.nan, dtype=values.dtype)
    view = memory.as_strided(values.shape, strides, offset)
    place_of = torch.arange(length).as_strided(values.shape, strides, offset).reshape(-1)
    own = torch.zeros(length, dtype=torch.bool)
    own[place_of] = True
    memory[place_of] = values.reshape(-1)
    if values.is_complex():
        own = own[:, None].expand(-1, 2)
    return Placed(view, memory, memory.clone(), own)


def bits(tensor: Tensor) -> Tensor:
    """Returns the bits as integers, so that -0 differs from 0 and NaN equals itself."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize]
    return tensor.contiguous().view(kind)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(bits(a), bits(b))

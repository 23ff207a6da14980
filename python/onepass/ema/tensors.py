"""The tensors behind an average of weights: made, written, loaded."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from operator import is_
from typing import Any

import torch
from torch import Tensor

from ..state import cast_state, dtype_for, localize, readable
from .arithmetic import checked_whole, update_

_PLAIN = (Tensor, torch.nn.Parameter)


def is_averaged(tensor: Tensor) -> bool:
    """Returns whether a tensor holds what has a mean: neither whole numbers nor truth values."""
    return tensor.is_floating_point() or tensor.is_complex()


def average_of(weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Returns memory for the average of a weight, laid out as the weight."""
    if not is_averaged(weight):
        wanted = weight.dtype
    elif dtype is not None:
        wanted = dtype_for(weight, dtype, "dtype")
    else:  # Deviation from torch: a step of 1 - beta of the difference is lost in 16 bits.
        wanted = torch.float32 if weight.dtype in (torch.bfloat16, torch.float16) else weight.dtype
    if type(weight) not in _PLAIN and _is_memory(weight):
        weight = weight.detach().as_subclass(Tensor)
    with torch.inference_mode(False):  # so that updates outside inference mode go on with it
        return torch.empty_like(weight, dtype=wanted, requires_grad=False)


class Writing:
    """One write of averages: what the arithmetic is about, and what is copied."""

    def __init__(self, names: list[str], targets: list[Tensor], sources: list[Tensor]) -> None:
        """Tells tensors of whole numbers apart, and looks for the memory of the others."""
        self.names, self.targets, self.sources = names, targets, sources
        self._given = (targets, sources)
        self._copied: list[tuple[str, Tensor, Tensor]] = []
        if not all(map(is_averaged, targets)):
            rows = list(zip(names, targets, sources, strict=True))
            self._copied = [row for row in rows if not is_averaged(row[1])]
            averaged = [row for row in rows if is_averaged(row[1])]
            self.names = [name for name, _, _ in averaged]
            self.targets = [target for _, target, _ in averaged]
            self.sources = [source for _, _, source in averaged]
        self._is_plain = _are_plain(self.targets) and _are_plain(self.sources)
        if not self._is_plain:
            self.targets = list(map(_plain, self.names, self.targets))
            self.sources = list(map(_plain, self.names, self.sources))

    def serves(self, targets: list[Tensor], sources: list[Tensor]) -> bool:
        """Returns whether a write of these very tensors would be the same."""
        own_targets, own_sources = self._given
        return (
            self._is_plain
            and len(targets) == len(own_targets)
            and all(map(is_, targets, own_targets))
            and all(map(is_, sources, own_sources))
        )

    def check_copied(self) -> None:
        """Refuses tensors of whole numbers that are not what they were."""
        for name, target, source in self._copied:
            if source.dtype != target.dtype or source.shape != target.shape:
                raise ValueError(
                    f"'{name}' has dtype {source.dtype} and shape {list(source.shape)}, but had "
                    f"{target.dtype} and {list(target.shape)}; make a new EMA after changing the "
                    "model"
                )
            readable(f"'{name}'", source), readable(f"'{name}'", target)

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Gives errors about ``averages[3]`` the name of that tensor."""
        try:
            yield
        except RuntimeError as error:
            text = re.sub(r"averages\[(\d+)\]", lambda k: f"'{self.names[int(k[1])]}'", str(error))
            if text == str(error):
                raise
            raise RuntimeError(text) from None

    def copy(self) -> None:
        """Copies the tensors of whole numbers."""
        with torch.no_grad():
            for _, target, source in self._copied:
                target.copy_(source)


def write(
    names: list[str],
    targets: list[Tensor],
    sources: list[Tensor],
    beta: float = 0.0,
    step: int | None = 1,
) -> None:
    """Updates tensors by ``update_``, at step 1 to copies, and copies those of whole numbers."""
    writing = Writing(names, targets, sources)
    writing.check_copied()
    with writing.naming():
        update_(writing.targets, writing.sources, beta, step)
    writing.copy()


def _are_plain(tensors: list[Tensor]) -> bool:
    return set(map(type, tensors)) <= set(_PLAIN)


def _plain(name: str, tensor: Tensor) -> Tensor:
    """Returns the tensor whose memory holds the numbers: of a DTensor, its local part."""
    if type(tensor) in _PLAIN:
        return tensor
    if _is_memory(tensor):
        return tensor.detach().as_subclass(Tensor)
    return localize(tensor.detach(), f"'{name}'")


def _is_memory(tensor: Tensor) -> bool:
    """Returns whether a tensor's class adds methods at most, and no way of its own to compute."""
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__


def loaded(name: str, value: Any, average: Tensor) -> Tensor:
    """Returns a copy of a saved average, laid out as the one that is there."""
    if is_averaged(average):
        value = cast_state(name, value, average, average.dtype)
    elif not isinstance(value, Tensor) or (value.dtype, value.shape) != (
        average.dtype, average.shape,
    ):  # fmt: skip
        raise ValueError(
            f"{name} must be a tensor of {average.dtype} and shape {list(average.shape)}; load a "
            "state dict of this model"
        )
    with torch.inference_mode(False):
        return torch.empty_like(average).copy_(readable(name, value))


def count(value: Any) -> int:
    """Returns a saved number of updates."""
    if isinstance(value, Tensor):
        value = readable("n_averaged", value).item()
    if not isinstance(value, (int, float)):
        raise ValueError(f"n_averaged must be a number, got {value!r}")
    return checked_whole("n_averaged", value, 0)

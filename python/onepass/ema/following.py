"""An average that moves with the steps of an optimizer."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from torch import Tensor

from .._native import C
from ..optimizer import OnePass
from ..step import Move, follow, leave
from .arithmetic import checked_beta, checked_whole
from .tensors import Writing

if TYPE_CHECKING:
    from .average import EMA


class Following:
    """The tie between an EMA and the optimizer that moves it."""

    def __init__(
        self, ema: EMA, optimizer: OnePass, update_every: int, weights: list[Tensor]
    ) -> None:
        """Ties them; raises where they have nothing in common."""
        if not isinstance(optimizer, OnePass):
            raise TypeError(
                f"optimizer must be one of onepass, got {type(optimizer).__name__}; call update() "
                "after its step() instead"
            )
        if optimizer.defaults.get("differentiable"):
            raise ValueError(
                "averages do not follow steps with differentiable=True; call update() after step()"
            )
        params = {id(param) for group in optimizer.param_groups for param in group["params"]}
        if not any(id(weight) in params for weight in weights):
            raise ValueError(
                "the optimizer steps none of these weights; pass the one that trains this model"
            )
        from .average import EMA

        if type(ema).update is not EMA.update:
            raise TypeError(
                f"{type(ema).__name__} has an update() of its own, which steps would pass over; "
                "call it after step()"
            )
        if "_in_backward" in optimizer.__dict__:
            raise ValueError(
                "averages do not follow steps inside backward(); call update() after backward()"
            )
        # Neither keeps the other: an average that nothing else holds is read by nobody.
        self._ema, self._optimizer = weakref.ref(ema), weakref.ref(optimizer)
        self._update_every = checked_whole("update_every", update_every, 1)
        self._native = C.Averages()
        self._writing: Writing | None = None
        self.skipped = 0  # steps since the last update
        follow(optimizer, self)

    def end(self) -> None:
        """Unties them."""
        optimizer = self._optimizer()
        if optimizer is not None:
            leave(optimizer, self)

    def lives(self) -> bool:
        """Returns whether anything can still read the average."""
        return self._ema() is not None

    def due(self) -> Move | None:
        """Returns the move of the step to come, or None where it makes none; nothing changes."""
        ema = self._ema()
        if ema is None:
            return None
        ema._refuse_while_swapped("be updated")
        if self.skipped + 1 < self._update_every:
            return None
        names, averages, weights, step = ema._next()
        beta = checked_beta(ema.beta)
        if self._writing is None or not self._writing.serves(averages, weights):
            self._writing = Writing(names, averages, weights)
        own = self._writing
        own.check_copied()  # the same tensors may hold others by now
        number = float(step or 0)
        return Move(self._native, own.targets, own.sources, own.names, beta, number)

    def note(self, move: Move | None) -> None:
        """Notes that the step was taken, and the move with it; makes what is not native of it."""
        ema = self._ema()
        if move is None or ema is None:
            self.skipped += 1
            return
        self.skipped = 0
        ema.n_averaged += 1
        if self._writing is not None:
            self._writing.copy()

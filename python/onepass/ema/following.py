"""An average that moves with the steps of an optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .._native import C
from ..optimizer import OnePass
from ..step import Move, follow, leave
from .arithmetic import checked_beta, checked_whole
from .tensors import Writing, write

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
        self._ema, self._optimizer = ema, optimizer
        self._update_every = checked_whole("update_every", update_every, 1)
        self._native = C.Averages()
        self._writing: Writing | None = None
        self.skipped = 0  # steps since the last update
        follow(optimizer, self)

    def end(self) -> None:
        """Unties them."""
        leave(self._optimizer, self)

    def due(self) -> Move | None:
        """Returns the move of the step to come, or None where it makes none; nothing changes."""
        if self.skipped + 1 < self._update_every:
            return None
        ema = self._ema
        names, averages, weights, step = ema._next()
        beta = checked_beta(ema.beta)
        if self._writing is None or not self._writing.serves(averages, weights):
            self._writing = Writing(names, averages, weights)
        writing = self._writing
        return Move(
            self._native, writing.targets, writing.sources, writing.names, beta, float(step or 0),
            by_itself=lambda: write(names, averages, weights, beta, step),
            beside=writing.copy,
        )  # fmt: skip

    def note(self, move: Move | None) -> None:
        """Notes that the step was taken, and the move with it."""
        if move is None:
            self.skipped += 1
        else:
            self.skipped = 0
            self._ema.n_averaged += 1

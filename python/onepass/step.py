"""One step: by the native half, or by the op; and the averages that move with it.

What an average is stands in ema/. Natively it is swept with the weights that it reads, in one pass
over memory (csrc/step/lead.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ._native import C
from .op_step import step_by_op, step_locally

if TYPE_CHECKING:
    from .optimizer import OnePass

_KEY = "_averages"  # among the optimizer's attributes; copies and pickles leave it out


@dataclass
class Move:
    """One move of an average towards the weights."""

    native: C.Averages
    averages: list[Tensor]
    weights: list[Tensor]
    names: list[str]
    beta: float
    step: float  # the update's number where the average is corrected, else 0


class Follower(Protocol):
    """An average that follows an optimizer."""

    def due(self) -> Move | None:
        """Returns the move of the step to come, or None where it makes none; nothing changes."""

    def note(self, move: Move | None) -> None:
        """Notes that the step was taken, and the move with it; makes what is not native of it."""

    def lives(self) -> bool:
        """Returns whether anything can still read the average."""


def follow(optimizer: OnePass, follower: Follower) -> None:
    """Lets an average move with every step that is taken."""
    optimizer.__dict__.setdefault(_KEY, []).append(follower)


def leave(optimizer: OnePass, follower: Follower) -> None:
    """Takes an average out, if it is there."""
    followers = optimizer.__dict__.get(_KEY, [])
    if follower in followers:
        followers.remove(follower)


def moves_averages(optimizer: OnePass) -> bool:
    """Returns whether averages follow an optimizer."""
    # getattr(), since a compiled step is guarded by what it reads so.
    followers: list[Follower] | None = getattr(optimizer, _KEY, None)
    if not followers:
        return False
    if not torch.compiler.is_compiling():
        followers[:] = [one for one in followers if one.lives()]
    return bool(followers)


def take_step(optimizer: OnePass) -> None:
    """Takes one step, natively or by the op, and moves the averages that follow it."""
    if moves_averages(optimizer):
        _take_averaged(optimizer)
    elif torch.compiler.is_compiling() or C.dispatch_mode_is_active():
        step_by_op(optimizer)
    elif not _step_natively(optimizer, []):
        step_locally(optimizer)
        optimizer._norms["last"] = None


def _step_natively(optimizer: OnePass, averages: list[Any]) -> bool:
    """Takes the step natively; returns False, with nothing done, where tensors are subclasses."""
    step, scaler = optimizer._native().step, optimizer._scaler()
    first_state = optimizer._first_state
    is_native = optimizer._natively(step, optimizer.state, first_state, *scaler, averages)
    if is_native:
        optimizer._norms["last"] = None
    return bool(is_native)


def _take_averaged(optimizer: OnePass) -> None:
    """A step that is skipped moves no average."""
    if torch.compiler.is_compiling() or C.dispatch_mode_is_active():
        raise RuntimeError(
            "neither a compiled step nor one under a dispatch mode moves averages; make the EMA "
            "without optimizer= and call its update() after step()"
        )
    followers = [*optimizer.__dict__[_KEY]]  # which another thread may change meanwhile
    moves = [follower.due() for follower in followers]
    due = [move for move in moves if move is not None]
    given = [(one.native, one.averages, one.weights, one.names, one.beta, one.step) for one in due]
    native = optimizer._native()
    taken = native.steps_taken
    try:
        if not _step_natively(optimizer, given):
            raise RuntimeError(
                "averages do not follow steps of tensor subclasses, or of DTensors that are placed "
                "unlike one another; make the EMA without optimizer= and call its update()"
            )
    finally:
        if native.steps_taken != taken:  # also where an interrupt came after the step
            for follower, move in zip(followers, moves, strict=True):
                follower.note(move)

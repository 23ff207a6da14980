"""Tells when DDP has averaged the gradients of a backward."""

# No `from __future__ import annotations`: DDP compares the types of a hook's arguments.
import weakref
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ._torch import after_backward, is_in_backward

_KEY = "_onepass_reduction"


class Reduction:
    """The functions that a DDP's hook calls; a copy of the model has neither them nor the hook."""

    def __init__(self, ddp: DistributedDataParallel | None = None) -> None:
        """Belongs to a DDP."""
        self._ddp = None if ddp is None else weakref.ref(ddp)
        # DDP keeps this, and what keeps DDP must not keep the optimizer too.
        self._calls: list[weakref.WeakMethod[Callable[[], None]]] = []

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Copies belong to no DDP."""
        return type(self), ()

    @property
    def ddp(self) -> DistributedDataParallel | None:
        """The DDP, unless this is a copy."""
        return None if self._ddp is None else self._ddp()

    def add(self, call: Callable[[], None]) -> None:
        """Adds a method, which is called as long as its object lives."""
        self._calls.append(weakref.WeakMethod(call))

    def remove(self, call: Callable[[], None]) -> None:
        """Takes a method out, if it is there."""
        self._calls = [one for one in self._calls if one() not in (None, call)]

    def run(self) -> None:
        """Calls them all."""
        for one in self._calls:
            call = one()
            if call is not None:
                call()


def reduction_of(ddp: DistributedDataParallel) -> Reduction:
    """Returns what a DDP calls after each backward in which it averages.

    DDP takes one communication hook, for good: optimizers share it, and it stays when they end.

    Raises:
        RuntimeError: it has another hook already.
    """
    found: Reduction | None = ddp.__dict__.get(_KEY)
    if found is None or found.ddp is not ddp:
        found = Reduction(ddp)
        ddp.register_comm_hook(found, average)
        ddp.__dict__[_KEY] = found
    return found


def average(
    reduction: Reduction,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """Averages a bucket with the bits of DDP without a hook."""
    assert reduction.ddp is not None
    group = reduction.ddp.process_group
    # Processes that have joined take part without a backward of their own.
    if bucket.is_last() and is_in_backward():
        after_backward(reduction.run)
    buffer = bucket.buffer().mul_(1.0 / group.size())
    future = dist.all_reduce(buffer, group=group, async_op=True).get_future()
    averaged: torch.futures.Future[torch.Tensor] = future.then(lambda done: done.value()[0])
    return averaged

"""Steps inside backward: each parameter as soon as its gradient is complete."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ._torch import after_backward, is_backward_nested, note_step
from .grad_hooks import hook
from .optimizer import OnePass
from .single import check_hooked_group, why_not_single
from .state import parameter_name

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


def in_backward(optimizer: OnePass, *, ddp: DistributedDataParallel | None = None) -> InBackward:
    """Lets backward() step each parameter as soon as its gradient is complete, and free it.

    The steps have the bits of ``opt.step()``, but only the gradients that are being computed are in
    memory. Parameters that are unfrozen or added by ``add_param_group()`` later are stepped too.
    Those that were taken out of the groups keep their gradients. Copies and pickles of the
    optimizer do not step inside backward.

    While the handle holds, ``opt.step()`` is refused, so that its hooks never run, and
    ``opt.zero_grad()`` finds nothing to do. ``max_grad_norm`` and ``skip_nonfinite`` need the norm
    of all gradients and are refused. Post-accumulate-grad hooks that were registered before see the
    gradient, and may clip it by its own norm.

    A gradient must be complete when it is accumulated. Each part would be a step of its own where a
    loss has several backwards (keep all but the last within ``accumulating()``), where several
    ``checkpoint(..., use_reentrant=True)`` share a weight (pass ``False``), and where a module that
    is sharded by itself runs twice after ``set_requires_gradient_sync(False)`` (use
    ``accumulating()``). A GradScaler is seen only when its own ``step()`` fails: train without.

    FSDP2 (``fully_shard``) calls the hooks after its reduction. DDP averages after them: pass it as
    ``ddp``. Its parameters are stepped at the end of backward, when it has averaged, with the bits
    of the ordinary loop. This saves no memory, as DDP keeps all gradients in its buckets.

    Args:
        optimizer: one of onepass's.
        ddp: the DistributedDataParallel that the model is wrapped in, if it is. It gets a
            communication hook, of which it takes one only. The hook averages as DDP does by
            itself, and stays when the handle ends.

    Returns:
        A handle, which is also a context manager: ``remove()`` ends it, and within
        ``accumulating()`` gradients are kept.

    Raises:
        TypeError: this is no optimizer of onepass or ``ddp`` no DistributedDataParallel, or a
            parameter belongs to FSDP1 or ZeRO 3, or is a part of one whose sums are asked for.
        ValueError: a parameter is listed twice or not initialized, or ``ddp`` has none of them.
        RuntimeError: only ``step()`` can be right (``max_grad_norm``, ``skip_nonfinite``,
            ``differentiable=True``, a gradient scaler), a parameter is stepped inside backward
            already, or it belongs to a DDP that was not passed. In all these cases nothing has
            changed. An error inside backward names the parameter, which keeps its bytes and its
            gradient; others may have been stepped, so call ``opt.zero_grad()`` before you go on.

    Example:
        >>> import torch, onepass
        >>> model = torch.nn.Linear(4, 2)
        >>> opt = onepass.AdamW(model.parameters(), lr=0.1)
        >>> before = model.weight.detach().clone()
        >>> with onepass.in_backward(opt) as stepping:
        ...     with stepping.accumulating():
        ...         model(torch.ones(4)).sum().backward()
        ...     model(torch.ones(4)).sum().backward()
        >>> torch.allclose(model.weight, before * (1 - 0.1 * 0.01) - 0.1), model.weight.grad
        (True, None)
    """
    return InBackward(optimizer, ddp)


class InBackward:
    """The handle of in_backward()."""

    def __init__(self, optimizer: OnePass, ddp: DistributedDataParallel | None) -> None:
        """Registers the hooks."""
        _check(optimizer, ddp)
        self._optimizer, self._ddp = optimizer, ddp
        self._keeping = 0  # the accumulating() contexts that are open
        self._has_kept = False  # whether gradients of one that was closed may wait
        groups = range(len(optimizer.param_groups))
        for i in groups:
            check_hooked_group(optimizer, i, ddp is not None)
        if ddp is not None:
            from .reduction import reduction_of  # needs a torch that was built with distributed

            self._reduction = reduction_of(ddp)
            self._reduction.add(self._step_reduced)
        self._hooks: list[RemovableHandle] = [optimizer.register_step_pre_hook(_refuse_step)]
        for i in groups:
            self._hook_group(i)
        optimizer.__dict__["_in_backward"] = self  # they live as long as either is used

    def hook_group(self, index: int) -> None:
        """Steps the parameters of one more group."""
        check_hooked_group(self._optimizer, index, self._ddp is not None)
        self._hook_group(index)

    def _hook_group(self, index: int) -> None:
        for param in self._optimizer.param_groups[index]["params"]:
            self._hooks += hook(param, self)

    @contextlib.contextmanager
    def accumulating(self) -> Iterator[None]:
        """Keeps gradients until the first backward outside, which adds its own and steps.

        It steps all parameters that have a gradient by then. Under DDP this is ``ddp.no_sync()``:
        forward and backward of a micro-batch belong inside.
        """
        with contextlib.nullcontext() if self._ddp is None else self._ddp.no_sync():
            self._keeping += 1
            try:
                yield
            finally:
                self._keeping -= 1

    def remove(self) -> None:
        """Ends it: gradients stay in ``.grad`` again and ``opt.step()`` steps."""
        for one in self._hooks:
            one.remove()
        self._hooks.clear()
        if self._ddp is not None:
            self._reduction.remove(self._step_reduced)
        if self._optimizer.__dict__.get("_in_backward") is self:
            del self._optimizer.__dict__["_in_backward"]

    def __enter__(self) -> InBackward:
        """Returns the handle."""
        if not self._hooks:
            raise RuntimeError("this handle has ended; call in_backward() again")
        return self

    def __exit__(self, *error: object) -> None:
        """Ends it."""
        self.remove()

    def take_gradient(self, param: Tensor) -> None:
        """Steps a parameter whose gradient was just accumulated, unless it has to wait."""
        if self._ddp is not None:
            return
        if self._keeping:
            self._has_kept = True
            return
        if self._has_kept:
            self._has_kept = False
            after_backward(self._step_kept)
        self._step(param)

    def _step_kept(self) -> None:
        """Steps what has a gradient of an earlier micro-batch and got none in the last."""
        if is_backward_nested():  # in a checkpoint: the others may still get theirs
            self._has_kept = True
        else:
            self._step_all()

    def _step_reduced(self) -> None:
        if not self._keeping:
            self._step_all()

    def _step_all(self) -> None:
        for group in self._optimizer.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._step(param)

    def _step(self, param: Tensor) -> None:
        try:
            self._optimizer.step_one(param)
        except (TypeError, ValueError, RuntimeError) as error:
            name = _name_of(param, self._optimizer)
            # step() leaves alone what was taken out of the groups, and what got no gradient:
            # autograd calls hooks even where a function gave none.
            if name is None or param.grad is None:
                return
            if name in str(error):
                raise
            raise type(error)(f"{name}: {error}") from error
        param.grad = None
        note_step(self._optimizer)


def _refuse_step(optimizer: OnePass, *_: Any) -> None:
    raise RuntimeError(
        f"this {type(optimizer).__name__} steps inside backward(); leave step() out, or call "
        "remove() on the handle of in_backward() first"
    )


def _check(optimizer: OnePass, ddp: DistributedDataParallel | None) -> None:
    if not isinstance(optimizer, OnePass):
        raise TypeError(
            f"in_backward() takes an optimizer of onepass, got {type(optimizer).__name__}; pass "
            "the one that it wraps, or onepass.from_torch(it) where it is torch's"
        )
    if ddp is not None and not isinstance(ddp, DistributedDataParallel):
        raise TypeError(
            f"ddp must be a DistributedDataParallel, got {type(ddp).__name__}; leave it out for "
            "models that are not wrapped, and for fully_shard"
        )
    if ddp is not None and not _are_shared(optimizer, ddp):
        raise ValueError(
            "ddp has none of the optimizer's parameters; pass the DistributedDataParallel around "
            "their model"
        )
    if "_in_backward" in optimizer.__dict__:
        raise RuntimeError(
            f"this {type(optimizer).__name__} steps inside backward() already; call remove() on "
            "the handle of the first in_backward() before the second"
        )
    why_not = why_not_single(optimizer)
    if why_not is not None:
        raise RuntimeError(f"in_backward() cannot step parameters by themselves {why_not}")


def _are_shared(optimizer: OnePass, ddp: DistributedDataParallel) -> bool:
    own = {id(param) for group in optimizer.param_groups for param in group["params"]}
    return any(id(param) in own for param in ddp.parameters())


def _name_of(param: Tensor, optimizer: OnePass) -> str | None:
    for i, group in enumerate(optimizer.param_groups):
        for k, other in enumerate(group["params"]):
            if other is param:
                return parameter_name(group, i, k)
    return None

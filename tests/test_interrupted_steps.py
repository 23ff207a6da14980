"""A step is taken whole or not at all, whatever an exception or another thread does to it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor

from tests.cases import CASES, Case
from tests.rows import sparse
from tests.support import (
    each_case,
    each_kind,
    make_params,
    params_of,
    randn,
    raw,
    run_python,
    set_grads,
    snapshot,
)

SHAPES = ((5, 3), (), (7,))


class Interrupt(KeyboardInterrupt):
    pass


class InterruptAt:
    """Raises at the n-th call of a Python or C function, by Python's own hook for profilers."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __enter__(self) -> InterruptAt:
        sys.setprofile(self.on_event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        torch.set_grad_enabled(True)  # an interrupt may keep no_grad() from ending

    def on_event(self, frame: FrameType, event: str, argument: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupt


def dense(case: Case, steps: int) -> Any:
    optimizer = case.ours(make_params(SHAPES, torch.float32), lr=0.1)
    for step in range(steps):
        set_grads(params_of(optimizer), step)
        optimizer.step()
    set_grads(params_of(optimizer), steps)
    return optimizer


def with_rows(case: Case, steps: int) -> Any:
    """Returns an optimizer whose gradients are sparse, or None where the class takes none."""
    table = randn((6, 2), torch.float32, 1).requires_grad_()
    optimizer = case.ours([table, torch.ones(3, requires_grad=True)], lr=0.1)
    for step in range(steps + 1):
        params_of(optimizer)[1].grad = torch.ones(3)
        table.grad = sparse(randn((6, 2), torch.float32, step), 1, torch.tensor([step, 4]))
        try:
            if step < steps:
                optimizer.step()
        except RuntimeError:
            return None
    return optimizer


def with_hooks(case: Case, steps: int) -> Any:
    optimizer = dense(case, steps)
    optimizer.register_step_pre_hook(lambda *_: None)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def takes_rows(case: Case) -> bool:
    return with_rows(case, 1) is not None


def assert_whole(
    make: Callable[[], Any], take: Callable[[Any], None], see: Callable[[Any], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Interrupts a step at every call; returns what is seen before it and after it."""
    stepped = make()
    before = see(stepped)
    take(stepped)
    after = see(stepped)
    assert before != after
    for number in range(1, 5000):
        optimizer = make()
        try:
            with InterruptAt(number):
                take(optimizer)
        except Interrupt:
            assert see(optimizer) in (before, after), f"half a step, at call {number}"
        else:
            break
    assert number > 3, "no call was interrupted"
    assert see(optimizer) == after
    return before, after


@pytest.mark.thorough
@each_case
@pytest.mark.parametrize("steps", [0, 2], ids=["first step", "later"])
@pytest.mark.parametrize("start", [dense, with_rows, with_hooks])
def test_an_exception_at_any_call_leaves_a_step_whole_or_not_taken(
    case: Case, start: Callable[[Case, int], Any], steps: int
) -> None:
    if start is with_rows and not takes_rows(case):
        with pytest.raises(RuntimeError, match="sparse"):
            with_rows(case, 0).step()
        return
    assert_whole(lambda: start(case, steps), lambda o: o.step(), snapshot)


@each_kind
@pytest.mark.parametrize("steps", [0, 2], ids=["first step", "later"])
@pytest.mark.parametrize("start", [dense, with_rows])
def test_an_exception_at_any_call_leaves_one_parameter_whole_or_not_stepped(
    case: Case, start: Callable[[Case, int], Any], steps: int
) -> None:
    if start is dense or takes_rows(case):
        assert_whole(lambda: start(case, steps), lambda o: o.step_one(params_of(o)[0]), snapshot)


def spread(case: Case, mesh: Any, steps: int) -> Any:
    """Returns an optimizer of DTensors, one of them with a gradient that is placed otherwise."""
    start = make_params(SHAPES[:2], torch.float32)
    params = [distribute_tensor(param.detach(), mesh, [Replicate()]) for param in start]
    optimizer = case.ours([param.requires_grad_() for param in params], lr=0.1)
    for step in range(steps + 1):
        for placement, param in zip((Partial(), Replicate()), params, strict=True):
            local = randn(param.shape, torch.float32, step)
            param.grad = DTensor.from_local(local, mesh, [placement])
        if step < steps:
            optimizer.step()
    return optimizer


def seen(optimizer: Any) -> dict[str, Any]:
    """Returns a snapshot by local tensors, with placements."""
    found: dict[str, Any] = {}
    for k, param in enumerate(params_of(optimizer)):
        state = optimizer.state.get(param, {})
        for name, value in {"param": param, "grad": param.grad, **state}.items():
            is_spread = isinstance(value, DTensor)
            found[f"{name} {k}"] = (
                raw(value.to_local() if is_spread else value),
                value.placements if is_spread else None,
            )
    return found


@pytest.mark.thorough
@each_case
@pytest.mark.parametrize("steps", [0, 1], ids=["first step", "later"])
def test_an_exception_at_any_call_leaves_dtensors_whole_or_not_stepped(
    case: Case, mesh: Any, steps: int
) -> None:
    before, after = assert_whole(lambda: spread(case, mesh, steps), lambda o: o.step(), seen)
    if steps:  # the first step of some moves no weight yet
        assert all(after[f"param {k}"] != before[f"param {k}"] for k in range(2))


# ---- other threads: in a process of its own, which may crash


def interleave(count: int, seed: int) -> None:
    words = run_python(["-m", "tests.interleavings", count, seed], timeout=1500.0).split()
    assert words[0] == "well"
    assert int(words[1]) >= min(count, len(CASES))


@pytest.mark.sanitize
def test_steps_beside_a_thread_that_changes_their_tensors_are_whole_or_refused() -> None:
    interleave(120, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_more_steps_beside_such_a_thread() -> None:
    """`python -m tests.interleavings 10000 SEED` takes as many as you like."""
    interleave(1000, 2)

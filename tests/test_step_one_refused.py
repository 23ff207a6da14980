"""opt.step_one(param) in several threads, and what it refuses."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import onepass
from tests.cases import Case
from tests.support import (
    SHAPES,
    assert_same,
    each_kind,
    make_params,
    params_of,
    set_grads,
    snapshot,
    take_steps,
)
from tests.threads import in_threads
from tests.unchanged import refused


@pytest.fixture
def restless() -> Any:
    """Threads that take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@each_kind
def test_threads_step_different_parameters_at_once(case: Case, restless: None) -> None:
    shapes = [(1 + 37 * k,) for k in range(18)] + [(1_050_000,)] * 2  # these let others run
    whole, single = (case.ours(make_params(shapes)) for _ in "12")
    params = params_of(single)

    def step(own: list[Tensor]) -> None:
        for param in own:
            single.step_one(param)

    for number in range(6):
        for optimizer in (whole, single):
            set_grads(params_of(optimizer), number)
        whole.step()
        assert in_threads([partial(step, params[k::4]) for k in range(4)]) == []
    assert_same(snapshot(single), snapshot(whole))


def test_memory_that_another_thread_is_stepping_is_refused(restless: None) -> None:
    memory = torch.zeros(1 << 22)
    large, small = memory.requires_grad_(), memory.detach()[:8].requires_grad_()
    opt = onepass.SGD([large, small])
    large.grad, small.grad = torch.ones(1 << 22), torch.ones(8)
    is_over = threading.Event()
    thread = threading.Thread(
        target=lambda: [None for _ in iter(lambda: is_over.is_set() or opt.step_one(large), True)]
    )
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="shares memory with one that is in the middle"):
            for _ in range(100_000):
                opt.step_one(small)
    finally:
        is_over.set()
        thread.join()


@each_kind
def test_a_parameter_is_stepped_once_at_a_time(case: Case) -> None:
    optimizer = case.ours(make_params(SHAPES), **case.settings[1])
    first, second = params_of(optimizer)[:2]
    set_grads(params_of(optimizer), 1)
    new_state, errors = optimizer._first_state, []

    def reenter(param: Tensor, group: dict[str, Any]) -> Any:
        for call in (lambda: optimizer.step_one(first), optimizer.step):
            with pytest.raises(RuntimeError, match="in the middle of a step") as caught:
                call()
            errors.append(caught)
        return new_state(param, group)

    optimizer._first_state = reenter
    optimizer.step_one(first)
    optimizer.step()
    assert len(errors) == 2 * len(SHAPES)
    del optimizer._first_state
    optimizer.step_one(second)


# ---- refusals


def freeze(param: Tensor) -> None:
    param.grad = None
    param.requires_grad_(False)


SPOILT: dict[str, Callable[[Any, Tensor], object]] = {
    "has no gradient": lambda o, p: setattr(p, "grad", None),
    "frozen": lambda o, p: freeze(p),
    "gradient": lambda o, p: p.grad.resize_(3),
    "lr": lambda o, p: o.param_groups[0].update(lr=float("nan")),
    "state": lambda o, p: o.state[p].update({key: torch.ones(3, 3) for key in o.state[p]}),
    "twice": lambda o, p: o.param_groups.append({**o.param_groups[0], "params": [p]}),
    "gone": lambda o, p: o.param_groups[0]["params"].pop(),
    "grad_scale": lambda o, p: setattr(o, "grad_scale", torch.ones(())),
    "found_inf": lambda o, p: setattr(o, "found_inf", torch.zeros(())),
    "differentiable": lambda o, p: o.defaults.update(differentiable=True),
}


@each_kind
@pytest.mark.parametrize("steps", [0, 2])
def test_a_refused_step_changes_nothing(case: Case, steps: int) -> None:
    for name, spoil in SPOILT.items():
        optimizer = case.ours(make_params(SHAPES[:3]), **case.settings[1])
        take_steps(optimizer, steps)
        if name == "state" and not steps:
            continue
        set_grads(params_of(optimizer), 5)
        param = params_of(optimizer)[2]
        if steps:
            optimizer.step_one(param)
        spoil(optimizer, param)
        with refused(optimizer, name, param):
            optimizer.step_one(param)


def test_errors_say_what_is_wrong() -> None:
    weight = torch.ones(3, requires_grad=True)
    opt = onepass.AdamW([("w", weight)])
    other: Any = torch.ones(2)
    for param, error, words in [
        (weight, RuntimeError, r"'w' \(parameter 0 of group 0\) has no gradient; step it after"),
        (other, ValueError, "this Tensor is not among the optimizer's parameters"),
        (None, ValueError, "this NoneType is not among"),
    ]:
        with pytest.raises(error, match=words):
            opt.step_one(param)
    weight.grad = torch.ones(3)
    with FakeTensorMode(), pytest.raises(RuntimeError, match="under a dispatch mode"):
        opt.step_one(weight)
    with pytest.raises(RuntimeError, match="function transform"):
        torch.vmap(lambda x: opt.step_one(weight) or x)(torch.ones(2))
    assert not opt.state


@pytest.mark.compile
def test_a_compiled_program_refuses_it() -> None:
    opt = onepass.AdamW(make_params([(3,)]))
    set_grads(params_of(opt), 1)
    step = torch.compile(lambda: opt.step_one(params_of(opt)[0]), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="in a compiled program"):
        step()

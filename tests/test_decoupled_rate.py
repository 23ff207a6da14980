"""decouple_lr: decay follows lr over the largest lr so far, which no scheduler reads or writes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from torch.optim import lr_scheduler

import onepass
from tests.bad_inputs import Mode
from tests.cases import CASES, Case
from tests.support import assert_same, numbers, snapshot

DECOUPLING = [case for case in CASES if "decouple_lr" in inspect.signature(case.ours).parameters]
each_decoupling_case = pytest.mark.parametrize("case", DECOUPLING, ids=str)
Schedule = Callable[[Any], Any]
SCHEDULES: dict[str, Schedule] = {
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=1e-2, total_steps=42),
    "one cycle over the constructor's": lambda o: lr_scheduler.OneCycleLR(
        o, max_lr=0.1, total_steps=42
    ),
    "triangles": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 0.05, 7),
    "warm-up": lambda o: lr_scheduler.LinearLR(o, 0.01, 1.0, 20),
    "growth": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1.0 + t),
    "down to 0": lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 39),
    "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7),
}


def made(case: Case, lr: Any = 1e-2, count: int = 1, **options: Any) -> Any:
    """Returns an optimizer over parameters of ones whose gradients are zero."""
    if "decoupled_weight_decay" in inspect.signature(case.ours).parameters:
        options["decoupled_weight_decay"] = True
    params = [torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(count)]
    for param in params:
        param.grad = torch.zeros_like(param)
    groups = [{"params": [param]} for param in params]
    return case.ours(groups, lr=lr, weight_decay=0.1, decouple_lr=True, **options)


def value(optimizer: Any, group: int = 0) -> float:
    return optimizer.param_groups[group]["params"][0].detach()[0].item()


ADAMW = next(case for case in CASES if case.ours is onepass.AdamW)


@each_decoupling_case
@pytest.mark.parametrize("name", SCHEDULES)
def test_no_step_takes_more_than_the_share_of_its_rate_in_the_largest(
    case: Case, name: str
) -> None:
    optimizer = made(case)
    schedule, expected, largest = SCHEDULES[name](optimizer), 1.0, 1e-2
    (group,) = optimizer.param_groups
    for number in range(40):
        lr = max(group["lr"], 0.0)
        largest = max(largest, lr)
        if number or case.ours is not onepass.ADOPT:  # which moves nothing in its first step
            expected *= 1 - 0.1 * lr / largest
        optimizer.step()
        assert value(optimizer) == pytest.approx(expected, rel=1e-12)
        assert group["reference_lr"] == largest
        schedule.step()
    assert 0.9**40 <= value(optimizer) < 1


@each_decoupling_case
def test_schedulers_find_and_leave_what_they_would_without_the_option(case: Case) -> None:
    def rates(decouple_lr: bool, schedule: Schedule) -> list[float]:
        optimizer = made(case)
        if not decouple_lr:
            for group in optimizer.param_groups:
                del group["decouple_lr"], group["reference_lr"]
        optimizer.param_groups[0]["lr"] = 3e-3  # edited before the scheduler
        scheduler, seen = schedule(optimizer), []
        for _ in range(8):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return seen

    for name, schedule in SCHEDULES.items():
        assert rates(True, schedule) == rates(False, schedule), name
    constant = lambda o: lr_scheduler.LambdaLR(o, lambda t: 1.0)  # noqa: E731
    assert rates(True, constant) == [3e-3] * 8


@pytest.mark.parametrize("cut", [1, 10, 25])
@pytest.mark.parametrize("name", SCHEDULES)
def test_resuming_in_the_middle_gives_the_same_bits(name: str, cut: int) -> None:
    def walk(optimizer: Any, schedule: Any, count: int) -> None:
        for _ in range(count):
            optimizer.step()
            schedule.step()

    whole = made(ADAMW, count=2)
    whole.param_groups[1]["lr"] = 3e-3
    schedule = SCHEDULES[name](whole)
    walk(whole, schedule, cut)
    other = made(ADAMW, count=2)
    other_schedule = SCHEDULES[name](other)
    for group, of_whole in zip(other.param_groups, whole.param_groups, strict=True):
        group["params"][0].data.copy_(of_whole["params"][0].data)
    other.load_state_dict(copy.deepcopy(whole.state_dict()))
    other_schedule.load_state_dict(copy.deepcopy(schedule.state_dict()))
    for one in ((whole, schedule), (other, other_schedule)):
        walk(*one, 40 - cut)
    assert snapshot(other) == snapshot(whole)


def test_every_group_has_a_rate_of_its_own_and_an_added_one_starts_at_its_lr() -> None:
    optimizer = made(ADAMW, count=2)
    optimizer.param_groups[1]["lr"] = 0.5
    added = torch.ones(3, dtype=torch.float64, requires_grad=True)
    added.grad = torch.zeros_like(added)
    optimizer.add_param_group({"params": [added], "lr": 2e-3})
    optimizer.step()
    assert [group["reference_lr"] for group in optimizer.param_groups] == [1e-2, 0.5, 2e-3]
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    optimizer.step()
    shares = (0.1, 0.002, 0.5)
    for k, share in enumerate(shares):
        assert value(optimizer, k) == pytest.approx(0.9 * (1 - 0.1 * share), rel=1e-12)


def test_a_rate_that_the_user_sets_is_raised_and_never_lowered() -> None:
    optimizer = made(ADAMW)
    (group,) = optimizer.param_groups
    group["reference_lr"] = 0.1
    optimizer.step()
    assert value(optimizer) == pytest.approx(1 - 0.1 * 0.1, rel=1e-12)
    assert group["reference_lr"] == 0.1
    group["lr"] = 0.2
    optimizer.step()
    assert group["reference_lr"] == 0.2


def test_the_rate_of_a_checkpoint_from_before_the_key_is_what_its_scheduler_tells() -> None:
    saved = made(ADAMW).state_dict()
    (group,) = saved["param_groups"]
    del group["reference_lr"]
    for told, wanted in (
        ({}, 1e-3),
        ({"initial_lr": 1e-2}, 1e-2),
        ({"initial_lr": 4e-4, "max_lr": 2e-2}, 2e-2),
        ({"initial_lr": float("nan")}, 1e-3),
        ({"initial_lr": torch.tensor(0.5)}, 0.5),
    ):
        optimizer = made(ADAMW)
        optimizer.load_state_dict({**saved, "param_groups": [{**group, "lr": 1e-3, **told}]})
        assert optimizer.param_groups[0]["reference_lr"] == wanted
        optimizer.step()
        assert value(optimizer) == pytest.approx(1 - 0.1 * 1e-3 / wanted, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rate_that_is_a_tensor_is_followed(dtype: torch.dtype) -> None:
    lr = torch.tensor(0.25, dtype=dtype)
    optimizer = made(ADAMW, lr=lr)
    expected = 1.0
    for rate, share in ((0.25, 1.0), (0.5, 1.0), (0.125, 0.25), (0.0, 0.0)):
        lr.fill_(rate)
        optimizer.step()
        expected *= 1 - 0.1 * share
        assert value(optimizer) == pytest.approx(expected, rel=1e-12)
    assert type(optimizer.param_groups[0]["reference_lr"]) is float


def test_a_refused_step_raises_no_rate() -> None:
    optimizer = made(ADAMW, count=2)
    optimizer.step()
    optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = 0.5, -1.0
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="learning rate"):
        optimizer.step()
    assert snapshot(optimizer) == before


@each_decoupling_case
def test_a_step_by_the_op_raises_the_rate_too(case: Case) -> None:
    native, by_op = made(case), made(case)
    for lr in (1e-2, 3e-2, 2e-2, 0.0):
        for optimizer in (native, by_op):
            optimizer.param_groups[0]["lr"] = lr
        native.step()
        with Mode():
            by_op.step()
    assert_same(numbers(by_op), numbers(native))
    assert by_op.param_groups[0]["reference_lr"] == 3e-2


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_a_compiled_step_raises_the_rate_and_is_not_compiled_anew_for_each() -> None:
    native, compiled = made(ADAMW), made(ADAMW)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    step = torch.compile(compiled.step, backend=counter)
    for number in range(24):
        for optimizer in (native, compiled):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 + number % 12)
        native.step()
        step()
        assert value(compiled) == pytest.approx(value(native), rel=1e-12)
    assert compiled.param_groups[0]["reference_lr"] == native.param_groups[0]["reference_lr"]
    assert counter.frame_count <= 4


def test_the_rate_is_a_float_that_numpy_scalars_become() -> None:
    optimizer = made(ADAMW, lr=np.float32(0.25))
    optimizer.param_groups[0]["lr"] = np.float64(0.5)
    optimizer.step()
    assert type(optimizer.param_groups[0]["reference_lr"]) is float

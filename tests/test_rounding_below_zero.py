"""What a schedule ends at 0 may end a hair below it: it counts as 0, and the run goes on."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from onepass.rules import RULES
from tests.bad_inputs import MAY_BE_NEGATIVE, Mode, op_arguments
from tests.cases import CASES, Case
from tests.oracle import op_of
from tests.support import (
    SHAPES,
    assert_same,
    each_case,
    each_torch_case,
    groups_of,
    make_params,
    numbers,
    params_of,
    set_grads,
    take_steps,
)
from tests.unchanged import refused

# What rounding leaves: LinearLR's end, lr -= lr0 / n a hundred thousand times, a float32 tensor's.
HAIRS = (-2.96e-20, -7.9e-14, -5e-324, torch.tensor(-8.3e-7), np.float32(-4.9e-9))
CLEARLY_NEGATIVE = (-1e-9, -1e-5, torch.tensor(-1e-5), np.float32(-1e-5))


def made(case: Case, **options: Any) -> Any:
    return case.ours(groups_of(make_params(SHAPES, torch.float64)), **options)


def scheduled(case: Case) -> list[tuple[str, int]]:
    """Returns where the numbers stand that schedules change and that must not be negative."""
    return [
        (hyper.key, hyper.index)
        for hyper in RULES[case.ours.rule].hypers
        if hyper.scheduled and hyper.name not in MAY_BE_NEGATIVE
        and hyper.key in case.ours([torch.ones(1)]).defaults
    ]  # fmt: skip


def put(group: dict[str, Any], key: str, index: int, value: Any) -> None:
    if index >= 0:
        items = list(group[key])
        items[index] = value
        value = tuple(items)
    group[key] = value


@each_case
def test_a_hair_below_zero_counts_as_zero_on_every_path(case: Case) -> None:
    for key, index in scheduled(case):
        zero = made(case)
        for group in zero.param_groups:
            put(group, key, index, 0.0)
        take_steps(zero, 2)
        for hair in HAIRS:
            for way in (contextlib.nullcontext(), Mode()):
                optimizer = made(case)
                for group in optimizer.param_groups:
                    put(group, key, index, hair)
                stored = [group[key] for group in optimizer.param_groups]
                with way:
                    take_steps(optimizer, 2)
                wanted = numbers(zero)  # which has no buffers where its momentum is 0
                ours = numbers(optimizer)
                found = {name: value for name, value in ours.items() if name in wanted}
                assert_same(found, wanted, f"{key} {hair!r} {way}")
                for group, value in zip(optimizer.param_groups, stored, strict=True):
                    assert group[key] is value


@each_case
def test_a_hair_below_zero_loads_and_is_added_as_it_is(case: Case) -> None:
    for key, index in scheduled(case):
        saved = made(case).state_dict()
        put(saved["param_groups"][0], key, index, -2.96e-20)
        optimizer = made(case)
        optimizer.load_state_dict(saved)
        assert optimizer.param_groups[0][key] == saved["param_groups"][0][key]
        added = {
            "params": make_params([(3,)], torch.float64, seed=2),
            key: copy.copy(optimizer.param_groups[0][key]),
        }
        optimizer.add_param_group(added)
        take_steps(optimizer, 1)


@each_case
def test_what_is_clearly_negative_is_refused(case: Case) -> None:
    for key, index in scheduled(case):
        for value in CLEARLY_NEGATIVE:
            for way in (contextlib.nullcontext(), Mode()):
                optimizer = made(case)
                set_grads(params_of(optimizer), 1)
                put(optimizer.param_groups[1], key, index, value)
                with refused(optimizer, f"{key}={value!r}"), way:
                    optimizer.step()


@each_case
def test_an_argument_of_the_constructor_is_no_schedules_and_must_not_be_negative(
    case: Case,
) -> None:
    for key, index in scheduled(case):
        given = {key: case.ours([torch.ones(1)]).defaults[key]}
        put(given, key, index, -1e-20)
        with pytest.raises(ValueError, match="Invalid"):
            made(case, **given)


@each_case
def test_the_op_takes_a_hair_below_zero_for_zero(case: Case) -> None:
    for name in (hyper.name for hyper in RULES[case.ours.rule].hypers if hyper.scheduled):
        results = []
        for value in (0.0, -2.96e-20):
            arguments = op_arguments(case)
            arguments["options"][name] = torch.tensor(value, dtype=torch.float64)
            op_of(case)(*arguments["lists"], **arguments["options"])
            results.append([t.clone() for tensors in arguments["lists"] for t in tensors])
        assert all(map(torch.equal, *results)), name


ENDS: dict[str, Callable[[Any], Any]] = {
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 10),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 10, 0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(
        o, 0.1, total_steps=11, anneal_strategy="linear", final_div_factor=1e30,
        cycle_momentum=cycles(o), **({"base_momentum": 0.0} if cycles(o) else {}),
    ),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(
        o, 0.0, 0.1, 5, cycle_momentum=cycles(o), **({"base_momentum": 0.0} if cycles(o) else {})
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.3, 1.0, 7), lr_scheduler.LinearLR(o, 1.0, 0.0, 10)]
    ),
}  # fmt: skip


def cycles(optimizer: Any) -> bool:
    return bool({"betas", "momentum"} & optimizer.defaults.keys())


@each_case
@pytest.mark.parametrize("name", ENDS)
def test_a_run_to_the_end_of_a_schedule_ends_at_rest(case: Case, name: str) -> None:
    for lr in (1e-3, 0.1, 0.3, torch.tensor(3e-4), torch.tensor(0.1, dtype=torch.float64)):
        optimizer = made(case)
        for group in optimizer.param_groups:
            group["lr"] = lr.clone() if isinstance(lr, torch.Tensor) else lr
        schedule = ENDS[name](optimizer)
        for number in range(10):
            take_steps(optimizer, 1, number)
            schedule.step()
        take_steps(optimizer, 1, 10)
        other = made(case)
        other.load_state_dict(optimizer.state_dict())


@each_case
def test_rates_lowered_by_hand_never_end_in_an_error(case: Case) -> None:
    for lr in (1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0):
        for count in (3, 7, 10, 30, 49, 100):
            optimizer = made(case, lr=lr)
            for _ in range(count):
                for group in optimizer.param_groups:
                    group["lr"] -= lr / count
            optimizer.param_groups[1]["lr"] = optimizer.param_groups[0]["lr"]
            take_steps(optimizer, 1)


@each_torch_case
def test_torchs_own_path_goes_on_too(case: Case) -> None:
    if "differentiable" not in inspect.signature(case.ours).parameters:
        pytest.skip("no differentiable path")
    params = [param.detach() for param in make_params(SHAPES, torch.float64)]
    optimizer = case.ours(params, differentiable=True)
    optimizer.param_groups[0]["lr"] = -2.96e-20
    take_steps(optimizer, 2)
    assert all(math.isfinite(float(param.sum())) for param in params)
    optimizer.param_groups[0]["lr"] = -1e-5
    with refused(optimizer, "lr=-1e-5"):
        optimizer.step()


def test_every_class_has_such_numbers() -> None:
    assert all(("lr", -1) in scheduled(case) for case in CASES)

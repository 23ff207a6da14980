"""Every scheduler of torch drives ours as it drives torch's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler, swa_utils

from tests.cases import Case
from tests.support import (
    SHAPES,
    assert_same,
    each_case,
    each_torch_case,
    make_params,
    numbers,
    step_both,
    take_steps,
)


def has_momentum(optimizer: Any) -> bool:
    """Returns whether torch's schedulers can cycle it."""
    return bool({"betas", "momentum"} & optimizer.defaults.keys())


def schedulers() -> dict[str, Callable[[Any], Any]]:
    s = lr_scheduler
    return {
        "LambdaLR": lambda o: s.LambdaLR(o, lambda n: 0.9**n),
        "MultiplicativeLR": lambda o: s.MultiplicativeLR(o, lambda n: 0.9),
        "StepLR": lambda o: s.StepLR(o, 2, 0.5),
        "MultiStepLR": lambda o: s.MultiStepLR(o, [2, 4], 0.5),
        "ConstantLR": lambda o: s.ConstantLR(o, 0.5, 3),
        "LinearLR": lambda o: s.LinearLR(o, 0.1, 1.0, 4),
        "ExponentialLR": lambda o: s.ExponentialLR(o, 0.9),
        "PolynomialLR": lambda o: s.PolynomialLR(o, 8),
        "CosineAnnealingLR": lambda o: s.CosineAnnealingLR(o, 4),
        "CosineAnnealingWarmRestarts": lambda o: s.CosineAnnealingWarmRestarts(o, 3),
        "CyclicLR": lambda o: s.CyclicLR(o, 0.01, 0.1, 2, cycle_momentum=has_momentum(o)),
        "OneCycleLR": lambda o: s.OneCycleLR(
            o, 0.1, total_steps=10, cycle_momentum=has_momentum(o)
        ),
        "ReduceLROnPlateau": lambda o: s.ReduceLROnPlateau(o, patience=0, factor=0.5),
        "SequentialLR": lambda o: s.SequentialLR(
            o, [s.ConstantLR(o, 0.1, 2), s.ExponentialLR(o, 0.9)], milestones=[2]
        ),
        "ChainedScheduler": lambda o: s.ChainedScheduler(
            [s.ConstantLR(o, 0.1, 2), s.ExponentialLR(o, 0.9)], optimizer=o
        ),
        "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=0.05, anneal_epochs=4),
    }


def test_every_scheduler_of_torch_is_tried() -> None:
    every = {
        name
        for name, value in vars(lr_scheduler).items()
        if inspect.isclass(value) and issubclass(value, lr_scheduler.LRScheduler)
    }
    assert every - {"LRScheduler", "_LRScheduler", "_enable_get_lr_call"} <= schedulers().keys()


@each_torch_case
@pytest.mark.parametrize("name", schedulers())
@pytest.mark.parametrize("as_tensor", (False, True), ids=("float lr", "tensor lr"))
def test_schedulers_drive_it_as_torchs(case: Case, name: str, as_tensor: bool) -> None:
    ours, theirs = (
        cls(
            make_params(SHAPES, torch.float64),
            lr=torch.tensor(0.1, dtype=torch.float64) if as_tensor else 0.1,
        )
        for cls in (case.ours, case.theirs)
    )
    schedules = [schedulers()[name](optimizer) for optimizer in (ours, theirs)]
    lrs = []
    for number in range(8):
        step_both(ours, theirs, 1, number)
        for schedule in schedules:
            schedule.step(*([1.0] if name == "ReduceLROnPlateau" else []))
        lrs.append(float(ours.param_groups[0]["lr"]))
    assert len({round(lr, 12) for lr in lrs}) > 1, "the schedule never moved"
    assert isinstance(ours.param_groups[0]["lr"], Tensor) == isinstance(
        theirs.param_groups[0]["lr"], Tensor
    )
    assert schedules[0].state_dict().keys() == schedules[1].state_dict().keys()


@each_case
@pytest.mark.parametrize("name", ("OneCycleLR", "CyclicLR"))
def test_what_has_a_momentum_is_cycled(case: Case, name: str) -> None:
    """Every class that torch lacks has one; of torch's, those that torch itself can cycle."""
    optimizer, twin = (case.ours(make_params(SHAPES, torch.float64)) for _ in range(2))
    theirs = case.theirs and case.theirs(make_params(SHAPES))
    assert has_momentum(optimizer) == (theirs is None or has_momentum(theirs))
    if not has_momentum(optimizer):
        pytest.skip("torch's class has no momentum")
    schedule, seen = schedulers()[name](optimizer), set()
    for number in range(8):
        take_steps(optimizer, 1, number)
        for own, other in zip(optimizer.param_groups, twin.param_groups, strict=True):
            other.update({key: own[key] for key in ("lr", "betas", "momentum") if key in own})
            seen.add(own["betas"][0] if "betas" in own else own["momentum"])
        take_steps(twin, 1, number)
        schedule.step()
    assert len(seen) >= 3
    assert_same(numbers(optimizer), numbers(twin))

"""The options of ours do what they say, and every option does something."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

import onepass
from onepass.rules import RULES
from tests.cases import CASES, Case
from tests.layouts import same_bits
from tests.support import each_case
from tests.walks import close, gradients, path

each_adam = pytest.mark.parametrize("adam", [onepass.Adam, onepass.AdamW])
each_case_that_decouples = pytest.mark.parametrize(
    "case", [c for c in CASES if "decouple_lr" in inspect.signature(c.ours).parameters], ids=str
)


# ---- decouple_lr


def decayed(
    lr: Any, schedule: Callable[[int], float], dtype: torch.dtype = torch.float64
) -> Tensor:
    """Returns a parameter of ones after 20 steps without gradient under a schedule."""
    param = torch.ones(3, dtype=dtype, requires_grad=True)
    optimizer = onepass.AdamW([param], lr=lr, weight_decay=0.1, decouple_lr=True)
    scheduler = LambdaLR(optimizer, schedule)
    for _ in range(20):
        param.grad = torch.zeros_like(param)
        optimizer.step()
        scheduler.step()
    return param.detach()


def test_decouple_lr_decays_by_the_schedule_and_not_by_the_size_of_lr():
    for schedule in (lambda t: 1.0, lambda t: 0.8**t, lambda t: t / 20, lambda t: 0.0):
        expected = float(np.prod([1 - 0.1 * schedule(t) for t in range(20)]))
        for lr in (1.0, 1e-3, 1e-9, torch.tensor(0.25), torch.tensor([1e-3], dtype=torch.float64)):
            close(decayed(lr, schedule), torch.full((3,), expected, dtype=torch.float64), 1e-6)


def test_decouple_lr_without_a_scheduler_takes_the_lr_of_the_constructor():
    param = torch.ones(3, dtype=torch.float64, requires_grad=True)
    group = {"params": [param], "lr": 0.5}
    optimizer = onepass.AdamW([group], lr=7.0, weight_decay=0.1, decouple_lr=True)
    assert optimizer.param_groups[0]["reference_lr"] == 0.5
    optimizer.param_groups[0]["lr"] = 0.125
    param.grad = torch.zeros_like(param)
    optimizer.step()
    close(param.detach(), torch.full((3,), 1 - 0.1 / 4, dtype=torch.float64), 1e-15)


@each_case_that_decouples
def test_decouple_lr_follows_a_reference_lr_in_the_group_as_the_formula_says(case):
    options = {"lr": 0.02, "weight_decay": 0.3, "decouple_lr": True}
    if "decoupled_weight_decay" in inspect.signature(case.ours).parameters:
        options["decoupled_weight_decay"] = True
    param, grads = torch.randn(50, dtype=torch.float64, requires_grad=True), gradients(5, 50)
    optimizer = case.ours([{"params": [param], "reference_lr": 0.05}], **options)
    expected, state = param.detach().numpy().copy(), {}
    for t, grad in enumerate(grads, start=1):
        step = case.reference(expected, grad.numpy(), state, t, {**options, "reference_lr": 0.05})
        expected, state = step.param, step.state
        param.grad = grad
        optimizer.step()
    assert (abs(param.detach().numpy() - expected) <= 1e-12 * step.scale["param"]).all()


@pytest.mark.parametrize("lr_at_first", [0.0, 0.1])
def test_with_decouple_lr_a_step_at_lr_0_changes_no_bit_of_the_parameter(lr_at_first):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        param = torch.randn(100).to(dtype).requires_grad_()
        before = param.detach().clone()
        optimizer = onepass.AdamW([param], lr=lr_at_first, weight_decay=0.1, decouple_lr=True)
        optimizer.param_groups[0]["lr"] = 0.0
        for _ in range(3):
            param.grad = torch.randn(100).to(dtype)
            optimizer.step()
        assert same_bits(param, before)


# ---- eps_root


@each_adam
def test_eps_root_alone_is_the_textbook_form_with_eps_inside_the_root(adam):
    grads = gradients(1, 1000) * 1e-3
    for eps_root in (1e-8, 1e-4, 1.0):
        moved = path(adam, grads, lr=0.1, eps=0.0, eps_root=eps_root)[1]
        close(moved, -0.1 * grads[0] / (grads[0] ** 2 + eps_root).sqrt(), 1e-12)


@each_adam
def test_eps_root_keeps_coordinates_without_gradient_where_they_are(adam):
    grads = torch.zeros(50, 3)
    points = path(adam, grads, start=1.0, eps=0.0, eps_root=1e-8, weight_decay=0.0)
    assert (points == 1.0).all()


# ---- every option matters


def changed(value: Any, index: int) -> Any:
    if isinstance(value, bool):
        return not value
    if index < 0:
        return 0.9 * value
    return tuple(0.9 * v if k == index else v for k, v in enumerate(value))


def result(case: Case, options: dict[str, Any]) -> Tensor:
    """Returns parameter and states after six steps in which gradients fall and lr has halved."""
    torch.manual_seed(1)
    given = {key: value for key, value in options.items() if not isinstance(value, bool)}
    group_only = {key: given.pop(key) for key in ("reference_lr",) if key in given}
    param = torch.randn(50, dtype=torch.float64, requires_grad=True)
    optimizer = case.ours([{"params": [param], **group_only}], **given)
    (group,) = optimizer.param_groups
    group.update(options)
    group["lr"] /= 2
    for t in range(6):
        param.grad = torch.randn(50, dtype=torch.float64) / 3.0**t
        optimizer.step()
    states = [state for state in optimizer.state[param].values() if state.shape == param.shape]
    return torch.stack([param.detach(), *states])


@each_case
def test_every_hyper_parameter_changes_the_result(case):
    rule = RULES[case.ours.rule]
    known = inspect.signature(case.ours).parameters
    extras = {"eps_root": 1e-2, "decouple_lr": True, "decoupled_weight_decay": True}
    base = {**case.settings[1], **{k: v for k, v in extras.items() if k in known}}
    if "decouple_lr" in known:
        base["reference_lr"] = 0.2
    flags = ["maximize", *(state.only_if for state in rule.states)]
    base |= {flag: False for flag in flags if flag and isinstance(known[flag].default, bool)}
    base |= {hyper.key: False for hyper in rule.hypers if hyper.key not in base}
    for key, index in {(hyper.key, hyper.index) for hyper in rule.hypers} | {("maximize", -1)}:
        other = result(case, {**base, key: changed(base[key], index)})
        assert (other != result(case, dict(base))).any(), f"{key} makes no difference"


def test_coupled_decay_and_its_amount_change_the_result():
    base = {"lr": 0.1, "weight_decay": 0.3}
    adam = next(case for case in CASES if case.ours is onepass.Adam)
    results = [
        result(adam, {**base, **change})[0]
        for change in ({}, {"weight_decay": 0.2}, {"decoupled_weight_decay": True})
    ]
    assert all((a != b).all() for a, b in itertools.combinations(results, 2))

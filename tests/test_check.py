"""onepass.check: says how far a step is from torch's, and changes nothing of the user's."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.testing._internal.two_tensor import TwoTensor

import onepass
from onepass import agreement
from tests.cases import CASES, Case
from tests.support import (
    COMPLEX,
    REAL,
    SHAPES,
    TORCH_CASES,
    any_grad_dtype,
    copies,
    each_torch_case,
    groups_of,
    make_params,
    params_of,
    raw,
    set_grads,
    take_steps,
)
from tests.test_options import IN_USE, extras_of
from tests.unchanged import assert_unchanged, everything

ADAMW = next(case for case in TORCH_CASES if str(case) == "AdamW")
CLIPS = ("max_grad_norm", "skip_nonfinite")
EXECUTION = ("capturable", "fused")


def trained(
    case: Case, steps: int, dtype: torch.dtype = torch.float32, **options: Any
) -> torch.optim.Optimizer:
    """Returns ours in the middle of a training, with gradients for the next step."""
    optimizer = case.ours(groups_of(make_params(SHAPES, dtype)), **options)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for number in range(steps):
        take_steps(optimizer, 1, number)
        schedule.step()
    set_grads(params_of(optimizer), 99)
    return optimizer


def torchs(case: Case, optimizer: Any, options: dict[str, Any]) -> Any:
    """Returns torch's for-loop over copies, made apart from the code that is tested."""
    assert case.theirs is not None
    groups = [{"params": copies(group["params"])} for group in optimizer.param_groups]
    theirs = case.theirs(groups, **options)
    theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in theirs.param_groups:
        group.update(foreach=False)
    return theirs


@each_torch_case
@pytest.mark.parametrize("steps", [0, 3])
def test_the_bits_are_compared_that_real_steps_give(case: Case, steps: int) -> None:
    """With every row of options, groups, a scheduler's rate, a fresh and a resumed state."""
    for options in case.settings:
        ours = trained(case, steps, **options)
        theirs = torchs(case, ours, options)
        found = onepass.check(ours)
        for optimizer in (ours, theirs):
            optimizer.step()
        pairs = zip(params_of(ours), params_of(theirs), strict=True)
        assert [one.bit_equal for one in found.parameters] == [raw(a) == raw(b) for a, b in pairs]
        assert found.ulps <= 4, options


@each_torch_case
@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX], ids=str)
def test_every_dtype_is_near_and_nothing_of_the_users_changes(
    case: Case, dtype: torch.dtype
) -> None:
    ours = trained(case, 2, dtype)
    before, noise = everything(ours), torch.get_rng_state()
    found = onepass.check(ours)
    assert_unchanged(before, everything(ours), dtype)
    assert torch.equal(noise, torch.get_rng_state())
    assert [one.dtype for one in found.parameters] == [dtype] * len(SHAPES)
    assert found.relative <= 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX], ids=str)
def test_a_difference_of_one_unit_is_told_by_name(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = [torch.ones(3, dtype=dtype), torch.full((2, 2), 1.5, dtype=dtype)]
    ours = onepass.SGD([("a", params[0]), ("layer.b", params[1])], lr=0.0)
    set_grads(params, 1)
    step = agreement._step

    def step_wrongly(optimizer: Any) -> None:
        step(optimizer)
        if isinstance(optimizer, onepass.SGD):
            params_of(optimizer)[1][1, 0] += torch.finfo(dtype).eps

    monkeypatch.setattr(agreement, "_step", step_wrongly)
    found = onepass.check(ours)
    assert [one.bit_equal for one in found.parameters] == [True, False]
    assert not found.bit_equal
    apart = found.parameters[1]
    assert apart.name == "'layer.b' (parameter 1 of group 0)"
    assert (apart.ulps, apart.relative) == (1.0, torch.finfo(dtype).eps / 1.5)
    assert found.ulps == apart.ulps and found.relative == apart.relative
    assert "1 of 2 parameters have the same bits" in repr(found)
    assert "'layer.b' (parameter 1 of group 0)" in repr(found)
    assert "'a'" not in repr(found)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_number_that_is_none_is_infinitely_far(
    wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = onepass.SGD(make_params(((3,),)))
    set_grads(params_of(ours), 1)
    step = agreement._step

    def step_wrongly(optimizer: Any) -> None:
        step(optimizer)
        if isinstance(optimizer, onepass.SGD):
            params_of(optimizer)[0][1] = wrong

    monkeypatch.setattr(agreement, "_step", step_wrongly)
    found = onepass.check(ours)
    assert (found.ulps, found.relative, found.bit_equal) == (torch.inf, torch.inf, False)


def test_the_report_shows_the_ten_that_are_furthest_apart() -> None:
    one = agreement.ParameterAgreement("w", torch.bfloat16, 1.0, 0.5, False)
    rows = tuple(dataclasses.replace(one, name=f"w{k}", ulps=float(k)) for k in range(1, 13))
    lines = repr(agreement.Agreement("Adam", rows, 3)).splitlines()
    assert lines[1:4] == [
        "largest difference: 12 ulp, 5.0e-01 relative",
        "not stepped, without a gradient: 3",
        "      12 ulp  5.0e-01  bfloat16   w12",
    ]
    assert lines[-1] == "  and 2 that are nearer"


def test_no_hook_runs() -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("a hook ran")

    ours = trained(CASES[0], 1)
    ours.register_step_pre_hook(fail)
    ours.register_step_post_hook(fail)
    everywhere = register_optimizer_step_post_hook(fail)
    try:
        onepass.check(ours)
    finally:
        everywhere.remove()


def test_what_is_frozen_is_counted() -> None:
    ours = trained(TORCH_CASES[0], 1)
    frozen = params_of(ours)[:2]
    for param in frozen:
        param.requires_grad_(False)
        param.grad = None
    found = onepass.check(ours)
    assert found.without_gradient == 2
    assert len(found.parameters) == len(SHAPES) - 2


@each_torch_case
def test_torch_clips_by_a_call(case: Case) -> None:
    """A bound for each group, against one norm of all gradients; a step that is skipped."""
    ours = trained(case, 2, torch.float64, max_grad_norm=0.5, skip_nonfinite=True)
    ours.param_groups[1]["max_grad_norm"] = 0.125
    found = onepass.check(ours)
    assert found.relative <= 1e-14
    params_of(ours)[0].grad[0, 0] = torch.inf
    assert onepass.check(ours).bit_equal


def test_a_bound_is_applied_to_both() -> None:
    weight = torch.zeros(2, requires_grad=True)
    ours = onepass.SGD([weight], lr=1.0, max_grad_norm=1.0)
    weight.grad = torch.tensor([3.0, 4.0])
    found = onepass.check(ours)
    assert found.relative < 1e-6
    assert weight.grad.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("name", EXECUTION)
def test_how_a_step_is_run_is_no_difference(name: str) -> None:
    assert onepass.check(trained(ADAMW, 1, **{name: True})).ulps <= 4


@any_grad_dtype
def test_gradients_of_another_dtype_are_compared() -> None:
    ours = trained(ADAMW, 1, torch.bfloat16)
    for param in params_of(ours):
        param.grad, param.grad_dtype = None, None
        param.grad = torch.ones_like(param, dtype=torch.float32)
    assert onepass.check(ours).ulps <= 2


def test_a_state_dtype_that_is_torchs_own_is_no_obstacle() -> None:
    assert onepass.check(trained(ADAMW, 1, state_dtype=torch.float32)).ulps <= 4


def refuse(optimizer: Any, error: type[Exception], words: str) -> None:
    before = everything(optimizer)
    with pytest.raises(error, match=words):
        onepass.check(optimizer)
    assert_unchanged(before, everything(optimizer), words)


@each_torch_case
def test_an_option_without_a_counterpart_is_named(case: Case) -> None:
    for name in extras_of(case):
        if name not in (*CLIPS, *EXECUTION):
            ours = case.ours(make_params(SHAPES), **{name: IN_USE[name]})
            set_grads(params_of(ours), 1)
            refuse(ours, TypeError, f"group 0 uses {name}, for which torch.optim.{case} has no")


def test_states_of_8_bits_are_named() -> None:
    refuse(trained(ADAMW, 1, state_dtype=torch.int8), TypeError, "group 0 uses state_dtype, ")


def test_torchs_own_step_is_not_compared_with_itself() -> None:
    refuse(trained(ADAMW, 0, differentiable=True), TypeError, "torch's own step")


def test_a_class_that_torch_lacks_is_named() -> None:
    for case in CASES:
        if case.theirs is None:
            ours = case.ours(make_params(SHAPES))
            set_grads(params_of(ours), 1)
            refuse(ours, TypeError, f"torch.optim has no {case} to compare with")


def test_what_cannot_be_compared_is_refused_in_words() -> None:
    params = make_params(SHAPES)
    refuse(onepass.AdamW(params), RuntimeError, r"no gradient .* call backward\(\)")
    with pytest.raises(TypeError, match="takes an optimizer of onepass, got AdamW"):
        onepass.check(torch.optim.AdamW(params))  # type: ignore[arg-type]
    params[0].grad = params[0].detach().to_sparse()
    refuse(onepass.SGD(params), TypeError, "gradient of parameter 0 of group 0 is sparse")
    inner = torch.zeros(2, 2)
    wrapped = TwoTensor(inner, inner.clone()).requires_grad_()
    wrapped.grad = torch.zeros_like(wrapped)
    refuse(onepass.SGD([wrapped]), TypeError, "parameter 0 of group 0 .* is a TwoTensor")

"""Step counts: each parameter its own, and the bias correction right at any of them."""

from __future__ import annotations

import inspect
import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from onepass.rules import RULES
from tests import rounded
from tests.cases import CASES, Case
from tests.oracle import assert_steps_right, state_names
from tests.support import (
    REAL,
    betas_for,
    each_case,
    each_torch_case,
    each_torch_fused_case,
    make_params,
    params_of,
    randn,
    raw,
    set_grads,
    take_steps,
)

SHAPES = ((5, 7), (), (33,), (0,), (2, 3))
LAST_FLOAT32 = 2**24
each_that_counts = pytest.mark.parametrize(
    "case", [case for case in CASES if RULES[case.ours.rule].counts_steps], ids=str
)
# Means that are divided by the sum of their weights; of their sign alone there is none and no eps.
each_with_corrected_means = pytest.mark.parametrize(
    "case",
    [c for c in CASES if {"betas", "eps"} <= inspect.signature(c.ours).parameters.keys()],
    ids=str,
)


def counts(optimizer: Any) -> list[float]:
    """Returns the step count of each parameter, 0 where it has no state."""
    return [float(optimizer.state.get(p, {}).get("step", 0)) for p in params_of(optimizer)]


@each_torch_case
def test_c11_every_parameter_counts_its_own_steps(case: Case) -> None:
    """Gradients come and go at random over 50 steps; float64 against the for-loop."""
    count = 0
    for options in case.settings:
        for seed in range(5):
            ours = case.ours(make_params(SHAPES, torch.float64), **options)
            theirs = case.theirs(make_params(SHAPES, torch.float64), foreach=False, **options)
            chance = random.Random(seed)
            taken = [0] * len(SHAPES)
            for number in range(50):
                absent = [chance.random() < 0.2 * seed for _ in SHAPES]
                for optimizer in (ours, theirs):
                    set_grads(params_of(optimizer), number)
                    for param, none in zip(params_of(optimizer), absent, strict=True):
                        param.grad = None if none else param.grad
                    optimizer.step()
                taken = [n + (not none) for n, none in zip(taken, absent, strict=True)]
                assert counts(ours) == counts(theirs)
            if "step" in theirs.state[params_of(theirs)[0]]:
                assert counts(ours) == taken
            for a, b in zip(params_of(ours), params_of(theirs), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
            count += 1
    assert count >= 15


def counted_to(optimizer: Any, steps: float, dtype: torch.dtype) -> None:
    """Makes the optimizer's parameters look as if they had taken so many steps."""
    take_steps(optimizer, 1)
    for state in optimizer.state.values():
        state["step"] = torch.tensor(steps, dtype=dtype)


@each_that_counts
def test_c11_a_float32_step_stays_at_2_to_the_24_as_in_torch(case: Case) -> None:
    """And the step itself stays right there; wider counts go on."""
    count = 0
    for options in case.settings:
        for start in (LAST_FLOAT32 - 2, LAST_FLOAT32 - 1, LAST_FLOAT32, LAST_FLOAT32 + 2):
            for dtype in (torch.float32, torch.float64, torch.int64):
                optimizer = case.ours(make_params(SHAPES), **options)
                counted_to(optimizer, start, dtype)
                want = torch.tensor(start, dtype=dtype)
                for _ in range(3):
                    set_grads(params_of(optimizer), 3)
                    about = f"{options} {start} {dtype}"
                    assert_steps_right(case, optimizer, about, slack=2)  # t may be one off
                    want += 1
                for state in optimizer.state.values():
                    assert state["step"].dtype == dtype and torch.equal(state["step"], want)
                count += 1
    assert count >= 36


# ---- the bias correction

COUNTS = (1, 2, 3, 5, 10, 100, 1000, 10**4, 10**5, 10**6, LAST_FLOAT32 - 1, LAST_FLOAT32,
          LAST_FLOAT32 + 1, 10**8, 10**9)  # fmt: skip
BETAS = ((0.9, 0.999), (0.0, 0.999), (0.9, 0.0), (0.5, 0.9999999), (0.999999, 0.9), (0.0, 0.0))
STARTS = ([0.5, -2.0, 1e-3], [0.25, 9.0, 1e-4], [0.7, 3.0, 1e-5], [0.0, 0.0, 0.0])


@each_with_corrected_means
def test_c11_the_bias_correction_is_exact_at_any_count(case: Case) -> None:
    """With a gradient of zero the states alone decide; held against 64 bits of precision."""
    count = 0
    for t, (beta1, beta2) in itertools.product(COUNTS, BETAS):
        for dtype in (torch.float64, torch.float32):
            betas = betas_for(case, beta1, beta2)
            options = {"lr": 1.0, "betas": betas, "eps": 0.01, "weight_decay": 0}
            param = torch.zeros(3, dtype=dtype, requires_grad=True)
            param.grad = torch.zeros_like(param)
            optimizer = case.ours([param], **options)
            state = optimizer._new_state(param, optimizer.param_groups[0])
            state["step"] = torch.tensor(t - 1, dtype=torch.float64)
            for k, name in enumerate(state_names(case, optimizer.param_groups[0])):
                state[name].copy_(torch.tensor(STARTS[k]))
            optimizer.state[param] = state
            before = {k: x.double().expand(3).numpy().copy() for k, x in state.items()}
            optimizer.step()
            zeros = np.zeros(3, np.longdouble)
            want = case.reference(zeros, zeros, before, np.longdouble(t), options)
            limit = rounded.bound(want.scale["param"], want.param, str(dtype)[6:])
            limit += 2.0**-52 / (1 - max(betas)) * abs(want.param)  # of rounding a power of beta
            error = abs(param.detach().numpy() - want.param)
            assert (error <= limit).all(), f"{t} {betas} {dtype}: {max(error / limit)}"
            assert float(state["step"]) == t
            count += 1
    assert count >= 60


# ---- the default dtype


def after_a_thousand_steps(case: Case, dtype: torch.dtype) -> Any:
    optimizer = case.ours(make_params(((3,),), dtype))
    set_grads(params_of(optimizer), 1)
    for _ in range(1000):
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("default", REAL, ids=str)
@each_that_counts
def test_c11_a_thousand_steps_count_a_thousand_under_any_default_dtype(
    case: Case, default: torch.dtype
) -> None:
    torch.set_default_dtype(default)
    wide = torch.float64 if default == torch.float64 else torch.float32
    for dtype in REAL:
        (state,) = after_a_thousand_steps(case, dtype).state.values()
        assert float(state["step"]) == 1000.0
        assert state["step"].dtype == wide


@pytest.mark.parametrize(
    ("case", "default"),
    [
        pytest.param(case, default, id=f"{case}-{default}")
        for case in CASES
        for default in REAL[1:]
        # A state's own numbers are of the default dtype where it is wide, as torch's.
        if default != torch.float64 or not RULES[case.ours.rule].numbers
    ],
)
def test_c11_the_default_dtype_changes_no_result(case: Case, default: torch.dtype) -> None:
    ends = []
    for each in (torch.float32, default):
        torch.set_default_dtype(each)
        ends.append([raw(params_of(after_a_thousand_steps(case, dtype))[0]) for dtype in REAL])
    assert ends[0] == ends[1]


@each_torch_fused_case
@pytest.mark.parametrize("default", REAL, ids=str)
def test_state_dtypes_are_torchs_under_any_default_dtype(case: Case, default: torch.dtype) -> None:
    torch.set_default_dtype(default)
    for options in case.settings:
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex64):
            for fused in (None, True):
                if fused and dtype.is_complex:  # torch's fused step takes no complex parameters
                    continue
                ours = case.ours([one(dtype)], fused=fused, **options)
                theirs = case.theirs([one(dtype)], fused=fused, foreach=None, **options)
                assert kinds_after_a_step(ours) == kinds_after_a_step(theirs), f"{dtype} {options}"


def one(dtype: torch.dtype) -> Tensor:
    return randn((4, 2), dtype, 1).requires_grad_()


def kinds_after_a_step(optimizer: Any) -> list[Any]:
    take_steps(optimizer, 1)
    return [
        (name, value.dtype, value.shape, value.stride(), value.device)
        for state in optimizer.state.values()
        for name, value in state.items()
    ]


@each_case
def test_a_step_without_gradients_does_nothing(case: Case) -> None:
    for options in (*case.settings, *case.extras):
        optimizer = case.ours(make_params(SHAPES), **options)
        before = [raw(param) for param in params_of(optimizer)]
        versions = [param._version for param in params_of(optimizer)]
        state = {p: dict(s) for p, s in optimizer.state.items()}
        assert optimizer.step() is None
        assert [raw(param) for param in params_of(optimizer)] == before
        assert [param._version for param in params_of(optimizer)] == versions
        assert {p: dict(s) for p, s in optimizer.state.items()} == state, options

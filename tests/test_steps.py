"""Step counts: each parameter its own, and the bias correction right at any of them."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from tests.cases import CASES, Case
from tests.support import (
    REAL,
    assert_steps_like_double,
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
BETA_CASES = tuple(case for case in CASES if "betas" in inspect.signature(case.ours).parameters)
each_with_betas = pytest.mark.parametrize("case", BETA_CASES, ids=str)


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
    assert count >= 30


def counted_to(optimizer: Any, steps: float, dtype: torch.dtype) -> None:
    """Makes the optimizer's parameters look as if they had taken so many steps."""
    take_steps(optimizer, 1)
    for state in optimizer.state.values():
        state["step"] = torch.tensor(steps, dtype=dtype)


@each_with_betas
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
                    assert_steps_like_double(case, optimizer, f"{options} {start} {dtype}")
                    want += 1
                for state in optimizer.state.values():
                    assert state["step"].dtype == dtype and torch.equal(state["step"], want)
                count += 1
    assert count >= 60


# ---- the bias correction against exact arithmetic

COUNTS = (1, 2, 3, 5, 10, 100, 1000, 10**4, 10**5, 10**6, LAST_FLOAT32 - 1, LAST_FLOAT32,
          LAST_FLOAT32 + 1, 10**8, 10**9)  # fmt: skip
BETAS = ((0.9, 0.999), (0.0, 0.999), (0.9, 0.0), (0.5, 0.9999999), (0.999999, 0.9), (0.0, 0.0))


def exact_adam(m: float, v: float, betas: tuple[float, float], t: int) -> Any:
    """Returns mhat / (sqrt(vhat) + 0.01) of algorithm 1 from the moments, in 60 digits."""
    beta1, beta2 = map(mpmath.mpf, betas)
    mhat = mpmath.mpf(m) / (1 - beta1**t)
    vhat = mpmath.mpf(v) / (1 - beta2**t)
    return mhat / (mpmath.sqrt(vhat) + mpmath.mpf(0.01))


# By class: an algorithm with betas that is missing here makes the test below fail.
EXACT: dict[str, Callable[..., Any]] = {"Adam": exact_adam, "AdamW": exact_adam}


@each_with_betas
def test_c11_the_bias_correction_is_exact_at_any_count(case: Case) -> None:
    """With a gradient of zero the moments alone decide; the parameter moves by lr times exact."""
    exact = EXACT[str(case)]
    count = 0
    for t, betas in itertools.product(COUNTS, BETAS):
        # A power of beta is rounded at least once, and counts for so much next to 1.
        rounding = 2.0**-52 / (1 - max(betas))
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 6e-7)):
            param = torch.zeros(3, dtype=dtype, requires_grad=True)
            optimizer = case.ours([param], lr=1.0, betas=betas, eps=0.01, weight_decay=0)
            param.grad = torch.zeros_like(param)
            state = optimizer._new_state(param, optimizer.param_groups[0])
            state["step"] = torch.tensor(t - 1, dtype=torch.float64)
            state["exp_avg"].copy_(torch.tensor([0.5, -2.0, 1e-3]))
            state["exp_avg_sq"].copy_(torch.tensor([0.25, 9.0, 1e-4]))
            optimizer.state[param] = state
            optimizer.step()
            moments = zip(state["exp_avg"].tolist(), state["exp_avg_sq"].tolist(), strict=True)
            with mpmath.workdps(60):
                want = [-float(exact(m, v, betas, t)) for m, v in moments]
            torch.testing.assert_close(
                param.detach(), torch.tensor(want, dtype=dtype), rtol=tolerance + rounding, atol=0
            )
            assert float(state["step"]) == t
            count += 1
    assert count >= 60


# ---- the default dtype


@each_case
@pytest.mark.parametrize("default", REAL, ids=str)
def test_c11_a_thousand_steps_count_a_thousand_under_any_default_dtype(
    case: Case, default: torch.dtype
) -> None:
    torch.set_default_dtype(default)
    ends = []
    for dtype in REAL:
        optimizer = case.ours(make_params(((3,),), dtype))
        set_grads(params_of(optimizer), 1)
        for _ in range(1000):
            optimizer.step()
        for state in optimizer.state.values():
            if "step" in state:
                assert float(state["step"]) == 1000.0
                wide = default == torch.float64
                assert state["step"].dtype == (torch.float64 if wide else torch.float32)
        ends.append([raw(param) for param in params_of(optimizer)])
    torch.set_default_dtype(torch.float32)
    assert ends == [end_under_float32(case, dtype) for dtype in REAL]


def end_under_float32(case: Case, dtype: torch.dtype) -> list[bytes]:
    optimizer = case.ours(make_params(((3,),), dtype))
    set_grads(params_of(optimizer), 1)
    for _ in range(1000):
        optimizer.step()
    return [raw(param) for param in params_of(optimizer)]


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

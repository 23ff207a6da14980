"""States of 8 bits do not depend on threads, instruction sets, layouts or a resume."""

from __future__ import annotations

import pytest
import torch

import onepass
from tests.cases import Case
from tests.coded import (
    CODED,
    each_coded_case,
    each_elementwise_case,
    model,
)
from tests.layouts import WRITABLE, place
from tests.reproducible import assert_resumed_goes_on, assert_same_for_threads_and_instruction_sets
from tests.support import (
    assert_same,
    make_params,
    params_of,
    randn,
    set_grads,
    snapshot,
    take_steps,
)

# ---- from what it follows


@each_coded_case
def test_threads_and_instruction_sets_do_not_show(case: Case) -> None:
    assert_same_for_threads_and_instruction_sets(lambda: model(case))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16, torch.float64))
def test_layouts_do_not_show(dtype: torch.dtype) -> None:
    values = randn((6, 5, 4, 13), dtype, 1)
    seen = set()
    for layout in WRITABLE.values():
        param = place(values, layout).view.requires_grad_()
        optimizer = onepass.AdamW([param], lr=0.1, state_dtype=torch.int8)
        for step in range(2):
            param.grad = values * (2 + step)
            optimizer.step()
        own = optimizer.state[param]
        numbers = (param.detach().double(), own["exp_avg"], own["exp_avg_sq"])
        seen.add(b"".join(one.contiguous().numpy().tobytes() for one in numbers))
    assert len(seen) == 1


@each_elementwise_case
def test_the_first_rows_are_stepped_as_in_the_whole(case: Case) -> None:
    """The blocks of a part are those of the whole.

    Element numbers start at 0 in each part, so that only the first part rounds alike.
    """
    whole = randn((10, 100), torch.float32, 1).requires_grad_()
    part = whole.detach()[:4].clone().requires_grad_()
    optimizers = [case.ours([param], state_dtype=torch.int8) for param in (whole, part)]
    grad = randn((10, 100), torch.float32, 2)
    whole.grad, part.grad = grad, grad[:4].clone()
    for optimizer in optimizers:
        optimizer.step()
    for key, value in optimizers[1].state[part].items():
        if value.dim():
            assert torch.equal(value, optimizers[0].state[whole][key][:4]), key


@each_coded_case
def test_a_resumed_run_goes_on_with_the_same_bits(case: Case) -> None:
    assert_resumed_goes_on(lambda: model(case))


@each_coded_case
def test_step_one_is_a_step(case: Case) -> None:
    together, one_by_one = model(case), model(case)
    for step in range(2):
        for optimizer in (together, one_by_one):
            set_grads(params_of(optimizer), step)
        together.step()
        for param in reversed(params_of(one_by_one)):
            one_by_one.step_one(param)
    assert_same(snapshot(one_by_one), snapshot(together))


def test_sparse_rows_are_stepped_as_dense_ones() -> None:
    """Without decay and momentum the rows without a gradient stay; so do their codes."""
    dense, sparse = (randn((20, 100), torch.float32, 1).requires_grad_() for _ in range(2))
    optimizers = [
        onepass.Adagrad([param], lr=0.1, state_dtype=torch.int8) for param in (dense, sparse)
    ]
    rows = torch.tensor([3, 17, 4])
    values = randn((3, 100), torch.float32, 2)
    sparse.grad = torch.sparse_coo_tensor(rows[None], values, (20, 100))
    dense.grad = sparse.grad.to_dense()
    for optimizer in optimizers:
        optimizer.step()
    assert torch.equal(dense[rows], sparse[rows])
    for key in ("sum", "sum_exponent"):
        a, b = (o.state[p][key] for o, p in zip(optimizers, (dense, sparse), strict=True))
        assert torch.equal(a[rows], b[rows]), key


@pytest.mark.parametrize("scale", (1024.0, 3.0))
def test_a_gradient_scaler_goes_with_it(scale: float) -> None:
    plain, scaled = model(CODED[-1]), model(CODED[-1], fused=True)
    for step in range(2):
        set_grads(params_of(scaled), step)
        for param, twin in zip(params_of(plain), params_of(scaled), strict=True):
            assert twin.grad is not None
            twin.grad *= scale
            param.grad = twin.grad / scale
        scaled.grad_scale = torch.tensor(scale)
        scaled.found_inf = torch.tensor(0.0)
        plain.step()
        scaled.step()
    for param, twin in zip(params_of(plain), params_of(scaled), strict=True):
        assert torch.equal(param, twin)
        assert torch.equal(param.grad, twin.grad)


@each_coded_case
def test_clipping_and_skipping_go_with_it(case: Case) -> None:
    """The first step is that of floats, whose states are 0 too."""
    shapes = ((5, 100), (7,))
    coded, floats = (
        case.ours(
            make_params(shapes), lr=0.1, max_grad_norm=0.5, skip_nonfinite=True, state_dtype=d
        )
        for d in (torch.int8, torch.float32)
    )
    for optimizer in (coded, floats):
        take_steps(optimizer, 1)
    assert torch.equal(coded.grad_norm, floats.grad_norm)
    for a, b in zip(params_of(coded), params_of(floats), strict=True):
        assert torch.equal(a, b)
    before = snapshot(coded)
    kept = params_of(coded)[0].grad
    params_of(coded)[0].grad = torch.full_like(params_of(coded)[0], torch.nan)
    coded.step()
    params_of(coded)[0].grad = kept
    assert_same(snapshot(coded), before)


def test_bfloat16_weights_round_beside_it() -> None:
    """Weight and states have different bits of one hash."""
    (param,) = params = make_params([(6, 100)], torch.bfloat16)
    (twin,) = twins = make_params([(6, 100)], torch.bfloat16)
    both = onepass.AdamW(params, state_dtype=torch.int8, stochastic_rounding=True)
    codes_alone = onepass.AdamW(twins, state_dtype=torch.int8)
    for one in (params, twins):
        set_grads(one, 1)
    both.step()
    codes_alone.step()
    for key, value in both.state[param].items():
        assert torch.equal(value, codes_alone.state[twin][key])
    assert not torch.equal(param, twin)

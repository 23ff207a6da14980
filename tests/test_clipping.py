"""Clipping in the step: the norm of all gradients, and steps as with the clipped ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import onepass
from tests.bad_inputs import Mode
from tests.cases import Case
from tests.layouts import WRITABLE, place
from tests.support import (
    assert_same,
    each_case,
    each_case_with_fused,
    each_kind,
    instruction_sets,
    make_params,
    numbers,
    params_of,
    set_grads,
    snapshot,
    take_steps,
)
from tests.unchanged import refused

SHAPES = ((5, 7), (), (33,), (0,), (2, 3, 4), (40, 60))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64)
NORM = 0.25  # less than any norm that the gradients below have


def norm_of(grads: Sequence[Tensor]) -> float:
    """Returns the 2-norm over all elements, in float64 by numpy."""
    parts = [torch.view_as_real(g.resolve_conj()) if g.is_complex() else g for g in grads]
    return math.sqrt(sum(float(np.square(part.double().numpy()).sum()) for part in parts))


def gradients(optimizer: Any) -> list[Tensor]:
    return [param.grad for param in params_of(optimizer)]


def coefficient(norm: float, max_norm: float) -> Tensor:
    """Returns what gradients are multiplied by (torch.nn.utils.clip_grad_norm_), as float32."""
    return torch.tensor(min(1.0, max_norm / (norm + 1e-6)), dtype=torch.float32)


def halves(options: dict[str, Any], dtype: torch.dtype) -> list[dict[str, Any]]:
    params = make_params(SHAPES, dtype)
    return [{"params": params[:2], **options}, {"params": params[2:]}]


@each_case
def test_a_clipped_step_is_a_plain_one_with_multiplied_gradients(case: Case) -> None:
    """Bit for bit in float32, whatever is optional in the rule; ``.grad`` stays as it is."""
    for options in (*case.settings, *case.extras):
        clipped = case.ours(make_params(SHAPES), **options, max_grad_norm=NORM)
        plain = case.ours(make_params(SHAPES), **options)
        for step in range(3):
            for optimizer in (clipped, plain):
                set_grads(params_of(optimizer), step)
            kept = [grad.clone() for grad in gradients(clipped)]
            norm = norm_of(kept)
            for grad in gradients(plain):
                grad.mul_(coefficient(norm, NORM))
            clipped.step()
            plain.step()
            assert_same(numbers(clipped), numbers(plain), options)
            assert all(map(torch.equal, gradients(clipped), kept))
            assert clipped.grad_norm.dtype == torch.float32
            assert float(clipped.grad_norm) == pytest.approx(norm, rel=2**-23)


@each_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_norm_is_that_of_the_papers_sum_in_every_dtype(case: Case, dtype: torch.dtype) -> None:
    optimizer = case.ours(make_params(SHAPES, dtype), max_grad_norm=NORM)
    set_grads(params_of(optimizer), 1)
    want = norm_of(gradients(optimizer))
    optimizer.step()
    assert float(optimizer.grad_norm) == pytest.approx(want, rel=2**-23)
    assert optimizer.grad_norm.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert optimizer.grad_norm.shape == ()


@each_case
def test_below_the_norm_nothing_is_clipped(case: Case) -> None:
    clipped = case.ours(make_params(SHAPES), max_grad_norm=1e6)
    plain = case.ours(make_params(SHAPES))
    for optimizer in (clipped, plain):
        take_steps(optimizer, 3)
    assert_same(numbers(clipped), numbers(plain))


@each_kind
def test_the_norm_is_over_all_groups_and_clips_those_that_ask(case: Case) -> None:
    """Each by its own bound; a group without one is left as it is."""
    some = case.ours(halves({"max_grad_norm": NORM}, torch.float32))
    plain = case.ours(halves({}, torch.float32))
    for optimizer in (some, plain):
        set_grads(params_of(optimizer), 1)
    norm = norm_of(gradients(some))
    for grad in gradients(plain)[:2]:
        grad.mul_(coefficient(norm, NORM))
    some.step()
    plain.step()
    assert_same(numbers(some), numbers(plain))
    assert float(some.grad_norm) == pytest.approx(norm, rel=2**-23)


@each_kind
def test_the_bound_may_change_between_steps(case: Case) -> None:
    changing, fixed = (case.ours(make_params(SHAPES)) for _ in range(2))
    for bound in (None, NORM, 1, NORM / 2, None):
        changing.param_groups[0]["max_grad_norm"] = bound
        fixed.param_groups[0].pop("max_grad_norm", None)
        for optimizer in (changing, fixed):
            set_grads(params_of(optimizer), 1)
        if bound is not None:
            scale = coefficient(norm_of(gradients(fixed)), bound)
            for grad in gradients(fixed):
                grad.mul_(scale)
        changing.step()
        fixed.step()
        assert_same(numbers(changing), numbers(fixed), bound)
        assert (changing.grad_norm is None) == (bound is None)


# ---- the same bits


def big_steps(case: Case, grads: Sequence[Tensor], shuffle: int) -> tuple[Tensor, list[Tensor]]:
    """Returns the norm and the parameters after a step over them in another order."""
    params = [torch.zeros_like(grad).requires_grad_() for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    order = (
        np.random.default_rng(shuffle).permutation(len(params)) if shuffle else range(len(params))
    )
    optimizer = case.ours([params[k] for k in order], max_grad_norm=NORM)
    optimizer.step()
    return optimizer.grad_norm, [param.detach() for param in params]


@each_kind
def test_threads_order_and_instruction_sets_do_not_show(case: Case) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = (70001, 3, 50000, 1, 129, 4096, 64)
    grads = [torch.randn(size, generator=generator) * 10.0**k for k, size in enumerate(sizes)]
    want = big_steps(case, grads, 0)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            for name in instruction_sets():
                onepass._C.set_instruction_set(name)
                for shuffle in range(3):
                    norm, params = big_steps(case, grads, shuffle)
                    assert torch.equal(norm, want[0])
                    assert all(map(torch.equal, params, want[1])), (count, name, shuffle)
    finally:
        torch.set_num_threads(threads)
        onepass._C.set_instruction_set(instruction_sets()[-1])


@each_kind
def test_layouts_do_not_show(case: Case) -> None:
    values = torch.randn(6, 5, 4, 3, generator=torch.Generator().manual_seed(1))
    seen = set()
    for of_param in WRITABLE.values():
        for of_grad in WRITABLE.values():
            param = place(values, of_param).view.requires_grad_()
            param.grad = place(values * 100, of_grad).view
            optimizer = case.ours([param], max_grad_norm=NORM)
            optimizer.step()
            seen.add((float(optimizer.grad_norm), param.detach().contiguous().numpy().tobytes()))
    assert len(seen) == 1


# ---- with a gradient scaler


@each_case_with_fused
@pytest.mark.parametrize("scale", (1024.0, 3.7))
def test_a_scaled_gradient_is_unscaled_before_its_norm_is_taken(case: Case, scale: float) -> None:
    """And written back unscaled and unclipped, as torch's fused step promises GradScaler."""
    divisor = torch.tensor(scale)
    for dtype in (torch.float32, torch.bfloat16):
        scaled = case.ours(make_params(SHAPES, dtype), fused=True, max_grad_norm=NORM)
        plain = case.ours(make_params(SHAPES, torch.float32), state_dtype=dtype)
        for a, b in zip(params_of(scaled), params_of(plain), strict=True):
            b.data = a.detach().float()
        set_grads(params_of(scaled), 1)
        unscaled = [grad.float() / divisor for grad in gradients(scaled)]
        norm = norm_of(unscaled)
        for param, grad in zip(params_of(plain), unscaled, strict=True):
            param.grad = grad * coefficient(norm, NORM)
        scaled.grad_scale = divisor
        scaled.step()
        plain.step()
        assert float(scaled.grad_norm) == pytest.approx(norm, rel=2**-22)
        for a, b, grad in zip(params_of(scaled), params_of(plain), unscaled, strict=True):
            assert torch.equal(a.grad, grad.to(dtype))
            assert torch.equal(a, b.to(dtype))


# ---- norms that are no numbers


@each_case
@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_a_step_is_skipped_where_the_norm_is_not_finite(case: Case, bad: float) -> None:
    """The first step and a later one; nothing changes, no state is made, and training goes on."""
    for options in ({"skip_nonfinite": True}, {"skip_nonfinite": True, "max_grad_norm": NORM}):
        skipping, plain = (case.ours(make_params(SHAPES), **options) for _ in range(2))
        for step in range(2):
            set_grads(params_of(skipping), 7)
            params_of(skipping)[4].grad[1, 1, 1] = bad
            before = snapshot(skipping)
            skipping.step()
            assert_same(snapshot(skipping), before, f"{options}, step {step}")
            assert not math.isfinite(float(skipping.grad_norm))
            for optimizer in (skipping, plain):
                take_steps(optimizer, 1, first=step)
            assert_same(numbers(skipping), numbers(plain), options)


@each_case
def test_one_group_that_skips_keeps_all_from_stepping(case: Case) -> None:
    optimizer = case.ours(halves({"skip_nonfinite": True}, torch.float32))
    set_grads(params_of(optimizer), 1)
    params_of(optimizer)[5].grad[3, 3] = math.inf
    before = snapshot(optimizer)
    optimizer.step()
    assert_same(snapshot(optimizer), before)


@each_kind
def test_without_skipping_not_a_number_spreads_as_in_torch(case: Case) -> None:
    for bad in (math.nan, math.inf):
        clipped = case.ours(make_params(SHAPES), max_grad_norm=NORM)
        plain = case.ours(make_params(SHAPES))
        for optimizer in (clipped, plain):
            set_grads(params_of(optimizer), 1)
            params_of(optimizer)[4].grad[1, 1, 1] = bad
        torch.nn.utils.clip_grad_norm_(params_of(plain), NORM)
        clipped.step()
        plain.step()
        for a, b in zip(params_of(clipped), params_of(plain), strict=True):
            assert torch.equal(a.isnan(), b.isnan())
            assert torch.equal(a.nan_to_num(), b.nan_to_num())


# ---- where torch's dispatcher is needed, sparse gradients


# Torch's own warning, where it loads its compiler.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@each_kind
def test_a_compiled_step_clips_and_skips(case: Case) -> None:
    params = make_params(SHAPES)
    compiled = case.ours(params, max_grad_norm=NORM, skip_nonfinite=True)
    eager = case.ours(make_params(SHAPES), max_grad_norm=NORM, skip_nonfinite=True)
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(compiled.step, backend=counter)
    for number in range(3):
        for optimizer in (compiled, eager):
            set_grads(params_of(optimizer), number)
            if number == 1:
                params_of(optimizer)[0].grad[0, 0] = math.nan
        step()
        eager.step()
        assert counter.frame_count == 1
        torch.testing.assert_close(compiled.grad_norm, eager.grad_norm, equal_nan=True)
        for a, b in zip(params_of(compiled), params_of(eager), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@each_kind
def test_ways_to_step_may_take_turns(case: Case) -> None:
    """A skipped step by any way leaves no state for the next, and none tells an older norm."""
    bad = {"lr": 0.125, "skip_nonfinite": True}
    want = case.ours(make_params(SHAPES), **bad)
    for seed in (1, 2):
        set_grads(params_of(want), seed)
        want.step()
    for first in (plainly, under_a_mode):
        for second in (plainly, under_a_mode):
            optimizer = case.ours(make_params(SHAPES), **bad)
            set_grads(params_of(optimizer), 0)
            params_of(optimizer)[0].grad[0, 0] = math.nan
            first(optimizer)
            assert math.isnan(float(optimizer.grad_norm)) and not optimizer.state
            for way, seed in ((second, 1), (first, 2)):
                set_grads(params_of(optimizer), seed)
                way(optimizer)
                norm = norm_of(gradients(optimizer))
                assert float(optimizer.grad_norm) == pytest.approx(norm, rel=2**-22)
            for a, b in zip(params_of(optimizer), params_of(want), strict=True):
                torch.testing.assert_close(a, b)


def plainly(optimizer: Any) -> None:
    optimizer.step()


def under_a_mode(optimizer: Any) -> None:
    with Mode():
        optimizer.step()


def test_a_norm_is_never_that_of_another_step() -> None:
    optimizer = onepass.SGD(make_params(((3,),)), lr=0.1, max_grad_norm=NORM)
    for way in (plainly, under_a_mode):
        optimizer.param_groups[0]["max_grad_norm"] = NORM
        set_grads(params_of(optimizer), 1)
        way(optimizer)
        norm = optimizer.grad_norm
        assert norm is not None
        optimizer.param_groups[0]["lr"] = -1.0
        with pytest.raises(ValueError):
            way(optimizer)
        assert torch.equal(optimizer.grad_norm, norm), "a step that is refused leaves it"
        optimizer.param_groups[0].update(lr=0.1, max_grad_norm=None)
        other = under_a_mode if way is plainly else plainly
        other(optimizer)
        assert optimizer.grad_norm is None
    optimizer.param_groups[0]["max_grad_norm"] = NORM
    optimizer.step()
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert optimizer.grad_norm is None


def test_a_norm_beyond_its_dtype_is_infinite_and_skipped() -> None:
    param = torch.zeros(2, requires_grad=True)
    optimizer = onepass.SGD([param], lr=1.0, skip_nonfinite=True)
    param.grad = torch.full((2,), 3e38)
    optimizer.step()
    assert float(optimizer.grad_norm) == math.inf
    assert torch.equal(param.detach(), torch.zeros(2))


def test_a_step_of_fake_tensors_passes() -> None:
    with FakeTensorMode():
        param = torch.zeros(3, requires_grad=True)
        param.grad = torch.ones(3)
        onepass.AdamW([param], max_grad_norm=NORM).step()


def test_a_sparse_gradient_counts_with_its_values() -> None:
    """Rows that come twice are added up first."""
    rows = torch.tensor([[1, 3, 1]])
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    sparse, dense = (torch.zeros(6, 4, requires_grad=True) for _ in range(2))
    sparse.grad = torch.sparse_coo_tensor(rows, values, (6, 4))
    dense.grad = sparse.grad.to_dense()
    steps = [onepass.SGD([param], lr=1.0, max_grad_norm=NORM) for param in (sparse, dense)]
    for optimizer in steps:
        optimizer.step()
    assert torch.equal(steps[0].grad_norm, steps[1].grad_norm)
    assert torch.equal(sparse, dense)


# ---- bad input


@each_case
@pytest.mark.parametrize("bad", (0, 0.0, -1.0, math.nan, math.inf))
def test_a_bound_that_is_none_is_refused(case: Case, bad: float) -> None:
    with pytest.raises(ValueError, match="Invalid max_grad_norm value"):
        case.ours(make_params(SHAPES), max_grad_norm=bad)
    optimizer = case.ours(make_params(SHAPES))
    take_steps(optimizer, 1)
    with pytest.raises(ValueError, match="Invalid max_grad_norm value"):
        optimizer.add_param_group({"params": make_params(((3,),)), "max_grad_norm": bad})
    optimizer.param_groups[0]["max_grad_norm"] = bad
    for way in (plainly, under_a_mode):
        with refused(optimizer, bad, errors=(ValueError,)):
            way(optimizer)


@each_case
def test_wrong_types_are_refused_by_name(case: Case) -> None:
    wrong: tuple[tuple[str, Any, type[Exception]], ...] = (
        ("max_grad_norm", "1", TypeError),
        ("max_grad_norm", torch.ones(2), ValueError),
        ("skip_nonfinite", "yes", ValueError),
    )
    for name, value, error in wrong:
        with pytest.raises(error, match=name):
            case.ours(make_params(SHAPES), **{name: value})


@each_case
@pytest.mark.parametrize("options", ({"max_grad_norm": NORM}, {"skip_nonfinite": True}))
def test_one_parameter_by_itself_is_refused(case: Case, options: dict[str, Any]) -> None:
    optimizer = case.ours(make_params(SHAPES), **options)
    set_grads(params_of(optimizer), 1)
    with refused(optimizer, options, errors=(RuntimeError,)):
        optimizer.step_one(params_of(optimizer)[0])

"""What the papers claim about Adam, AMSGrad and AdamW holds, with numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

import onepass
from onepass import _C
from tests.cases import CASES, Case
from tests.layouts import same_bits
from tests.support import each_case

each_adam = pytest.mark.parametrize("adam", [onepass.Adam, onepass.AdamW])
BETAS = ((0.9, 0.999), (0.0, 0.0), (0.5, 0.5), (0.99, 0.9), (0.999, 0.99999))


@pytest.fixture(autouse=True)
def one_thread(isolated: None) -> None:
    """Waking a second thread for tensors this small takes far longer than the work."""
    torch.set_num_threads(1)


def walk(adam: Any, grads: Tensor, start: float = 0.0, **options: Any) -> Tensor:
    """Returns where a parameter is before the first and after every step along these gradients."""
    param = torch.full_like(grads[0], start).requires_grad_()
    optimizer = adam([param], **{"weight_decay": 0.0, **options})
    path = [param.detach().clone()]
    for grad in grads:
        param.grad = grad
        optimizer.step()
        path.append(param.detach().clone())
    return torch.stack(path)


def close(a: Any, b: Any, relative: float) -> None:
    torch.testing.assert_close(a, b, rtol=relative, atol=0.0)


def gradients(steps: int, size: int) -> Tensor:
    return torch.randn(steps, size, dtype=torch.float64)


# ---- the step


@each_adam
def test_a_thousand_times_the_gradient_is_the_same_path(adam):
    grads = gradients(100, 20)
    for betas in BETAS:
        once = walk(adam, grads, eps=0.0, betas=betas)
        scaled = walk(adam, 1000 * grads, eps=0.0, betas=betas)
        torch.testing.assert_close(scaled, once, rtol=1e-6, atol=1e-12)


@each_adam
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_without_memory_the_update_is_exactly_the_gradient_over_its_size_and_eps(adam, dtype):
    grads = gradients(1, 1000).to(dtype)
    for lr, eps in itertools.product([1e-3, 0.1, 1.0], [1e-8, 1e-2, 1.0]):
        moved = walk(adam, grads, lr=lr, eps=eps, betas=(0.0, 0.0))[1]
        assert same_bits(moved, -(lr * grads[0] / (abs(grads[0]) + eps)))
    sign = walk(adam, grads, lr=1.0, betas=(0.0, 0.0))[1]
    large = abs(grads[0]) > 0.1
    close(sign[large], -grads[0].sign()[large], 1e-6)


@each_adam
def test_the_first_step_is_the_same_whatever_the_betas(adam):
    grads = gradients(1, 1000)
    for betas, eps in itertools.product(BETAS, [1e-8, 1e-2, 1.0]):
        moved = walk(adam, grads, lr=0.1, eps=eps, betas=betas)[1]
        close(abs(moved), 0.1 * abs(grads[0]) / (abs(grads[0]) + eps), 1e-12)


@each_adam
def test_without_bias_correction_the_first_step_would_be_three_times_as_long(adam):
    param = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    param.grad = torch.ones_like(param)
    optimizer = adam([param], eps=0.0)
    optimizer.step()
    state = optimizer.state[param]
    uncorrected = state["exp_avg"] / state["exp_avg_sq"].sqrt()
    close(uncorrected.item(), 0.1 / 0.001**0.5, 1e-12)
    close(uncorrected.item(), 3.16, 1e-3)


@each_adam
def test_eps_halves_the_step_of_a_gradient_of_its_size(adam):
    for eps in (1e-8, 1e-4, 1.0):
        grads = torch.tensor([[eps, eps / 1000, 1000 * eps]], dtype=torch.float64)
        moved = -walk(adam, grads, lr=0.1, eps=eps)[1]
        close(moved[0].item(), 0.05, 1e-12)
        close(moved[1].item(), 0.1 / 1000, 1e-3)
        close(moved[2].item(), 0.1, 1e-3)


def longest_step(beta1: float, beta2: float, t: int) -> float:
    """Returns the bound on |mhat| / sqrt(vhat) by Cauchy and Schwarz."""
    corrected = (1 - beta2**t) ** 0.5 / (1 - beta1**t) * (1 - beta1) / (1 - beta2) ** 0.5
    return corrected * sum((beta1**2 / beta2) ** j for j in range(t)) ** 0.5


@each_adam
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    beta1=st.floats(0.0, 0.99),
    beta2=st.floats(0.5, 0.9999),
    grads=st.lists(
        st.floats(-1e3, 1e3).map(lambda g: g if abs(g) > 1e-6 else 0.0), min_size=1, max_size=40
    ),
)
def test_no_gradients_make_a_longer_step_than_cauchy_and_schwarz_allow(adam, beta1, beta2, grads):
    sequence = torch.tensor(grads, dtype=torch.float64)[:, None]
    path = walk(adam, sequence, lr=1.0, eps=1e-100, betas=(beta1, beta2))
    for t, length in enumerate(abs(path.diff(dim=0)).flatten().tolist(), start=1):
        assert length <= longest_step(beta1, beta2, t) * (1 + 1e-9)


@each_adam
def test_the_longest_step_is_reached_and_a_spike_after_silence_makes_less(adam):
    silence, last = 9850, 150
    grads = torch.zeros(silence + last, 2, dtype=torch.float64)
    grads[silence:, 0] = (0.9 / 0.999) ** torch.arange(last - 1, -1, -1, dtype=torch.float64)
    grads[-1, 1] = 1.0
    longest, spike = (-walk(adam, grads, lr=1.0, eps=1e-100).diff(dim=0)[-1]).tolist()
    close(longest, longest_step(0.9, 0.999, silence + last), 1e-6)
    close(longest, 7.27, 1e-3)
    close(spike, 3.162, 1e-3)


@each_adam
def test_the_order_of_the_gradients_matters(adam):
    grads = gradients(20, 50)
    there, back = walk(adam, grads)[-1], walk(adam, grads.flip(0))[-1]
    assert (there != back).all()


# ---- canyon f = (x^2 + 100 y^2) / 2


def descend(adam: Any, start: Sequence[float], gradient: Callable[[Tensor], Tensor]) -> Tensor:
    param = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = adam([param], lr=0.05, eps=0.0, weight_decay=0.0)
    path = []
    for _ in range(200):
        param.grad = gradient(param.detach())
        optimizer.step()
        path.append(param.detach().clone())
    return torch.stack(path)


@each_adam
def test_a_rotated_canyon_is_another_path(adam):
    steep = torch.tensor([1.0, 100.0], dtype=torch.float64)
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / 2**0.5
    straight = descend(adam, [3.0, 1.0], lambda x: steep * x)
    rotated = descend(
        adam,
        (turn @ straight.new_tensor([3.0, 1.0])).tolist(),
        lambda x: turn @ (steep * (turn.T @ x)),
    )
    assert (rotated @ turn - straight).norm(dim=1).max() > 0.1


@each_adam
def test_a_rescaled_axis_with_its_own_rate_is_the_same_path(adam):
    scale = 37.0

    def run(c: float) -> Tensor:
        x = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
        y = torch.tensor(1.0 * c, dtype=torch.float64, requires_grad=True)
        groups = [{"params": [x]}, {"params": [y], "lr": 0.05 * c}]
        optimizer = adam(groups, lr=0.05, eps=0.0, weight_decay=0.0)
        path = []
        for _ in range(200):
            x.grad, y.grad = x.detach().clone(), 100 * y.detach() / c**2
            optimizer.step()
            path.append(torch.stack([x.detach(), y.detach() / c]))
        return torch.stack(path)

    torch.testing.assert_close(run(scale), run(1.0), rtol=1e-6, atol=1e-9)


# ---- weight decay


def test_decoupled_decay_is_a_factor_whatever_the_gradients():
    param = torch.randn(1000, requires_grad=True)
    zero = torch.zeros(1000, requires_grad=True)
    optimizer = onepass.AdamW([param, zero], lr=0.1, weight_decay=0.3)
    kept = torch.tensor(1 - 0.1 * 0.3, dtype=torch.float64).float()
    for scale in (1.0, 1e-6, 0.0, 1e6):
        before = param.detach().clone()
        zero.data.zero_()
        param.grad = zero.grad = scale * torch.randn(1000)
        optimizer.step()
        update = zero.detach()
        assert same_bits(param, before * kept + update)


def test_coupled_decay_is_weaker_where_gradients_are_large():
    sizes = torch.tensor([1.0, 100.0], dtype=torch.float64)
    grads = torch.stack([sizes if t % 2 else -sizes for t in range(400)])
    options = dict(start=1.0, lr=1e-6)
    plain = walk(onepass.Adam, grads, **options)[-1]
    lost = plain - walk(onepass.Adam, grads, weight_decay=1e-3, **options)[-1]
    close((lost[0] / lost[1]).item(), 100.0, 1e-2)
    decoupled = plain - walk(onepass.AdamW, grads, weight_decay=1e-3, **options)[-1]
    close(decoupled[0].item(), decoupled[1].item(), 1e-4)


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
    assert optimizer.param_groups[0]["initial_lr"] == 0.5
    optimizer.param_groups[0]["lr"] = 0.125
    param.grad = torch.zeros_like(param)
    optimizer.step()
    close(param.detach(), torch.full((3,), 1 - 0.1 / 4, dtype=torch.float64), 1e-15)


@each_case
def test_decouple_lr_follows_an_initial_lr_in_the_group_as_the_formula_says(case):
    options = {"lr": 0.02, "weight_decay": 0.3, "decouple_lr": True, "betas": (0.8, 0.9)}
    if case.ours is onepass.Adam:
        options["decoupled_weight_decay"] = True
    param, grads = torch.randn(50, dtype=torch.float64, requires_grad=True), gradients(5, 50)
    optimizer = case.ours([{"params": [param], "initial_lr": 0.05}], **options)
    expected, state = param.detach().numpy().copy(), {}
    for t, grad in enumerate(grads, start=1):
        step = case.reference(expected, grad.numpy(), state, t, {**options, "initial_lr": 0.05})
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
        moved = walk(adam, grads, lr=0.1, eps=0.0, eps_root=eps_root)[1]
        close(moved, -0.1 * grads[0] / (grads[0] ** 2 + eps_root).sqrt(), 1e-12)


@each_adam
def test_eps_root_keeps_coordinates_without_gradient_where_they_are(adam):
    grads = torch.zeros(50, 3)
    path = walk(adam, grads, start=1.0, eps=0.0, eps_root=1e-8)
    assert (path == 1.0).all()


# ---- storage


@each_adam
@pytest.mark.parametrize("g", [0.0, 6e-8, 1e-4, 1.0, 65504.0])
def test_float16_steps_are_those_of_float32_rounded_once(adam, g):
    param = torch.tensor([1.0, -0.3, 0.0, 1e-3], dtype=torch.float16, requires_grad=True)
    size = torch.tensor(g, dtype=torch.float16).double()
    optimizer = adam([param], weight_decay=0.0)
    for _ in range(100):
        wide = param.detach().float().requires_grad_()
        twin = adam([wide], weight_decay=0.0)
        twin.state[wide] = {k: s.clone() for k, s in optimizer.state.get(param, {}).items()}
        exact = param.detach().double() - 1e-3 * size / (size + 1e-8)
        param.grad = torch.full_like(param, g)
        wide.grad = param.grad.float()
        optimizer.step()
        twin.step()
        assert same_bits(param, wide.half())
        slack = 1e-6 * 1e-3 + 2**-24 * abs(param.detach().double())
        assert (abs(wide.detach().double() - exact) <= slack).all()
        assert all(s.isfinite().all() for s in optimizer.state[param].values())
    assert optimizer.state[param]["exp_avg_sq"].dtype == torch.float32


# ---- convergence


def test_amsgrad_goes_to_the_best_point_where_adam_goes_to_the_worst():
    """Reddi et al. 2018, theorem 1: gradient 4 at every third step, else -1; the average rises."""
    adam, amsgrad = (torch.zeros(1, requires_grad=True) for _ in range(2))
    groups = [{"params": [adam]}, {"params": [amsgrad], "amsgrad": True}]
    optimizer = onepass.Adam(groups, betas=(0.0, 1 / 17))
    large, small = torch.tensor([4.0]), torch.tensor([-1.0])
    for t in range(1, 30_001):
        adam.grad = amsgrad.grad = large if t % 3 == 1 else small
        for group in optimizer.param_groups:
            group["lr"] = 0.5 / t**0.5
        optimizer.step()
        adam.data.clamp_(-1, 1)
        amsgrad.data.clamp_(-1, 1)
    assert abs(adam.item() - 1) < 0.01
    assert abs(amsgrad.item() + 1) < 0.01


# ---- every option matters


def changed(options: dict[str, Any], key: str, index: int) -> Any:
    value = options[key]
    if isinstance(value, bool):
        return not value
    if index < 0:
        return 0.9 * value
    return tuple(0.9 * v if k == index else v for k, v in enumerate(value))


def result(case: Case, options: dict[str, Any]) -> Tensor:
    """Returns parameters after six steps in which the second moment falls and lr has halved."""
    torch.manual_seed(1)
    group_only = {key: options.pop(key) for key in ("initial_lr",) if key in options}
    param = torch.randn(50, dtype=torch.float64, requires_grad=True)
    optimizer = case.ours([{"params": [param], **group_only}], **options)
    optimizer.param_groups[0]["lr"] /= 2
    for t in range(6):
        param.grad = torch.randn(50, dtype=torch.float64) / 3.0**t
        optimizer.step()
    return param.detach()


@each_case
def test_every_hyper_parameter_changes_the_result(case):
    hypers = next(hypers for name, _, hypers in _C.rules() if name == case.ours.rule)
    base = {**case.settings[1], "eps_root": 1e-2, "decouple_lr": True, "initial_lr": 0.2}
    base |= {"amsgrad": False, "maximize": False}
    assert base["weight_decay"] != 0
    if case.ours is onepass.Adam:
        base["decoupled_weight_decay"] = True
    tested = [(key, index) for _, key, index, *_ in hypers]
    for key, index in [*tested, ("amsgrad", -1), ("maximize", -1)]:
        other = result(case, {**base, key: changed(base, key, index)})
        assert (other != result(case, dict(base))).all(), f"{key} makes no difference"


def test_coupled_decay_and_its_amount_change_the_result():
    base = {"lr": 0.1, "weight_decay": 0.3}
    results = [
        result(CASES[0], {**base, **change})
        for change in ({}, {"weight_decay": 0.2}, {"decoupled_weight_decay": True})
    ]
    assert all((a != b).all() for a, b in itertools.combinations(results, 2))

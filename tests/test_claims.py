"""What the papers and the textbooks claim about these algorithms holds: twenty claims, numbered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import onepass
from onepass.rules import RULES
from tests.cases import CASES, Case
from tests.layouts import same_bits
from tests.walks import close, descend, gradients, path, state_of

each_adam = pytest.mark.parametrize("adam", [onepass.Adam, onepass.AdamW])
BETAS = ((0.9, 0.999), (0.0, 0.0), (0.5, 0.5), (0.99, 0.9), (0.999, 0.99999))


SCALE_FREE = (onepass.Adam, onepass.RMSprop, onepass.Adagrad, onepass.Adamax, onepass.NAdam)


@pytest.mark.parametrize("cls", SCALE_FREE)
def test_claim_1_a_thousand_times_the_gradient_is_the_same_path(cls):
    grads = gradients(100, 20)
    close(path(cls, 1000 * grads, eps=0.0), path(cls, grads, eps=0.0), 1e-6, 1e-12)


def test_claim_1_but_sgd_steps_a_thousand_times_as_far():
    grads = gradients(100, 20)
    for options in ({}, {"momentum": 0.9}):
        once, scaled = (path(onepass.SGD, c * grads, **options) for c in (1, 1000))
        assert (once[1:] != 0).all()
        close(scaled, 1000 * once, 1e-9, 1e-12)


@each_adam
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_claim_2_without_memory_adam_steps_by_the_sign(adam, dtype):
    grads = gradients(1, 1000).to(dtype)
    for lr, eps in ((1e-3, 1e-8), (0.1, 1e-2), (1.0, 1.0)):
        moved = path(adam, grads, lr=lr, eps=eps, betas=(0.0, 0.0))[1]
        assert same_bits(moved, -(lr * grads[0] / (abs(grads[0]) + eps)))
    sign = path(adam, grads, lr=1.0, betas=(0.0, 0.0))[1]
    large = abs(grads[0]) > 0.1
    close(sign[large], -grads[0].sign()[large], 1e-6)


@each_adam
def test_claim_3_the_first_step_is_the_same_whatever_the_betas(adam):
    grads = gradients(1, 1000)
    for betas in BETAS:
        moved = path(adam, grads, lr=0.1, betas=betas)[1]
        close(abs(moved), 0.1 * abs(grads[0]) / (abs(grads[0]) + 1e-8), 1e-12)


@each_adam
def test_claim_3_without_bias_correction_it_would_be_three_times_as_long(adam):
    param = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    param.grad = torch.ones_like(param)
    optimizer = adam([param], eps=0.0)
    optimizer.step()
    state = state_of(optimizer)
    close((state["exp_avg"] / state["exp_avg_sq"].sqrt()).item(), 0.1 / 0.001**0.5, 1e-12)
    close(0.1 / 0.001**0.5, 3.16, 1e-3)


@each_adam
def test_claim_4_eps_halves_the_step_of_a_gradient_of_its_size(adam):
    for eps in (1e-8, 1e-4, 1.0):
        grads = torch.tensor([[eps, eps / 1000, 1000 * eps]], dtype=torch.float64)
        moved = -path(adam, grads, lr=0.1, eps=eps)[1]
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
def test_claim_5_no_gradients_make_a_longer_step_than_cauchy_and_schwarz_allow(
    adam, beta1, beta2, grads
):
    sequence = torch.tensor(grads, dtype=torch.float64)[:, None]
    points = path(adam, sequence, lr=1.0, eps=1e-100, betas=(beta1, beta2), weight_decay=0.0)
    for t, length in enumerate(abs(points.diff(dim=0)).flatten().tolist(), start=1):
        assert length <= longest_step(beta1, beta2, t) * (1 + 1e-9)
    assert not any(grads) or points.any()


@each_adam
def test_claim_5_the_bound_is_reached_and_a_spike_after_silence_makes_less(adam):
    silence, last = 9850, 150
    grads = torch.zeros(silence + last, 2, dtype=torch.float64)
    grads[silence:, 0] = (0.9 / 0.999) ** torch.arange(last - 1, -1, -1, dtype=torch.float64)
    grads[-1, 1] = 1.0
    points = path(adam, grads, lr=1.0, eps=1e-100, weight_decay=0.0)
    longest, spike = (-points.diff(dim=0)[-1]).tolist()
    close(longest, longest_step(0.9, 0.999, silence + last), 1e-6)
    close(longest, 7.27, 1e-3)
    close(spike, 3.162, 1e-3)


def test_claim_6_an_average_of_ones_is_corrected_to_one():
    for corrected, expected in ((False, (0.1, 0.19)), (True, (1.0, 1.0))):
        points = path(
            onepass.Momentum, torch.ones(2, 1, dtype=torch.float64), lr=1.0,
            bias_correction=corrected,
        )  # fmt: skip
        close(-points.diff(dim=0).flatten(), torch.tensor(expected, dtype=torch.float64), 3e-16)


def test_claim_6_a_third_of_the_weight_is_older_than_the_window():
    """The window of beta = 0.9 is 1 / (1 - beta) = 10 steps."""
    grads = torch.cat([torch.ones(500, 1), torch.zeros(10, 1)]).double()
    param = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = onepass.Momentum([param])
    for grad in grads:
        param.grad = grad
        optimizer.step()
    close(state_of(optimizer)["exp_avg"].item(), 0.9**10, 1e-12)
    close(0.9**10, 0.349, 1e-3)


def test_claim_7_the_rate_of_adagrad_never_rises_and_is_ten_times_that_of_a_common_feature():
    grads = torch.ones(100, 2, dtype=torch.float64)
    grads[1:, 1] = 0.0  # seen once
    param = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = onepass.Adagrad([param])
    rates = []
    for grad in grads:
        param.grad = grad.clone()
        optimizer.step()
        rates.append(1 / state_of(optimizer)["sum"].sqrt())
    rates = torch.stack(rates)
    assert (rates.diff(dim=0) <= 0).all()
    close((rates[-1, 1] / rates[-1, 0]).item(), 10.0, 1e-12)
    moved = path(onepass.Adagrad, gradients(1, 3))[1]
    assert (moved != 0).all()


@pytest.mark.parametrize("alpha", [0.9, 0.99])
@pytest.mark.parametrize("jump", [10.0, 0.1])
def test_claim_8_rmsprop_forgets_a_scale_within_its_window(alpha, jump):
    window = round(1 / (1 - alpha))
    param = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = onepass.RMSprop([param], alpha=alpha)
    for grad in [1.0] * 100 * window + [jump] * window:
        param.grad = torch.full_like(param, grad)
        optimizer.step()
    gap = abs(state_of(optimizer)["square_avg"].item() - jump**2) / abs(1 - jump**2)
    close(gap, alpha**window, 1e-9)
    close(gap, 1 / np.e, 0.06)


def test_claim_8_adagrad_does_not_forget():
    before = 1000
    param = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = onepass.Adagrad([param])
    sums = [0.0]
    for step in range(101 * before):
        param.grad = torch.full_like(param, 1.0 if step < before else 0.1)
        optimizer.step()
        sums.append(state_of(optimizer)["sum"].item())
    assert 1 - (sums[before] / sums[2 * before]) ** 0.5 < 0.01
    close(sums[101 * before], 2 * sums[before], 1e-9)


def slope_of_rate(cls: Any, name: str) -> float:
    """Returns the log-log slope of the mean effective rate from step 10^3 to 10^4 under noise."""
    param = torch.zeros(2000, dtype=torch.float64, requires_grad=True)
    optimizer = cls([param])
    rates, marks = [], np.unique(np.logspace(3, 4, 20).astype(int))
    for t in range(1, marks[-1] + 1):
        param.grad = torch.randn(2000, dtype=torch.float64)
        optimizer.step()
        if t in marks:
            rates.append((1 / state_of(optimizer)[name].sqrt()).mean().item())
    return float(np.polyfit(np.log(marks), np.log(rates), 1)[0])


@pytest.mark.parametrize(
    ("cls", "name", "slope"),
    [(onepass.Adagrad, "sum", -0.5), (onepass.RMSprop, "square_avg", 0.0)],
)
def test_claim_9_under_noise_the_rate_of_adagrad_falls_and_that_of_rmsprop_stays(cls, name, slope):
    assert abs(slope_of_rate(cls, name) - slope) < 0.02


def test_claim_10_adadelta_needs_no_rate():
    grads = gradients(100, 20)
    grads += 3 * grads.sign()  # so that every square is far over eps
    once, scaled = (path(onepass.Adadelta, c * grads) for c in (1, 1000))
    assert (once.diff(dim=0) != 0).all()
    close(scaled.diff(dim=0), once.diff(dim=0), 1e-4)


def test_claim_11_momentum_is_damped_sgd_from_an_empty_buffer():
    grads = gradients(50, 20)
    param = torch.zeros(20, dtype=torch.float64, requires_grad=True)
    sgd = onepass.SGD([param], lr=0.1, momentum=0.7, dampening=0.7)
    sgd.state[param]["momentum_buffer"] = torch.zeros_like(param)
    for grad in grads:
        param.grad = grad
        sgd.step()
    assert (param != 0).all()
    close(param.detach(), path(onepass.Momentum, grads, lr=0.1, momentum=0.7)[-1], 1e-9, 1e-12)


def test_claim_11_alternating_gradients_leave_little_momentum():
    grads = torch.tensor([[1.0], [-1.0]] * 200, dtype=torch.float64)
    for beta in (0.5, 0.9):
        steps = abs(path(onepass.Momentum, grads, lr=1.0, momentum=beta).diff(dim=0))
        close(steps[-1].item(), (1 - beta) / (1 + beta), 1e-9)


STEEP = torch.tensor([1.0, 100.0], dtype=torch.float64)  # f = (x^2 + 100 y^2) / 2


def test_claim_12_the_steep_axis_bounds_the_rate_of_sgd():
    stable, unstable = (
        descend(onepass.SGD, [1.0, 1.0], lambda x: STEEP * x, lr=lr)[-1] for lr in (0.0199, 0.0201)
    )
    assert abs(stable[1]) < 1 < abs(unstable[1])
    start, momentum = 3.0, dict(lr=0.0199, momentum=0.9)
    crawling = descend(onepass.Momentum, [start, 1.0], lambda x: STEEP * x, 20, **momentum)
    assert crawling[-1, 0] > 0.7 * start


@pytest.mark.parametrize("cls", [onepass.Adam, onepass.RMSprop])
def test_claim_12_a_rescaled_axis_with_its_own_rate_is_the_same_path(cls):
    def run(c: float) -> Tensor:
        x = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
        y = torch.tensor(1.0 * c, dtype=torch.float64, requires_grad=True)
        optimizer = cls([{"params": [x]}, {"params": [y], "lr": 0.05 * c}], lr=0.05, eps=0.0)
        points = []
        for _ in range(200):
            x.grad, y.grad = x.detach().clone(), 100 * y.detach() / c**2
            optimizer.step()
            points.append(torch.stack([x.detach(), y.detach() / c]))
        return torch.stack(points)

    assert (run(1.0)[-1] != run(1.0)[0]).all()
    close(run(37.0), run(1.0), 1e-6, 1e-9)


@pytest.mark.parametrize(
    ("cls", "options", "same"),
    [(onepass.Adam, dict(lr=0.05, eps=0.0), False), (onepass.SGD, dict(lr=0.01), True)],
)
def test_claim_13_a_rotated_canyon_is_another_path_to_adam_but_not_to_sgd(cls, options, same):
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / 2**0.5
    start = torch.tensor([3.0, 1.0], dtype=torch.float64)
    straight = descend(cls, start.tolist(), lambda x: STEEP * x, **options)
    rotated = descend(
        cls, (turn @ start).tolist(), lambda x: turn @ (STEEP * (turn.T @ x)), **options
    )
    apart = (rotated @ turn - straight).norm(dim=1).max()
    assert (straight[-1] - start).norm() > 0.1
    assert apart < 1e-12 if same else apart > 0.1


@each_adam
def test_claim_14_the_order_of_the_gradients_matters(adam):
    grads = gradients(20, 50)
    assert (path(adam, grads)[-1] != path(adam, grads.flip(0))[-1]).all()


def test_claim_15_decoupled_decay_is_a_factor_whatever_the_gradients():
    param, zero = (x.requires_grad_() for x in (torch.randn(1000), torch.zeros(1000)))
    optimizer = onepass.AdamW([param, zero], lr=0.1, weight_decay=0.3)
    kept = torch.tensor(1 - 0.1 * 0.3, dtype=torch.float64).float()
    for scale in (1.0, 1e-6, 0.0, 1e6):
        before = param.detach().clone()
        zero.data.zero_()
        param.grad = zero.grad = scale * torch.randn(1000)
        optimizer.step()
        assert same_bits(param, before * kept + zero.detach())


def test_claim_15_coupled_decay_is_weaker_where_gradients_are_large():
    sizes = torch.tensor([1.0, 100.0], dtype=torch.float64)
    grads = torch.stack([sizes if t % 2 else -sizes for t in range(400)])
    options = dict(start=1.0, lr=1e-6)
    plain = path(onepass.Adam, grads, **options)[-1]
    lost = plain - path(onepass.Adam, grads, weight_decay=1e-3, **options)[-1]
    close((lost[0] / lost[1]).item(), 100.0, 1e-2)
    decoupled = plain - path(onepass.AdamW, grads, weight_decay=1e-3, **options)[-1]
    close(decoupled[0].item(), decoupled[1].item(), 1e-4)


def test_claim_15_in_plain_sgd_both_decays_are_one():
    grads = gradients(50, 20)
    param = torch.ones(20, dtype=torch.float64, requires_grad=True)
    optimizer = onepass.SGD([param], lr=0.1)
    for grad in grads:
        param.data *= 1 - 0.1 * 0.3
        param.grad = grad
        optimizer.step()
    coupled = path(onepass.SGD, grads, start=1.0, lr=0.1, weight_decay=0.3)[-1]
    close(param.detach(), coupled, 1e-6)


# Every gradient of claim 16 along a row for every parameter along a column.
SIZES = torch.tensor([[0.0, 6e-8, 1e-4, 1.0, 65504.0]], dtype=torch.float16)
PLACES = torch.tensor([[1.0], [-0.3], [0.0], [1e-3]], dtype=torch.float16)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_claim_16_float16_steps_are_those_of_float32_rounded_once(case: Case) -> None:
    param = PLACES.expand(-1, 5).clone().requires_grad_()
    options = {"lr": max(1e-3, case.ours([param]).defaults["lr"])}
    optimizer = case.ours([param], **options)
    for _ in range(100):
        wide = param.detach().float().requires_grad_()
        twin = case.ours([wide], **options)
        if optimizer.state.get(param):
            twin.state[wide] = {k: s.clone() for k, s in optimizer.state[param].items()}
        param.grad = SIZES.expand(4, -1).clone()
        wide.grad = param.grad.float()
        optimizer.step()
        twin.step()
        assert same_bits(param, wide.half())
        assert all(s.isfinite().all() for s in optimizer.state[param].values())
    large = -1 if RULES[case.ours.rule].sums else -2  # beside 65504, 1 is next to nothing
    assert (param[:, large:] != PLACES).all()
    states = [s for s in optimizer.state[param].values() if s.shape == param.shape]
    assert all(s.dtype == torch.float32 for s in states)


@each_adam
def test_claim_16_a_float16_step_of_adam_is_lr_g_over_g_and_eps(adam):
    size = SIZES.double()
    param = torch.zeros_like(SIZES, requires_grad=True)
    optimizer = adam([param], weight_decay=0.0)
    for _ in range(100):
        exact = param.detach().double() - 1e-3 * size / (size + 1e-8)
        param.grad = SIZES.clone()
        optimizer.step()
        assert (abs(param.detach().double() - exact) <= 2**-10 * abs(exact) + 2e-9).all()


def noisy_steps(cls: Any, lr: float, **options: Any) -> tuple[float, float]:
    """Returns the rms step and the spread of the iterates at the minimum of a noisy quadratic."""
    size, steps = 2000, 3000
    param = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimizer = cls([param], lr=lr, **options)
    moves, points = 0.0, 0.0
    for t in range(steps):
        before = param.detach().clone()
        param.grad = before + torch.randn(size, dtype=torch.float64)
        optimizer.step()
        if t >= steps // 2:
            moves += float((param.detach() - before).square().mean())
            points += float(param.detach().square().mean())
    return moves**0.5, points**0.5


def test_claim_17_the_path_of_adam_is_smooth_where_that_of_rmsprop_jitters():
    adam, rmsprop = (
        noisy_steps(onepass.Adam, 1e-2, betas=(0.9, 0.99)),
        noisy_steps(onepass.RMSprop, 1e-2, alpha=0.99),
    )
    close(adam[0] / rmsprop[0], ((1 - 0.9) / (1 + 0.9)) ** 0.5, 0.05)
    close(adam[1] / rmsprop[1], 1.0, 0.02)


def test_claim_18_amsgrad_goes_to_the_best_point_where_adam_goes_to_the_worst():
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


def test_claim_19_radam_rectifies_as_the_paper_for_ten_thousand_steps():
    """Gradients of 1 keep both moments at their means, so that a step is lr r_t."""
    param = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = onepass.RAdam([param], lr=1.0, eps=0.0)
    rho_inf = 2 / (1 - 0.999) - 1
    for t in range(1, 10_001):
        param.grad = torch.ones_like(param)
        before = param.item()
        optimizer.step()
        rho = rho_inf - 2 * t * 0.999**t / (1 - 0.999**t)
        r = 1.0
        if rho > 5:
            r = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5
        close(before - param.item(), r, 1e-8)
        assert (rho > 5) == (t > 5)


def test_claim_19_mu_product_of_nadam_is_the_product_of_its_mu():
    param = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = onepass.NAdam([param], momentum_decay=0.01)
    product = 1.0
    for t in range(1, 101):
        param.grad = torch.ones_like(param)
        optimizer.step()
        product *= 0.9 * (1 - 0.5 * 0.96 ** (t * 0.01))
        close(state_of(optimizer)["mu_product"].item(), product, 1e-5)


@pytest.mark.slow
def test_claim_20_the_second_moment_of_adam_estimates_the_diagonal_of_fishers_matrix():
    """y = w x + noise of unit variance at the true w: the diagonal is the mean of x^2."""
    sizes = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    param = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = onepass.Adam([param], lr=0.0, betas=(0.9, 1 - 1e-5))
    steps = 200_000
    x = sizes * torch.randn(steps, 4, dtype=torch.float64)
    noise = torch.randn(steps, 1, dtype=torch.float64)
    for grad in x * noise:
        param.grad = grad
        optimizer.step()
    estimate = state_of(optimizer)["exp_avg_sq"] / (1 - (1 - 1e-5) ** steps)
    close(estimate, sizes**2, 0.03)

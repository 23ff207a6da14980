"""One step of each algorithm in float64 numpy, transcribed from its paper. Never imports onepass.

A step takes the parameter, the gradient, the state before it (empty before the first step), the
step count from 1 on (which may be an array) and the options. It returns the new values and the
running error of each (tests/rounded.py). Options that a transcription does not know are an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.rounded import Rounded, coefficient, exact, mean

Step1 = Callable[[Rounded, Rounded, SimpleNamespace, Any, Any], tuple[Rounded, dict[str, Rounded]]]


@dataclass
class Step:
    param: np.ndarray
    state: dict[str, np.ndarray]
    scale: dict[str, np.ndarray]  # the running errors, under "param" and the names of the states


def transcription(start: Mapping[str, Any], **defaults: Any) -> Callable[[Step1], Any]:
    """Gives a transcription its options and states; `start` says what states begin with."""

    def wrap(one_step: Step1) -> Any:
        known = {"maximize": False, "weight_decay": 0.0, **defaults}

        def step(p: Any, g: Any, state: Any, t: Any, options: Mapping[str, Any]) -> Step:
            assert options.keys() <= known.keys(), f"unknown options: {options.keys() - known}"
            o = SimpleNamespace(**{**known, **options})
            o.lr = float(o.lr)
            if hasattr(o, "betas"):
                o.betas = [float(beta) for beta in o.betas]
            before = {
                name: exact(state.get(name, np.full_like(exact(p).value, first)))
                for name, first in starts(options).items()
            }
            gradient = -exact(g) if o.maximize else exact(g)
            new_p, new_state = one_step(exact(p), gradient, SimpleNamespace(**before), t, o)
            scale = {"param": new_p.error} | {k: v.error for k, v in new_state.items()}
            return Step(new_p.value, {k: v.value for k, v in new_state.items()}, scale)

        def starts(options: Mapping[str, Any]) -> dict[str, float]:
            o = SimpleNamespace(**{**known, **options})
            return {k: float(v(o) if callable(v) else v) for k, v in start.items()}

        step.__name__ = one_step.__name__
        step.starts = starts  # type: ignore[attr-defined]  # of states, before the first step
        return step

    return wrap


def with_l2(g: Rounded, p: Rounded, o: SimpleNamespace) -> Rounded:
    """Adds the gradient of weight_decay |p|^2 / 2."""
    decoupled = getattr(o, "decoupled_weight_decay", False)
    return g + o.weight_decay * p if o.weight_decay and not decoupled else g


def decayed(p: Rounded, o: SimpleNamespace) -> Rounded:
    """Loshchilov and Hutter 2019, algorithm 2, line 12: takes eta lambda of the parameter away.

    With decouple_lr the paper's own: lambda is weight_decay, alpha the largest rate so far and
    the multiplier eta of the schedule lr / alpha. Otherwise torch's: lambda is lr weight_decay.
    """
    if not getattr(o, "decoupled_weight_decay", True) or not o.weight_decay:
        return p
    share = o.lr * o.weight_decay
    if o.decouple_lr:
        largest = max(o.lr, float(o.reference_lr))
        share = 0.0 if o.lr == 0 else o.weight_decay * o.lr / largest
    return p * coefficient(1 - share)


def single(x: Any) -> Any:
    """Rounds to float32, in which numbers that a whole parameter shares are kept."""
    return np.asarray(x).astype(np.float32).astype(np.result_type(np.float64, x))


def masked(step: Rounded, direction: Rounded, g: Rounded, o: SimpleNamespace) -> Rounded:
    """Liang et al. 2024, algorithm 1; the mask's mean is at least 1e-3, as the authors' code."""
    if not o.cautious:
        return step
    mask = np.sign(direction.value) * np.sign(g.value) > 0
    return step.where(mask, 0) * (1 / max(float(np.mean(mask)) if mask.size else 1.0, 1e-3))


# What decoupled decay asks for; reference_lr is the largest rate of the steps before.
DECAY: dict[str, Any] = dict(decouple_lr=False, reference_lr=0.0)
COUPLED: dict[str, Any] = dict(decoupled_weight_decay=False, **DECAY)
MOMENTS = dict(exp_avg=0.0, exp_avg_sq=0.0)


@transcription(
    {**MOMENTS, "max_exp_avg_sq": 0.0},
    lr=1e-3, betas=(0.9, 0.999), eps=1e-8, amsgrad=False, eps_root=0.0, cautious=False, **COUPLED,
)  # fmt: skip
def adam(p, g, s, t, o):
    """Kingma and Ba 2015, algorithm 1; with amsgrad: Reddi et al. 2018, algorithm 2.

    Deviations, as torch: weight_decay adds weight_decay p to the gradient, or decays as AdamW where
    it is decoupled; AMSGrad's maximum is corrected for bias.
    """
    beta1, beta2 = o.betas
    g = with_l2(g, p, o)
    m = mean(s.exp_avg, g, beta1)
    v = mean(s.exp_avg_sq, g * g, beta2)
    state = dict(exp_avg=m, exp_avg_sq=v)
    if o.amsgrad:
        v = state["max_exp_avg_sq"] = s.max_exp_avg_sq.maximum(v)
    v_hat = (v + o.eps_root * (1 - beta2**t)) / (1 - beta2**t)
    step = m * (o.lr / (1 - beta1**t)) / (v_hat.sqrt() + o.eps)
    return decayed(p, o) - masked(step, m, g, o), state


def adamw(p: Any, g: Any, state: Mapping[str, Any], t: Any, options: Mapping[str, Any]) -> Step:
    """Loshchilov and Hutter 2019, algorithm 2, around the step of Adam."""
    options = {"weight_decay": 1e-2, **options, "decoupled_weight_decay": True}
    return adam(p, g, state, t, options)


adamw.starts = adam.starts  # type: ignore[attr-defined]


@transcription({"momentum_buffer": 0.0}, lr=1e-3, momentum=0.0, dampening=0.0, nesterov=False)
def sgd(p, g, s, t, o):
    """Sutskever et al. 2013, equations 3 and 4, as torch: the first step takes b = g."""
    g = with_l2(g, p, o)
    if not o.momentum:
        return p - g * o.lr, {}
    later = s.momentum_buffer * o.momentum + g * (1.0 - o.dampening)
    b = g.where(np.asarray(t) == 1, later)
    direction = g + b * o.momentum if o.nesterov else b
    return p - direction * o.lr, dict(momentum_buffer=b)


@transcription(
    {"exp_avg": 0.0}, lr=1e-3, momentum=0.9, bias_correction=False, nesterov=False, **COUPLED
)
def momentum(p, g, s, t, o):
    """The heavy ball of Polyak 1964 as a mean; Nesterov's look-ahead is one more step of it."""
    beta = float(o.momentum)
    g = with_l2(g, p, o)
    v = mean(s.exp_avg, g, beta)
    direction = mean(v, g, beta) if o.nesterov else v
    weights = 1 - beta ** (t + 1 if o.nesterov else t) if o.bias_correction else 1.0
    return decayed(p, o) - direction * (o.lr / weights), dict(exp_avg=v)


@transcription(
    {"sum": lambda o: o.initial_accumulator_value},
    lr=1e-2, lr_decay=0.0, eps=1e-10, eps_root=0.0, initial_accumulator_value=0.0,
)  # fmt: skip
def adagrad(p, g, s, t, o):
    """Duchi et al. 2011, figure 1, diagonal; eps beside the root and lr_decay as torch."""
    g = with_l2(g, p, o)
    total = s.sum + g * g
    rate = o.lr / (1 + (t - 1) * o.lr_decay)
    return p - g * rate / ((total + o.eps_root).sqrt() + o.eps), dict(sum=total)


@transcription(
    {"square_avg": 0.0, "momentum_buffer": 0.0, "grad_avg": 0.0},
    lr=1e-2, alpha=0.99, eps=1e-8, momentum=0.0, centered=False, eps_root=0.0,
)  # fmt: skip
def rmsprop(p, g, s, t, o):
    """Tieleman and Hinton 2012; centered: Graves 2013, equations 38 to 41. eps as torch."""
    g = with_l2(g, p, o)
    v = mean(s.square_avg, g * g, o.alpha)
    state, variance = dict(square_avg=v), v
    if o.centered:
        a = state["grad_avg"] = mean(s.grad_avg, g, o.alpha)
        variance = (v - a * a).maximum(0)
    step = g / ((variance + o.eps_root).sqrt() + o.eps)
    if o.momentum:
        step = state["momentum_buffer"] = s.momentum_buffer * o.momentum + step
    return p - step * o.lr, state


@transcription({"square_avg": 0.0, "acc_delta": 0.0}, lr=1.0, rho=0.9, eps=1e-6)
def adadelta(p, g, s, t, o):
    """Zeiler 2012, algorithm 1, times a rate."""
    g = with_l2(g, p, o)
    v = mean(s.square_avg, g * g, o.rho)
    delta = (s.acc_delta + o.eps).sqrt() / (v + o.eps).sqrt() * g
    u = mean(s.acc_delta, delta * delta, o.rho)
    return p - delta * o.lr, dict(square_avg=v, acc_delta=u)


@transcription({"exp_avg": 0.0, "exp_inf": 0.0}, lr=2e-3, betas=(0.9, 0.999), eps=1e-8)
def adamax(p, g, s, t, o):
    """Kingma and Ba 2015, algorithm 2; eps in the norm as torch."""
    beta1, beta2 = o.betas
    g = with_l2(g, p, o)
    m = mean(s.exp_avg, g, beta1)
    u = (s.exp_inf * beta2).maximum(abs(g) + o.eps)
    return p - m * (o.lr / (1 - beta1**t)) / u, dict(exp_avg=m, exp_inf=u)


@transcription(
    {**MOMENTS, "mu_product": 1.0},
    lr=2e-3, betas=(0.9, 0.999), eps=1e-8, momentum_decay=4e-3, eps_root=0.0, **COUPLED,
)  # fmt: skip
def nadam(p, g, s, t, o):
    """Dozat 2016, algorithm 2; the product of the mu is a float32, as torch's."""
    beta1, beta2 = o.betas
    mu, next_mu = (beta1 * (1 - 0.96 ** (k * o.momentum_decay) / 2) for k in (t, t + 1))
    product = single(single(s.mu_product.value) * single(mu))
    g = with_l2(g, p, o)
    m = mean(s.exp_avg, g, beta1)
    v = mean(s.exp_avg_sq, g * g, beta2)
    root = ((v + o.eps_root * (1 - beta2**t)) / (1 - beta2**t)).sqrt() + o.eps
    m_bar = g * (o.lr * (1 - mu) / (1 - product)) + m * (o.lr * next_mu / (1 - product * next_mu))
    state = dict(exp_avg=m, exp_avg_sq=v, mu_product=coefficient(product))
    return decayed(p, o) - m_bar / root, state


@transcription(MOMENTS, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, eps_root=0.0, **COUPLED)
def radam(p, g, s, t, o):
    """Liu et al. 2020, algorithm 2, with the threshold 5 of the authors' code; eps as torch."""
    beta1, beta2 = o.betas
    t = t + np.float64(0)  # whose roots of negative numbers are NaN
    correction = 1 - beta2**t
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / correction
    with np.errstate(all="ignore"):
        r = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5
    g = with_l2(g, p, o)
    m = mean(s.exp_avg, g, beta1)
    v = mean(s.exp_avg_sq, g * g, beta2)
    m_hat = m * (o.lr / (1 - beta1**t))
    with np.errstate(all="ignore"):
        # In the first rectified steps rho_t is a small difference of large numbers, and the power
        # in it is rounded up to t times: there the roundings of float64 count, 1.1e-4 of 1e-12.
        r = Rounded(r, r * (1 + 1.1e-4 * t**2 * beta2**t / correction**2 / (rho - 4)))
        adapted = m_hat * r * correction**0.5 / ((v + o.eps_root * correction).sqrt() + o.eps)
    is_rectified = (rho > 5) & (np.asarray(t) > 5)  # rho_t < t, whatever rounding makes of it
    return decayed(p, o) - adapted.where(is_rectified, m_hat), dict(exp_avg=m, exp_avg_sq=v)


@transcription(
    {"prev": 0.0, "step_size": lambda o: o.lr}, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50)
)
def rprop(p, g, s, t, o):
    """Riedmiller and Braun 1993, without backtracking: Rprop- of Igel and Huesken 2000."""
    agreement = g.sign().value * s.prev.sign().value
    factor = np.where(agreement > 0, o.etas[1], np.where(agreement < 0, o.etas[0], 1.0))
    smallest, largest = map(float, o.step_sizes)
    size = (s.step_size * factor).maximum(smallest).minimum(largest)
    g = exact(np.zeros_like(g.value)).where(agreement < 0, g)
    return p - g.sign() * size, dict(prev=g, step_size=size)


@transcription(
    {"ax": 0.0, "eta": lambda o: single(o.lr), "mu": 1.0}, lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6
)
def asgd(p, g, s, t, o):
    """Polyak and Juditsky 1992; the rates of Bottou 2012, section 4.2, are float32 as torch's."""
    eta, mu = s.eta.value, s.mu.value
    g = with_l2(g, p, o)
    p = p * coefficient(1 - o.lambd * eta) - g * coefficient(eta)
    ax = mean(s.ax, p, 1 - mu)
    next_eta = single(o.lr / (1 + o.lambd * o.lr * t) ** o.alpha + 0 * eta)
    next_mu = single(1 / np.maximum(1, t - o.t0) + 0 * mu)
    return p, dict(ax=ax, eta=coefficient(next_eta), mu=coefficient(next_mu))


@transcription({"exp_avg": 0.0}, lr=1e-4, betas=(0.9, 0.99), cautious=False, **DECAY)
def lion(p, g, s, t, o):
    """Chen et al. 2023, algorithm 2."""
    beta1, beta2 = o.betas
    direction = mean(s.exp_avg, g, beta1).sign()
    step = masked(direction * o.lr, direction, g, o)
    return decayed(p, o) - step, dict(exp_avg=mean(s.exp_avg, g, beta2))


@transcription(MOMENTS, lr=4e-4, betas=(0.9, 0.999), eps=1e-15, eps_root=0.0, **DECAY)
def laprop(p, g, s, t, o):
    """Ziyin et al. 2020, algorithm 1."""
    beta1, beta2 = o.betas
    n = mean(s.exp_avg_sq, g * g, beta2)
    n_hat = (n + o.eps_root * (1 - beta2**t)) / (1 - beta2**t)
    m = mean(s.exp_avg, g / (n_hat.sqrt() + o.eps), beta1)
    return decayed(p, o) - m * (o.lr / (1 - beta1**t)), dict(exp_avg=m, exp_avg_sq=n)


@transcription(
    {"exp_avg": 0.0, "exp_avg_var": 0.0}, lr=1e-3, betas=(0.9, 0.999), eps=1e-16, **DECAY
)
def adabelief(p, g, s, t, o):
    """Zhuang et al. 2020, algorithm 2."""
    beta1, beta2 = o.betas
    m = mean(s.exp_avg, g, beta1)
    var = mean(s.exp_avg_var, (g - m) * (g - m), beta2) + o.eps
    root = (var / (1 - beta2**t)).sqrt() + o.eps
    return decayed(p, o) - m * (o.lr / (1 - beta1**t)) / root, dict(exp_avg=m, exp_avg_var=var)


@transcription(
    {"exp_avg": 0.0, "exp_avg_diff": 0.0, "exp_avg_sq": 0.0, "prev": 0.0},
    lr=1e-3, betas=(0.98, 0.92, 0.99), eps=1e-8, eps_root=0.0,
)  # fmt: skip
def adan(p, g, s, t, o):
    """Xie et al. 2022, algorithm 1, with the bias corrections of the authors' code."""
    beta1, beta2, beta3 = o.betas
    change = exact(np.zeros_like(g.value)).where(np.asarray(t) == 1, g - s.prev)
    ahead = g + change * beta2
    m = mean(s.exp_avg, g, beta1)
    v = mean(s.exp_avg_diff, change, beta2)
    n = mean(s.exp_avg_sq, ahead * ahead, beta3)
    n_hat = (n + o.eps_root * (1 - beta3**t)) / (1 - beta3**t)
    direction = m * (o.lr / (1 - beta1**t)) + v * (o.lr * beta2 / (1 - beta2**t))
    p = (p - direction / (n_hat.sqrt() + o.eps)) / (1 + o.lr * o.weight_decay)
    return p, dict(exp_avg=m, exp_avg_diff=v, exp_avg_sq=n, prev=g)


@transcription(MOMENTS, lr=1e-3, betas=(0.9, 0.9999), eps=1e-6, **DECAY)
def adopt(p, g, s, t, o):
    """Taniguchi et al. 2024, algorithm 2; c_t is t^(1/4), and the first gradient makes v_0."""
    beta1, beta2 = o.betas
    is_first = np.asarray(t) == 1
    clip = coefficient((np.asarray(t) - 1) ** 0.25 + 0 * g.value)
    scaled = (g / s.exp_avg_sq.sqrt().maximum(o.eps)).maximum(-clip).minimum(clip)
    m = s.exp_avg.where(is_first, mean(s.exp_avg, scaled, beta1))
    v = (g * g).where(is_first, mean(s.exp_avg_sq, g * g, beta2))
    return p.where(is_first, decayed(p, o) - m * o.lr), dict(exp_avg=m, exp_avg_sq=v)


# ---- rates set by the norms of a parameter, which is all that a call is given


def trusted(x: Rounded, y: Rounded, ratio: Rounded) -> Rounded:
    """Returns the ratio, and 1 where one of the norms is zero, as the authors' code."""
    return ratio.where((x.value != 0) & (y.value != 0), 1)


@transcription({"momentum_buffer": 0.0}, lr=1.0, momentum=0.9, trust_coefficient=1e-3, eps=1e-8)
def lars(p, g, s, t, o):
    """You et al. 2017, algorithm 1."""
    norm, grad_norm = p.norm(), g.norm()
    with np.errstate(invalid="ignore", divide="ignore"):
        local = norm * o.trust_coefficient / (grad_norm + norm * o.weight_decay + o.eps)
    rate = trusted(norm, grad_norm, local) * o.lr
    v = s.momentum_buffer * o.momentum + (g + p * o.weight_decay) * rate
    return p - v, dict(momentum_buffer=v)


@transcription({"exp_avg": 0.0, "exp_avg_sq": 0.0}, lr=1e-2, betas=(0.95, 0.98), eps=1e-8)
def novograd(p, g, s, t, o):
    """Ginsburg et al. 2019, algorithm 1; the second moment is a float32."""
    beta1, beta2 = o.betas
    norm = g.norm()
    square = norm * norm
    v = square.where(np.asarray(t) == 1, mean(s.exp_avg_sq, square, beta2))
    v = Rounded(single(v.value), v.error + abs(v.value))
    m = s.exp_avg * beta1 + g / (v.sqrt() + o.eps) + p * o.weight_decay
    return p - m * o.lr, dict(exp_avg=m, exp_avg_sq=v)


@transcription(MOMENTS, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=1e-2)
def lamb(p, g, s, t, o):
    """You et al. 2020, algorithm 2."""
    beta1, beta2 = o.betas
    m = mean(s.exp_avg, g, beta1)
    v = mean(s.exp_avg_sq, g * g, beta2)
    ratio = m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + o.eps)
    u = ratio + p * o.weight_decay
    norm, length = p.norm(), u.norm()
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = trusted(norm, length, norm / length) * o.lr
    return p - u * rate, dict(exp_avg=m, exp_avg_sq=v)

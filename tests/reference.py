"""One step of each algorithm in float64 numpy, transcribed from its paper. Never imports onepass.

A step returns the new values and the scale of each: the sum of the absolute values of the terms it
is made of, |before| + |after| + 2 |change| for each addition on the way, where the change counts
with its own scale. Terms may cancel, so roundings are in proportion to scales, not to results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DEFAULTS: dict[str, Any] = dict(
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    amsgrad=False,
    maximize=False,
    decoupled_weight_decay=False,
    eps_root=0.0,
    decouple_lr=False,
    initial_lr=None,  # None: lr, as before any scheduler has changed it
)


@dataclass
class Step:
    param: np.ndarray
    state: dict[str, np.ndarray]
    scale: dict[str, np.ndarray]  # under "param" and the names of the states


def adam(p: Any, g: Any, state: Mapping[str, Any], t: Any, options: Mapping[str, Any]) -> Step:
    """Kingma and Ba 2015, algorithm 1; with amsgrad: Reddi et al. 2018, algorithm 2.

    `t` counts from 1 and may be an array. An empty `state` is the state before the first step.
    Options that DEFAULTS does not know are an error. Deviations, as torch: weight_decay adds
    weight_decay p to the gradient, or decays as AdamW where it is decoupled; AMSGrad's maximum is
    corrected for bias.
    """
    o = DEFAULTS | dict(options)
    assert o.keys() == DEFAULTS.keys(), f"unknown options: {o.keys() - DEFAULTS.keys()}"
    lr, (beta1, beta2) = float(o["lr"]), map(float, o["betas"])
    l2 = 0.0 if o["decoupled_weight_decay"] else o["weight_decay"]
    p, g = _wide(p), _wide(g)
    names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    m, v, v_max = (_wide(state.get(name, np.zeros_like(p))) for name in names)

    gradient = -g if o["maximize"] else g
    g = gradient + l2 * p if l2 else gradient
    g_scale = _scale(gradient, g, l2 * abs(p)) if l2 else abs(g)
    new_m = beta1 * m + (1 - beta1) * g
    new_v = beta2 * v + (1 - beta2) * g**2
    scale = {
        "exp_avg": _scale(m, new_m, (1 - beta1) * g_scale),
        "exp_avg_sq": _scale(v, new_v, (1 - beta2) * g_scale**2),
    }
    new_state = {"exp_avg": new_m, "exp_avg_sq": new_v}
    if o["amsgrad"]:
        new_v = new_state["max_exp_avg_sq"] = np.maximum(v_max, new_v)
        scale["max_exp_avg_sq"] = np.maximum(abs(v_max), scale["exp_avg_sq"])

    v_hat = new_v / (1 - beta2**t)
    factor = lr / (1 - beta1**t) / (np.sqrt(v_hat + o["eps_root"]) + o["eps"])
    new_p = p - _decay(o, lr) * p - factor * new_m
    scale["param"] = _scale(p, new_p, factor * scale["exp_avg"])
    return Step(new_p, new_state, scale)


def adamw(p: Any, g: Any, state: Mapping[str, Any], t: Any, options: Mapping[str, Any]) -> Step:
    """Loshchilov and Hutter 2019, algorithm 2, around the step of Adam."""
    options = {"weight_decay": 1e-2, **options, "decoupled_weight_decay": True}
    return adam(p, g, state, t, options)


def _wide(x: Any) -> np.ndarray:
    return np.asarray(x, np.result_type(np.float64, x))  # np.longdouble stays what it is


def _scale(before: np.ndarray, after: np.ndarray, change: np.ndarray) -> np.ndarray:
    return abs(before) + abs(after) + 2 * abs(change)


def _decay(o: Mapping[str, Any], lr: float) -> float:
    """Returns eta lambda, the share of the parameter that one step removes (line 12).

    With decouple_lr the paper's own: lambda is weight_decay, alpha the initial rate and the
    multiplier eta of the schedule lr / initial_lr. Otherwise torch's: lambda is lr weight_decay.
    """
    if not o["decoupled_weight_decay"]:
        return 0.0
    if not o["decouple_lr"]:
        return lr * o["weight_decay"]
    initial_lr = lr if o["initial_lr"] is None else float(o["initial_lr"])
    return 0.0 if lr == 0 else o["weight_decay"] * lr / initial_lr


# The digits after the leading one and the smallest normal exponent of each type.
_FORMATS = {"float32": (23, -126), "bfloat16": (7, -126), "float16": (10, -14)}


def ulp(x: Any, dtype: str = "float32") -> np.ndarray:
    """Returns the distance between neighbouring numbers of a type at |x|."""
    digits, smallest = _FORMATS[dtype]
    return np.ldexp(1.0, np.maximum(np.frexp(abs(x))[1] - 1, smallest) - digits)


def bound(scale: Any, value: Any, dtype: str) -> np.ndarray:
    """Returns how far from `value`, computed in float64, a result of one step may lie.

    Two units in the last place of the scale in float32, 1e-12 of it in float64; a type of 16 bits
    is float32 and one rounding more.
    """
    if dtype == "float64":
        return 1e-12 * scale
    if dtype == "float32":
        return 2 * ulp(scale)
    return 2 * ulp(scale) + ulp(abs(value) + 2 * ulp(scale), dtype) / 2

"""Ten steps of a class of another library and of ours, at the same options."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.migration import NOTHING, Row, Table
from tests.support import make_params, params_of, set_grads

STEPS, SHAPES = 10, ((5, 7), (33,), (64, 64))
Options = dict[str, Any]

# Options under which every other one can be seen: eps and decay matter, and the mean has a past.
BASE: Options = {
    "lr": 0.02,
    "betas": (0.8, 0.95),
    "eps": 0.01,
    "weight_decay": 0.1,
    "momentum": 0.8,
    "trust_coefficient": 0.5,
}
# Other values than those of BASE and of the tables' defaults; flags are inverted.
OTHER: Options = {
    "lr": 0.05,
    "betas": (0.6, 0.9),
    "eps": 0.1,
    "weight_decay": 0.3,
    "momentum": 0.5,
    "trust_coefficient": 0.2,
    "clip_lambda": lambda step: 0.5,
    "alpha": 0.8,
    "dampening": 0.3,
    "lr_decay": 0.2,
    "initial_accumulator_value": 0.5,
    "max_grad_norm": 1.0,
    "max_unorm": 0.01,
    "max_lr": 0.1,
    "n_sma_threshold": 9,
    "steps_before_using_centered": 3,
    "optim_bits": 8,
    "min_8bit_size": 1,
    "block_size": 128,
    "args": SimpleNamespace(optim_bits=32, min_8bit_size=4096, max_unorm=0.0, skip_zeros=False),
    "foreach": True,
    "fused": True,
    "triton": False,
    "kahan_sum": True,
    "master_weight_bits": 24,
}
# What some arguments need in order to be seen, or to mean here what they mean there.
ALONGSIDE: dict[str, Options] = {
    "decouple_lr": {"decouple_wd": True},
    "weight_decouple": {"weight_decay": 2.0},
    "centered": {"steps_before_using_centered": 3},
}
# They choose the code that steps, or what is stored: no result in float32 differs.
SAME_RESULT = {"foreach", "fused", "fp32_optimizer_states"}
# They need a device, or parameters that are no leaves.
UNSEEN = {"capturable", "differentiable"}


def base_of(table: Table, row: Row | None = None) -> Options:
    """Returns options of theirs at which ours does the same, and at which a row can be seen.

    Their other defaults are among them, since ours may be others.
    """
    options: Options = {}
    for one in table.rows:
        if one.must_be is not NOTHING:
            options[one.argument] = one.must_be
        elif one.argument in BASE and not (one.is_ignored or one.is_refused):
            options[one.argument] = BASE[one.argument]
        elif one.ours is not None:
            options[one.argument] = one.default
    if "betas" in options and len(table.row("betas").default) == 3:
        options["betas"] = (*options["betas"], 0.9)
    free = {one.argument for one in table.rows if one.must_be is NOTHING}
    alongside = ALONGSIDE.get(row.argument, {}) if row else {}
    return options | {key: value for key, value in alongside.items() if key in free}


def varied(row: Row, base: Options) -> Options:
    """Returns the options with another value of one argument."""
    if isinstance(row.default, bool):
        value: Any = not base.get(row.argument, row.default)
    elif row.argument == "betas" and len(row.default) == 3:
        value = (*OTHER["betas"], 0.8)
    else:
        value = OTHER[row.argument]
    return {**base, row.argument: value}


def shapes_of(table: Table) -> tuple[tuple[int, ...], ...]:
    if table.package == "torchao":
        return SHAPES[:2]  # for the third it keeps states of 8 bits
    if table.theirs == "pytorch_optimizer.LARS":
        return SHAPES[::2]  # it treats vectors otherwise
    return SHAPES


class Walk:
    """Parameters under an optimizer, and how far they go."""

    def __init__(self, optimizer: Any, constant_lr: bool = False) -> None:
        self.optimizer, self.constant_lr = optimizer, constant_lr
        self.params = params_of(optimizer)
        self.largest = [float(param.detach().abs().max()) for param in self.params]
        self.furthest = [0.0 for _ in self.params]

    def go(self, first: int = 0, last: int = STEPS) -> Walk:
        """Takes steps, with half the rate in the second half of ten."""
        for step in range(first, last):
            if step == STEPS // 2 and not self.constant_lr:
                for group in self.optimizer.param_groups:
                    group["lr"] *= 0.5
            before = [param.detach().clone() for param in self.params]
            set_grads(self.params, 7 + step)
            self.optimizer.step()
            for k, (param, old) in enumerate(zip(self.params, before, strict=True)):
                self.largest[k] = max(self.largest[k], float(param.detach().abs().max()))
                self.furthest[k] += float((param.detach() - old).abs().max())
        return self

    def error(self, other: Walk) -> float:
        """Returns the largest difference in units of what rounding may leave.

        In each of ten steps either side rounds the parameter to half an ulp. What it adds has a
        dozen roundings behind it, in the means and in their quotient.
        """
        worst = 0.0
        pairs = zip(self.params, other.params, strict=True)
        for (a, b), size, way in zip(pairs, self.largest, self.furthest, strict=True):
            bound = 2.0**-23 * (STEPS * size + 12 * way)
            worst = max(worst, float((a - b).detach().abs().max()) / bound)
        return worst


def walk(table: Table, cls: Any, options: Options, shapes: Any = None) -> Walk:
    optimizer = cls(make_params(shapes or shapes_of(table)), **options)
    return Walk(optimizer, table.holds_at_constant_lr).go()


def assert_alike(a: Walk, b: Walk) -> None:
    assert a.error(b) <= 1.0


def assert_apart(a: Walk, b: Walk) -> None:
    assert a.error(b) >= 100.0

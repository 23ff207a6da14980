"""The recipes of docs/migration.md: with a moved checkpoint training goes on as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import onepass
from tests.migration import PAGE, TABLES, Table, each_peer, marked
from tests.migration_walks import STEPS, Walk, assert_alike, base_of, shapes_of
from tests.support import after_three_steps, copies, make_params, snapshot

pytestmark = pytest.mark.usefixtures("without_compiler")
Recipe = Callable[[dict[str, Any]], dict[int, Any]]
page: dict[str, Any] = {}
for _block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
    exec(compile(_block, str(PAGE), "exec"), page)


def from_bitsandbytes(*names: str) -> Recipe:
    return lambda saved: page["from_bitsandbytes"](saved, *names)


def as_it_is(saved: dict[str, Any]) -> dict[int, Any]:
    return saved["state"]  # type: ignore[no-any-return]


def from_optimi_sgd(name: str) -> Recipe:
    return lambda saved: page["from_optimi_sgd"](saved, name)


RECIPES: dict[str, Recipe] = {
    "torch.optim.Adam-Adam": as_it_is,
    "torch.optim.AdamW-AdamW": as_it_is,
    "torch.optim.SGD-SGD": as_it_is,
    "torch.optim.Adagrad-Adagrad": as_it_is,
    "deepspeed.ops.adam.DeepSpeedCPUAdam-Adam": page["with_steps"],
    "deepspeed.ops.adam.FusedAdam-Adam": page["from_deepspeed_fused_adam"],
    "deepspeed.ops.lion.DeepSpeedCPULion-Lion": page["with_steps"],
    "deepspeed.ops.adagrad.DeepSpeedCPUAdagrad-Adagrad": page["from_deepspeed_adagrad"],
    "bitsandbytes.optim.Adam-AdamW": from_bitsandbytes("exp_avg", "exp_avg_sq"),
    "bitsandbytes.optim.AdamW-AdamW": from_bitsandbytes("exp_avg", "exp_avg_sq"),
    "bitsandbytes.optim.LAMB-AdamW": from_bitsandbytes("exp_avg", "exp_avg_sq"),
    "bitsandbytes.optim.Lion-Lion": from_bitsandbytes("exp_avg"),
    "bitsandbytes.optim.SGD-SGD": from_bitsandbytes("momentum_buffer"),
    "bitsandbytes.optim.LARS-SGD": from_bitsandbytes("momentum_buffer"),
    "bitsandbytes.optim.Adagrad-Adagrad": from_bitsandbytes("sum"),
    "bitsandbytes.optim.RMSprop-RMSprop": from_bitsandbytes("square_avg"),
    "torchao.optim.Adam8bit-Adam": page["from_torchao"],
    "torchao.optim.AdamW8bit-AdamW": page["from_torchao"],
    "optimi.Adam-Adam": page["from_optimi"],
    "optimi.AdamW-AdamW": page["from_optimi"],
    "optimi.RAdam-RAdam": page["from_optimi"],
    "optimi.Adan-Adan": page["from_optimi"],
    "optimi.Lion-Lion": page["with_steps"],
    "optimi.SGD-Momentum": from_optimi_sgd("exp_avg"),
    "optimi.SGD-SGD": from_optimi_sgd("momentum_buffer"),
    "pytorch_optimizer.Lion-Lion": page["with_steps"],
    "pytorch_optimizer.AdaBelief-AdaBelief": page["with_steps"],
    "pytorch_optimizer.AdaMax-Adamax": page["with_steps"],
    "pytorch_optimizer.RAdam-RAdam": page["with_steps"],
    "pytorch_optimizer.ADOPT-ADOPT": page["with_steps"],
    "pytorch_optimizer.Adan-Adan": page["from_pytorch_optimizer"],
    "pytorch_optimizer.NovoGrad-NovoGrad": page["from_pytorch_optimizer"],
}


def test_all_classes_that_step_on_a_cpu_have_a_recipe_but_two() -> None:
    known = {str(table) for table in TABLES if not table.needs_gpu}
    left_out = {"pytorch_optimizer.LaProp-LaProp", "pytorch_optimizer.LARS-LARS"}
    assert known - RECIPES.keys() == left_out and RECIPES.keys() < known


@pytest.mark.parametrize("table", [marked(table) for table in TABLES if str(table) in RECIPES])
def test_training_goes_on_from_a_moved_checkpoint(table: Table) -> None:
    """Into a new optimizer of the same options, after seven steps and a change of the rate."""
    options, constant = base_of(table), table.holds_at_constant_lr
    old = Walk(table.their_class(make_params(shapes_of(table)), **options), constant).go(0, 7)
    new = Walk(table.our_class(copies(old.params), **table.translated(options)), constant)
    saved = old.optimizer.state_dict()
    page["load_state"](new.optimizer, saved, RECIPES[str(table)](saved))
    assert_alike(new.go(7, STEPS), old.go(7, STEPS))


@pytest.mark.parametrize("name", ("Adam", "Adagrad", "LAMB"))
def test_a_checkpoint_that_counts_steps_by_group_is_moved(name: str) -> None:
    """Apex needs a device: here our own checkpoint is written as its source says."""
    old = after_three_steps(getattr(onepass, name), {}, torch.float32)
    saved = old.state_dict()
    saved["state"] = {
        n: {key: value for key, value in own.items() if key != "step"}
        for n, own in saved["state"].items()
    }
    for group in saved["param_groups"]:
        group["step"] = 3
    params = copies(param for group in old.param_groups for param in group["params"])
    new = getattr(onepass, name)([{"params": params[:3]}, {"params": params[3:]}])
    page["load_state"](new, saved, page["with_steps"](saved))
    assert snapshot(new) == snapshot(old)


@each_peer("bitsandbytes.optim.AdamW", "torchao.optim.AdamW8bit")
def test_moments_of_few_bits_are_decoded(table: Table) -> None:
    """A block's largest moment is exact, and none is off by more than a few percent of it."""
    (theirs,) = (cls for cls in table.their_classes if cls.__name__ == "AdamW8bit")
    old, exact = (Walk(cls(make_params(((64, 64),)))).go(0, 7) for cls in (theirs, onepass.AdamW))
    new = onepass.AdamW(copies(old.params))
    saved = old.optimizer.state_dict()
    page["load_state"](new, saved, RECIPES[str(table)](saved))
    (moments,), (wanted,) = new.state.values(), exact.optimizer.state.values()
    assert int(moments["step"]) == 7
    for name in ("exp_avg", "exp_avg_sq"):
        error = (moments[name] - wanted[name]).abs().max() / wanted[name].abs().max()
        assert 0.0 < float(error) < 0.05

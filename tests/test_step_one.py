"""opt.step_one(param): one parameter by itself, as step() would have stepped it."""

from __future__ import annotations

import copy
import pickle
import random
from collections import UserList
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

import onepass
from tests.cases import Case
from tests.rows import sparse
from tests.support import (
    SHAPES,
    assert_same,
    each_case,
    each_kind,
    each_sparse_case,
    groups_of,
    make_params,
    params_of,
    randn,
    raw,
    set_grads,
    snapshot,
)
from tests.test_never_stale import CHANGES, settings_for


def step_each(optimizer: Any, seed: int = 0) -> None:
    """Steps all parameters that have a gradient, one by one, in any order."""
    params = [param for param in params_of(optimizer) if param.grad is not None]
    random.Random(seed).shuffle(params)
    for param in params:
        optimizer.step_one(param)


def assert_steps_alike(whole: Any, single: Any, steps: Iterable[int], about: object = "") -> None:
    for number in steps:
        for optimizer in (whole, single):
            set_grads(params_of(optimizer), number)
        whole.step()
        step_each(single, number)
        assert_same(snapshot(single), snapshot(whole), (about, number))


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parameters_stepped_one_by_one_are_stepped_as_all(case: Case, dtype: torch.dtype) -> None:
    for options in (*case.settings, *case.extras):
        whole, single = (case.ours(groups_of(make_params(SHAPES, dtype)), **options) for _ in "12")
        for first in (0, 2, 4):  # a scheduler's steps
            assert_steps_alike(whole, single, range(first, first + 2), options)
            for group in (*whole.param_groups, *single.param_groups):
                group["lr"] *= 0.5 if first else 3.0


@each_sparse_case
def test_sparse_gradients_are_stepped_as_by_all(case: Case) -> None:
    options = {"weight_decay": 0.1} if case.ours is onepass.AdamW else {}
    whole, single = (case.ours(groups_of(make_params([(6, 2)] * 4)), **options) for _ in "12")
    for number in range(4):
        for optimizer in (whole, single):
            for k, param in enumerate(params_of(optimizer)):
                rows = torch.tensor([number, 4]) if k != number else None
                param.grad = sparse(randn((6, 2), torch.float32, number), 1, rows)
        whole.step()
        step_each(single, number)
        assert_same(snapshot(single), snapshot(whole), number)
    for optimizer in (whole, single):
        optimizer.catch_up()
    assert_same(snapshot(single), snapshot(whole))


@each_kind
def test_stepping_inside_backward_is_backward_and_a_step(case: Case) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(1)
        hidden = torch.nn.Linear(8, 8)
        models.append(torch.nn.Sequential(torch.nn.Linear(5, 8), hidden, torch.nn.ReLU(), hidden))
    whole, single = (case.ours(model.parameters()) for model in models)

    def step(param: Tensor) -> None:
        single.step_one(param)
        param.grad = None

    for param in models[1].parameters():
        param.register_post_accumulate_grad_hook(step)
    for number in range(4):
        for model in models:
            model(randn((3, 5), torch.float32, number)).square().sum().backward()
        whole.step()
        whole.zero_grad()
        assert_same(snapshot(single), snapshot(whole), number)


# ---- whatever changes between two calls


def reload(optimizer: Any) -> Any:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return optimizer


def regroup(optimizer: Any) -> Any:
    """Takes a parameter out, adds others, and puts the groups into another order."""
    del optimizer.param_groups[0]["params"][1]
    optimizer.add_param_group({"params": make_params([(4,), (2, 2)], torch.float64, 9), "lr": 0.25})
    optimizer.param_groups.reverse()
    optimizer.param_groups[0]["params"].reverse()
    return optimizer


OTHERS: tuple[Callable[[Any], Any], ...] = (
    copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o)), reload, regroup,
)  # fmt: skip


@each_kind
def test_what_changes_between_steps_is_seen(case: Case) -> None:
    changes: dict[str, Any] = {**CHANGES, **{str(k): change for k, change in enumerate(OTHERS)}}
    for name, change in changes.items():
        for options in settings_for(case, name):
            made = [case.ours(make_params(SHAPES, torch.float64), **options) for _ in "12"]
            assert_steps_alike(*made, range(2), name)
            results = [change(optimizer) for optimizer in made]
            if name not in CHANGES:
                made = results
            assert_steps_alike(*made, range(2, 5), (name, options))


def test_nothing_else_is_looked_at() -> None:
    first, *others = make_params([(3,)] * 4)
    opt = onepass.Adam([{"params": [first, *others[:2]]}, {"params": others[2:]}])
    first.grad = torch.ones(3)
    opt.step_one(first)
    opt.param_groups[0]["params"][1:] = ["no tensor", None]
    opt.param_groups[1] = "no group"
    opt.step_one(first)
    assert opt.state[first]["step"] == 2


@each_kind
def test_groups_may_be_in_any_container(case: Case) -> None:
    whole, single = (case.ours(groups_of(make_params(SHAPES))) for _ in "12")
    for optimizer in (whole, single):
        optimizer.param_groups = UserList(optimizer.param_groups)
        optimizer.param_groups[1]["params"] = (*optimizer.param_groups[1]["params"],)
    assert_steps_alike(whole, single, range(3))


def test_step_hooks_do_not_run() -> None:
    opt = onepass.Adam(make_params([(3,)]))
    set_grads(params_of(opt), 1)
    opt.register_step_pre_hook(lambda *_: pytest.fail("a hook ran"))
    opt.step_one(params_of(opt)[0])


# ---- DTensors


@each_kind
def test_dtensors_are_stepped_as_by_all(case: Case, mesh: Any) -> None:
    plain = case.ours(make_params(((6, 4), (3,))), **case.settings[1])
    spread = case.ours(
        [distribute_tensor(p.detach().clone(), mesh, [Shard(0)]).requires_grad_()
         for p in params_of(plain)], **case.settings[1],
    )  # fmt: skip
    for number in range(3):
        set_grads(params_of(plain), number)
        for a, b in zip(params_of(spread), params_of(plain), strict=True):
            a.grad = distribute_tensor(b.grad.clone(), mesh, [Shard(0)])
        plain.step()
        step_each(spread, number)
    for a, b in zip(params_of(spread), params_of(plain), strict=True):
        assert raw(a.full_tensor()) == raw(b)
    a.grad = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    with pytest.raises(TypeError, match=r"parameter 1 of group 0.*redistribute the gradient"):
        spread.step_one(a)
    assert raw(a.full_tensor()) == raw(b)

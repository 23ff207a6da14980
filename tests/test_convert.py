"""Optimizers by name, from torch's live ones and back: the same steps go on."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch

import onepass
from onepass.options import SHARED
from tests.cases import CASES, Case
from tests.support import (
    SHAPES,
    assert_alike,
    assert_same,
    each_case,
    each_torch_case,
    make_params,
    params_of,
    snapshot,
    take_steps,
)
from tests.test_options import IN_USE


def two_groups(seed: int = 1) -> list[dict[str, Any]]:
    params = make_params(SHAPES, torch.float64, seed)
    return [{"params": params[:2], "lr": 0.03}, {"params": params[2:]}]


def assert_near(a: Any, b: Any) -> None:
    """Compares parameters and states, of which torch widens the numbers when it loads them."""
    for p, q in zip(params_of(a), params_of(b), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9)
        own, other = a.state.get(p, {}), b.state.get(q, {})
        torch.testing.assert_close(dict(own), dict(other), rtol=1e-6, atol=1e-9, check_dtype=False)


@each_case
def test_a_class_is_found_by_its_name_in_any_spelling(case: Case) -> None:
    for name in (
        str(case),
        str(case).lower(),
        str(case).upper(),
        f"{str(case)[:2]}_{str(case)[2:]}",
    ):
        made = onepass.create(name, make_params(((3,),)), lr=0.125)
        assert type(made) is case.ours
        assert made.defaults["lr"] == 0.125


def test_a_name_that_is_none_is_answered_with_near_ones() -> None:
    with pytest.raises(ValueError, match=r"no optimizer 'adamv'; did you mean .*AdamW"):
        onepass.create("adamv", make_params(((3,),)))
    with pytest.raises(ValueError, match=r"no optimizer 'qqq'. It has"):
        onepass.create("qqq", make_params(((3,),)))
    with pytest.raises(TypeError, match="beta1"):
        onepass.create("AdamW", make_params(((3,),)), beta1=0.9)


@each_torch_case
def test_ours_goes_on_where_torchs_stopped_and_back(case: Case) -> None:
    """Options and state of every group; the optimizer that was converted is left as it is."""
    assert case.theirs is not None
    for options in case.settings:
        theirs = case.theirs(two_groups(), **options)
        take_steps(theirs, 3)
        before = snapshot(theirs)
        twin = copy.deepcopy(theirs)
        ours = onepass.from_torch(twin)
        assert type(ours) is case.ours
        assert list(map(id, params_of(ours))) == list(map(id, params_of(twin)))
        for optimizer in (ours, theirs):
            take_steps(optimizer, 2, first=3)
        assert_alike(ours, theirs, options)
        back = onepass.to_torch(ours)
        assert type(back) is case.theirs
        assert_near(back, theirs)
        for optimizer in (back, theirs):
            take_steps(optimizer, 2, first=5)
        assert_near(back, theirs)
        assert before.keys() == snapshot(theirs).keys()


@each_torch_case
def test_the_state_is_a_copy(case: Case) -> None:
    assert case.theirs is not None
    theirs = case.theirs(make_params(SHAPES))
    take_steps(theirs, 1)
    ours = onepass.from_torch(theirs)
    before = {key: value for key, value in snapshot(theirs).items() if not key.startswith("param")}
    take_steps(ours, 2, first=1)
    after = snapshot(theirs)
    changed = [key for key in before if before[key] != after[key] and "grad " not in key]
    assert not changed


@each_torch_case
def test_names_keys_of_the_user_and_schedulers_rates_come_along(case: Case) -> None:
    assert case.theirs is not None
    params = list(zip("ab", make_params(((3,), (2, 2))), strict=True))
    theirs = case.theirs(params, lr=0.25)
    torch.optim.lr_scheduler.StepLR(theirs, 1)
    theirs.param_groups[0]["note"] = "mine"
    ours = onepass.from_torch(theirs)
    for one in (ours, onepass.to_torch(ours)):
        group = one.param_groups[0]
        assert (group["param_names"], group["note"], group["initial_lr"]) == (
            ["a", "b"],
            "mine",
            0.25,
        )


def test_subclasses_of_torchs_classes_are_taken() -> None:
    class Mine(torch.optim.AdamW):
        pass

    assert type(onepass.from_torch(Mine(make_params(((3,),))))) is onepass.AdamW


@each_torch_case
def test_options_that_torch_lacks_are_refused_by_name(case: Case) -> None:
    assert case.theirs is not None
    theirs = inspect.signature(case.theirs).parameters
    known = inspect.signature(case.ours).parameters
    for name in SHARED:
        if name in known and name not in theirs:
            optimizer = case.ours(make_params(SHAPES), **{name: IN_USE[name]})
            before = snapshot(optimizer)
            with pytest.raises(ValueError, match=f"group 0 uses .*{name}"):
                onepass.to_torch(optimizer)
            assert_same(snapshot(optimizer), before)


def test_decay_that_rows_missed_is_caught_up_with() -> None:
    words = torch.nn.Embedding(4, 2, sparse=True, dtype=torch.float64)
    ours = onepass.AdamW(words.parameters(), lr=0.1, weight_decay=0.1)
    before = words.weight.detach().clone()
    words(torch.tensor([1])).sum().backward()
    ours.step()
    onepass.to_torch(ours)
    assert torch.allclose(words.weight[0], 0.99 * before[0])


def test_what_has_no_counterpart_is_refused() -> None:
    params = make_params(((3,),))
    with pytest.raises(TypeError, match="no LBFGS"):
        onepass.from_torch(torch.optim.LBFGS(params))
    with pytest.raises(TypeError, match="already"):
        onepass.from_torch(onepass.SGD(params))
    for case in CASES:
        if case.theirs is None:
            with pytest.raises(TypeError, match=f"torch.optim has no {case}"):
                onepass.to_torch(case.ours(params))

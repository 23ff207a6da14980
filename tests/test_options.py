"""Options that torch's classes lack stand in groups only where in use, so that its state fits."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import warnings
from typing import Any

import pytest
import torch

from onepass.options import SHARED
from tests.cases import Case
from tests.support import (
    SHAPES,
    assert_same,
    each_case,
    each_torch_case,
    groups_of,
    make_params,
    numbers,
    take_steps,
)

# Options that all classes share, each in use.
IN_USE = {
    "eps_root": 1e-3,
    "decouple_lr": True,
    "cautious": True,
    "state_dtype": torch.bfloat16,
    "max_grad_norm": 0.5,
    "skip_nonfinite": True,
    "stochastic_rounding": True,
    "state_rounding": "stochastic",
    "capturable": True,
    "fused": True,
}
NEUTRAL = {
    name: None if name in ("state_dtype", "max_grad_norm", "state_rounding", "fused") else False
    for name in SHARED
}


def extras_of(case: Case) -> list[str]:
    """Returns those of SHARED that the class takes and torch's does not."""
    known = inspect.signature(case.ours).parameters
    theirs = inspect.signature(case.theirs).parameters if case.theirs else ()
    return [name for name in SHARED if name in known and name not in theirs]


def made(case: Case, **options: Any) -> Any:
    return case.ours(groups_of(make_params(SHAPES)), **options)


def stepped(case: Case, **options: Any) -> Any:
    optimizer = made(case, **options)
    take_steps(optimizer, 2)
    return optimizer


def keys_of(optimizer: Any) -> list[set[str]]:
    return [set(group) for group in (optimizer.defaults, *optimizer.param_groups)]


def outcome(cls: Any, defaults: dict[str, Any]) -> Any:
    """Returns the defaults of an optimizer made from those of another, or what it raises."""
    try:
        return cls(make_params(SHAPES), **defaults).defaults
    except TypeError as error:  # torch's AdamW does not take its own
        return str(error)


@each_case
def test_neutral_options_stand_neither_in_groups_nor_in_defaults(case: Case) -> None:
    extras = extras_of(case)
    assert extras, "the class has none"
    given = {name: NEUTRAL[name] for name in extras}
    for optimizer in (made(case), made(case, **given), stepped(case)):
        optimizer.add_param_group({"params": make_params(SHAPES, seed=2), **given})
        for keys in keys_of(optimizer):
            assert not keys & {*extras, "reference_lr"}


@each_torch_case
def test_groups_and_defaults_are_those_of_torch(case: Case) -> None:
    for options in case.settings:
        ours, theirs = made(case, **options), case.theirs(groups_of(make_params(SHAPES)), **options)
        assert ours.defaults == theirs.defaults
        assert keys_of(ours) == keys_of(theirs)
        assert outcome(case.theirs, ours.defaults) == outcome(case.theirs, theirs.defaults)


@each_case
def test_an_option_in_use_is_kept_by_every_way_to_save_it(case: Case) -> None:
    for name in extras_of(case):
        optimizer = stepped(case, **{name: IN_USE[name]})
        wanted = "bfloat16" if name == "state_dtype" else IN_USE[name]
        loaded = made(case)
        loaded.load_state_dict(optimizer.state_dict())
        copies = [loaded, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
        for other in (optimizer, *copies):
            assert [group[name] for group in other.param_groups] == [wanted, wanted], name
        for other in copies[1:]:
            assert other.defaults[name] == wanted
            assert keys_of(other)[1:] == keys_of(optimizer)[1:]
            assert_same(numbers(other), numbers(optimizer), name)


@each_case
def test_a_neutral_option_of_a_group_is_kept_against_the_constructors(case: Case) -> None:
    for name in extras_of(case):
        first, second = groups_of(make_params(SHAPES))
        optimizer = case.ours([first, {**second, name: NEUTRAL[name]}], **{name: IN_USE[name]})
        loaded = made(case, **{name: IN_USE[name]})
        loaded.load_state_dict(optimizer.state_dict())
        for other in (optimizer, loaded):
            assert not other.param_groups[1][name], name
            assert other.param_groups[0][name], name


@each_case
def test_a_checkpoint_that_lacks_an_option_gets_the_constructors(case: Case) -> None:
    saved = stepped(case).state_dict()
    for name in extras_of(case):
        optimizer = made(case, **{name: IN_USE[name]})
        optimizer.load_state_dict(saved)
        wanted = "bfloat16" if name == "state_dtype" else IN_USE[name]
        assert [group[name] for group in optimizer.param_groups] == [wanted, wanted]
        take_steps(optimizer, 1)


@each_case
def test_a_checkpoint_with_every_option_spelt_out_loads_and_goes_on(case: Case) -> None:
    """As onepass saved them before neutral options were left out."""
    whole = stepped(case)
    saved = whole.state_dict()
    for group in saved["param_groups"]:
        group.update({name: NEUTRAL[name] for name in extras_of(case)})
    loaded = made(case)
    for a, b in zip(loaded.param_groups, whole.param_groups, strict=True):
        for x, y in zip(a["params"], b["params"], strict=True):
            x.data.copy_(y.data)
    loaded.load_state_dict(saved)
    assert keys_of(loaded)[1:] == keys_of(whole)[1:]
    for optimizer in (whole, loaded):
        take_steps(optimizer, 2, first=2)
    assert_same(numbers(loaded), numbers(whole))


@each_case
def test_an_option_that_is_put_into_a_group_counts_from_the_next_step(case: Case) -> None:
    for name in {"eps_root", "cautious"} & {*extras_of(case)}:
        edited, given = made(case), made(case, **{name: IN_USE[name]})
        for group in edited.param_groups:
            group[name] = IN_USE[name]
        for optimizer in (edited, given):
            take_steps(optimizer, 2)
        assert_same(numbers(edited), numbers(given), name)
        for optimizer in (edited, given):
            for group in optimizer.param_groups:
                group[name] = NEUTRAL[name]
        plain = made(case)
        plain.load_state_dict(given.state_dict())
        for optimizer in (edited, given):
            take_steps(optimizer, 2, first=2)
        assert_same(numbers(edited), numbers(given), name)


# ---- dtypes by name


@each_case
def test_a_dtype_is_stored_by_its_name_however_it_was_given(case: Case) -> None:
    forms = (torch.bfloat16, "bfloat16", "torch.bfloat16")
    results = []
    for form in forms:
        by_constructor, by_group, by_load, edited = (
            made(case, state_dtype=form),
            *(made(case) for _ in range(3)),
        )
        by_group.add_param_group({"params": make_params([(3,)], seed=2), "state_dtype": form})
        assert by_group.param_groups[-1]["state_dtype"] == "bfloat16"
        saved = by_load.state_dict()
        for group in (*saved["param_groups"], *edited.param_groups):
            group["state_dtype"] = form
        by_load.load_state_dict(saved)
        if str(case) == "Adagrad":  # whose states the constructor makes
            edited = by_load = by_constructor
        for optimizer in {by_constructor, by_load, edited}:
            take_steps(optimizer, 2)
            results.append(numbers(optimizer))
            for group in optimizer.state_dict()["param_groups"]:
                assert type(group["state_dtype"]) is str
                assert group["state_dtype"] == "bfloat16"
    for result in results:
        assert_same(result, results[0])


@each_case
@pytest.mark.parametrize("wrong", ["int4", torch.int16, "bf16", "", 16, ["bfloat16"], float])
def test_what_is_no_dtype_for_states_is_refused_by_its_name(case: Case, wrong: Any) -> None:
    with pytest.raises(ValueError, match="Invalid state_dtype value"):
        made(case, state_dtype=wrong)
    optimizer = made(case)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["state_dtype"] = wrong
    with pytest.raises(ValueError, match="Invalid state_dtype value"):
        optimizer.load_state_dict(saved)
    with pytest.raises(ValueError, match="Invalid state_dtype value"):
        optimizer.add_param_group({"params": make_params([(3,)], seed=2), "state_dtype": wrong})


@each_case
@pytest.mark.parametrize("wrong", ["yes", "False", 0.5, [], torch.ones(1)], ids=repr)
def test_what_is_no_flag_is_refused_by_name_and_value(case: Case, wrong: Any) -> None:
    known = inspect.signature(case.ours).parameters
    for name in {"decouple_lr", "cautious", "capturable", "fused"} & known.keys():
        with pytest.raises(ValueError, match=f"Invalid {name} value: {re.escape(repr(wrong))}"):
            made(case, **{name: wrong})


@each_case
def test_a_misspelt_option_of_a_group_is_warned_of(case: Case) -> None:
    """And nothing else: users and schedulers keep keys of their own in groups."""
    known = case.ours([torch.zeros(1)]).defaults
    for name in (name for name in known if len(name) >= 8):
        misspelt = name[:3] + name[4] + name[3] + name[5:]
        with pytest.warns(UserWarning, match=f"'{misspelt}'.* did you mean '"):
            case.ours([{"params": make_params([(3,)]), misspelt: known[name]}])
    others = ("initial_lr", "max_lr", "min_lr", "lr_scale", "name", "base_momentum", "max_momentum")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        case.ours([{"params": make_params([(3,)]), **dict.fromkeys(others, 0.0), **known}])

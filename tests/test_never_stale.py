"""Whatever changes between two steps is seen by the second."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import onepass
from onepass.rules import RULES
from tests.cases import Case
from tests.oracle import assert_steps_right, state_names
from tests.support import (
    TORCH_CASES,
    assert_alike,
    both,
    copies,
    each_case,
    each_torch_case,
    late_states,
    make_params,
    numbers_of,
    params_of,
    randn,
    raw,
    set_grads,
    step_both,
    take_steps,
    visible,
)


def second_of(optimizer: Any) -> Tensor:
    return params_of(optimizer)[2]


def load(optimizer: Any) -> None:
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        for name, value in state.items():
            state[name] = value / 2
    optimizer.load_state_dict(saved)
    for state in optimizer.state.values():  # torch has made float64 of the numbers, ours has not
        state.update(
            {name: state[name].float() for name in numbers_of(type(optimizer)) & state.keys()}
        )


def replace_parameter(optimizer: Any) -> None:
    fresh = randn(second_of(optimizer).shape, torch.float64, 88).requires_grad_()
    optimizer.param_groups[0]["params"][2] = fresh


def replace_all_parameters(optimizer: Any) -> None:
    """As FSDP and others do: new tensors, under which the state is put too."""
    group = optimizer.param_groups[0]
    fresh = copies(group["params"])
    for old, new in zip(group["params"], fresh, strict=True):
        if old in optimizer.state:
            optimizer.state[new] = optimizer.state.pop(old)
    group["params"][:] = fresh


def set_data(optimizer: Any, tensor: Tensor) -> None:
    second_of(optimizer).data = tensor


def state_of(optimizer: Any) -> dict[str, Any]:
    state: dict[str, Any] = optimizer.state[second_of(optimizer)]
    return state


def moment_of(optimizer: Any) -> str:
    return next(
        name for name in state_of(optimizer) if name not in {"step", *numbers_of(type(optimizer))}
    )


def new_list(optimizer: Any) -> None:
    group = optimizer.param_groups[0]
    group["params"] = list(reversed(group["params"]))


def new_groups(optimizer: Any) -> None:
    (group,) = optimizer.param_groups
    params = group["params"]
    optimizer.param_groups = [
        {**group, "params": params[:2]},
        {**group, "params": params[2:], "lr": 0.5},
    ]


CHANGES: dict[str, Callable[[Any], Any]] = {
    "load_state_dict": load,
    "state cleared": lambda o: o.state.clear(),
    "state of one parameter dropped": lambda o: o.state.pop(second_of(o)),
    "state of one parameter emptied": lambda o: state_of(o).clear(),
    "state tensor replaced": lambda o: state_of(o).update({moment_of(o): torch.ones(33).double()}),
    "state tensor written": lambda o: state_of(o)[moment_of(o)].fill_(0.25),
    "state tensor .data": lambda o: setattr(
        state_of(o)[moment_of(o)], "data", torch.full((33,), 0.5, dtype=torch.float64)
    ),
    "state dict replaced": lambda o: o.state.update({second_of(o): dict(state_of(o))}),
    "step replaced": lambda o: state_of(o).update({"step": torch.tensor(41.0)}),
    "step written": lambda o: state_of(o)["step"].fill_(17.0),
    "step of other dtype": lambda o: state_of(o).update(
        {"step": torch.tensor(41.0, dtype=torch.float64)}
    ),
    "p.data = new": lambda o: set_data(o, torch.ones(33, dtype=torch.float64)),
    "p.data = view": lambda o: set_data(o, randn((70,), torch.float64, 3)[1:67:2]),
    "p.set_": lambda o: second_of(o).data.set_(randn((33,), torch.float64, 4)),
    "parameter written": lambda o: second_of(o).data.mul_(2),
    "parameter replaced": replace_parameter,
    "all parameters replaced": replace_all_parameters,
    "list reversed": new_list,
    "groups replaced": new_groups,
    "frozen": lambda o: second_of(o).requires_grad_(False),
    "lr": lambda o: o.param_groups[0].update(lr=0.5),
    "lr tensor": lambda o: o.param_groups[0].update(lr=torch.tensor(0.5).double()),
    "weight_decay": lambda o: o.param_groups[0].update(weight_decay=0.25),
    "maximize": lambda o: o.param_groups[0].update(maximize=True),
    "amsgrad": lambda o: o.param_groups[0].update(amsgrad=False),
    "centered": lambda o: o.param_groups[0].update(centered=False),
    "momentum": lambda o: o.param_groups[0].update(momentum=0.0),
    "parameter removed": lambda o: o.param_groups[0]["params"].pop(),
}

OPTIONS_OF_SOME = ("weight_decay", "amsgrad", "centered", "momentum")
LOSE_STATES = (
    "state cleared",
    "state of one parameter dropped",
    "state of one parameter emptied",
    "parameter replaced",
)


def mark_for(case: Case, change: str) -> pytest.MarkDecorator | tuple[()]:
    """Returns the mark of a version of torch whose own class does not take a change."""
    return late_states if change in LOSE_STATES and str(case) == "Adagrad" else ()


def settings_for(case: Case, change: str) -> list[dict[str, Any]]:
    """Returns the settings under which there is what is to change."""
    if change.startswith("step"):
        return [*case.settings] if RULES[case.ours.rule].counts_steps else []
    if change.startswith("state"):
        defaults = case.ours([torch.ones(1)]).defaults
        return [o for o in case.settings if state_names(case, {**defaults, **o})]
    if change in OPTIONS_OF_SOME and change not in case.ours([torch.ones(1)]).defaults:
        return []
    return [*case.settings]


@pytest.mark.parametrize(
    ("case", "change"),
    [
        pytest.param(case, change, id=f"{change}-{case}", marks=mark_for(case, change))
        for change in CHANGES
        for case in TORCH_CASES
        if settings_for(case, change)
    ],
)
def test_what_changes_between_steps_is_seen(case: Case, change: str) -> None:
    for options in settings_for(case, change):
        ours, theirs = both(case, **options)
        step_both(ours, theirs, 2)
        before = raw(params_of(ours)[0])
        for optimizer in (ours, theirs):
            CHANGES[change](optimizer)
        step_both(ours, theirs, 3, first=2)
        assert raw(params_of(ours)[0]) != before


@each_torch_case
def test_gradients_are_read_anew_at_every_step(case: Case) -> None:
    """A new tensor, the same one written, another layout, none at all."""
    ours, theirs = both(case)
    for optimizer in (ours, theirs):
        take_steps(optimizer, 2)
        param = params_of(optimizer)[0]
        param.grad.fill_(0.5)
        optimizer.step()
        param.grad = randn((7, 5), torch.float64, 5).t()
        optimizer.step()
        param.grad = torch.ones((), dtype=torch.float64).expand(5, 7)
        optimizer.step()
        second_of(optimizer).grad = None
        optimizer.step()
    assert_alike(ours, theirs)


@each_case
def test_a_model_moved_to_another_dtype_goes_on_in_it(case: Case) -> None:
    """torch's for-loop raises in the middle; ours keeps the states as they are and goes on."""
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        model = torch.nn.Linear(5, 3)
        for param in model.parameters():
            param.data.mul_(1e-3)  # so small that 16 bits show every step
        optimizer = case.ours(model.parameters(), lr=visible(case, 0.1))
        take_steps(optimizer, 2)
        model.to(dtype)  # and its gradients
        before = [p.detach().clone() for p in model.parameters()]
        assert_steps_right(case, optimizer, dtype)
        for param, old in zip(model.parameters(), before, strict=True):
            assert param.dtype == dtype and not torch.equal(param, old)
            assert all(v.dtype == torch.float32 for v in optimizer.state[param].values())


@each_torch_case
def test_frozen_and_unfrozen_parameters_step_as_in_torch(case: Case) -> None:
    ours, theirs = both(case)
    for number in range(6):
        for optimizer in (ours, theirs):
            set_grads(params_of(optimizer), number)
            frozen = number in (0, 1, 4)
            second_of(optimizer).requires_grad_(not frozen)
            if frozen:
                second_of(optimizer).grad = None
            optimizer.step()
        assert_alike(ours, theirs, number)


def in_lists(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        group.update({key: list(value) for key, value in group.items() if key == "betas"})


def edit_lists(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        for value in (value for key, value in group.items() if key == "betas"):
            value[0] = 0.25


def move_lr_to_the_end(optimizer: Any) -> None:
    group = optimizer.param_groups[0]
    group["lr"] = group.pop("lr") / 4  # there are as many keys as before


def reverse_keys(optimizer: Any) -> None:
    optimizer.param_groups[0] = dict(reversed(optimizer.param_groups[0].items()))


def other_groups(optimizer: Any) -> None:
    """First there is one, then there are two again, which hold the very same objects."""
    first, second = optimizer.param_groups
    optimizer.param_groups = [second]
    take_steps(optimizer, 1, 99)
    optimizer.param_groups = [second, first]


OPTIONS: tuple[Callable[[Any], Any], ...] = (
    in_lists,
    edit_lists,
    lambda o: o.param_groups[0].update(lr=1),
    move_lr_to_the_end,
    reverse_keys,
    other_groups,
    lambda o: o.param_groups[1].update(lr=0.125),
)


@each_torch_case
def test_options_are_read_anew_however_they_change(case: Case) -> None:
    ours, theirs = both(case)
    for optimizer in (ours, theirs):
        new_groups(optimizer)
        for number, change in enumerate(OPTIONS):
            take_steps(optimizer, 1, number)
            change(optimizer)
        take_steps(optimizer, 2, len(OPTIONS))
    assert_alike(ours, theirs)


@each_case
def test_dicts_may_be_the_attributes_of_an_object(case: Case) -> None:
    class Held:
        pass

    optimizer, plain = (case.ours(copies([torch.ones(3)]), lr=0.5) for _ in range(2))
    group, state = Held(), Held()
    take_steps(optimizer, 1)
    take_steps(plain, 1)
    vars(group).update(optimizer.param_groups[0])
    optimizer.param_groups[0] = vars(group)
    (param,) = params_of(optimizer)
    vars(state).update(optimizer.state[param])
    optimizer.state[param] = vars(state)
    for step in range(2, 5):
        group.lr = plain.param_groups[0]["lr"] = 1 / step
        for name, value in vars(state).items():
            setattr(state, name, value.clone())
        take_steps(optimizer, 1, step)
        take_steps(plain, 1, step)
        assert torch.equal(param, params_of(plain)[0])


def test_options_that_change_one_another_while_they_are_read_are_read_again() -> None:
    param = torch.zeros(1, requires_grad=True)
    optimizer = onepass.SGD([param], lr=0.5)
    (group,) = optimizer.param_groups

    class Rate:
        def __float__(self) -> float:
            group.update(lr=0.25, maximize=True)
            return 0.5

    group["lr"] = Rate()
    param.grad = torch.ones(1)
    optimizer.step()
    before = param.item()
    optimizer.step()
    assert param.item() == before + 0.25


def test_an_option_in_the_place_of_another_key_is_seen() -> None:
    """The dict has as many keys as before, and all others are where they were."""
    ours = onepass.AdamW(make_params(((3, 4),)), lr=0.1)
    take_steps(ours, 2)
    plain = copy.deepcopy(ours)
    plain.param_groups[0]["cautious"] = True
    (group,) = ours.param_groups
    items = [("cautious", True) if key == "foreach" else (key, group[key]) for key in group]
    group.clear()
    group.update(items)
    for optimizer in (ours, plain):
        take_steps(optimizer, 2, first=2)
    assert torch.equal(params_of(ours)[0], params_of(plain)[0])


def test_an_option_under_an_equal_key_is_seen() -> None:
    """A key may be another object than the string that names the option."""
    param = torch.zeros(1, requires_grad=True)
    optimizer = onepass.SGD([param], lr=1.0)
    param.grad = torch.ones(1)
    (group,) = optimizer.param_groups
    del group["lr"]
    key = "".join(("l", "r"))
    for rate in (0.5, 0.25, 0.25):
        group[key] = rate
        before = param.item()
        optimizer.step()
        assert param.item() == before - rate


def test_no_option_outlives_its_place_in_a_group() -> None:
    """Neither a tensor nor an object that holds the optimizer."""
    optimizer = onepass.AdamW(make_params(((3,),)))
    (group,) = optimizer.param_groups
    rate = torch.tensor(0.1)
    gone = weakref.ref(rate)
    group["lr"] = rate
    take_steps(optimizer, 1)
    group["lr"] = 0.1
    del rate
    assert gone() is None

    class Rate:
        owner = optimizer

        def __float__(self) -> float:
            return 0.1

    group["lr"] = Rate()
    take_steps(optimizer, 1, first=1)
    alive = weakref.ref(optimizer)
    del optimizer, group, Rate
    gc.collect()
    assert alive() is None

"""What wraps an optimizer in torch itself: checkpoints, ZeRO, steps in backward, averages."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from onepass.rules import RULES
from tests.cases import Case
from tests.oracle import all_states_on, state_names
from tests.support import (
    assert_same,
    each_case,
    make_params,
    numbers,
    params_of,
    randn,
    raw,
    set_grads,
    snapshot,
    take_steps,
)

# torch's own warning, where torch.distributed.optim is imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.[a-z_]+. is deprecated"),
    pytest.mark.usefixtures("process_group"),
]


def model() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))


def learn(net: Any, optimizer: Any, steps: int, first: int = 0) -> None:
    for number in range(first, first + steps):
        optimizer.zero_grad()
        net(randn((3, 4), torch.float32, number)).square().sum().backward()
        optimizer.step()


@each_case
def test_a_step_at_a_rate_of_zero_along_zeros_makes_states_and_moves_nothing(case: Case) -> None:
    """So does torch's distributed checkpointing make states before it loads."""
    for options in (*case.settings, *case.extras):
        for lr in (0.0, torch.tensor(0.0)):
            optimizer = case.ours(make_params(((3, 4), (), (7,))), **options)
            before = [raw(param) for param in params_of(optimizer)]
            optimizer.param_groups[0]["lr"] = lr
            for param in params_of(optimizer):
                param.grad = torch.zeros_like(param)
            optimizer.step(closure=None)
            assert [raw(param) for param in params_of(optimizer)] == before, options
            (group,) = optimizer.param_groups
            kept = RULES[case.ours.rule].counts_steps or state_names(case, group)
            assert len(optimizer.state) == (3 if kept else 0)


@each_case
@pytest.mark.parametrize("flat", (False, True))
def test_distributed_checkpointing_saves_and_loads_the_state(case: Case, flat: bool) -> None:
    how = StateDictOptions(flatten_optimizer_state_dict=flat)
    for options in (*case.settings, *case.extras, {"state_dtype": torch.bfloat16}):
        net = model()
        optimizer = case.ours(net.parameters(), **options)
        learn(net, optimizer, 3)
        saved = copy.deepcopy(get_optimizer_state_dict(net, optimizer, options=how))
        other_net = copy.deepcopy(net)
        other = case.ours(other_net.parameters(), **options)
        set_optimizer_state_dict(other_net, other, saved, options=how)
        for each_net, each in ((net, optimizer), (other_net, other)):
            learn(each_net, each, 2, first=3)
        assert_same(numbers(other), numbers(optimizer), options)


@each_case
def test_the_state_of_an_optimizer_that_never_stepped_can_be_had(case: Case) -> None:
    net = model()
    before = [raw(param) for param in net.parameters()]
    saved = get_optimizer_state_dict(net, case.ours(net.parameters(), **all_states_on(case)))
    assert saved["state"].keys() == {name for name, _ in net.named_parameters()}
    assert [raw(param) for param in net.parameters()] == before


@each_case
def test_zero_redundancy_optimizer_takes_the_class(case: Case) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    for options in (*case.settings, *case.extras):
        net, plain_net = model(), model()
        wrapped = ZeroRedundancyOptimizer(
            net.parameters(), optimizer_class=case.ours, **{"lr": 1e-3, **options}
        )
        plain = case.ours(plain_net.parameters(), **{"lr": 1e-3, **options})
        learn(net, wrapped, 3)
        learn(plain_net, plain, 3)
        for a, b in zip(net.parameters(), plain_net.parameters(), strict=True):
            assert raw(a) == raw(b), options


@each_case
def test_steps_in_backward_are_steps_after_it(case: Case) -> None:
    from torch.distributed.optim import _apply_optimizer_in_backward

    for options in (*case.settings, *case.extras):
        net, plain_net = model(), model()
        _apply_optimizer_in_backward(case.ours, net.parameters(), options)
        plain = case.ours(plain_net.parameters(), **options)
        for number in range(3):
            net(randn((3, 4), torch.float32, number)).square().sum().backward()
        learn(plain_net, plain, 3)
        for a, b in zip(net.parameters(), plain_net.parameters(), strict=True):
            assert raw(a) == raw(b), options


@each_case
def test_averages_of_the_model_see_its_steps(case: Case) -> None:
    net = model()
    optimizer = case.ours(net.parameters(), lr=0.1)
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    want = [param.detach().clone() for param in net.parameters()]
    for number in range(3):
        learn(net, optimizer, 1, number)
        averaged.update_parameters(net)
        for w, param in zip(want, net.parameters(), strict=True):
            w.copy_(param.detach() if number == 0 else w.lerp(param.detach(), 0.5))
    for a, w, param in zip(averaged.parameters(), want, net.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), w)
        assert not torch.equal(a, param)


@each_case
def test_a_wrapped_step_method_is_still_the_step(case: Case) -> None:
    """As accelerate does under a scaler: an attribute of the instance in the method's place."""
    optimizer, plain = (case.ours(make_params(((3, 4),))) for _ in range(2))
    calls = []
    method = optimizer.step

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return method(*args, **kwargs)

    optimizer.step = counted
    for each in (optimizer, plain):
        take_steps(each, 3)
    assert len(calls) == 3
    assert_same(snapshot(optimizer), snapshot(plain))
    set_grads(params_of(optimizer), 1)
    assert copy.deepcopy(optimizer).step != counted


# ---- hooks and profilers, for which torch wraps step()


def noted(optimizer: Any) -> list[str]:
    """Returns the list in which hooks around the optimizer's steps will note that they ran."""
    fired: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: fired.append("pre"))
    optimizer.register_step_post_hook(lambda *_: fired.append("post"))
    return fired


@each_case
def test_hooks_fire_once_around_the_step_of_a_subclass(case: Case) -> None:
    case.ours(make_params(((3,),)))  # the first of a class is when torch wraps its step

    class Twice(case.ours):  # type: ignore[misc]
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            return super().step(closure)

    optimizer = Twice(make_params(((3,),)))
    fired = noted(optimizer)
    set_grads(params_of(optimizer), 1)
    optimizer.step()
    assert fired == ["pre", "post"]


@each_case
def test_hooks_fire_where_the_step_of_the_class_was_replaced(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = case.ours.step
    monkeypatch.setattr(case.ours, "step", functools.wraps(step)(lambda self: step(self)))
    optimizer = case.ours(make_params(((3,),)))
    fired = noted(optimizer)
    optimizer.step()
    assert fired == ["pre", "post"]


@each_case
def test_a_hook_that_a_closure_adds_fires_after_the_same_step(case: Case) -> None:
    optimizer, fired = case.ours(make_params(((3,),))), []

    def closure() -> None:
        optimizer.register_step_post_hook(lambda *_: fired.append("post"))

    optimizer.step(closure)
    assert fired == ["post"]


@each_case
def test_a_hook_sees_the_arguments_that_step_was_given(case: Case) -> None:
    optimizer, seen = case.ours(make_params(((3,),))), []
    optimizer.register_step_pre_hook(lambda _, *given: seen.append(given))
    optimizer.step()
    optimizer.step(None)
    optimizer.step(closure=None)
    assert seen == [((optimizer,), {}), ((optimizer, None), {}), ((optimizer,), {"closure": None})]


@each_case
def test_torchs_wrapper_is_entered_where_a_hook_or_a_profiler_watches_and_only_there(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer, entered = case.ours(make_params(((3,),))), []
    make = torch.autograd.profiler.record_function
    monkeypatch.setattr(
        torch.autograd.profiler, "record_function", lambda name: entered.append(name) or make(name)
    )
    optimizer.step()
    assert not entered
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        optimizer.step()
    assert entered == [f"Optimizer.step#{case.ours.__name__}.step"]
    hook = optimizer.register_step_post_hook(lambda *_: None)
    optimizer.step()
    assert len(entered) == 2
    hook.remove()
    optimizer.step()
    assert len(entered) == 2

"""The step on tensors that are not plain: fake, distributed, of a class of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from onepass.rules import RULES
from tests.cases import Case
from tests.support import (
    assert_same,
    each_case,
    make_params,
    params_of,
    raw,
    set_grads,
    snapshot,
    take_steps,
)


def shared(case: Case) -> set[str]:
    """Returns what the state keeps as one number of the whole parameter."""
    return {"step", *(number.name for number in RULES[case.ours.rule].numbers)}


@each_case
def test_a_step_under_fake_tensor_mode_computes_shapes_and_touches_no_number(case: Case) -> None:
    for options in (*case.settings, *case.extras):
        with FakeTensorMode():
            params = [torch.empty(3, 4, requires_grad=True), torch.empty((), requires_grad=True)]
            optimizer = case.ours(params, **options)
            for _ in range(2):
                for param in params:
                    param.grad = torch.empty_like(param)
                optimizer.step()
        for param in params:
            for name, value in optimizer.state[param].items():
                assert isinstance(value, FakeTensor), name
                assert value.shape == (() if name in shared(case) else param.shape)


class Watching(TorchDispatchMode):
    """Sees every operation, and changes none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@each_case
def test_a_mode_that_only_watches_changes_no_step(case: Case) -> None:
    """Not the first one either, in which the state is made."""
    for options in (*case.settings, *case.extras):
        watched, plain = (case.ours(make_params(((3, 4), (2,))), **options) for _ in range(2))
        for number in range(3):
            take_steps(plain, 1, number)
            set_grads(params_of(watched), 7 + number)
            with Watching():
                watched.step()
            assert_same(snapshot(watched), snapshot(plain), options)


@each_case
def test_real_parameters_are_not_touched_by_a_fake_step(case: Case) -> None:
    optimizer = case.ours(make_params(((3, 4), (2,))))
    take_steps(optimizer, 1)
    before = snapshot(optimizer)
    with FakeTensorMode(allow_non_fake_inputs=True):
        optimizer.step()
    assert_same(snapshot(optimizer), before)


class Unknown(torch.Tensor):
    """A subclass that onepass has never heard of."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def plain(value: Any) -> Any:
            return value.inner if isinstance(value, Unknown) else value

        args = torch.utils._pytree.tree_map(plain, args)
        kwargs = torch.utils._pytree.tree_map(plain, kwargs or {})
        return torch.utils._pytree.tree_map(
            lambda value: unknown(value) if isinstance(value, Tensor) else value,
            func(*args, **kwargs),
        )


def unknown(inner: Tensor) -> Tensor:
    made: Any = torch.Tensor._make_wrapper_subclass(Unknown, inner.shape, dtype=inner.dtype)
    made.inner = inner
    return made  # type: ignore[no-any-return]


def strange_and_plain(case: Case, grouped: Callable[..., Any]) -> tuple[Any, Tensor, Tensor]:
    plain = make_params(((3,),))[0]
    strange = unknown(torch.ones(3)).requires_grad_()
    optimizer = case.ours(grouped(plain, strange))
    plain.grad = torch.ones(3)
    strange.grad = unknown(torch.ones(3))
    return optimizer, plain, strange


GROUPINGS: dict[str, Callable[..., Any]] = {
    "one group": lambda a, b: [a, b],
    "two groups": lambda a, b: [{"params": [a]}, {"params": [b]}],
}


@each_case
@pytest.mark.parametrize("grouped", GROUPINGS.values(), ids=GROUPINGS)
def test_an_unknown_tensor_subclass_is_refused_in_words_and_nothing_changes(
    case: Case, grouped: Callable[..., Any]
) -> None:
    optimizer, plain, strange = strange_and_plain(case, grouped)
    before = raw(plain), raw(strange.inner), len(optimizer.state)
    with pytest.raises(TypeError, match=r"cannot step a Unknown.*plain tensors and DTensors"):
        optimizer.step()
    assert (raw(plain), raw(strange.inner), len(optimizer.state)) == before
    strange.grad = None
    for _ in range(2):  # in the first, ADOPT only looks
        optimizer.step()
    assert raw(plain) != before[0]

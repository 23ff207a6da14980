"""What was loaded or copied from an optimizer goes on alone: no memory is shared."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import Case
from tests.support import (
    COMPLEX,
    REAL,
    SHAPES,
    after_three_steps,
    assert_same,
    each_case,
    groups_of,
    make_params,
    snapshot,
    take_steps,
)


def storages(value: Any) -> set[int]:
    if isinstance(value, Tensor):
        return {value.untyped_storage().data_ptr()} - {0}
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return {address for item in value for address in storages(item)}
    return set()


@each_case
@pytest.mark.parametrize("dtype", (*REAL, *COMPLEX), ids=str)
def test_loaded_state_shares_no_memory_with_its_source(case: Case, dtype: torch.dtype) -> None:
    for options in (*case.settings, *case.extras):
        source = after_three_steps(case.ours, {**options, "lr": torch.tensor(0.1)}, dtype)
        before = snapshot(source)
        other = case.ours(groups_of(make_params(SHAPES, dtype, seed=2)))
        state_dict = source.state_dict()
        other.load_state_dict(state_dict)
        shared = storages(other.state_dict()) & storages(state_dict)
        assert not shared, options
        take_steps(other, 1)
        other.param_groups[0]["lr"] += 1
        assert_same(snapshot(source), before, options)


@each_case
def test_a_loaded_lr_tensor_leaves_the_source_its_own(case: Case) -> None:
    source = case.ours(make_params(SHAPES), lr=torch.tensor(0.1))
    take_steps(source, 1)
    other = case.ours(make_params(SHAPES))
    other.load_state_dict(source.state_dict())
    other.param_groups[0]["lr"].fill_(0.7)
    assert float(source.param_groups[0]["lr"]) == pytest.approx(0.1)


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def reloaded_whole(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@each_case
@pytest.mark.parametrize("copied", (copy.deepcopy, pickled, reloaded_whole))
def test_a_copied_optimizer_goes_on_bit_for_bit_and_alone(case: Case, copied: Any) -> None:
    for options in (*case.settings, *case.extras):
        optimizer = after_three_steps(case.ours, options, torch.float32)
        optimizer.register_step_post_hook(print_nothing)
        torch.optim.lr_scheduler.LinearLR(optimizer)
        other = copied(optimizer)
        take_steps(optimizer, 2, first=9)
        expected = snapshot(optimizer)
        take_steps(other, 2, first=9)
        assert_same(snapshot(other), expected, options)
        assert_same(snapshot(optimizer), expected, options)


def print_nothing(*_: object) -> None:
    """A hook that pickle finds by its name."""

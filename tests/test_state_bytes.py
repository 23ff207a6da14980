"""The bytes of state are told before they are taken."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import onepass
from tests.cases import Case
from tests.oracle import all_states_on
from tests.support import (
    REAL,
    SHAPES,
    assert_same,
    each_case,
    make_params,
    snapshot,
    take_steps,
)


def states_measured(optimizer: Any) -> int:
    return sum(
        value.untyped_storage().nbytes()
        for state in optimizer.state.values()
        for value in state.values()
    )


def all_options(case: Case) -> Iterator[dict[str, Any]]:
    for options in (*case.settings, *case.extras):
        for state_dtype in (None, *REAL):
            yield {**options, "state_dtype": state_dtype}


@each_case
@pytest.mark.parametrize("default", (torch.float32, torch.float64), ids=str)
def test_state_bytes_are_the_bytes_of_the_storages(case: Case, default: torch.dtype) -> None:
    torch.set_default_dtype(default)
    count = 0
    for dtype in (*REAL, torch.complex64):
        for options in all_options(case):
            if dtype.is_complex and options["state_dtype"] in (torch.bfloat16, torch.float16):
                continue
            params = make_params(SHAPES, dtype)
            told = onepass.state_bytes(params, case.ours, **options)
            optimizer = case.ours(params, **options)
            assert optimizer.state_bytes() == states_measured(optimizer)
            take_steps(optimizer, 1)
            about = f"{dtype} {options}"
            assert told == optimizer.state_bytes() == states_measured(optimizer), about
            count += 1
    assert count >= 60


@each_case
def test_state_bytes_of_modules_groups_names_and_meta_tensors(case: Case) -> None:
    def model() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.LayerNorm(20))

    with torch.device("meta"):
        weightless = model()
    real = model()
    given = [
        real,
        weightless,
        list(real.parameters()),
        real.parameters(),
        real.named_parameters(),
        [{"params": layer.parameters()} for layer in real],  # type: ignore[attr-defined]
        [{"params": list(layer.named_parameters())} for layer in real],  # type: ignore[attr-defined]
    ]
    optimizer = case.ours(real.parameters())
    take_steps(optimizer, 1)
    assert {onepass.state_bytes(params, case.ours) for params in given} == {
        states_measured(optimizer)
    }
    before = snapshot(optimizer)
    onepass.state_bytes(real, case.ours, lr=3.0)
    assert_same(snapshot(optimizer), before)


@each_case
def test_state_bytes_of_groups_with_options_of_their_own(case: Case) -> None:
    def groups() -> list[dict[str, Any]]:
        return [
            {"params": make_params(((5, 7),)), **options, "state_dtype": state_dtype}
            for options in (*case.settings, *case.extras)
            for state_dtype in (None, *REAL)
        ]

    optimizer = case.ours(groups())
    take_steps(optimizer, 1)
    assert onepass.state_bytes(groups(), case.ours) == states_measured(optimizer)


@each_case
def test_state_bytes_of_a_module_leaves_out_what_is_frozen(case: Case) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.Linear(20, 3))
    model[0].requires_grad_(False)
    told = onepass.state_bytes(model, case.ours)
    optimizer = case.ours(model.parameters())
    model(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    assert told == states_measured(optimizer)


@each_case
def test_state_bytes_counts_the_bits_that_it_promises(case: Case) -> None:
    """A model far too large for any machine: the number is exact, nothing is allocated."""
    with torch.device("meta"):
        huge = torch.nn.Linear(1_000_000, 1_000_000, bias=False)
    options = all_states_on(case)
    taken = onepass.state_bytes(huge, case.ours, **options)
    halved = onepass.state_bytes(huge, case.ours, state_dtype=torch.bfloat16, **options)
    steps = taken % 10**12
    assert taken > 10**12 and (taken - steps) == 2 * (halved - steps)


@each_case
def test_importing_and_stepping_warn_of_nothing(case: Case) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        take_steps(case.ours(make_params(SHAPES)), 2)
    assert caught == []

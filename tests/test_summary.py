"""print(opt): torch's text, and after it what is stepped how; it never fails, reads no tensor."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

import onepass
from tests.cases import Case
from tests.support import SHAPES, each_case, groups_of, make_params, params_of, take_steps
from tests.unchanged import assert_unchanged, everything


def added(optimizer: Any) -> list[str]:
    """Returns the lines that follow torch's text."""
    torchs = torch.optim.Optimizer.__repr__(optimizer)
    assert repr(optimizer).startswith(torchs)
    return repr(optimizer).removeprefix(torchs).removeprefix("\n").splitlines()


@each_case
def test_torchs_text_comes_first_and_nothing_changes(case: Case) -> None:
    optimizer = case.ours(groups_of(make_params(SHAPES)))
    for _ in range(2):
        before = everything(optimizer)
        lines = added(optimizer)
        assert_unchanged(before, everything(optimizer), case)
        assert [line.split(":")[0] for line in lines] == ["Parameters", "Step", "State"]
        assert lines[0] == "Parameters: 5 of float32 on cpu (93 elements)"
        assert lines[1] == "Step: 5 in one pass"
        taken = optimizer.state_bytes()
        assert lines[2].endswith(f"{taken:,} bytes now" if taken else "no bytes yet")
        take_steps(optimizer, 1)


def test_states_of_8_bits_and_those_that_stay_floats_are_told_apart() -> None:
    optimizer = onepass.AdamW(make_params(SHAPES), state_dtype=torch.int8)
    take_steps(optimizer, 1)
    in_floats = "3 in float32 (fewer than two dimensions)"
    assert added(optimizer)[2] == (
        f"State: 2 in 8 bits, {in_floats}, {optimizer.state_bytes():,} bytes now"
    )
    mixed = onepass.AdamW(make_params(((2,),), torch.float16) + make_params(((3,),)))
    assert added(mixed)[2] == "State: 2 in float32, no bytes yet"


def test_what_is_not_stepped_in_one_pass_is_said() -> None:
    params = [
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, device="meta"),
        torch.zeros(2, dtype=torch.float8_e4m3fn),
        torch.zeros(2, 2).to_sparse(),
        TwoTensor(torch.zeros(2), torch.zeros(2)),
    ]
    optimizer = onepass.SGD([param.requires_grad_() for param in params] + [torch.zeros(3)])
    assert added(optimizer)[1].removeprefix("Step: ").split(", ") == [
        "1 in one pass",
        "1 refused (no kernels for meta)",
        "1 refused (float8_e4m3fn is not stepped)",
        "1 refused (its layout is not dense)",
        "1 by inner tensors where they can be told",
        "1 frozen",
    ]
    twice = onepass.SGD(make_params(((3,),)), differentiable=True)
    assert added(twice)[1] == "Step: 1 by torch's code (differentiable)"


def test_freed_memory_is_no_obstacle() -> None:
    optimizer = onepass.AdamW(make_params(SHAPES))
    take_steps(optimizer, 1)
    for param in params_of(optimizer):
        param.untyped_storage().resize_(0)
    assert added(optimizer)[1] == "Step: 5 in one pass"


BROKEN = (
    {},
    {"params": None},
    {"params": [1]},
    {"params": make_params(((3,),)), "amsgrad": False, "state_dtype": "int3"},
)


@pytest.mark.parametrize("group", BROKEN, ids=map(str, range(len(BROKEN))))
def test_groups_that_cannot_be_counted_are_printed_as_torch_does(group: dict[str, Any]) -> None:
    optimizer = copy.copy(onepass.AdamW(make_params(SHAPES)))
    optimizer.param_groups = [group]
    assert repr(optimizer) == torch.optim.Optimizer.__repr__(optimizer)

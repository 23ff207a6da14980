"""C17: decoupled decay reaches rows without a gradient late, and then in full."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

import onepass
from tests.cases import CASES
from tests.rows import sparse
from tests.support import REAL, after_three_steps, assert_same, randn, seeded, snapshot
from tests.unchanged import refused

pytestmark = pytest.mark.sanitize


def walked(decouple_lr: bool, kinds: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Returns what sparse AdamW and dense AdamW make of the same gradients.

    `kinds` says step by step: s a sparse gradient, d a dense one, . none, r saved and loaded.
    """
    options = {"lr": 0.1, "betas": (0.0, 0.0), "weight_decay": 0.1, "decouple_lr": decouple_lr}
    table = randn((40, 3), dtype, 1).requires_grad_()
    dense = table.detach().clone().requires_grad_()
    ours, wanted = onepass.AdamW([table], **options), onepass.AdamW([dense], **options)
    for step, kind in enumerate(kinds):
        rows = torch.randperm(40, generator=seeded(step))[:10]
        full = torch.zeros(40, 3, dtype=dtype)
        full[rows] = randn((10, 3), dtype, step)
        dense.grad = None if kind in ".r" else full
        table.grad = sparse(full, 1, rows) if kind == "s" else dense.grad
        for optimizer in (ours, wanted):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step % 7)
            optimizer.step()
        if kind == "r":
            saved = copy.deepcopy(ours.state_dict())
            ours = onepass.AdamW([table], **options)
            ours.load_state_dict(saved)
    ours.catch_up()
    return [table.detach(), dense.detach()]


@pytest.mark.parametrize("decouple_lr", (False, True))
@pytest.mark.parametrize("kinds", ("s" * 60, "sd" * 20, "d" + "s" * 20, "ss.rs" * 8, "sdr" * 10))
def test_after_catch_up_adamw_is_dense_adamw(decouple_lr: bool, kinds: str) -> None:
    """Without memory in the moments; random rows, a rate that changes at every step."""
    sparse_end, dense_end = walked(decouple_lr, kinds)
    torch.testing.assert_close(sparse_end, dense_end, rtol=1e-12, atol=1e-12)
    sparse_end, dense_end = walked(decouple_lr, kinds, torch.float32)
    torch.testing.assert_close(sparse_end, dense_end, rtol=1e-6, atol=1e-6)


def test_catching_up_twice_changes_nothing_and_other_classes_have_nothing_to_catch_up() -> None:
    for case in CASES:
        optimizer = after_three_steps(case.ours, {}, torch.float32)
        before = snapshot(optimizer)
        optimizer.catch_up()
        assert_same(snapshot(optimizer), before, case)
    table = randn((9, 2), torch.float32, 1).requires_grad_()
    optimizer = onepass.AdamW([table], lr=0.1, weight_decay=0.5)
    for row in range(4):
        table.grad = sparse(torch.ones(9, 2), 1, torch.tensor([row]))
        optimizer.step()
    optimizer.catch_up()
    before = snapshot(optimizer)
    optimizer.catch_up()
    assert_same(snapshot(optimizer), before)


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_a_row_that_missed_decay_takes_it_before_its_step(dtype: torch.dtype) -> None:
    lr, decay = 0.125, 0.5
    table = torch.ones(3, 2, dtype=dtype, requires_grad=True)
    optimizer = onepass.AdamW([table], lr=lr, weight_decay=decay, betas=(0.0, 0.0))
    for row in (0, 0, 0, 1):
        table.grad = sparse(torch.ones(3, 2, dtype=dtype), 1, torch.tensor([row]))
        optimizer.step()
    kept = 1 - lr * decay
    wanted = torch.tensor([kept**4 - lr, 1.0])
    torch.testing.assert_close(table[1:, 0].float(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_the_log_of_decay_is_kept_only_where_it_is_needed_and_loads_into_torchs_class() -> None:
    for cls, options, kept in (
        (onepass.AdamW, {}, True),
        (onepass.AdamW, {"weight_decay": 0.0}, False),
        (onepass.Adam, {"weight_decay": 0.1}, False),
        (onepass.Adam, {"weight_decay": 0.1, "decoupled_weight_decay": True}, True),
    ):
        table = torch.ones(4, 2, requires_grad=True)
        optimizer = cls([table], **options)
        table.grad = torch.ones(4, 2)
        optimizer.step()
        assert "decay_log" not in optimizer.state[table]
        table.grad = sparse(torch.ones(4, 2), 1, torch.tensor([2]))
        optimizer.step()
        assert ("decay_log" in optimizer.state[table]) == kept
        theirs = getattr(torch.optim, cls.__name__)([torch.ones(4, 2, requires_grad=True)])
        theirs.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("name", ("decay_log", "row_decay_log"))
def test_a_log_of_decay_that_does_not_fit_is_refused(name: str) -> None:
    for wrong in (None, 0.5, torch.zeros(3), torch.zeros(4).float(), torch.full((), math.nan)):
        if name == "row_decay_log" and isinstance(wrong, Tensor) and wrong.dim() == 0:
            continue  # one row, the whole parameter
        table = torch.ones(4, 2, requires_grad=True)
        optimizer = onepass.AdamW([table])
        table.grad = sparse(torch.ones(4, 2), 1, torch.tensor([2]))
        optimizer.step()
        bad = optimizer.state_dict()
        bad["state"][0] = {**bad["state"][0], name: wrong}
        if wrong is None:
            del bad["state"][0][name]
            if name == "decay_log":
                continue  # a state without logs
        with refused(optimizer, wrong):
            optimizer.load_state_dict(bad)


def test_a_step_that_keeps_nothing_of_a_row_is_refused() -> None:
    table = torch.ones(4, 2, requires_grad=True)
    optimizer = onepass.AdamW([table], lr=2.0, weight_decay=0.5)
    table.grad = sparse(torch.ones(4, 2), 1, torch.tensor([2]))
    with refused(optimizer, "lr"):
        optimizer.step()
    with pytest.raises(ValueError, match="must be more than 0"):
        optimizer.step()

"""C17: sparse gradients touch the rows they have values for and nothing else."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import onepass
from tests.bad_inputs import Mode, out_of_range
from tests.cases import CASES, Case
from tests.layouts import same_bits
from tests.rows import sparse
from tests.support import (
    COMPLEX,
    REAL,
    SPARSE_CASES,
    any_grad_dtype,
    assert_same,
    each_sparse_case,
    numbers,
    params_of,
    randn,
    raw,
    seeded,
    snapshot,
)
from tests.unchanged import refused

SHAPES = (((7,), 1), ((7, 3), 1), ((5, 4), 2), ((6, 2, 3), 1), ((4, 3, 2), 2), ((2, 3, 2), 3))
pytestmark = pytest.mark.sanitize


def settings_of(case: Case) -> list[dict[str, Any]]:
    """Returns options that a step with sparse gradients takes."""
    options = [one for one in (*case.settings, *case.extras) if "cautious" not in one]
    if case.ours is onepass.Adagrad:
        options = [{k: v for k, v in one.items() if k != "weight_decay"} for one in options]
    return options


def tables(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> list[Tensor]:
    """Returns leaves of equal numbers: contiguous, transposed in memory, every other element."""
    good = randn(shape, dtype, seed)
    turned = good.permute(*reversed(range(len(shape)))).clone(memory_format=torch.contiguous_format)
    wide = torch.zeros(*shape, 2, dtype=dtype)
    wide[..., 0] = good
    made = [good, turned.permute(*reversed(range(len(shape)))), wide[..., 0]]
    return [param.requires_grad_() for param in made]


# ---- which numbers


@each_sparse_case
@pytest.mark.parametrize("dtype", (*REAL, *COMPLEX), ids=str)
def test_all_rows_present_is_the_dense_step_bit_for_bit(case: Case, dtype: torch.dtype) -> None:
    count = 0
    for options, (shape, sparse_dim) in itertools.product(settings_of(case), SHAPES):
        params = tables(shape, dtype, 1)
        optimizers = [case.ours([param], **options) for param in params]
        wanted = case.ours([params[0].detach().clone().requires_grad_()], **options)
        (twin,) = params_of(wanted)
        for step in range(3):
            twin.grad = randn(shape, dtype, 10 + step)
            wanted.step()
            for param, optimizer in zip(params, optimizers, strict=True):
                param.grad = sparse(twin.grad, sparse_dim)
                optimizer.step()
                assert same_bits(param, twin), f"{options} {shape} {step}"
                for name, value in wanted.state[twin].items():
                    assert same_bits(optimizer.state[param][name], value), name
                count += 1
    assert count >= 150


@each_sparse_case
def test_touched_rows_take_the_dense_step_and_others_keep_every_bit(case: Case) -> None:
    """The touched rows alone, in an optimizer of their own, are what the dense step makes."""
    count = 0
    for options, (shape, sparse_dim) in itertools.product(settings_of(case), SHAPES):
        if case.ours is onepass.AdamW or options.get("decoupled_weight_decay"):
            options = {**options, "weight_decay": 0.0}  # which has tests of its own
        for dtype, param in itertools.product(REAL, tables(shape, torch.float64, 2)):
            table = param.detach().to(dtype).requires_grad_()
            optimizer = case.ours([table], **options)
            table.grad = sparse(randn(shape, dtype, 3), sparse_dim)
            optimizer.step()
            size = math.prod(shape[:sparse_dim])
            rows = torch.randperm(size)[: size // 2]
            block = (size, *shape[sparse_dim:])
            alone = table.detach().reshape(block)[rows].clone().requires_grad_()
            twin = case.ours([alone], **options)
            twin.state[alone] = {
                name: value.reshape(block)[rows].clone() if value.shape == shape else value.clone()
                for name, value in optimizer.state[table].items()
            }
            before = table.detach().clone().reshape(block)
            states = {k: v.clone() for k, v in optimizer.state[table].items()}
            grad = randn(shape, dtype, 4)
            alone.grad = grad.reshape(block)[rows].clone()
            table.grad = sparse(grad, sparse_dim, rows)
            twin.step()
            optimizer.step()
            others = torch.ones(size, dtype=torch.bool)
            others[rows] = False
            after = table.detach().reshape(block)
            assert same_bits(after[rows], alone.detach()), f"{options} {shape} {dtype}"
            assert same_bits(after[others], before[others])
            for name, value in optimizer.state[table].items():
                if value.shape == shape:
                    now, old = value.reshape(block), states[name].reshape(block)
                    assert same_bits(now[rows], twin.state[alone][name]), name
                    assert same_bits(now[others], old[others]), name
                else:
                    assert torch.equal(value, twin.state[alone][name]), name
            count += 1
    assert count >= 200


@each_sparse_case
def test_repeated_and_unsorted_indices_add_up(case: Case) -> None:
    """Whole numbers, so that every order of adding gives the same bits."""
    for seed in range(40):
        shape, sparse_dim = random.Random(seed).choice(SHAPES)
        size, nnz = math.prod(shape[:sparse_dim]), random.Random(seed).randrange(0, 12)
        rows = torch.randint(size, (nnz,), generator=seeded(seed))
        values = torch.randint(-4, 5, (nnz, *shape[sparse_dim:]), generator=seeded(seed)).float()
        indices = torch.stack(torch.unravel_index(rows, shape[:sparse_dim]))
        messy = torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)
        ends = []
        for grad in (messy, messy.clone().coalesce()):
            param = randn(shape, torch.float32, 1).requires_grad_()
            optimizer = case.ours([param], **settings_of(case)[1])
            for _ in range(2):
                param.grad = grad
                optimizer.step()
            assert messy._nnz() == nnz and messy.is_coalesced() == (nnz < 2)
            param.grad = None
            ends.append(snapshot(optimizer))
        assert_same(ends[0], ends[1], seed)


@pytest.mark.parametrize("maximize", (False, True))
def test_adam_is_sparse_adam_at_eps_0(maximize: bool) -> None:
    options = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.0, "maximize": maximize}
    params = [randn((50, 3), torch.float64, 1).requires_grad_() for _ in range(2)]
    ours = onepass.Adam([params[0]], **options)
    theirs = torch.optim.SparseAdam([params[1]], **{**options, "eps": 1e-30})  # refuses 0
    for step in range(50):
        rows = torch.randint(50, (20,), generator=seeded(step))
        for param, optimizer in zip(params, (ours, theirs), strict=True):
            param.grad = sparse(randn((50, 3), torch.float64, step), 1, rows)
            optimizer.step()
    torch.testing.assert_close(params[0], params[1], rtol=1e-10, atol=1e-12)
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(ours.state[params[0]][name], theirs.state[params[1]][name])


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's Adagrad
@pytest.mark.parametrize("cls", ("SGD", "Adagrad"))
def test_sgd_and_adagrad_train_an_embedding_as_torchs_classes(cls: str) -> None:
    tables = [torch.nn.Embedding(30, 4, sparse=True) for _ in range(2)]
    tables[1].load_state_dict(tables[0].state_dict())
    pairs = [
        getattr(module, cls)(table.parameters(), lr=0.1)
        for module, table in zip((onepass, torch.optim), tables, strict=True)
    ]
    for step in range(30):
        words = torch.randint(30, (4, 5), generator=seeded(step))
        for table, optimizer in zip(tables, pairs, strict=True):
            optimizer.zero_grad()
            (table(words).sum(1) ** 2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(tables[0].weight, tables[1].weight, rtol=1e-5, atol=1e-6)


# ---- what surrounds a step


@each_sparse_case
def test_threads_and_order_change_no_bit(case: Case) -> None:
    ends = []
    for threads, shift in itertools.product((1, 2), (0, 3)):
        torch.set_num_threads(threads)
        table = randn((3000, 64), torch.float32, 1).requires_grad_()
        dense = randn((700, 64), torch.float32, 2).requires_grad_()
        params = [table, dense][:: -1 if shift else 1]
        optimizer = case.ours([{"params": [param]} for param in params])
        for step in range(3):
            rows = torch.randperm(3000, generator=seeded(step))[:1500]
            table.grad = sparse(randn((3000, 64), torch.float32, step), 1, rows.roll(shift))
            dense.grad = randn((700, 64), torch.float32, 50 + step)
            optimizer.step()
        ends.append((raw(table), raw(dense)))
    assert len(set(ends)) == 1


@each_sparse_case
def test_no_values_count_a_step_and_change_nothing_else(case: Case) -> None:
    for shape, sparse_dim in (*SHAPES, ((), 0), ((0, 3), 1), ((3, 0), 1)):
        param = randn(shape, torch.float32, 1).requires_grad_()
        optimizer = case.ours([param])
        for step in range(1, 3):
            param.grad = torch.zeros(shape).to_sparse(sparse_dim) if sparse_dim else None
            if not sparse_dim:
                indices = torch.zeros(0, 0, dtype=torch.int64)
                param.grad = torch.sparse_coo_tensor(
                    indices, torch.zeros(0), (), check_invariants=True
                )
            before = raw(param)
            optimizer.step()
            assert raw(param) == before
            assert float(optimizer.state[param].get("step", step)) == step


@each_sparse_case
def test_grad_scaler_unscales_and_skips_sparse_gradients(case: Case) -> None:
    ends = []
    for factors in ((1.0, 1.0), (1.0, 1.0, math.inf)):  # the last overflows and is skipped
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=len(factors) == 3)
        table = torch.nn.Embedding(10, 3, sparse=True)
        table.weight.data = randn((10, 3), torch.float32, 1)
        optimizer = case.ours(table.parameters(), lr=0.25)
        for step, factor in enumerate(factors):
            optimizer.zero_grad()
            loss = (table(torch.tensor([1, 4, step])) ** 2).sum() * factor
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        ends.append(raw(table.weight))
    assert ends[0] == ends[1]


def test_a_fused_step_under_a_grad_scaler_takes_no_sparse_gradients() -> None:
    table = torch.nn.Embedding(10, 3, sparse=True)
    optimizer = onepass.Adam(table.parameters(), fused=True)
    table(torch.tensor([1, 4])).sum().backward()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(()))
    with pytest.raises(RuntimeError, match="leave fused=True out"):
        scaler.step(optimizer)


# ---- what is refused


def with_indices(indices: Any, values: Any = None) -> Tensor:
    values = torch.ones(len(indices[0]), 4) if values is None else values
    return torch.sparse_coo_tensor(
        torch.tensor(indices), values, (3, 4), check_invariants=False, is_coalesced=True
    )


WRONG = {
    "too large": (lambda: with_indices([[0, 3]]), "sparse index 3 in dimension 0.* size 3"),
    "negative": (lambda: with_indices([[-1]]), "sparse index -1 in dimension 0"),
    "second dimension": (out_of_range, "sparse index 9 in dimension 0"),
    "int64": (lambda: torch.ones(3, 4, dtype=torch.int64).to_sparse(1), "dtype Long"),
    "complex": (lambda: torch.ones(3, 4, dtype=torch.complex64).to_sparse(1), "both"),
}


@each_sparse_case
@pytest.mark.parametrize(
    "what",
    [pytest.param(w, marks=any_grad_dtype if w in ("int64", "complex") else ()) for w in WRONG],
)
def test_what_is_wrong_is_refused_and_changes_nothing(case: Case, what: str) -> None:
    make, words = WRONG[what]
    for stepped in (False, True):
        params = [randn((3, 4), torch.float32, k).requires_grad_() for k in range(3)]
        optimizer = case.ours(params)
        if stepped:
            for param in params:
                param.grad = torch.ones(3, 4)
            optimizer.step()
        for param in params:
            param.grad = torch.ones(3, 4).to_sparse(1)
        params[1].grad_dtype = None
        params[1].grad = make()
        with refused(optimizer, what):
            optimizer.step()
        with pytest.raises(RuntimeError, match=f"parameter 1 of group 0.*{words}"):
            optimizer.step()


@each_sparse_case
def test_under_a_dispatch_mode_nothing_is_half_applied(case: Case) -> None:
    params = [randn((3, 4), torch.float32, k).requires_grad_() for k in range(2)]
    optimizer = case.ours([{"params": [param]} for param in params])
    params[0].grad, params[1].grad = torch.ones(3, 4), torch.ones(3, 4).to_sparse(1)
    with refused(optimizer, "mode"), Mode():
        optimizer.step()
    with pytest.raises(RuntimeError, match="parameter 0 of group 1 is sparse"), Mode():
        optimizer.step()


def test_repeated_indices_that_are_marked_as_coalesced_add_up_all_the_same() -> None:
    param, twin = torch.zeros(3, 4, requires_grad=True), torch.zeros(3, 4, requires_grad=True)
    param.grad, twin.grad = with_indices([[1, 1, 0]]), torch.zeros(3, 4)
    twin.grad[0], twin.grad[1] = 1.0, 2.0
    for each in (param, twin):
        onepass.SGD([each], lr=1.0).step()
    assert torch.equal(param, twin)


@pytest.mark.parametrize("cls", (onepass.Adam, onepass.AdamW))
def test_cautious_steps_take_dense_gradients(cls: Any) -> None:
    table = torch.ones(4, 2, requires_grad=True)
    optimizer = cls([table], cautious=True)
    table.grad = sparse(torch.ones(4, 2), 1, torch.tensor([2]))
    with refused(optimizer, "cautious"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="dense gradients"):
        optimizer.step()


def test_adagrad_refuses_weight_decay_in_torchs_words() -> None:
    for cls in (onepass.Adagrad, torch.optim.Adagrad):
        param = torch.ones(3, 4, requires_grad=True)
        param.grad = torch.ones(3, 4).to_sparse(1)
        with pytest.raises(RuntimeError, match="weight_decay option is not compatible"):
            cls([param], weight_decay=0.1).step()


def test_the_table_of_classes_that_take_sparse_gradients_is_whole() -> None:
    taken = []
    for case in CASES:
        param = Parameter(torch.ones(4, 2))
        param.grad = sparse(torch.ones(4, 2), 1, torch.tensor([2]))
        try:
            case.ours([param]).step()
            taken.append(case)
        except RuntimeError as error:
            assert "does not support sparse gradients" in str(error)
    assert tuple(taken) == SPARSE_CASES


@each_sparse_case
def test_sparse_and_dense_gradients_in_any_order_of_groups(case: Case) -> None:
    ends: list[dict[int, bytes]] = []
    for order in itertools.permutations(range(3)):
        params = [randn((6, 2), torch.float32, k).requires_grad_() for k in range(3)]
        optimizer = case.ours([{"params": [params[k]]} for k in order])
        for step in range(3):
            for k, param in enumerate(params):
                dense = randn((6, 2), torch.float32, 10 * step + k)
                param.grad = sparse(dense, 1, torch.tensor([1, 4])) if k == step else dense
            optimizer.step()
        assert len(numbers(optimizer)) >= 3
        ends.append({k: raw(param) for k, param in enumerate(params)})
    assert all(end == ends[0] for end in ends)

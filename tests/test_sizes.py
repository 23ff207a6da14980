"""C14: tensors of any size, none among them, and lists of any mixture."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onepass.rules import RULES
from tests.built import compiled_library
from tests.cases import CASES, Case
from tests.oracle import all_states_on, assert_steps_right, give_states
from tests.support import (
    assert_same,
    each_case,
    each_kind,
    params_of,
    randn,
    snapshot,
    visible,
)
from tests.unchanged import Findings

DTYPES = (torch.float32, torch.bfloat16, torch.complex64)
EMPTY_SHAPES = ((0,), (0, 3), (3, 0), (2, 0, 2), (0, 0))
each_that_counts = pytest.mark.parametrize(
    "case", [case for case in CASES if RULES[case.ours.rule].counts_steps], ids=str
)


def steps_right(
    case: Case, shapes: Sequence[Sequence[int]], dtype: torch.dtype = torch.float32, steps: int = 1
) -> None:
    """Takes steps of parameters of these shapes; each must be right, and none left out."""
    # So small that 16 bits show every step.
    params = [(1e-3 * randn(shape, dtype, k)).requires_grad_() for k, shape in enumerate(shapes)]
    for k, param in enumerate(params):
        param.grad = randn(param.shape, dtype, 100 + k).abs().to(dtype) + 0.5
    before = [param.detach().clone() for param in params]
    optimizer = case.ours(params, lr=visible(case, 0.05), **all_states_on(case))
    give_states(optimizer)
    for _ in range(steps):
        assert_steps_right(case, optimizer, f"{dtype} {shapes}")
    for old, new in zip(before, params_of(optimizer), strict=True):
        assert old.numel() == 0 or bool((old != new).all()), f"{shapes}: not stepped"
        assert old.shape == new.shape


@each_kind
@pytest.mark.sanitize
def test_c14_every_mixture_of_empty_and_full_tensors(case: Case) -> None:
    findings = Findings()
    for length in range(1, 7):
        for full in itertools.product((False, True), repeat=length):
            for dtype in DTYPES:
                shapes = [
                    (k + 1, 3) if is_full else EMPTY_SHAPES[k % len(EMPTY_SHAPES)]
                    for k, is_full in enumerate(full)
                ]
                with findings.case():
                    steps_right(case, shapes, dtype)
    findings.report(at_least=3 * (2**7 - 2))


@each_kind
@pytest.mark.sanitize
def test_c14_every_order_of_unequal_sizes(case: Case) -> None:
    findings = Findings()
    for shapes in itertools.permutations([(), (0,), (1,), (7, 11), (4099,)]):
        with findings.case():
            steps_right(case, shapes)
    findings.report(at_least=120)


@each_kind
@pytest.mark.sanitize
def test_c14_prime_sizes_and_none_and_one(case: Case) -> None:
    primes = [n for n in range(2, 270) if all(n % k for k in range(2, n))]
    shapes: list[tuple[int, ...]] = [(), (0,), (1,), (1, 1, 1), (1,) * 60]
    shapes += [(n,) for n in (*primes, 1021, 1031, 2053, 4093, 8191, 16381)]
    shapes += [(p, q) for p, q in itertools.pairwise(primes[:12])]
    findings = Findings()
    for shape in shapes:
        for dtype in DTYPES:
            with findings.case():
                steps_right(case, [shape], dtype)
    findings.report(at_least=200)


@each_kind
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_c14_sizes_around_the_thresholds_of_the_sweep(case: Case, threads: int) -> None:
    torch.set_num_threads(threads)
    findings = Findings()
    for total in (32768, 32769, 98305):
        for shapes in (
            [(total,)],
            [(0,), (total,), (0,)],
            [(1,), (total - 2,), (1,)],
            [(total // 2,), (0,), (total - total // 2,)],
            [(1000,)] * (total // 1000),
        ):
            with findings.case():
                steps_right(case, shapes)
    findings.report(at_least=15)


@each_kind
@pytest.mark.sanitize
def test_c14_a_thousand_empty_tensors(case: Case) -> None:
    steps_right(case, [(5,), *[(0,)] * 1000])
    steps_right(case, [*[(0, 3)] * 1000, (3,)])


@each_that_counts
def test_c14_a_thousand_empty_tensors_count_their_steps(case: Case) -> None:
    params = [torch.empty(3, 0, requires_grad=True) for _ in range(1000)]
    for param in params:
        param.grad = torch.empty(3, 0)
    optimizer = case.ours(params)
    for _ in range(3):
        optimizer.step()
    assert all(optimizer.state[param]["step"] == 3 for param in params)


@each_that_counts
def test_c14_groups_of_empty_tensors_count_their_steps(case: Case) -> None:
    empty, full = torch.empty(0, 4, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = case.ours([{"params": [empty]}, {"params": [full]}])
    for count in range(1, 4):
        empty.grad, full.grad = torch.empty(0, 4), torch.ones(3)
        optimizer.step()
        assert optimizer.state[empty]["step"] == optimizer.state[full]["step"] == count
    resumed = case.ours([{"params": [empty]}, {"params": [full]}])
    resumed.load_state_dict(optimizer.state_dict())
    assert_steps_right(case, resumed, "resumed")


@each_case
def test_c14_optimizers_without_anything_to_do(case: Case) -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = case.ours([param])
    before = snapshot(optimizer)
    optimizer.step()
    assert_same(snapshot(optimizer), before)
    optimizer.param_groups[0]["params"].clear()
    optimizer.step()
    optimizer.param_groups.clear()
    optimizer.step()


# ---- the plan of sizes that no machine can hold

BLOCK = 64  # elements, of which no thread has a part
MANY = 2**40
sizes_of_tensors = st.lists(
    st.one_of(st.just(0), st.integers(1, 5), st.integers(0, 2**20), st.integers(2**31 - 3, MANY)),
    max_size=12,
)


def pieces(sizes: list[int], begin: int, end: int) -> list[tuple[int, ...]]:
    """Returns (tensor, begin, end) for each part of a tensor that lies in [begin, end)."""
    ends = (ctypes.c_int64 * len(sizes))(*itertools.accumulate(sizes))
    found = (ctypes.c_int64 * (3 * len(sizes)))()
    line = (ctypes.c_int64(number) for number in (len(sizes), begin, end))
    count = compiled_library("flat_index").pieces(ends, *line, found)
    return [tuple(found[3 * k : 3 * k + 3]) for k in range(count)]


def assert_each_element_once(sizes: list[int], parts: int) -> None:
    """Follows the pieces: in order, none empty, each tensor whole, each stretch equally long."""
    total = sum(sizes)
    length = max(1, -(-total // parts))
    stretches = [
        pieces(sizes, begin, min(total, begin + length)) for begin in range(0, total, length)
    ]
    ends = [0] * len(sizes)
    last = -1
    for stretch in stretches:
        for tensor, begin, end in stretch:
            assert tensor >= last, "out of order"
            assert begin == ends[tensor], "an element is left out or comes twice"
            assert begin < end <= sizes[tensor], "outside the tensor"
            assert begin % BLOCK == 0, "a block is cut"
            ends[tensor], last = end, tensor
    assert ends == sizes, "elements are missing"
    lengths = [sum(end - begin for _, begin, end in stretch) for stretch in stretches]
    assert len(stretches) <= parts
    assert all(abs(n - length) < BLOCK for n in lengths[:-1]), "stretches differ in length"
    assert not lengths or max(lengths) - lengths[-1] < max(parts, lengths[0]) + BLOCK


@settings(deadline=None, max_examples=600, derandomize=True, database=None)
@given(sizes=sizes_of_tensors, parts=st.integers(1, 100))
@example(sizes=[MANY, MANY, MANY], parts=3)  # more than 2^41 in all
@example(sizes=[2**31], parts=2)
@example(sizes=[2**31 - 1, 1, 2**31 + 1], parts=7)
@example(sizes=[2**32] * 12, parts=64)
@example(sizes=[0, 0, 2**33, 0], parts=5)
@example(sizes=[2_359_332_864], parts=4)
@example(sizes=[0] * 12, parts=3)
@example(sizes=[], parts=1)
@example(sizes=[1], parts=100)
def test_c14_the_plan_visits_each_element_once(sizes: list[int], parts: int) -> None:
    assert_each_element_once(sizes, parts)


def test_c14_the_plan_of_every_small_list() -> None:
    count = 0
    for length in range(5):
        for sizes in itertools.product((0, 1, 2, 2**31 + 1), repeat=length):
            for parts in (1, 2, 3, 5):
                assert_each_element_once(list(sizes), parts)
                count += 1
    assert count >= 500

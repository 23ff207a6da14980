"""The same inputs give the same bytes: any threads, instruction set, list, alignment, process."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from onepass import _C
from tests.cases import CASES, Case
from tests.support import (
    assert_same,
    copies,
    each_case,
    each_kind,
    finish,
    instruction_sets,
    make_params,
    numbers,
    params_of,
    randn,
    raw,
    set_grads,
    start_python,
    take_steps,
)

pytestmark = pytest.mark.thorough

THREADS = (1, 2, 3, 7, 64)
# Enough elements that all threads get some, of sizes that no vector divides.
SHAPES = ((70001,), (), (17,), (0,), (97, 131), (5, 3, 2))
DIGESTED_SHAPES = ((33000,), (3, 5), ())
REPEATED_SHAPES = ((40001,), (17,), (31, 33))
SMALL_SHAPES = ((301,), (), (17,), (0,), (31, 33), (5, 3, 2), (1,))
MIXES = (  # dtype of the parameters, of the states: swept in place, and through tiles
    (torch.float32, None),
    (torch.float64, None),
    (torch.bfloat16, None),
    (torch.float16, None),
    (torch.complex64, None),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.float16),
    (torch.float32, torch.float64),
)


def options_of(case: Case) -> Iterator[dict[str, Any]]:
    """Yields one setting for every set of states that a class can have, and one extra of ours."""
    seen = set()
    for options in (*case.settings, *case.extras):
        probe = case.ours(make_params([(2,)]), **options)
        take_steps(probe, 1)
        kind = (*next(iter(probe.state.values()), {}), options in case.extras)
        if kind not in seen:
            seen.add(kind)
            yield options


def with_states_of(case: Case, options: dict[str, Any], params: list[Tensor]) -> Any:
    """Returns an optimizer in the middle of its way, that goes on from the same point each time."""
    optimizer = case.ours(params, **options)
    take_steps(optimizer, 2)
    return optimizer


def end_of(case: Case, options: dict[str, Any], params: list[Tensor]) -> dict[str, Any]:
    return numbers(with_states_of(case, options, params))


@each_case
def test_c8_threads_take_over_the_callers_floating_point_mode(case: Case) -> None:
    """With denormals flushed or not: each thread has a mode of its own."""
    start, grad = (1e-39 * randn((70_001,), torch.float32, seed) for seed in (1, 2))
    ends = {}
    for threads in (3, 1):  # the threads of the first step go on in the second, as they are
        torch.set_num_threads(threads)
        for flush in (False, True):
            optimizer = case.ours([start.clone().requires_grad_()], lr=1e-42)
            params_of(optimizer)[0].grad = grad
            optimizer.step()
            if not torch.set_flush_denormal(flush):
                pytest.skip("this processor flushes no denormals")
            optimizer.step()
            torch.set_flush_denormal(False)
            ends[flush, threads] = numbers(optimizer)
    for flush in (False, True):
        assert_same(ends[flush, 3], ends[flush, 1], f"flush_denormal={flush}")
    assert ends[False, 1] != ends[True, 1], "the mode changed nothing, so nothing was tested"


@each_case
def test_c8_threads_and_instruction_sets_change_no_bit(case: Case) -> None:
    count = 0
    for options in options_of(case):
        for dtype, state_dtype in MIXES:
            given = {**options, "state_dtype": state_dtype}
            want = None
            for instructions in instruction_sets():
                _C.set_instruction_set(instructions)
                for threads in THREADS:
                    torch.set_num_threads(threads)
                    got = end_of(case, given, make_params(SHAPES, dtype))
                    want = want or got
                    assert_same(got, want, f"{given} {dtype} {instructions} {threads}")
                    count += 1
    assert count >= len(MIXES) * len(THREADS) * len(instruction_sets())


def test_c8_every_instruction_set_of_this_machine_is_tried() -> None:
    names = _C.build_info()["instruction_sets"]
    assert instruction_sets()[0] == "baseline"
    for name in names[len(instruction_sets()) :]:
        try:
            _C.set_instruction_set(name)
        except ValueError as error:
            assert name in str(error)
        else:
            raise AssertionError(f"{name} runs here but is not the default")


@each_case
def test_c8_the_order_of_the_list_changes_no_bit(case: Case) -> None:
    count = 0
    for options in options_of(case):
        for dtype, state_dtype in MIXES:
            given = {**options, "state_dtype": state_dtype}
            want = bytes_by_parameter(case, given, dtype, list(range(len(SMALL_SHAPES))), 1)
            for seed in range(8):
                order = list(range(len(SMALL_SHAPES)))
                random.Random(seed).shuffle(order)
                for parts in (1, 2, 7):
                    got = bytes_by_parameter(case, given, dtype, order, parts)
                    assert got == want, f"{given} {dtype} {order} in {parts} groups"
                    count += 1
    assert count >= len(MIXES) * 24


def bytes_by_parameter(
    case: Case, options: dict[str, Any], dtype: torch.dtype, order: list[int], parts: int
) -> list[list[bytes]]:
    """Returns what becomes of each parameter, listed in this order and in so many groups."""
    params = make_params(SMALL_SHAPES, dtype)
    listed = [params[k] for k in order]
    groups = [{"params": listed[part::parts]} for part in range(parts)]
    optimizer = case.ours(groups, **options)
    for number in range(3):
        set_grads(params, number)
        params[number].grad = None
        optimizer.step()
    return [[raw(p), *(raw(value) for value in optimizer.state[p].values())] for p in params]


def moved(tensor: Tensor, offset: int) -> Tensor:
    """Returns a copy that begins `offset` elements into its storage."""
    room = torch.full((tensor.numel() + offset + 16,), float("nan"), dtype=tensor.dtype)
    view = room[offset : offset + tensor.numel()].view(tensor.shape)
    view.copy_(tensor.detach())
    return view


def move_all(optimizer: Any, offset: int) -> None:
    """Gives every tensor of every parameter an offset of its own, all the way round 0 to 15."""
    for param in params_of(optimizer):
        param.data = moved(param, offset)
        assert param.grad is not None
        param.grad = moved(param.grad, (offset + 5) % 16)
        for k, (name, value) in enumerate(optimizer.state[param].items()):
            optimizer.state[param][name] = moved(value, (3 * offset + k) % 16)


@each_case
def test_c8_alignment_changes_no_bit(case: Case) -> None:
    count = 0
    for options in options_of(case):
        for dtype, state_dtype in MIXES:
            given = {**options, "state_dtype": state_dtype}
            start = with_states_of(case, given, make_params(SMALL_SHAPES, dtype))
            saved = start.state_dict()
            ends = []
            for offset in (None, *range(16)):
                optimizer = case.ours(copies(params_of(start)), **given)
                optimizer.load_state_dict(saved)
                if offset is not None:
                    move_all(optimizer, offset)
                optimizer.step()
                ends.append(numbers(optimizer))
                assert_same(ends[-1], ends[0], f"{given} {dtype} offset {offset}")
                count += 1
    assert count >= len(MIXES) * 17  # with those of threads and orders over 400 for every class


# ---- C9


def digest() -> str:
    """Returns a digest of what all algorithms and settings compute."""
    seen = hashlib.sha256()
    for case in CASES:
        for options in options_of(case):
            for dtype, state_dtype in MIXES[::3]:
                given = {**options, "state_dtype": state_dtype}
                optimizer = with_states_of(case, given, make_params(DIGESTED_SHAPES, dtype))
                for key, (_, _, end) in sorted(numbers(optimizer).items()):
                    seen.update(key.encode() + end)
    return seen.hexdigest()


def test_c9_three_processes_compute_the_same_bytes() -> None:
    program = "import tests.test_determinism as t; print(t.digest())"
    surroundings = (("0", "1"), ("424242", "5"))  # and this process
    started = [
        start_python(["-c", program], PYTHONHASHSEED=seed, OMP_NUM_THREADS=threads)
        for seed, threads in surroundings
    ]
    ends = [finish(process).strip() for process in started]
    assert len(ends[0]) == 64 and set(ends) == {digest()}


@each_kind
def test_c9_twenty_repeats_compute_the_same_bytes(case: Case) -> None:
    torch.set_num_threads(2)
    count = 0
    for options in options_of(case):
        for dtype, state_dtype in (MIXES[0], MIXES[5]):
            given = {**options, "state_dtype": state_dtype}
            want = end_of(case, given, make_params(REPEATED_SHAPES, dtype))
            for repeat in range(20):
                keep = [torch.empty(1 + 97 * repeat) for _ in range(repeat)]  # other addresses
                got = end_of(case, given, make_params(REPEATED_SHAPES, dtype))
                assert_same(got, want, f"{given} {len(keep)}")
                count += 1
    assert count >= 40

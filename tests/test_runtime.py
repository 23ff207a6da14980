"""Threads, forks, leaks, allocations: what a step may do to the process that it runs in."""

from __future__ import annotations

import gc
import inspect
import os
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.bad_inputs import out_of_range
from tests.cases import CASES, Case
from tests.support import (
    REAL,
    assert_same,
    each_case,
    make_params,
    numbers,
    params_of,
    run_python,
    set_grads,
    snapshot,
    state_dtypes,
    take_steps,
)
from tests.threads import in_threads

LARGE = ((600, 1000),)  # enough that a step lets other Python threads run, and uses all cores


def settings_of(case: Case) -> tuple[dict[str, Any], ...]:
    return (*case.settings, *case.extras)


# ---- C16: threads


@each_case
@pytest.mark.parametrize("shapes", (LARGE, ((3, 5), (17,), ())), ids=("large", "small"))
def test_c16_eight_threads_step_eight_optimizers(case: Case, shapes: Any) -> None:
    options = (settings_of(case) * 8)[:8]
    alone = [case.ours(make_params(shapes, seed=k), **options[k]) for k in range(8)]
    together = [case.ours(make_params(shapes, seed=k), **options[k]) for k in range(8)]
    for optimizer in (*alone, *together):
        set_grads(params_of(optimizer), 3)

    def steps_of(optimizer: Any) -> Callable[[], None]:
        def task() -> None:
            for _ in range(6):
                optimizer.step()

        return task

    for optimizer in alone:
        steps_of(optimizer)()
    assert in_threads([steps_of(optimizer) for optimizer in together]) == []
    for k in range(8):
        assert_same(snapshot(together[k]), snapshot(alone[k]), options[k])


@each_case
@pytest.mark.parametrize("shapes", (LARGE, ((3, 5), (17,), ())), ids=("large", "small"))
def test_c16_one_optimizer_in_two_threads_raises_or_steps_and_never_corrupts(
    case: Case, shapes: Any
) -> None:
    optimizer, alone = (case.ours(make_params(shapes)) for _ in range(2))
    for each in (optimizer, alone):
        set_grads(params_of(each), 3)
    taken = []

    def task() -> None:
        for _ in range(20):
            try:
                optimizer.step()
            except RuntimeError as error:
                assert "another thread" in str(error)
            else:
                taken.append(1)

    assert in_threads([task, task, task]) == []
    assert taken, "no step was ever taken"
    for _ in taken:
        alone.step()
    assert_same(snapshot(optimizer), snapshot(alone))


class StepsAgain:
    """An option that takes a step of its optimizer whenever it is read."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def __float__(self) -> float:
        self.optimizer.step()
        return 1e-8


@each_case
def test_c16_a_step_within_a_step_is_refused_in_words_and_changes_nothing(case: Case) -> None:
    optimizer = case.ours(make_params(((3, 5), (17,))))
    take_steps(optimizer, 1)
    numbers_before = numbers(optimizer)
    group = optimizer.param_groups[0]
    right = group["lr"]
    group["lr"] = StepsAgain(optimizer)
    with pytest.raises(RuntimeError, match=r"in the middle of a step in another thread.*lock"):
        optimizer.step()
    assert_same(numbers(optimizer), numbers_before)
    group["lr"] = right
    optimizer.step()
    assert numbers(optimizer) != numbers_before


FORK = """
import os, signal, sys
import torch
from tests.cases import CASES
from tests.support import make_params, params_of, set_grads, raw

torch.set_num_threads(2)
signal.alarm(60)  # a child that hangs takes the parent with it
for case in CASES:
    parent = case.ours(make_params([(400, 1000), (3,)]))
    twin = case.ours(make_params([(400, 1000), (3,)]))
    shared = params_of(parent)
    for param in shared:
        param.share_memory_()
    for optimizer in (parent, twin):
        set_grads(params_of(optimizer), 1)
        optimizer.step()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        parent.step()
        parent.step()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child did not end well"
    twin.step()
    twin.step()
    for a, b in zip(shared, params_of(twin)):
        assert raw(a) == raw(b), "the child's step is not seen in shared memory"
    parent.step()
    assert all(torch.isfinite(param).all() for param in shared)
print("well")
"""


def test_c16_a_forked_child_steps_and_shares_its_parameters() -> None:
    assert run_python(["-c", FORK]).strip() == "well"


# ---- C22: leaks


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth(task: Callable[[], None], rounds: int = 5) -> int:
    """Returns the least number of bytes that one round adds: a leak adds them in every round."""
    grown = []
    for _ in range(rounds):
        before = resident_bytes()
        task()
        grown.append(resident_bytes() - before)
    return min(grown)


def threads_alive() -> int:
    return len(os.listdir("/proc/self/task"))


def eight_optimizers(case: Case) -> list[Any]:
    options = (settings_of(case) * 8)[:8]
    made = [case.ours(make_params(((7, 9), (130,), ()), seed=k), **options[k]) for k in range(8)]
    for optimizer in made:
        take_steps(optimizer, 2)
    return made


def step_with_new_gradients(optimizers: list[Any], steps: int) -> None:
    for _ in range(steps):
        for optimizer in optimizers:
            for param in params_of(optimizer):
                param.grad = torch.ones_like(param)
            optimizer.step()


@each_case
def test_c22_ten_thousand_steps_leave_memory_objects_and_threads_as_they_were(case: Case) -> None:
    optimizers = eight_optimizers(case)
    step_with_new_gradients(optimizers, 300)
    gc.collect()
    gc.disable()
    try:
        objects, threads = len(gc.get_objects()), (threads_alive(), threading.active_count())
        grown = growth(lambda: step_with_new_gradients(optimizers, 2_000 // len(optimizers)))
        new_objects = len(gc.get_objects()) - objects
        unreachable = gc.collect()
    finally:
        gc.enable()
    assert grown < 32_000, f"{grown} bytes more after every 2000 steps of 10^4"
    assert unreachable == 0 and abs(new_objects) < 50
    assert (threads_alive(), threading.active_count()) == threads


@each_case
def test_c22_an_optimizer_goes_with_its_last_reference(case: Case) -> None:
    """Without the garbage collector: there is no cycle. It keeps no gradient alive either."""
    gc.collect()
    for options in settings_of(case):
        gc.freeze()  # what was there before is not searched again
        gc.disable()
        optimizer = case.ours(make_params(((7, 9), (130,))), **options)
        try:
            take_steps(optimizer, 2)
            watched = [weakref.ref(param.grad) for param in params_of(optimizer)]
            optimizer.zero_grad()
            assert [w() for w in watched] == [None, None]
            watched = [weakref.ref(param) for param in params_of(optimizer)]
            watched += [weakref.ref(v) for s in optimizer.state.values() for v in s.values()]
            watched.append(weakref.ref(optimizer))
            del optimizer
            assert [w() for w in watched] == [None] * len(watched)
            assert gc.collect() == 0
        finally:
            gc.unfreeze()
            gc.enable()


@each_case
def test_c22_rejected_steps_leak_nothing(case: Case) -> None:
    optimizer = case.ours(make_params(((64, 64),)))
    take_steps(optimizer, 1)
    good = params_of(optimizer)[0].grad
    bad = out_of_range(64, (64, 64))
    counts = [sys.getrefcount(good), sys.getrefcount(bad), sys.getrefcount(optimizer)]
    for _ in range(300):
        params_of(optimizer)[0].grad = bad
        with pytest.raises(RuntimeError, match="sparse"):
            optimizer.step()

    def rejected() -> None:
        for _ in range(1000):
            with pytest.raises(RuntimeError, match="sparse"):
                optimizer.step()

    assert growth(rejected) < 16_000
    params_of(optimizer)[0].grad = good
    assert [sys.getrefcount(good), sys.getrefcount(bad), sys.getrefcount(optimizer)] == counts


# ---- what one step asks for


def warm(
    case: Case, options: dict[str, Any], count: int = 50, dtype: torch.dtype = torch.float32
) -> Any:
    optimizer = case.ours(make_params([(12, 7)] * count, dtype), **options)
    set_grads(params_of(optimizer), 3)
    optimizer.step()
    return optimizer


def is_allocation(event: Any) -> bool:
    return event.name == "[memory]" or event.cpu_memory_usage != 0


@pytest.mark.parametrize(
    ("case", "more"),
    [pytest.param(case, {}, id=str(case)) for case in CASES]
    + [
        pytest.param(case, {"fused": True}, id=f"{case}-fused")
        for case in CASES
        if "fused" in inspect.signature(case.ours).parameters
    ],
)
def test_c22_a_step_calls_no_aten_op_and_allocates_no_tensor(
    case: Case, more: dict[str, Any]
) -> None:
    mixes = [
        ({"state_dtype": state_dtype}, dtype)
        for dtype in (*REAL, torch.complex64)
        for state_dtype in state_dtypes(dtype)
    ]
    given = [*settings_of(case), {"lr": torch.tensor(0.01)}]
    for options, dtype in [*((options, torch.float32) for options in given), *mixes]:
        optimizer = warm(case, {**options, **more}, 20, dtype)
        optimizer.step()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            optimizer.step()
        names = [event.name for event in seen.events()]
        assert f"onepass::{case.ours.rule}" in names, names
        assert f"Optimizer.step#{case.ours.__name__}.step" in names, names
        assert [name for name in names if name.startswith("aten::")] == []
        assert [event.name for event in seen.events() if is_allocation(event)] == []
        assert len(names) <= 3, names


def test_the_profiler_does_show_what_the_test_above_looks_for() -> None:
    params = make_params([(12, 7)] * 3)
    optimizer = torch.optim.Adam(params)
    set_grads(params, 3)
    optimizer.step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        optimizer.step()
    assert [event for event in seen.events() if event.name.startswith("aten::")]
    assert [event for event in seen.events() if is_allocation(event)]


@each_case
def test_c22_a_step_makes_no_python_objects_per_tensor(case: Case) -> None:
    peaks = []
    for count in (10, 1000):
        optimizer = warm(case, {}, count)
        optimizer.step()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            optimizer.step()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        peaks.append(peak - before)
    assert max(peaks) < 4096, peaks
    assert peaks[1] <= peaks[0] + 1024, peaks

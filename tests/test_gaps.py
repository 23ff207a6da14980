"""What planted faults showed that no other test would notice."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import onepass
from tests.cases import Case
from tests.layouts import same_bits
from tests.oracle import all_states_on, state_names
from tests.support import any_grad_dtype, each_case, randn, run_python


@pytest.mark.parametrize("adam", [onepass.Adam, onepass.AdamW])
def test_a_mean_without_memory_is_the_gradient_whatever_it_was_before(adam: type) -> None:
    """As torch.lerp, exact at both ends: a difference first taken and then added back is not."""
    for dtype in (torch.float32, torch.float64):
        param = torch.zeros(3, dtype=dtype, requires_grad=True)
        optimizer = adam([param], betas=(0.0, 0.9), weight_decay=0.0)
        for size in (1e9, 1e-9, 0.3):
            param.grad = size * torch.tensor([1.0, -0.7, 0.1], dtype=dtype)
            optimizer.step()
            assert same_bits(optimizer.state[param]["exp_avg"], param.grad)


def typed(dtype: torch.dtype, grad_dtype: torch.dtype, seed: int) -> Tensor:
    param = randn((70,), dtype, seed).requires_grad_()
    param.grad_dtype = None
    param.grad = randn((70,), grad_dtype, seed + 50)
    return param


@any_grad_dtype
@each_case
def test_neighbours_of_other_types_are_stepped_as_if_alone(case: Case) -> None:
    """A loop chosen for one parameter is not taken for the next, whose types are others."""
    types = (torch.float32, torch.bfloat16, torch.float64, torch.float16)
    mixes = [*itertools.product(types, types), *itertools.permutations(types, 2)]
    together = [typed(*mix, seed) for seed, mix in enumerate(mixes)]
    alone = [typed(*mix, seed) for seed, mix in enumerate(mixes)]
    optimizers = [case.ours(together), *(case.ours([param]) for param in alone)]
    for _ in range(2):
        for optimizer in optimizers:
            optimizer.step()
    assert all(map(same_bits, together, alone))


# ---- so large that threads are in the midst of their parts at the same time, on a busy machine too

LARGE = 3_000_000


def ends(case: Case, threads: int, share_at: int) -> list[Tensor]:
    """Steps two parameters that have one memory, from a given step on."""
    torch.set_num_threads(threads)
    params = [randn((LARGE,), torch.float32, seed) for seed in (1, 2)]
    grads = [randn((LARGE,), torch.float32, seed) for seed in (3, 4)]
    optimizer = case.ours([param.requires_grad_() for param in params], lr=0.1)
    for step in range(4):
        if step == share_at:
            params[1].data = params[0].data
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        optimizer.step()
    return [param.detach() for param in params]


def ends_with_gradient(case: Case, threads: int, of_state: bool) -> list[Tensor]:
    """Steps two parameters, of which the first or its state is the gradient of the second."""
    torch.set_num_threads(threads)
    params = [randn((LARGE,), torch.float32, seed).requires_grad_() for seed in (1, 2)]
    optimizer = case.ours(params, lr=0.1, **all_states_on(case))
    params[0].grad = randn((LARGE,), torch.float32, 3)
    optimizer.step()
    state = optimizer.state[params[0]][state_names(case, all_states_on(case))[0]]
    params[1].grad = state if of_state else params[0].detach()
    for _ in range(3):
        optimizer.step()
    return [param.detach() for param in params]


@pytest.mark.parametrize("share_at", [0, 2], ids=["at first", "later"])
@each_case
def test_large_parameters_that_share_memory_are_stepped_in_order(case: Case, share_at: int) -> None:
    assert all(map(torch.equal, ends(case, 3, share_at), ends(case, 1, share_at)))


@pytest.mark.parametrize("of_state", [False, True], ids=["parameter", "state"])
@each_case
def test_a_large_gradient_that_a_step_writes_is_read_after_it(case: Case, of_state: bool) -> None:
    both = [ends_with_gradient(case, threads, of_state) for threads in (3, 1)]
    assert all(map(torch.equal, *both))


# ---- other threads


LETTING_GO = """
import threading
import torch
from tests.cases import CASES

SIZE = 10_000_000  # so large that memory which is let go of is gone at once

def gradient(param, state):
    param.grad = None

def states(param, state):
    for tensor in state.values():
        tensor.data = torch.zeros(1)

def data(param, state):
    param.data = torch.zeros(1)

for case in CASES:
    for let_go in (gradient, states, data):
        param = torch.ones(SIZE, requires_grad=True)
        optimizer = case.ours([param])
        param.grad = torch.ones(SIZE)
        optimizer.step()
        version = param._version
        stepper = threading.Thread(target=optimizer.step)
        stepper.start()
        while param._version == version:  # it counts, then lets other threads run
            pass
        let_go(param, optimizer.state[param])
        stepper.join()
print("well")
"""


def test_what_another_thread_lets_go_of_during_a_step_stays_until_its_end() -> None:
    assert run_python(["-c", LETTING_GO]).strip() == "well"

"""Tensors that share memory: stepped one after the other, as torch's for-loop does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from onepass.rules import RULES
from tests.cases import Case
from tests.oracle import all_states_on, state_names
from tests.support import each_case, each_torch_case, seeded
from tests.unchanged import Findings

SIZES = (5, 1000, 60_000)  # the last is swept by several threads
Params = list[Tensor]


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=seeded(sum(shape)))


def with_grads(*params: Tensor) -> Params:
    for k, param in enumerate(params):
        param.requires_grad_()
        if param.grad is None:
            param.grad = randn(*param.shape) + k
    return list(params)


def overlapping_parameters(n: int) -> Params:
    base = randn(3 * n)
    return with_grads(base[: 2 * n], base[n:])


def three_overlapping_parameters(n: int) -> Params:
    base = randn(4 * n)
    return with_grads(base[: 2 * n], base[2 * n :], base[n : 3 * n])


def one_memory_twice(n: int) -> Params:
    base = randn(n)
    return with_grads(base.view(-1), base.view(-1))


def one_memory_twice_and_transposed(n: int) -> Params:
    base = randn(n, 2)
    return with_grads(base.view(n, 2), base.T)


def interleaved_parameters(n: int) -> Params:
    base = randn(n, 6)
    return with_grads(base[:, :3], base[:, 3:])


def gradient_is_the_parameter_before(n: int) -> Params:
    first, second = randn(n), randn(n) + 1
    second.grad = first.detach()
    return with_grads(first, second)


def gradient_is_the_very_parameter_before(n: int) -> Params:
    first, second = randn(n), randn(n) + 1
    second.grad = first
    first.grad = randn(n)
    return [first, second]


def gradient_is_the_parameter_after(n: int) -> Params:
    first, second = randn(n), randn(n) + 1
    first.grad = second.detach()
    return with_grads(first, second)


def gradient_is_part_of_the_parameter_before(n: int) -> Params:
    first, second = randn(2 * n), randn(n)
    second.grad = first.detach()[n // 2 : n // 2 + n]
    return with_grads(first, second)


def gradient_is_the_parameter_before_transposed(n: int) -> Params:
    first, second = randn(n, 3), randn(3, n)
    second.grad = first.detach().T
    return with_grads(first, second)


def gradient_is_the_parameter_before_through_numpy(n: int) -> Params:
    """Another storage object over the same memory."""
    first, second = randn(n), randn(n) + 1
    second.grad = torch.from_numpy(first.detach().numpy())
    return with_grads(first, second)


def gradient_is_the_parameter_after_through_dlpack(n: int) -> Params:
    first, second = randn(n), randn(n) + 1
    first.grad = torch.from_dlpack(second.detach())
    return with_grads(first, second)


def parameter_twice_through_numpy(n: int) -> Params:
    first = randn(n)
    return with_grads(first, torch.from_numpy(first.detach().numpy()))


def gradients_in_common(n: int) -> Params:
    first, second = randn(n), randn(n) + 1
    first.grad = second.grad = randn(n)
    return with_grads(first, second)


def all_in_one_buffer(n: int) -> Params:
    buffer = randn(4 * n)
    first, second = buffer[:n], buffer[2 * n : 3 * n]
    first.grad, second.grad = buffer[n : 2 * n], buffer[3 * n :]
    return with_grads(first, second)


def columns_of_one_matrix(n: int) -> Params:
    """Parameter and gradient take turns in memory and have no element in common."""
    matrix = randn(n, 4)
    first, second = matrix[:, 0:1], matrix[:, 2:3]
    first.grad, second.grad = matrix[:, 1:2], matrix[:, 3:4]
    return with_grads(first, second)


SCENES: tuple[Callable[[int], Params], ...] = (
    overlapping_parameters,
    three_overlapping_parameters,
    one_memory_twice,
    one_memory_twice_and_transposed,
    interleaved_parameters,
    gradient_is_the_parameter_before,
    gradient_is_the_very_parameter_before,
    gradient_is_the_parameter_after,
    gradient_is_part_of_the_parameter_before,
    gradient_is_the_parameter_before_transposed,
    gradient_is_the_parameter_before_through_numpy,
    gradient_is_the_parameter_after_through_dlpack,
    parameter_twice_through_numpy,
    gradients_in_common,
    all_in_one_buffer,
    columns_of_one_matrix,
)


def compare(pair: list[tuple[Any, Params]], about: object) -> None:
    (ours, mine), (theirs, wanted) = pair
    for a, b in zip(mine, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12), f"{about}: {(a - b).abs().max()} off"
        for key, value in theirs.state[b].items():
            assert torch.allclose(ours.state[a][key], value, rtol=1e-10, atol=1e-12), (about, key)


@each_torch_case
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_tensors_that_share_memory_are_stepped_in_order(
    case: Case, scene: Callable[[int], Params]
) -> None:
    findings = Findings()
    assert case.theirs is not None
    torch.set_num_threads(3)
    for n in SIZES:
        for groups in (False, True):
            pair = []
            for make, extra in ((case.ours, {}), (case.theirs, {"foreach": False})):
                params = scene(n)
                given = [{"params": [p]} for p in params] if groups else params
                optimizer = make(given, lr=0.05, **all_states_on(case), **extra)
                for _ in range(3):
                    optimizer.step()
                pair.append((optimizer, params))
            with findings.case():
                compare(pair, f"{scene.__name__} {n}{' in groups' if groups else ''}")
    findings.report(at_least=2 * len(SIZES))


@each_torch_case
def test_a_gradient_that_is_a_state_of_the_parameter_before_is_read_after_it(case: Case) -> None:
    assert case.theirs is not None
    findings, all_on = Findings(), all_states_on(case)
    for n in SIZES:
        pair = []
        for make, extra in ((case.ours, {}), (case.theirs, {"foreach": False})):
            params = with_grads(randn(n), randn(n) + 1)
            optimizer = make(params, lr=0.05, **all_on, **extra)
            optimizer.step()
            params[1].grad = optimizer.state[params[0]][state_names(case, all_on)[0]]
            for _ in range(3):
                optimizer.step()
            pair.append((optimizer, params))
        with findings.case():
            compare(pair, n)
    findings.report(at_least=len(SIZES))


@each_torch_case
def test_a_parameter_listed_twice_takes_two_steps(case: Case) -> None:
    assert case.theirs is not None
    findings = Findings()
    for n in SIZES:
        pair = []
        for make, extra in ((case.ours, {}), (case.theirs, {"foreach": False})):
            (param,) = with_grads(randn(n))
            with pytest.warns(UserWarning, match="duplicate"):
                optimizer = make([param, param], lr=0.05, **extra)
            for _ in range(3):
                optimizer.step()
            if RULES[case.ours.rule].counts_steps:
                assert optimizer.state[param]["step"] == 6
            pair.append((optimizer, [param]))
        with findings.case():
            compare(pair, n)
    findings.report(at_least=len(SIZES))


@each_case
def test_tied_weights_take_one_step(case: Case) -> None:
    embedding, head = torch.nn.Embedding(4, 3), torch.nn.Linear(3, 4, bias=False)
    head.weight = embedding.weight
    optimizer = case.ours(torch.nn.ModuleList([embedding, head]).parameters())
    assert len(optimizer.param_groups[0]["params"]) == 1
    head(embedding(torch.tensor([1, 2]))).sum().backward()
    alone = head.weight.detach().clone()
    alone.grad = head.weight.grad
    for each in (optimizer, case.ours([alone])):
        each.step()
    assert torch.equal(head.weight, alone)


@each_case
def test_memory_that_comes_to_be_shared_later_is_noticed(case: Case) -> None:
    """What was decided for the pointers of one step does not hold for those of the next."""
    n = SIZES[-1]
    ends = []
    for shared in (True, False):
        torch.set_num_threads(3 if shared else 1)
        params = with_grads(randn(n), randn(n) + 1)
        optimizer = case.ours(params, lr=0.05)
        optimizer.step()
        params[1].data = params[0].data
        optimizer.step()
        params[1].data = randn(n) + 2
        params[1].grad = params[0].detach()
        optimizer.step()
        params[1].grad = randn(n)
        optimizer.step()
        ends.append([param.detach() for param in params])
    assert all(map(torch.equal, *ends))

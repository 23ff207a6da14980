"""C12: gradients, lr and betas are never written, and no argument is kept after the call."""

from __future__ import annotations

import contextlib
import copy
import gc
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.bad_inputs import make, op_arguments, rows
from tests.cases import Case
from tests.oracle import all_states_on, op_of, state_names
from tests.support import COMPLEX, REAL, any_grad_dtype, betas_for, each_case, params_of, randn
from tests.unchanged import REFUSALS, Findings, facts


def layouts_of(values: Tensor) -> Iterator[Tensor]:
    """Yields the values as gradients of several layouts; some are views that others may hold."""
    yield values.clone()
    yield values.T.contiguous().T
    yield torch.stack([values, values], -1)[..., 1]
    yield values[:1].expand(values.shape)
    yield torch.cat([values.flatten(), values.flatten()])[values.numel() :].view(values.shape)
    if values.is_complex():
        yield values.conj()
        yield (
            torch.stack([values.real, values.imag])
            .movedim(0, -1)
            .contiguous()
            .view(values.dtype)[..., 0]
        )


def settings_of(case: Case) -> list[dict[str, Any]]:
    return [*case.settings, *case.extras]


def a_state(case: Case) -> str:
    return state_names(case, all_states_on(case))[0]


@each_case
def test_c12_gradients_are_never_written(case: Case) -> None:
    findings = Findings()
    for dtype in (*REAL, *COMPLEX):
        for settings in settings_of(case):
            for grad in layouts_of(randn((5, 7), dtype, 1)):
                param = randn((5, 7), dtype, 2).requires_grad_()
                param.grad = grad
                before = facts(param.grad)
                optimizer = case.ours([param], **settings)
                optimizer.step()
                optimizer.step()
                with findings.case():
                    assert facts(param.grad) == before, f"{dtype} {settings} {grad.stride()}"
    findings.report(at_least=100)


@any_grad_dtype
@each_case
def test_c12_gradients_of_another_dtype_are_never_written(case: Case) -> None:
    findings = Findings()
    for mine in REAL:
        for other in REAL:
            param = randn((5, 7), mine, 2).requires_grad_()
            param.grad_dtype = None
            param.grad = randn((5, 7), other, 1)
            before = facts(param.grad)
            optimizer = case.ours([param], maximize=True)
            optimizer.step()
            with findings.case():
                assert facts(param.grad) == before, f"{mine} {other}"
    findings.report(at_least=16)


@each_case
def test_c12_options_given_as_tensors_are_never_written(case: Case) -> None:
    findings = Findings()
    defaults = case.ours([torch.ones(1)]).defaults
    for dtype in (torch.float32, torch.float64):
        for shape in ((), (1,)):
            lr = torch.full(shape, 0.1, dtype=dtype)
            betas = betas_for(case, *(torch.full(shape, x, dtype=dtype) for x in (0.5, 0.75)))
            decay = torch.full(shape, 0.01, dtype=dtype)
            optimizer = case.ours([randn((9,), torch.float32, 1).requires_grad_()])
            for group in optimizer.param_groups:
                group.update(lr=lr, weight_decay=decay)
                group.update({"betas": betas} if "betas" in defaults else {})
            params_of(optimizer)[0].grad = torch.ones(9)
            before = facts([lr, betas, decay])
            for _ in range(3):
                optimizer.step()
            with findings.case():
                assert facts([lr, betas, decay]) == before
                assert optimizer.param_groups[0]["lr"] is lr
    findings.report(at_least=4)


@each_case
def test_c12_the_op_writes_what_its_schema_says_and_nothing_else(case: Case) -> None:
    arguments = op_arguments(case)
    op = op_of(case)
    lists, options = arguments["lists"], arguments["options"]
    written = [argument.alias_info is not None for argument in op._schema.arguments]
    before = [facts(part) for part in lists], facts(options)
    op(*lists, **options)
    for k, part in enumerate(lists):
        assert (facts(part) != before[0][k]) == written[k], op._schema.arguments[k].name
    assert facts(options) == before[1]


class Owner(bytearray):
    """Memory that can be watched: it dies with the last tensor that lies in it."""


def watched(count: int) -> tuple[Tensor, weakref.ref[Owner]]:
    owner = Owner(4 * count)
    return torch.frombuffer(owner, dtype=torch.float32), weakref.ref(owner)


@each_case
@pytest.mark.parametrize("size", [1, 100, 50_000, 300_000])
def test_c12_a_gradient_dies_when_its_parameter_lets_go(case: Case, size: int) -> None:
    for bad in (False, True):
        params = [torch.ones(size, requires_grad=True) for _ in range(3)]
        optimizer = case.ours(params, **all_states_on(case))
        watchers = []
        for param in params:
            param.grad, watcher = watched(size)
            watchers.append(watcher)
        optimizer.step()
        if bad:
            optimizer.state[params[2]][a_state(case)] = torch.ones(size + 1)
            with pytest.raises(RuntimeError, match="has shape"):
                optimizer.step()
        assert all(watcher() is not None for watcher in watchers)
        optimizer.zero_grad(set_to_none=True)
        assert all(watcher() is None for watcher in watchers)


@each_case
def test_c12_parameters_and_states_die_with_the_optimizer_without_the_collector(case: Case) -> None:
    gc.collect()
    gc.disable()
    try:
        memory, watcher = watched(10)
        param = memory.requires_grad_()
        param.grad, of_grad = watched(10)
        optimizer = case.ours([param], **all_states_on(case))
        optimizer.step()
        optimizer.state[param][a_state(case)], of_state = watched(10)
        optimizer.step()
        optimizer.state.clear()
        assert of_state() is None
        optimizer.param_groups.clear()
        del param, memory
        assert watcher() is None
        assert of_grad() is None
    finally:
        gc.enable()


def counts(optimizer: Any) -> list[int]:
    """Returns the reference counts of all that a step is given, and of its storages."""
    objects: list[Any] = [optimizer, optimizer.param_groups, optimizer.state]
    tensors: list[Tensor] = []
    for group in optimizer.param_groups:
        objects += [group, group["params"]]
        tensors += [param for param in group["params"] if isinstance(param, Tensor)]
    tensors += [param.grad for param in tensors if param.grad is not None]
    for state in optimizer.state.values():
        objects.append(state)
        state = state if isinstance(state, dict) else {}
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    storages = [
        torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
        for tensor in tensors
        if tensor.layout is torch.strided and type(tensor) in (Tensor, torch.nn.Parameter)
    ]
    return [sys.getrefcount(thing) for thing in (*objects, *tensors)] + storages


@each_case
def test_c12_reference_counts_are_the_same_after_any_step(case: Case) -> None:
    findings = Findings()
    for bad in [None, *rows(case)]:
        optimizer = make(case, stepped=True)
        if bad is not None:
            bad.spoil(optimizer, params_of(optimizer)[1])
        before = counts(optimizer)
        for _ in range(3):
            with contextlib.suppress(*REFUSALS):
                optimizer.step()
        with findings.case():
            assert counts(optimizer) == before, f"{bad}: references were kept or lost"
    findings.report(at_least=50)


@each_case
def test_c12_reference_counts_are_the_same_after_loading_and_a_refused_load(case: Case) -> None:
    for wrong in (None, "lr", "state"):
        optimizer = make(case, stepped=True)
        given = copy.deepcopy(optimizer.state_dict())
        if wrong == "lr":
            given["param_groups"][0]["lr"] = -1.0
        elif wrong == "state":
            given["state"][2][a_state(case)] = torch.ones(5)
        tensors = [value for state in given["state"].values() for value in state.values()]
        for _ in range(2):
            before = [sys.getrefcount(tensor) for tensor in tensors], counts(optimizer)
            refused = False
            try:
                optimizer.load_state_dict(given)
            except ValueError:
                refused = True
            assert refused == (wrong is not None)
            assert not refused or counts(optimizer) == before[1]
            assert [sys.getrefcount(tensor) for tensor in tensors] == before[0]


@each_case
def test_c12_the_op_keeps_nothing(case: Case) -> None:
    arguments = op_arguments(case)
    tensors = [tensor for part in arguments["lists"] for tensor in part]
    tensors += [value for value in arguments["options"].values() if isinstance(value, Tensor)]
    before = [sys.getrefcount(tensor) for tensor in tensors]
    for _ in range(3):
        op_of(case)(*arguments["lists"], **arguments["options"])
    arguments["lists"][0][1] = torch.ones(2)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            op_of(case)(*arguments["lists"], **arguments["options"])
    after = [sys.getrefcount(tensor) for tensor in tensors]
    assert sum(a != b for a, b in zip(after, before, strict=True)) == 1  # that which was taken out


@each_case
def test_c12_a_lazily_copied_parameter_leaves_its_twin_alone(case: Case) -> None:
    """Copy on write: two tensors that share memory until one of them is written."""
    for twin_of in ("param", "grad", "state"):
        param = torch.ones(100, requires_grad=True)
        param.grad = torch.ones(100)
        optimizer = case.ours([param], **{**all_states_on(case), "lr": 0.1})
        optimizer.step()
        state, name = optimizer.state[param], a_state(case)
        if twin_of == "param":
            twin = torch._lazy_clone(param.detach())
        elif twin_of == "grad":
            twin = torch._lazy_clone(param.grad)
        else:
            twin = state[name]
            state[name] = torch._lazy_clone(twin)
        before = twin.clone()
        optimizer.step()
        assert torch.equal(twin, before), twin_of

"""C13: autograd sees the step; leaf, requires_grad and inference mode follow torch's rules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.bad_inputs import Mode, op_arguments
from tests.cases import Case
from tests.oracle import all_states_on, op_of
from tests.support import COMPLEX, REAL, each_case, each_torch_case, randn
from tests.unchanged import Findings

STALE = "modified by an inplace operation"


def stepped(case: Case, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Any, Tensor]:
    param = randn((3, 4), dtype, 1).requires_grad_()
    param.grad = randn((3, 4), dtype, 2)
    optimizer = case.ours([param], **{**all_states_on(case), **options})
    optimizer.step()
    return optimizer, param


@each_case
@pytest.mark.parametrize("way", ["native", "op"])
def test_c13_every_written_tensor_counts_a_version(case: Case, way: str) -> None:
    findings = Findings()
    for dtype in (*REAL, *COMPLEX):
        for settings in (*case.settings, *case.extras):
            optimizer, param = stepped(case, dtype, **settings)
            idle = torch.ones(2, requires_grad=True)
            optimizer.add_param_group({"params": [idle]})
            written = [param, *optimizer.state[param].values()]
            before = [tensor._version for tensor in written]
            assert param.grad is not None
            grad, others = param.grad._version, idle._version
            with Mode() if way == "op" else contextlib.nullcontext():
                optimizer.step()
            with findings.case():
                after = [tensor._version for tensor in written]
                assert all(a > b for a, b in zip(after, before, strict=True)), f"{after} {before}"
                assert param.grad._version == grad, "the gradient was only read"
                assert idle._version == others, "without a gradient nothing is written"
    findings.report(at_least=18)


@each_case
def test_c13_views_and_bases_count_the_version_together(case: Case) -> None:
    base = torch.ones(4, 6)
    view = base[1:3].requires_grad_()
    view.grad = torch.ones(2, 6)
    product = base.clone().requires_grad_() * base
    version = base._version
    case.ours([view]).step()
    assert base._version > version
    with pytest.raises(RuntimeError, match=STALE):
        product.sum().backward()


@each_case
def test_c13_a_backward_through_a_stale_value_raises(case: Case) -> None:
    findings = Findings()
    for dtype in (*REAL, *COMPLEX):
        optimizer, param = stepped(case, dtype)
        for name, saved in (("param", param), *optimizer.state[param].items()):
            weight = torch.ones_like(saved, requires_grad=True)
            product = (weight * saved).abs().sum()
            optimizer.step()
            with findings.case():
                try:
                    product.backward()
                except RuntimeError as error:
                    assert STALE in str(error), error
                else:
                    raise AssertionError(f"{dtype} {name}: no error")
    findings.report(at_least=12)


@each_case
def test_c13_gradients_of_a_model_whose_weights_were_stepped_meanwhile_are_not_wrong(
    case: Case,
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    optimizer = case.ours(model.parameters())
    first, second = model(torch.ones(2, 3)).sum(), model(torch.ones(2, 3)).sum()
    first.backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=STALE):
        second.backward()


def leaf(values: Tensor) -> Tensor:
    return values.clone().requires_grad_()


def frozen(values: Tensor) -> Tensor:
    return values.clone()


def parameter(values: Tensor) -> Tensor:
    return torch.nn.Parameter(values.clone())


def view(values: Tensor) -> Tensor:
    return torch.cat([values, values])[: len(values)].requires_grad_()


def detached(values: Tensor) -> Tensor:
    return (values.clone().requires_grad_() * 1).detach()


KINDS: tuple[Callable[[Tensor], Tensor], ...] = (leaf, frozen, parameter, view, detached)
SCOPES: dict[str, Callable[[], Any]] = {
    "none": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled(False)": lambda: torch.set_grad_enabled(False),
}


def what_autograd_sees(tensor: Tensor) -> list[Any]:
    flags = [tensor.is_leaf, tensor.requires_grad, tensor.grad_fn is None, tensor.is_inference()]
    return [*flags, tensor.retains_grad, type(tensor)]


def rules_after_a_step(optimizer: Any, param: Tensor, scope: str) -> list[Any]:
    with SCOPES[scope]():
        optimizer.step()
        optimizer.step()
    assert param.grad is not None
    states = {name: what_autograd_sees(value) for name, value in optimizer.state[param].items()}
    return [*map(what_autograd_sees, (param, param.grad)), states, torch.is_grad_enabled()]


@each_torch_case
def test_c13_flags_after_a_step_are_those_of_torchs_for_loop(case: Case) -> None:
    assert case.theirs is not None
    findings = Findings()
    for kind in KINDS:
        for scope in SCOPES:
            for graph in (False, True):
                seen, ends = [], []
                for cls in (case.ours, case.theirs):
                    param = kind(torch.ones(5))
                    grad = torch.full((5,), 0.5)
                    param.grad = grad.requires_grad_() * 1 if graph else grad
                    optimizer = cls([param], foreach=False, **all_states_on(case))
                    seen.append(rules_after_a_step(optimizer, param, scope))
                    ends.append(param.detach())
                with findings.case():
                    assert torch.allclose(*ends) and not torch.equal(ends[0], torch.ones(5))
                    if scope == "inference_mode":  # torch's states are inference tensors there: P14
                        seen[1][2] = seen[0][2]
                    assert seen[0] == seen[1], f"{kind.__name__}, {scope}, graph {graph}: {seen}"
    findings.report(at_least=50)


@each_case
def test_c13_states_never_require_gradients(case: Case) -> None:
    for create_graph in (False, True):
        param = torch.ones(4, requires_grad=True)
        (grad,) = torch.autograd.grad((param**3).sum(), param, create_graph=create_graph)
        param.grad = grad
        optimizer = case.ours([param], **all_states_on(case))
        with torch.enable_grad():
            optimizer.step()
            optimizer.step()
        assert all(v.grad_fn is None for v in optimizer.state[param].values())
        assert not any(v.requires_grad for v in optimizer.state[param].values())


@each_torch_case
def test_c13_tensors_of_inference_mode_are_stepped_inside_and_refused_outside(case: Case) -> None:
    assert case.theirs is not None
    for make in (case.ours, lambda p: case.theirs(p, foreach=False)):
        with torch.inference_mode():
            param = torch.ones(3)
            param.grad = torch.ones(3)
            optimizer = make([param])
            optimizer.step()
            moved = param.clone()
        assert not torch.equal(moved, torch.ones(3))
        with pytest.raises(RuntimeError, match="nference"):
            optimizer.step()
        # torch's SGD has written by then.
        assert torch.equal(param, moved) or make is not case.ours


@each_torch_case
def test_c13_gradients_of_inference_mode_may_be_read_outside(case: Case) -> None:
    assert case.theirs is not None
    ends = []
    for make in (case.ours, lambda p: case.theirs(p, foreach=False)):
        param = torch.ones(3, requires_grad=True)
        with torch.inference_mode():
            grad = torch.ones(3)
        param.grad = grad
        make([param]).step()
        ends.append(param.detach())
    assert torch.allclose(*ends)


@each_case
def test_c13_the_closure_runs_with_gradients_and_the_step_without(case: Case) -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = case.ours([param])
    seen = []

    def closure() -> Tensor:
        seen.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    for scope in (torch.no_grad, torch.enable_grad):
        with scope():
            before = torch.is_grad_enabled()
            loss = optimizer.step(closure)
            assert torch.is_grad_enabled() == before
        assert loss.requires_grad
    assert seen == [True, True]


@each_case
def test_c13_the_op_counts_versions_too(case: Case) -> None:
    arguments = op_arguments(case)
    lists = arguments["lists"]
    before = [[tensor._version for tensor in part] for part in lists]
    op_of(case)(*lists, **arguments["options"])
    for k, (part, versions) in enumerate(zip(lists, before, strict=True)):
        for tensor, version in zip(part, versions, strict=True):
            assert (tensor._version > version) == (k != 1)

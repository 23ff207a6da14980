"""C23: every wrong hyper-parameter is refused at every door, by its name and value."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.bad_inputs import Mode, op_arguments
from tests.cases import CASES, Case
from tests.oracle import HYPERS, as_op_argument, op_argument_types, op_of
from tests.support import each_case, each_torch_case
from tests.unchanged import REFUSALS, Findings, refused

NAN, INF = float("nan"), float("inf")
NUMBERS = (NAN, INF, -INF, -1.0, -1e-9, torch.tensor(NAN), torch.tensor(-0.5), torch.tensor(INF))
RATES = (*NUMBERS, 1.0, 1.5, torch.tensor(1.0))  # not below one
NO_NUMBERS = (None, "0.1", [0.1], {}, 1j, torch.ones(2), torch.ones(0), torch.ones(2, 2), object())

Hyper = tuple[str, str, int]  # the op's argument, the key of the group, the place in its tuple


def hypers_of(case: Case) -> list[Hyper]:
    """Returns the hyper-parameters that are numbers."""
    group = case.ours([torch.ones(1)]).param_groups[0]
    return [hyper for hyper in HYPERS[case.ours.rule] if not isinstance(group.get(hyper[1]), bool)]


def wrong_values(hyper: Hyper) -> Iterator[Any]:
    """Returns what the hyper-parameter must not be."""
    yield from RATES if hyper[2] >= 0 else NUMBERS
    yield from NO_NUMBERS


def wrong_rows(case: Case) -> Iterator[tuple[Hyper, Any]]:
    for hyper in hypers_of(case):
        for value in wrong_values(hyper):
            yield hyper, value


def option(hyper: Hyper, value: Any) -> dict[str, Any]:
    """Returns the value as a group holds it: a beta in a pair with a good one."""
    _, key, index = hyper
    if index < 0:
        return {key: value}
    good = torch.tensor(0.5) if isinstance(value, torch.Tensor) else 0.5
    return {key: tuple(value if k == index else good for k in range(2))}


def param() -> torch.Tensor:
    made = torch.ones(3, requires_grad=True)
    made.grad = torch.ones(3)
    return made


def text_of(call: Callable[[], Any], about: object) -> str:
    try:
        call()
    except REFUSALS as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{about}: {type(error).__name__}: {error}") from error
    raise AssertionError(f"{about}: accepted")


def torchs_refusal(case: Case, hyper: Hyper, value: Any) -> Exception | None:
    """Returns what torch's constructor raises, if it has the argument and refuses the value."""
    if case.theirs is None or hyper[1] not in case.theirs([param()]).defaults:
        return None
    try:
        case.theirs([param()], **option(hyper, value))
    except Exception as error:
        return error
    return None


def assert_names(text: str, case: Case, hyper: Hyper, value: Any) -> None:
    """Expects torch's sentence where torch has one, else the argument and the value or its type."""
    torchs = torchs_refusal(case, hyper, value)
    if isinstance(torchs, ValueError):
        assert text.startswith(str(torchs)), f"not torch's words: {text}; torch says: {torchs}"
    name, key, index = hyper
    names = [name, f"{key}[{index}]", f"{key} parameter at index {index}"]
    assert any(each in text for each in names), f"{names} not in: {text}"
    if isinstance(value, torch.Tensor):
        several = ["1-element", "found type 'Tensor'"]
        shown = several if value.numel() != 1 else [f"{value.item()}", f"{value}"]
    else:
        shown = [f"{value}", f"{value!r}", type(value).__name__]
    assert any(each in text for each in shown), f"none of {shown} in: {text}"


@each_case
def test_c23_the_constructor_refuses(case: Case) -> None:
    findings = Findings()
    for hyper, value in wrong_rows(case):
        about = f"{hyper[0]}={value!r}"
        options = option(hyper, value)

        def construct(options: dict[str, Any] = options) -> Any:
            if "initial_lr" in options:  # not an argument, but a key that schedulers set
                return case.ours([{"params": [param()], **options}])
            return case.ours([param()], **options)

        torchs = torchs_refusal(case, hyper, value)
        with findings.case():
            text = text_of(construct, about)
            if torchs is None:
                assert_names(text, case, hyper, value)
            else:
                assert text == str(torchs), f"{about}: {text}; torch says: {torchs}"
    findings.report(at_least=120)


@each_case
def test_c23_add_param_group_refuses(case: Case) -> None:
    findings = Findings()
    for hyper, value in wrong_rows(case):
        about = f"{hyper[0]}={value!r}"
        optimizer, added = case.ours([param()]), {"params": [param()], **option(hyper, value)}
        with findings.case(), refused(optimizer, about):
            text = text_of(lambda o=optimizer, a=added: o.add_param_group(a), about)
            assert_names(text, case, hyper, value)
            raise ValueError
    findings.report(at_least=120)


@each_case
def test_c23_load_state_dict_refuses(case: Case) -> None:
    findings = Findings()
    for hyper, value in wrong_rows(case):
        about = f"{hyper[0]}={value!r}"
        optimizer = case.ours([param()])
        optimizer.step()
        wrong = copy.deepcopy(optimizer.state_dict())
        wrong["param_groups"][0].update(option(hyper, value))
        with findings.case(), refused(optimizer, about):
            text = text_of(lambda o=optimizer, w=wrong: o.load_state_dict(w), about)
            assert_names(text, case, hyper, value)
            raise ValueError
    findings.report(at_least=120)


@each_case
@pytest.mark.parametrize("path", ["native", "op", "differentiable"])
def test_c23_the_step_refuses(case: Case, path: str) -> None:
    findings = Findings()
    way = Mode() if path == "op" else contextlib.nullcontext()
    for hyper, value in wrong_rows(case):
        about = f"{hyper[0]}={value!r}"
        params = [param().requires_grad_(False) for _ in range(2)]
        optimizer = case.ours(params[:1], differentiable=path == "differentiable")
        optimizer.add_param_group({"params": params[1:]})
        optimizer.step()
        optimizer.param_groups[1].update(option(hyper, value))
        with findings.case(), refused(optimizer, about), way:
            text = text_of(optimizer.step, about)
            assert_names(text, case, hyper, value)
            raise ValueError
    findings.report(at_least=120)


@each_case
def test_c23_the_op_refuses(case: Case) -> None:
    findings = Findings()
    op = op_of(case)
    for hyper, value in wrong_rows(case):
        if value is None and "Optional" in op_argument_types(case.ours.rule)[hyper[0]]:
            continue
        arguments = op_arguments(case)
        arguments["options"][hyper[0]] = as_op_argument(case, hyper[0], value)
        about = f"{hyper[0]}={value!r}"
        with findings.case():
            text = text_of(lambda a=arguments: op(*a["lists"], **a["options"]), about)
            shown = value.item() if isinstance(value, torch.Tensor) and value.dim() == 0 else value
            assert_names(text, case, hyper, shown)
    findings.report(at_least=120)


@each_case
def test_c23_betas_must_be_two(case: Case) -> None:
    keys = {key for _, key, index in HYPERS[case.ours.rule] if index >= 0}
    findings = Findings()
    for key in keys:
        for value in (None, 0.9, (), (0.9,), [0.9], (0.9, 0.99, 0.5), {}, "ab", torch.tensor(0.9)):
            about = f"{key}={value!r}"
            optimizer = case.ours([param()])
            optimizer.step()
            wrong = copy.deepcopy(optimizer.state_dict())
            wrong["param_groups"][0][key] = value
            with findings.case(), refused(optimizer, f"load {about}"):
                text = text_of(lambda o=optimizer, w=wrong: o.load_state_dict(w), about)
                assert key in text, f"{about}: {key} is not in: {text}"
                raise ValueError
            optimizer.param_groups[0][key] = value
            with findings.case(), refused(optimizer, f"step {about}"):
                text = text_of(optimizer.step, about)
                assert key in text, f"{about}: {key} is not in: {text}"
                raise ValueError
    findings.report(at_least=18 * len(keys))


@each_torch_case
def test_what_torch_accepts_within_the_range_is_accepted(case: Case) -> None:
    assert case.theirs is not None
    findings = Findings()
    lr = torch.tensor([0.01], dtype=torch.float64)
    for good in (
        {"lr": 0},
        {"lr": 1},
        {"lr": torch.tensor(0.01)},
        {"lr": lr},
        {"lr": torch.tensor(1)},
        {"betas": (torch.tensor(0.9), torch.tensor([0.99]))},
        {"betas": (0.0, 0.0)},
        {"eps": 0, "betas": (0.5, 0.5)},
        {"weight_decay": 0},
        {"weight_decay": 1000.0, "lr": 1e-4},
        {"eps": 1},
    ):
        ours, theirs = case.ours([param()], **good), case.theirs([param()], foreach=False, **good)
        ours.step()
        theirs.step()
        with findings.case():
            got, want = ours.param_groups[0]["params"][0], theirs.param_groups[0]["params"][0]
            assert torch.allclose(got, want, rtol=0, atol=1e-6), f"{good}: {got} {want}"
    findings.report(at_least=11)


@each_case
def test_a_lazily_negated_lr_counts_with_its_sign(case: Case) -> None:
    lr = torch.tensor(1 - 0.1j).conj().imag
    assert lr.is_neg()
    assert lr.item() == pytest.approx(0.1)
    lazy, plain = case.ours([param()], lr=lr), case.ours([param()], lr=lr.clone())
    lazy.step()
    plain.step()
    assert torch.equal(lazy.param_groups[0]["params"][0], plain.param_groups[0]["params"][0])


@each_case
def test_an_lr_that_lost_its_memory_is_refused(case: Case) -> None:
    for size in (0, 1, 3):
        lr = torch.tensor(0.1)
        optimizer = case.ours([param()], lr=lr)
        lr.untyped_storage().resize_(size)
        with refused(optimizer, f"{size} bytes"):
            optimizer.step()


def test_c23_a_wrong_lr_is_named_where_the_decay_is_decoupled_from_it_too() -> None:
    findings = Findings()
    for case in CASES:
        if "decouple_lr" not in case.ours([param()]).defaults:
            continue
        for value in (*NUMBERS, *NO_NUMBERS):
            group = {"params": [param()], "lr": value, "decouple_lr": True}
            with findings.case():
                text = text_of(lambda c=case, g=group: c.ours([g]), value)
                assert re.search("learning rate|lr", text), f"{case} {value!r}: {text}"
    findings.report(at_least=17)

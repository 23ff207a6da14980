"""C23: every wrong hyper-parameter is refused at every door, by its name and value."""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from onepass.rules import RULES, Hyper
from tests.bad_inputs import MAY_BE_NEGATIVE, Mode, op_arguments
from tests.cases import CASES, Case
from tests.oracle import as_op_argument, op_argument_types, op_of
from tests.support import each_case, each_torch_case
from tests.unchanged import REFUSALS, Findings, refused

NAN, INF = float("nan"), float("inf")
NOT_FINITE = (NAN, INF, -INF, torch.tensor(NAN), torch.tensor(INF))
NEGATIVE = (-1.0, -1e-9, torch.tensor(-0.5))
FROM_ONE, OVER_ONE = (1.0, 1.5, torch.tensor(1.0)), (1.001, 1.5, torch.tensor(2.0))
NO_NUMBERS = (
    None, "0.1", b"0.1", [0.1], {}, 1j, torch.ones(2), torch.ones(0), torch.ones(2, 2), object(),
    np.str_("0.1"), np.complex64(1j), np.complex128(1j), np.array([0.1]), np.ones(2),
)  # fmt: skip
NUMBERS = (np.float32(0.5), np.float64(0.5), np.array(0.5), Fraction(1, 2), Decimal("0.5"))
# What is out of range; for all others it is what is negative.
OUT_OF_RANGE = {
    **dict.fromkeys(MAY_BE_NEGATIVE, ()),
    **dict.fromkeys(("momentum momentum", "beta1", "beta2"), (*NEGATIVE, *FROM_ONE)),
    **dict.fromkeys(("rmsprop alpha", "adadelta rho"), (*NEGATIVE, *OVER_ONE)),
    "eta_minus": (*NEGATIVE, 0.0, *FROM_ONE),
    "eta_plus": (*NEGATIVE, 0.0, 0.5, 1.0, torch.tensor(1.0)),
}


def hypers_of(case: Case) -> list[Hyper]:
    """Returns the hyper-parameters that are numbers."""
    return [hyper for hyper in RULES[case.ours.rule].hypers if not hyper.is_flag]


def wrong_values(case: Case, hyper: Hyper) -> tuple[Any, ...]:
    """Returns what the hyper-parameter must not be."""
    names = (f"{case.ours.rule} {hyper.name}", hyper.name)
    out = next((OUT_OF_RANGE[name] for name in names if name in OUT_OF_RANGE), NEGATIVE)
    return (*NOT_FINITE, *out, *NO_NUMBERS)


def wrong_rows(case: Case) -> Iterator[tuple[Hyper, Any]]:
    for hyper in hypers_of(case):
        for value in wrong_values(case, hyper):
            yield hyper, value


def option(case: Case, hyper: Hyper, value: Any) -> dict[str, Any]:
    """Returns the value as a group holds it: a beta in a pair with a good one."""
    if hyper.index < 0:
        return {hyper.key: value}
    pair = list(case.ours([torch.ones(1)]).defaults[hyper.key])
    if isinstance(value, torch.Tensor):
        pair = [torch.tensor(good) for good in pair]
    pair[hyper.index] = value
    return {hyper.key: tuple(pair)}


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
    if case.theirs is None or hyper.key not in case.theirs([param()]).defaults:
        return None
    try:
        case.theirs([param()], **option(case, hyper, value))
    except Exception as error:
        return error
    return None


def assert_names(text: str, case: Case, hyper: Hyper, value: Any) -> None:
    """Expects torch's sentence where torch has one, else the argument and the value or its type."""
    torchs = torchs_refusal(case, hyper, value)
    words = ("Invalid", "Tensor")
    if isinstance(torchs, ValueError) and str(torchs).startswith(words) and "," not in str(torchs):
        assert text.startswith(str(torchs)), f"not torch's words: {text}; torch says: {torchs}"
    name, key, index = hyper.name, hyper.key, hyper.index
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
        about = f"{hyper.name}={value!r}"
        options = option(case, hyper, value)

        def construct(options: dict[str, Any] = options) -> Any:
            if "reference_lr" in options:  # not an argument, but a key of the group
                return case.ours([{"params": [param()], **options}])
            return case.ours([param()], **options)

        torchs = torchs_refusal(case, hyper, value)
        with findings.case():
            text = text_of(construct, about)
            is_number = not any(value is one for one in NO_NUMBERS)
            if is_number and isinstance(torchs, ValueError) and str(torchs).startswith("Invalid"):
                assert text == str(torchs), f"{about}: {text}; torch says: {torchs}"
            else:
                assert_names(text, case, hyper, value)
    findings.report(at_least=60)


@each_case
def test_c23_add_param_group_refuses(case: Case) -> None:
    findings = Findings()
    for hyper, value in wrong_rows(case):
        about = f"{hyper.name}={value!r}"
        optimizer, added = case.ours([param()]), {"params": [param()], **option(case, hyper, value)}
        with findings.case(), refused(optimizer, about):
            text = text_of(lambda o=optimizer, a=added: o.add_param_group(a), about)
            assert_names(text, case, hyper, value)
            raise ValueError
    findings.report(at_least=60)


@each_case
def test_c23_load_state_dict_refuses(case: Case) -> None:
    findings = Findings()
    for hyper, value in wrong_rows(case):
        about = f"{hyper.name}={value!r}"
        optimizer = case.ours([param()])
        optimizer.step()
        wrong = copy.deepcopy(optimizer.state_dict())
        wrong["param_groups"][0].update(option(case, hyper, value))
        with findings.case(), refused(optimizer, about):
            text = text_of(lambda o=optimizer, w=wrong: o.load_state_dict(w), about)
            assert_names(text, case, hyper, value)
            raise ValueError
    findings.report(at_least=60)


def paths_of(case: Case) -> list[str]:
    has_torchs = "differentiable" in inspect.signature(case.ours).parameters
    return ["native", "op", *(["differentiable"] if has_torchs else [])]


@pytest.mark.parametrize(
    ("case", "path"),
    [pytest.param(c, path, id=f"{path}-{c}") for c in CASES for path in paths_of(c)],
)
def test_c23_the_step_refuses(case: Case, path: str) -> None:
    findings = Findings()
    way = Mode() if path == "op" else contextlib.nullcontext()
    options = {"differentiable": True} if path == "differentiable" else {}
    for hyper, value in wrong_rows(case):
        about = f"{hyper.name}={value!r}"
        params = [param().requires_grad_(False) for _ in range(2)]
        optimizer = case.ours(params[:1], **options)
        optimizer.add_param_group({"params": params[1:]})
        optimizer.step()
        optimizer.param_groups[1].update(option(case, hyper, value))
        with findings.case(), refused(optimizer, about), way:
            text = text_of(optimizer.step, about)
            assert_names(text, case, hyper, value)
            raise ValueError
    findings.report(at_least=60)


@each_case
def test_c23_the_op_refuses(case: Case) -> None:
    findings = Findings()
    op = op_of(case)
    for hyper, value in wrong_rows(case):
        if value is None and "Optional" in op_argument_types(case.ours.rule)[hyper.name]:
            continue
        arguments = op_arguments(case)
        arguments["options"][hyper.name] = as_op_argument(case, hyper.name, value)
        about = f"{hyper.name}={value!r}"
        with findings.case():
            text = text_of(lambda a=arguments: op(*a["lists"], **a["options"]), about)
            shown = value.item() if isinstance(value, torch.Tensor) and value.dim() == 0 else value
            assert_names(text, case, hyper, shown)
    findings.report(at_least=60)


def tuples_of(case: Case) -> dict[str, int]:
    """Returns the keys that hold several numbers, and how many."""
    hypers = RULES[case.ours.rule].hypers
    return {hyper.key: hyper.index + 1 for hyper in hypers if hyper.index >= 0}  # the last counts


@pytest.mark.parametrize("case", [case for case in CASES if tuples_of(case)], ids=str)
def test_c23_pairs_must_be_two(case: Case) -> None:
    keys = tuples_of(case)
    findings = Findings()
    for key, size in keys.items():
        few, many = (0.9,) * (size - 1), (0.9,) * (size + 1)
        for value in (None, 0.9, (), few, [*few], many, {}, "a" * size, torch.tensor(0.9)):
            about = f"{key}={value!r}"
            with findings.case():
                text = text_of(lambda k=key, v=value: case.ours([param()], **{k: v}), about)
                assert key in text, f"{about}: {key} is not in: {text}"
                assert repr(value)[:20] in text, f"{about}: {text}"
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
    findings.report(at_least=27 * len(keys))


@each_case
def test_numbers_of_every_kind_are_taken_everywhere(case: Case) -> None:
    for hyper in hypers_of(case):
        if hyper.name in ("eta_plus", "initial_accumulator_value", "reference_lr"):
            continue  # which is over 1, or not read at a step, or no argument
        want = case.ours([param()], **option(case, hyper, 0.5))
        want.step()
        for value in NUMBERS:
            edited = case.ours([param()])
            edited.param_groups[0].update(option(case, hyper, value))
            edited.load_state_dict(edited.state_dict())
            # torch's Adam wants all betas of one type.
            given = [] if hyper.index >= 0 else [case.ours([param()], **option(case, hyper, value))]
            for optimizer in (edited, *given):
                optimizer.step()
                got, expected = (o.param_groups[0]["params"][0] for o in (optimizer, want))
                assert torch.equal(got, expected), (hyper, value)


@each_torch_case
def test_what_torch_accepts_within_the_range_is_accepted(case: Case) -> None:
    assert case.theirs is not None
    findings, known = Findings(), case.ours([param()]).defaults.keys()
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
        if not good.keys() <= known:
            continue
        ours, theirs = case.ours([param()], **good), case.theirs([param()], foreach=False, **good)
        try:
            theirs.step()
        except TypeError:  # this class takes no tensors there
            continue
        ours.step()
        with findings.case():
            got, want = ours.param_groups[0]["params"][0], theirs.param_groups[0]["params"][0]
            assert torch.allclose(got, want, rtol=0, atol=1e-6), f"{good}: {got} {want}"
    findings.report(at_least=5)


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
        if "decouple_lr" not in inspect.signature(case.ours).parameters:
            continue
        for value in (*NOT_FINITE, *NEGATIVE, *NO_NUMBERS):
            group = {"params": [param()], "lr": value, "decouple_lr": True}
            with findings.case():
                text = text_of(lambda c=case, g=group: c.ours([g]), value)
                assert re.search("learning rate|lr", text), f"{case} {value!r}: {text}"
    findings.report(at_least=17)

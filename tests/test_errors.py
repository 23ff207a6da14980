"""Every error names the parameter, the shape or dtype that is wrong, and what to do about it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from onepass.rules import RULES
from tests import mutants
from tests.bad_inputs import SHAPE, Bad, make, matches, op_arguments, rows
from tests.cases import CASES, Case
from tests.oracle import all_states_on, op_of
from tests.support import SPARSE_CASES, each_case, params_of
from tests.unchanged import REFUSALS, Findings, assert_unchanged, everything

# What to do, or what would have been right.
ADVICE = re.compile(
    r"must|expected|supported are|takes|please|not allowed"
    r"|[;:,] (call|give|move|delete|make|load|use|set|pass|replace|restore|assign|convert|clear)"
)


def message(optimizer: Any, about: object) -> str:
    """Returns the text of the error that a step raises."""
    try:
        optimizer.step()
    except REFUSALS as error:
        return str(error).splitlines()[0]
    except Exception as error:
        raise AssertionError(f"{about}: {type(error).__name__}: {error}") from error
    raise AssertionError(f"{about}: accepted")


def spoilt(case: Case, bad: Bad, *, named: bool) -> Any:
    optimizer = make(case, stepped=bad.of_state, named=named)
    bad.spoil(optimizer, params_of(optimizer)[2])
    return optimizer


@each_case
@pytest.mark.parametrize("named", [False, True], ids=["by position", "by name"])
def test_errors_name_the_parameter(case: Case, named: bool) -> None:
    findings = Findings()
    for bad in rows(case):
        with findings.case():
            text = message(spoilt(case, bad, named=named), bad)
            if bad.names_parameter:
                where = "parameter 0 of group 1"
                wanted = f"'third' ({where})" if named else where
            else:
                wanted = "sparse" if "sparse" in bad.what else "group 1"
            assert wanted in text, f"{bad}: {wanted} is not in: {text}"
    findings.report(at_least=50)


@each_case
def test_errors_name_what_is_wrong_and_what_would_be_right(case: Case) -> None:
    findings = Findings()
    for bad in rows(case):
        with findings.case():
            text = message(spoilt(case, bad, named=False), bad)
            assert matches(bad, text), f"{bad}: no match for {bad.says!r} in: {text}"
    findings.report(at_least=50)


@each_case
def test_errors_say_what_to_do(case: Case) -> None:
    findings = Findings()
    for bad in rows(case):
        if bad.what == "sparse gradient":  # in torch's words, which are below
            continue
        with findings.case():
            text = message(spoilt(case, bad, named=False), bad)
            assert ADVICE.search(text), f"{bad}: no advice in: {text}"
    findings.report(at_least=50)


@each_case
def test_errors_of_the_op_name_the_place_in_the_list(case: Case) -> None:
    op = op_of(case)
    findings = Findings()
    for which, role in enumerate(("params", "gradient", RULES[case.ours.rule].states[0].name)):
        arguments = op_arguments(case)
        arguments["lists"][which][1] = torch.zeros(SHAPE, dtype=torch.int32)
        with findings.case(), pytest.raises(RuntimeError) as caught:
            op(*arguments["lists"], **arguments["options"])
        text = str(caught.value)
        with findings.case():
            assert "params[1]" in text, text
            assert role in text, text
            assert "dtype Int" in text, text
    findings.report(at_least=6)


def sparse_gradient(layout: str) -> torch.Tensor:
    indices = torch.tensor([[1, 1]] if layout != "empty" else [[]], dtype=torch.int64)
    values = torch.ones(indices.shape[1], 2)
    gradient = torch.sparse_coo_tensor(indices, values, (4, 2), check_invariants=True)
    return gradient.coalesce() if layout == "coalesced" else gradient


def sparse_refusal(optimizer: type, layout: str) -> str | None:
    param = torch.ones(4, 2, requires_grad=True)
    param.grad = sparse_gradient(layout)
    try:
        optimizer([param]).step()
    except RuntimeError as error:
        return str(error)
    return None


@each_case
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_gradients_are_refused_and_in_torchs_words_where_it_refuses(case: Case) -> None:
    for layout in ("coalesced", "uncoalesced", "empty"):
        ours = sparse_refusal(case.ours, layout)
        if case in SPARSE_CASES:
            assert ours is None
            continue
        assert ours is not None and "does not support sparse gradients" in ours
        theirs = sparse_refusal(case.theirs, layout) if case.theirs else None
        assert theirs in (None, ours)


@each_case
def test_an_integer_parameter_is_refused_with_its_dtype(case: Case) -> None:
    findings = Findings()
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool):
        param = torch.ones(3, dtype=dtype)
        param.grad = torch.ones(3, dtype=dtype)
        optimizer = case.ours([("counts", param)])
        before = everything(optimizer)
        with findings.case():
            text = message(optimizer, dtype)
            assert "'counts' (parameter 0 of group 0) has dtype" in text, text
            assert_unchanged(before, everything(optimizer), dtype)
    findings.report(at_least=6)


# An option may turn on a state of a parameter that has others already.
WITH_OPTIONAL_STATES = tuple(
    case for case in CASES if RULES[case.ours.rule].counts_steps and all_states_on(case)
)


@pytest.mark.parametrize("case", WITH_OPTIONAL_STATES, ids=str)
def test_an_option_that_turns_a_state_on_too_late_says_how_to_start_anew(case: Case) -> None:
    for option in all_states_on(case):
        optimizer = make(case, stepped=True, **{option: False})
        optimizer.param_groups[1][option] = True
        text = message(optimizer, option)
        assert "parameter 0 of group 1 is missing from the optimizer's state; delete" in text
        optimizer.state[params_of(optimizer)[2]].clear()
        optimizer.step()


@each_case
def test_a_wrong_state_dtype_is_refused_by_name_and_value(case: Case) -> None:
    real, complex_ = torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.cfloat)
    for param, wrong in (
        (real, torch.int16),
        (real, torch.complex64),
        (real, "float31"),
        (real, 32),
        (complex_.requires_grad_(), torch.bfloat16),
    ):
        name = str(wrong).removeprefix("torch.")
        with pytest.raises(ValueError, match=rf"Invalid state_dtype value: {name} \("):
            case.ours([param], state_dtype=wrong)


@each_case
@pytest.mark.parametrize("named", [False, True], ids=["by position", "by name"])
def test_errors_of_loading_name_the_parameter(case: Case, named: bool) -> None:
    findings, good = Findings(), make(case, stepped=True).state_dict()
    for mutation in mutants.entry_mutations(good, [2]):
        optimizer = make(case, stepped=False, named=named)
        try:
            optimizer.load_state_dict(mutants.apply(mutation, good))
        except REFUSALS as error:
            with findings.case():
                where = "parameter 0 of group 1"
                wanted = f"'third' ({where})" if named else where
                assert wanted in str(error), f"{mutation[0]}: {wanted} is not in: {error}"
        except Exception as error:
            with findings.case():
                raise AssertionError(f"{mutation[0]}: {type(error).__name__}: {error}") from error
    findings.report(at_least=25)

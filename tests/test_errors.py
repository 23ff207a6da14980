"""Every error names the parameter, the shape or dtype that is wrong, and what to do about it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from tests import mutants
from tests.bad_inputs import SHAPE, Bad, make, matches, op_arguments, rows
from tests.cases import Case
from tests.oracle import STATES, op_of
from tests.support import each_case, each_torch_case, params_of
from tests.unchanged import REFUSALS, Findings

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
    findings.report(at_least=100)


@each_case
def test_errors_name_what_is_wrong_and_what_would_be_right(case: Case) -> None:
    findings = Findings()
    for bad in rows(case):
        with findings.case():
            text = message(spoilt(case, bad, named=False), bad)
            assert matches(bad, text), f"{bad}: no match for {bad.says!r} in: {text}"
    findings.report(at_least=100)


@each_case
def test_errors_say_what_to_do(case: Case) -> None:
    findings = Findings()
    for bad in rows(case):
        with findings.case():
            text = message(spoilt(case, bad, named=False), bad)
            assert ADVICE.search(text), f"{bad}: no advice in: {text}"
    findings.report(at_least=100)


@each_case
def test_errors_of_the_op_name_the_place_in_the_list(case: Case) -> None:
    op = op_of(case)
    findings = Findings()
    for which, role in enumerate(("params", "gradient", "exp_avg")):
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


@each_torch_case
def test_sparse_gradients_are_refused_in_torchs_words(case: Case) -> None:
    texts = []
    assert case.theirs is not None
    for make_optimizer in (case.ours, case.theirs):
        for layout in ("coalesced", "uncoalesced", "empty"):
            param = torch.ones(4, 2, requires_grad=True)
            indices = torch.tensor([[1, 1]] if layout != "empty" else [[]], dtype=torch.int64)
            values = torch.ones(indices.shape[1], 2)
            gradient = torch.sparse_coo_tensor(indices, values, (4, 2), check_invariants=True)
            param.grad = gradient.coalesce() if layout == "coalesced" else gradient
            with pytest.raises(RuntimeError) as caught:
                make_optimizer([param]).step()
            texts.append(str(caught.value))
    assert len(set(texts)) == 1, texts


@each_case
def test_an_integer_parameter_is_refused_with_its_dtype(case: Case) -> None:
    findings = Findings()
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool):
        param = torch.ones(3, dtype=dtype)
        param.grad = torch.ones(3, dtype=dtype)
        optimizer = case.ours([("counts", param)])
        with findings.case():
            text = message(optimizer, dtype)
            assert "'counts' (parameter 0 of group 0) has dtype" in text, text
            assert not optimizer.state
    findings.report(at_least=6)


@each_case
def test_an_option_that_turns_a_state_on_too_late_says_how_to_start_anew(case: Case) -> None:
    options = [option for _, option in STATES[case.ours.rule] if option]
    for option in options:
        optimizer = make(case, stepped=True, **{option: False})
        optimizer.param_groups[1][option] = True
        text = message(optimizer, option)
        assert "parameter 0 of group 1 is missing from the optimizer's state; delete" in text
        optimizer.state[params_of(optimizer)[2]].clear()
        optimizer.step()
    assert options or case.ours.rule not in ("adam", "adamw")


@each_case
def test_a_wrong_state_dtype_is_refused_by_name_and_value(case: Case) -> None:
    real, complex_ = torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.cfloat)
    for param, wrong in (
        (real, torch.int8),
        (real, torch.complex64),
        (real, "float32"),
        (real, 32),
        (complex_.requires_grad_(), torch.bfloat16),
    ):
        with pytest.raises(ValueError, match=rf"Invalid state_dtype value: {wrong} \("):
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
    findings.report(at_least=50)

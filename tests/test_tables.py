"""The house stays simple: every algorithm is in every table, and nothing outgrows its budget."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch

import onepass
from onepass.rules import RULES
from tests import reference
from tests.cases import CASES

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("csrc", "python", "examples")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".h", ".cpp", ".cuh", ".cu", ".py"}
)
# What a formula needs and memory does not. powf() and exp2() count, std::expected does not.
MATHEMATICS = r"\b(sqrt|rsqrt|cbrt|pow|exp|exp2|log|log2|fma|tanh)f?\("


def test_every_rule_has_one_class_one_case_and_one_reference() -> None:
    rules = list(RULES)
    assert rules == [case.ours.rule for case in CASES]
    assert rules == [case.reference.__name__ for case in CASES]
    classes = [getattr(onepass, name) for name in onepass.__all__]
    assert {cls for cls in classes if isinstance(cls, type)} == {case.ours for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_class_has_an_op_and_a_place_in_the_documents(case) -> None:
    assert hasattr(torch.ops.onepass, case.ours.rule + "_")
    assert f"## {case.ours.__name__}\n" in (ROOT / "docs" / "algorithms.md").read_text()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_docstring_says_what_a_user_asks(case) -> None:
    doc = inspect.getdoc(case.ours) or ""  # Python 3.13 drops the indentation, older ones do not
    parts = ("Args:", "State:", "Raises:", "Use it for:", "Source:", "Differs from torch.optim")
    for part in (*parts, "Example:"):
        assert part in doc, part
    documented = re.findall(r"^    (\w+): ", doc, re.MULTILINE)
    arguments = list(case.ours.__init__.__annotations__)
    assert set(arguments) - {"return"} <= set(documented)


def test_formulas_stand_in_rules_and_nowhere_else() -> None:
    places = {
        f"{path.parent.name}/{path.name}" if path.parent.name != "rules" else "rules"
        for path in SOURCES
        if path.suffix != ".py" and re.search(MATHEMATICS, path.read_text())
    }
    # The log of decay is kept by rows, and the norm of all gradients is one: not by elements.
    assert places == {"rules", "step/sparse.cpp", "step/measure.cpp"}


def test_rule_bodies_have_at_most_a_dozen_lines() -> None:
    for path in (ROOT / "csrc" / "rules").glob("*.h"):
        for body in re.findall(r"operator\(\)\(.*?\n    }\n", path.read_text(), re.DOTALL):
            assert body.count("\n") - 2 <= 12, path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_source_has_more_than_300_lines(path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_rule_headers_include_nothing_but_each_other_and_portable() -> None:
    for path in (ROOT / "csrc" / "rules").glob("*.h"):
        own = re.findall(r'#include "(.*)"', path.read_text())
        assert all(name == "../portable.h" or "/" not in name for name in own), path


def test_the_reference_never_sees_our_code() -> None:
    text = Path(reference.__file__).read_text()
    assert not re.search(r"^\s*(import|from) (onepass|torch)", text, re.MULTILINE)

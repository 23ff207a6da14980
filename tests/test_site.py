"""The site's pages say what the code does: states, names and errors; `make docs` builds them."""

from __future__ import annotations

import inspect
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import onepass
from onepass.optimizer import OnePass
from onepass.rules import RULES
from tests.cases import Case
from tests.messages import VARIES, sources, texts
from tests.oracle import all_states_on
from tests.support import ROOT, each_case

DOCS = ROOT / "docs"
HEADINGS = (
    "Formula",
    "When to use it",
    "Hyper-parameters that work",
    "Cost and state",
    "Differences from torch.optim",
    "Reference",
)
TROUBLE = (DOCS / "troubleshooting.md").read_text()
QUOTES = [quote for _, quote in re.findall(r"^\| (`+) ?(.*?) ?\1 \|", TROUBLE, re.MULTILINE)]


def page_of(case: Case) -> str:
    return (DOCS / "optimizers" / f"{case.ours.__name__.lower()}.md").read_text()


def rows(page: str) -> Iterator[tuple[str, ...]]:
    """Yields the cells of the table of states."""
    for line in re.findall(r"^\| `.*", page, re.MULTILINE):
        yield tuple(cell.strip().strip("`") for cell in line.strip("|").split(" | "))


def state_after_a_step(case: Case, **options: Any) -> dict[str, torch.Tensor]:
    param = torch.nn.Parameter(torch.ones(3, 5))
    optimizer = case.ours([param], **options)
    param.grad = torch.ones(3, 5)
    optimizer.step()
    return dict(optimizer.state[param])


@each_case
def test_every_class_has_a_page_with_all_its_parts(case: Case) -> None:
    page, name = page_of(case), case.ours.__name__
    assert page.startswith(f"# {name}\n")
    assert tuple(re.findall(r"^## (.*)$", page, re.MULTILINE)) == HEADINGS
    assert f"\n::: onepass.{name}\n" in page
    numbers = [int(number) for number in re.findall(r"\\tag\{(\d+)\}", page)]
    assert numbers == list(range(1, len(numbers) + 1)) and numbers
    assert f"optimizers/{name.lower()}.md" in (ROOT / "mkdocs.yml").read_text()
    assert f"[{name}]({name.lower()}.md)" in (DOCS / "optimizers" / "index.md").read_text()


@each_case
def test_a_page_lists_the_states_that_a_step_makes(case: Case) -> None:
    listed = {key.strip("` "): rest for key, *rest in rows(page_of(case))}
    made = state_after_a_step(case, **all_states_on(case))
    usual = state_after_a_step(case)
    assert listed.keys() == made.keys()
    for key, (shape, dtype, size) in listed.items():
        assert (shape == "0-dim") == (made[key].shape == ())
        assert dtype == ("float32" if shape == "0-dim" else "state_dtype")
        assert int(size.split()[0].strip(",")) * (1 if shape == "0-dim" else 15) == made[key].nbytes
        assert (size in ("4", "4 in all")) == (key in usual)


@each_case
def test_a_page_says_how_many_bytes_a_step_moves(case: Case) -> None:
    states = [state for state in state_after_a_step(case).values() if state.shape == (3, 5)]
    moved = 4 * (3 + 2 * len(states))  # the parameter and the states both ways, the gradient once
    assert re.search(rf"reads\s+and\s+writes\s+{moved}\s+bytes", page_of(case))


@pytest.mark.parametrize(
    "name", [*onepass.__all__, *(f"ema.{name}" for name in onepass.ema.__all__)]
)
def test_every_public_name_is_documented(name: str) -> None:
    thing: Any = onepass
    for part in name.split("."):
        thing = getattr(thing, part)
    assert inspect.getdoc(thing)
    pages = "\n".join(page.read_text() for page in DOCS.rglob("*.md"))
    is_module = inspect.ismodule(thing)
    entry = rf"`onepass\.{name}`" if is_module else rf"^::: onepass\.{re.escape(name)}$"
    assert re.search(entry, pages, re.MULTILINE)


SHARED = [name for name, value in vars(OnePass).items() if name[0] != "_" and name != "rule"]


@pytest.mark.parametrize("name", SHARED)
def test_what_optimizers_share_is_documented(name: str) -> None:
    assert re.search(rf"members: \[.*\b{name}\b.*\]", (DOCS / "api.md").read_text())


def test_the_quoted_errors_stand_in_the_sources() -> None:
    paths = [*sources(), *sorted((ROOT / "build_backend").glob("*.py"))]
    known = "\n".join(map(texts, paths))
    assert len(QUOTES) > 100
    assert [quote for quote in QUOTES if quote.strip(f" {VARIES}") not in known] == []


def test_the_libraries_that_are_linked_and_searched_for_are_named() -> None:
    module = Path(onepass._C.__file__)
    libraries = [module, module.parents[1] / "libonepass_kernels.so"]
    read = ["readelf", "-d", *libraries]
    dynamic = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(lib[\w+-]+)\.so", dynamic)
    text = (ROOT / "SECURITY.md").read_text()
    assert "libc10" in needed and [name for name in needed if f"`{name}`" not in text] == []
    assert re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", dynamic) == ["$ORIGIN/.."]


def test_the_rules_of_the_core_are_the_pages() -> None:
    pages = {page.stem for page in (DOCS / "optimizers").glob("*.md")} - {"index"}
    assert pages == set(RULES)

"""What the documents show runs, and what they link to exists."""

from __future__ import annotations

import doctest
import re
import runpy
from pathlib import Path

import pytest
import torch

import onepass

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
SLOW = ("distributed.md",)  # starts a process group


def with_snippets() -> list[object]:
    """Returns the pages that have snippets, each a test."""
    found = [page for page in PAGES if SNIPPET.search(page.read_text())]
    return [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name in SLOW))
        for page in found
    ]


@each_page
def test_links_to_files_lead_somewhere(page) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", with_snippets())
def test_python_snippets_run(page) -> None:
    for block in SNIPPET.findall(page.read_text()):
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, {}, page.name, str(page), 0)
            assert doctest.DocTestRunner().run(test).failed == 0
        else:
            exec(compile(block, str(page), "exec"), {})


LOOK_UPS = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "migration.md").read_text(), re.DOTALL)
LIBRARY = re.compile(r"^(?:import|from) ((?!onepass)\w+)", re.MULTILINE)


def library_of(block: str) -> str:
    found = LIBRARY.search(block)
    assert found is not None
    return found[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", LOOK_UPS, ids=library_of)
def test_registrations_run_where_the_library_is_installed(block: str) -> None:
    pytest.importorskip(library_of(block))
    exec(compile(block, "migration.md", "exec"), {})


@pytest.mark.filterwarnings("ignore")
def test_torchs_functional_optimizer_is_found_for_ours_after_the_registration() -> None:
    from torch.distributed.optim.utils import as_functional_optim

    (block,) = (block for block in LOOK_UPS if library_of(block) == "torch")
    exec(compile(block, "migration.md", "exec"), {})
    theirs = as_functional_optim(torch.optim.AdamW, lr=0.1)
    assert type(as_functional_optim(onepass.AdamW, lr=0.1)) is type(theirs)


def test_the_page_of_algorithms_is_what_the_docstrings_say() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "algorithms.py"))
    assert tool["page"]() == tool["PAGE"].read_text(), "run python tools/algorithms.py"


def test_the_readme_names_commands_that_the_makefile_has() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

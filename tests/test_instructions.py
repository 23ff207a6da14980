"""What a step costs beside its arithmetic, in instructions: these repeat where times do not.

valgrind counts them, on a processor that it makes up; they differ with the compiler and Python's
version by some percent.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import counted_elements
from tests.cases import CASES
from tests.counted_steps import STEPS
from tests.support import ROOT

# At most, with a sixth for other compilers: g++ 12 and Python 3.11 need 1780, 1355 and 1620.
A_TENSOR = 2080
A_GROUP = 1580
A_GROUP_WHOSE_RATE_CHANGES = 1890
AN_ELEMENT = 22  # with registers of eight floats; g++ 12 needs 1 to 18.6
VECTORISED = 0.6  # of the instructions with registers of half the width; not vectorised: 0.9

# One worker: all is counted once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("instructions")]

Counts = dict[str, int]  # by what was dumped
WIDER = "x86-64-v3"  # than the baseline by twice, and the widest that valgrind knows


def count(folder: Path, module: str, *options: str) -> Counts:
    """Returns the instructions that a module has counted, by the names of its dumps."""
    if shutil.which("valgrind") is None:
        words = "valgrind is not there: apt-get install valgrind"
        if os.environ.get("REQUIRE_VALGRIND") == "1":
            pytest.fail(f"REQUIRE_VALGRIND=1, {words}")
        pytest.skip(f"{words}; REQUIRE_VALGRIND=1 makes this a failure")
    marks = folder / "marks.so"
    call("g++", "-x", "c", "-shared", "-fPIC", "-o", marks, ROOT / "tests/callgrind_marks.c")
    call(
        "valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / 'counts'}",
        "--instr-atstart=no", "--collect-atstart=no", *options,
        sys.executable, "-m", module, marks,
    )  # fmt: skip
    return dict(map(counted, folder.glob("counts.*")))


def call(*command: object) -> None:
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def counted(file: Path) -> tuple[str, int]:
    text = file.read_text()
    name, total = re.search(r"Client Request: (.*)\n(?s:.*)^totals: (\d+)", text, re.M).groups()
    return name, int(total)


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    """The instructions of a number of steps of small tensors."""
    return count(tmp_path_factory.mktemp("steps"), "tests.counted_steps")


@pytest.fixture(scope="module")
def elements(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    """The instructions of the loops that are compiled for several instruction sets."""
    folder = tmp_path_factory.mktemp("elements")
    return count(folder, "tests.counted_elements", "--toggle-collect=onepass::PerInstructionSet<*")


def slope(steps: Counts, *, rate: str = "stays", grouped: bool) -> float:
    """The instructions that one more tensor takes, in the one group or in a group of its own."""
    more, fewer = (steps[f"{n} {n if grouped else 1} {rate}"] for n in (600, 100))
    return (more - fewer) / 500 / STEPS


def test_a_tensor_takes_few_instructions(steps: Counts) -> None:
    assert 0 < slope(steps, grouped=False) <= A_TENSOR


def test_a_group_takes_few_instructions_beside_its_tensor(steps: Counts) -> None:
    beside = slope(steps, grouped=True) - slope(steps, grouped=False)
    assert 0 < beside <= A_GROUP


def test_a_group_whose_rate_a_scheduler_changes_takes_a_few_more(steps: Counts) -> None:
    changes = slope(steps, grouped=True, rate="changes")
    assert slope(steps, grouped=True) < changes
    assert changes - slope(steps, grouped=False) <= A_GROUP_WHOSE_RATE_CHANGES


@pytest.mark.skipif(platform.machine() != "x86_64", reason="no second instruction set to compare")
def test_every_loop_takes_several_elements_at_a_time(elements: Counts) -> None:
    """Registers of twice the width halve the instructions of what is vectorised alone."""
    loops = [name.removeprefix(WIDER) for name in elements if name.startswith(WIDER)]
    assert len(loops) == len(elements) / 2 >= len(counted_elements.MIXES) * len(CASES)
    shares = {name: elements[WIDER + name] / elements["baseline" + name] for name in loops}
    assert {name: share for name, share in shares.items() if not 0 < share <= VECTORISED} == {}
    stepped = counted_elements.ELEMENTS * counted_elements.STEPS
    each = {name: elements[WIDER + name] / stepped for name in loops}
    assert {name: count for name, count in each.items() if count > AN_ELEMENT} == {}

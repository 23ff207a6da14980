"""What a step costs beside its arithmetic, in instructions: these repeat where times do not.

valgrind counts them, on a processor that it makes up; they differ with the compiler and Python's
version by some percent.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.counted_steps import STEPS
from tests.support import ROOT

# At most, with a sixth for other compilers: g++ 12 and Python 3.11 need 1300, 375 and 2710. From
# 3.14 on dicts have no version that says they are unchanged, and are walked: 1720, 1390 and 2790.
DICTS_ARE_WALKED = sys.version_info >= (3, 14)
A_TENSOR = 2000 if DICTS_ARE_WALKED else 1520
A_GROUP = 1620 if DICTS_ARE_WALKED else 440
A_GROUP_WHOSE_RATE_CHANGES = 3250

# One worker: all is counted once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("instructions")]

Counts = dict[tuple[int, int, str], float]  # by tensors, groups, what the rate does


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    """The instructions of a step."""
    if shutil.which("valgrind") is None:
        words = "valgrind is not there: apt-get install valgrind"
        if os.environ.get("REQUIRE_VALGRIND") == "1":
            pytest.fail(f"REQUIRE_VALGRIND=1, {words}")
        pytest.skip(f"{words}; REQUIRE_VALGRIND=1 makes this a failure")
    folder = tmp_path_factory.mktemp("instructions")
    marks = folder / "marks.so"
    call("g++", "-x", "c", "-shared", "-fPIC", "-o", marks, ROOT / "tests/callgrind_marks.c")
    call(
        "valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / 'counts'}",
        "--instr-atstart=no", "--collect-atstart=no",
        sys.executable, "-m", "tests.counted_steps", marks,
    )  # fmt: skip
    return dict(map(counted, folder.glob("counts.*")))


def call(*command: object) -> None:
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def counted(file: Path) -> tuple[tuple[int, int, str], float]:
    text = file.read_text()
    tensors, groups, rate = re.search(r"Client Request: (\d+) (\d+) (\w+)", text).groups()
    return (int(tensors), int(groups), rate), int(
        re.search(r"^totals: (\d+)", text, re.M)[1]
    ) / STEPS


def slope(counts: Counts, *, rate: str = "stays", grouped: bool) -> float:
    """The instructions that one more tensor takes, in the one group or in a group of its own."""
    more, fewer = (counts[n, n if grouped else 1, rate] for n in (600, 100))
    return (more - fewer) / 500


def test_a_tensor_takes_few_instructions(counts: Counts) -> None:
    assert 0 < slope(counts, grouped=False) <= A_TENSOR


def test_a_group_takes_few_instructions_beside_its_tensor(counts: Counts) -> None:
    beside = slope(counts, grouped=True) - slope(counts, grouped=False)
    assert 0 < beside <= A_GROUP


def test_a_group_whose_rate_a_scheduler_changes_takes_a_few_more(counts: Counts) -> None:
    changes = slope(counts, grouped=True, rate="changes")
    assert slope(counts, grouped=True) < changes
    assert changes - slope(counts, grouped=False) <= A_GROUP_WHOSE_RATE_CHANGES

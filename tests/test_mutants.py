"""C25: faults that optimizers have had, planted one at a time: the suite notices every one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.faults import FAULTS, Fault
from tests.scratch import Base, Scratch, units

WANTED = 30

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Base:
    own = tmp_path_factory.getbasetemp()
    return Base(own if worker_id == "master" else own.parent)


def selected(file: str) -> list[str]:
    """Returns the tests of a file that any fault is held against."""
    tests = {test for fault in FAULTS for test in fault.tests}
    return sorted(test for test in tests if test.partition("::")[0] == file)


def test_c25_there_are_enough_faults() -> None:
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS) >= WANTED
    assert len({str(fault) for fault in FAULTS}) == len(FAULTS)


@pytest.mark.timeout(600)  # all processes but one may wait for what that one compiles
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_c25_the_suite_notices(fault: Fault, base: Base, tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "scratch")
    scratch.plant(fault.file, fault.old, fault.new)
    changed = {unit: scratch.compile(unit, base.header()) for unit in fault.changes}
    scratch.link([changed.get(unit) or base.object_of(unit) for unit in units()])
    failing = base.failures(selected(fault.tests[0].partition("::")[0]))
    wrong = [line for line in failing if any(test in line for test in fault.tests)]
    assert not wrong, f"they fail without a fault: a failure would mean nothing:\n{wrong}"
    outcome = scratch.run(fault.tests, "-x")
    shown = f"exit code {outcome.code}\n{outcome.output[-4000:]}"
    assert not outcome.passed, f"survived: {fault} ({fault.file})\n{shown}"
    crashed = fault.crashes and outcome.code < 0
    assert outcome.failed or crashed, f"neither passed nor failed: {shown}"
    shutil.rmtree(scratch.folder)

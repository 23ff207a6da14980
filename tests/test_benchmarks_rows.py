"""The benchmarks whose result is a plain table: what they measure, and that they run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import benchmarks.__main__ as command_line
from benchmarks import (
    curves,
    machine,
    measuring,
    memory,
    overhead,
    results,
    startup,
    storage,
    suites,
    training,
)
from benchmarks.contestants import BASELINE, FOR_LOOP, OPTIMIZERS, OURS, SWEEP, Contestant
from benchmarks.timing import Settings
from benchmarks.workloads import MI, Workload, one_group, one_tensor
from onepass import AdamW

QUICK = Settings(rounds=2, least_seconds=1e-5, cache_bytes=64)
NAMES = [row.name for row in OPTIMIZERS]
NOT_OF_A_CPU = {"all", "gpu", "host", "page"}
NOBODY = Contestant("nobody", "no_such_module")


def test_overhead_is_what_is_left_beside_the_wrapper() -> None:
    seconds = {OURS: 45e-6, overhead.NOTHING: 10e-6}
    row = overhead.row_of(Workload("1 group", one_group(100, 1)), OURS, seconds)
    assert row["ns a tensor"] == pytest.approx(300)  # (45 - 10 - 5) us of 100 tensors
    assert row["met"] is False


def test_overhead_has_a_row_for_us_and_for_torch() -> None:
    rows = overhead.measure(Workload("1 group", one_group(3, 1)), QUICK)
    assert [row["contestant"] for row in rows] == [OURS, BASELINE]
    assert all(row["us a step"] > 0 for row in rows)


def test_storage_counts_bytes_by_the_types() -> None:
    rows = {row["stored"]: row for row in storage.measure(64, QUICK)}
    assert rows.keys() == storage.STORED.keys()
    assert rows[storage.SINGLE]["bytes"] == 28 and rows[storage.SINGLE]["times"] == 1.0
    assert rows[storage.HALVED]["bytes"] == 14 and rows[storage.HALVED]["met"] is not None
    assert rows["onepass, states bfloat16"]["bytes"] == 20


@pytest.mark.parametrize("name", storage.STORED)
def test_storage_stores_what_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    cls, param, state = storage.STORED[name]
    monkeypatch.setitem(
        storage.STORED, name, (lambda *a, **k: made.append(cls(*a, **k)) or made[0], param, state)
    )
    monkeypatch.setattr(storage.onepass, "AdamW", storage.STORED[name][0] if cls is AdamW else cls)
    storage.step_of(name, 8)
    ((parameter, own),) = made[0].state.items()
    assert parameter.dtype == parameter.grad.dtype == param
    assert own["exp_avg"].dtype == own["exp_avg_sq"].dtype == state


def test_startup_times_the_constructor_and_the_first_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(startup, "REPEATS", 1)
    row = startup.measure(OPTIMIZERS[0], Workload("startup", one_group(2, 4)))
    assert row["absent"] is None
    assert all(row[key] > 0 for key in ("import ms", "made ms", "first ms", "steady us"))


def test_startup_says_why_somebody_is_absent() -> None:
    row = startup.measure(NOBODY, Workload("startup", one_group(2, 4)))
    assert "no_such_module" in row["absent"]


def test_memory_sees_what_a_step_holds_for_a_while() -> None:
    class Wasteful:
        def step(self) -> None:
            torch.ones(16 * MI)  # 64 MiB, let go of at once

    assert memory.height(Wasteful()) == pytest.approx(64 << 20, rel=0.25)


def test_a_step_of_ours_holds_nothing_for_a_while() -> None:
    row = memory.in_own_process(memory.WORKLOADS[1], OPTIMIZERS[0])
    assert row["absent"] is None and row["states"] == pytest.approx(128, rel=0.1)
    assert row["later"] < 6


def test_memory_says_why_somebody_is_absent() -> None:
    assert "no_such_module" in memory.measure(Workload("8", one_tensor(8)), NOBODY)["absent"]


def test_sizes_are_read_from_files_that_count_in_kb(tmp_path: Path) -> None:
    file = tmp_path / "status"
    file.write_text("Name:\tpython\nVmHWM:\t  2048 kB\nThreads:\t1\n")
    assert machine.sizes_of(str(file)) == {"VmHWM": 2 << 20}


@pytest.mark.parametrize("model", training.MODELS)
def test_everyone_trains_the_same_model(model: str) -> None:
    trainings = [training.start(model, row) for row in OPTIMIZERS]
    for one in trainings:
        for _ in range(3):
            one.iterate()
    ours, *others = (list(one.model.parameters()) for one in trainings)
    for other in others:
        # Where gradients are next to nothing the way of rounding decides where Adam goes.
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-3 / 4)


def test_training_says_what_the_step_takes_of_an_iteration() -> None:
    rows = training.measure("perceptron", QUICK, least_seconds=1e-4)
    assert [row["optimizer"] for row in rows] == NAMES
    for row in rows:
        share = row["ms a step"] / row["ms an iteration"]
        assert 0 < share < 1 and row["share"] == f"{share:.1%}"
    assert next(row["times"] for row in rows if row["optimizer"] == FOR_LOOP) == 1.0


def test_curves_have_the_bare_sweep_at_every_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(curves, "CONTESTANTS", OPTIMIZERS)
    monkeypatch.setattr(curves, "SIZES", suites.SIZES[:2])
    monkeypatch.setattr(curves, "TENSORS", suites.TENSORS[:2])
    monkeypatch.setattr(machine, "last_level_cache_bytes", lambda: 64)
    line = ["curves", "--dtype", "bfloat16", "--folder", str(tmp_path)]
    done = CliRunner().invoke(command_line.app, line)
    assert done.exit_code == 0, done.output
    (written,) = tmp_path.glob("curves-*.json")
    assert written.with_suffix(".png").stat().st_size > 0
    works = json.loads(written.read_text())["workloads"]
    assert [work["name"] for work in works] == ["256", "1 Ki", "10 x 64", "100 x 64"]
    assert all(set(work["warm"]) == {*NAMES, SWEEP} and not work["cold"] for work in works)


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves little to measure."""
    monkeypatch.setattr(startup, "CONTESTANTS", (OPTIMIZERS[0], NOBODY))
    monkeypatch.setattr(startup, "REPEATS", 1)
    monkeypatch.setattr(memory, "WORKLOADS", (Workload("8", one_tensor(8)),))
    monkeypatch.setattr(memory, "OPTIMIZERS", OPTIMIZERS[:1])
    monkeypatch.setattr(memory, "PEERS", ())
    monkeypatch.setattr(training, "LEAST_SECONDS", 1e-4)
    monkeypatch.delitem(training.MODELS, "transformer")


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize(
    "line",
    [
        ["overhead", "--tensors", "2", "--rounds", "9"],
        ["storage", "--elements", "64", "--rounds", "9"],
        ["startup", "--tensors", "2"],
        ["memory"],
        ["training", "--rounds", "9"],
    ],
    ids=lambda line: line[0],
)
def test_commands_print_and_write_their_table(line: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(command_line.app, [*line, "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (written,) = tmp_path.glob(f"{line[0]}-*.json")
    result = json.loads(written.read_text())
    assert result["rows"] and result["legend"] and result["machine"]["cpu"]
    assert all(row.keys() == result["rows"][0].keys() for row in result["rows"])


def test_results_have_the_versions_of_other_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PEERS", (Contestant("tests", "pytest.anything"), NOBODY))
    assert results.document("any", {}, QUICK, [])["peers"] == {"tests": pytest.__version__}


def test_a_run_that_is_cut_short_keeps_what_it_has_measured(tmp_path: Path) -> None:
    works = [Workload(str(count), one_group(count, 1)) for count in (1, 2)]

    def measure(work: Workload) -> dict[str, object]:
        if work is works[1]:
            raise KeyboardInterrupt
        return {"name": work.name}

    with pytest.raises(KeyboardInterrupt):
        measuring.publish("step short", works, measure, QUICK, tmp_path)
    (written,) = tmp_path.glob("step-*.json")
    assert json.loads(written.read_text())["workloads"] == [{"name": "1"}]


def test_all_runs_every_benchmark_of_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = []
    modules = {command.name: command.callback for command in command_line.app.registered_commands}
    for name in modules.keys() - NOT_OF_A_CPU:
        module = getattr(command_line, name)
        monkeypatch.setattr(module, "command", lambda name=name, **given: ran.append((name, given)))
    done = CliRunner().invoke(command_line.app, ["all", "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert {name for name, _ in ran} == modules.keys() - NOT_OF_A_CPU
    assert all(given["folder"] == tmp_path for _, given in ran)
    threads = [given.get("threads") for name, given in ran if name == "step"]
    assert {0, 1} <= set(threads)

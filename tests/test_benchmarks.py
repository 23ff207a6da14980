"""The benchmarks run, compare what they say they compare, and count right. No times are judged."""

import json
import subprocess

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import contestants, machine, step, timing
from benchmarks.__main__ import app
from benchmarks.timing import Settings, Summary
from benchmarks.workloads import STEP, Workload, group_per_tensor, one_group, one_tensor
from tests.support import ROOT

TINY = (
    Workload("one", one_tensor(8), 1.0),
    Workload("many", one_group(3, 4)),
    Workload("groups", group_per_tensor(2, 4)),
)
QUICK = Settings(rounds=2, least_seconds=1e-5, cache_bytes=64)
EVERYONE = {row.name for row in contestants.OPTIMIZERS} | {contestants.SWEEP}


class Clock:
    """A clock that only the steps move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def step(self, seconds: float) -> timing.Step:
        def run() -> None:
            self.now += seconds

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "perf_counter", made)
    return made


@pytest.mark.parametrize("algorithm", ["Adam", "AdamW"])
@pytest.mark.parametrize("work", TINY, ids=lambda work: work.name)
def test_every_contestant_runs(work: Workload, algorithm: str) -> None:
    measured = step.measure(work, algorithm, QUICK)
    expected = EVERYONE if measured["memory_bound"] else EVERYONE - {contestants.SWEEP}
    assert measured["absent"] == {}
    for kind in ("warm", "cold"):
        assert set(measured[kind]) == expected
        for row in measured[kind].values():
            assert len(row["rounds"]) == QUICK.rounds
            assert row["seconds"]["low"] <= row["seconds"]["median"] <= row["seconds"]["high"]
            assert (row["bytes_per_second"] is not None) == measured["memory_bound"]
    assert measured["warm"][contestants.BASELINE]["speedup"]["median"] == 1
    assert set(measured["onepass_over"]) == expected - {contestants.OURS}
    targets = {rival: kept["at_least"] for rival, kept in measured["promises"].items()}
    assert targets == ({} if work.target is None else {contestants.BASELINE: work.target})


def test_command_writes_json_and_plot(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(step, "STEP", TINY)
    monkeypatch.setattr(machine, "last_level_cache_bytes", lambda: 64)
    done = CliRunner().invoke(app, ["step", "--rounds", "9", "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "Skipped" not in done.output
    (written,) = tmp_path.glob("step-*.json")
    assert written.with_suffix(".png").stat().st_size > 0
    text = written.read_text()
    result = json.loads(text)
    assert str(machine.Path.cwd()) not in text
    assert [work["name"] for work in result["workloads"]] == [work.name for work in TINY]
    assert result["settings"]["rounds"] == 9
    assert {
        "cpu",
        "cores",
        "threads",
        "torch",
        "onepass",
        "onepass_build",
        "commit",
        "date",
    } <= set(result["machine"])


@pytest.mark.parametrize("option", [["--only", "none such"], ["--algorithm", "Lion"]])
def test_command_refuses_unknown_names(option: list[str]) -> None:
    done = CliRunner().invoke(app, ["step", *option])
    assert done.exit_code == 2
    assert "choose from" in done.output


def test_make_bench_measures_the_table_of_the_readme() -> None:
    dry = ["make", "--dry-run", "--no-print-directory", "bench"]
    said = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ".venv/bin/python -m benchmarks step\n" in said


def test_workloads_are_those_promised() -> None:
    assert {work.name: (work.tensors, work.elements, work.target) for work in STEP} == {
        "4 Ki": (1, 4096, 2.5),
        "64 Ki": (1, 65536, 2.0),
        "256 Ki": (1, 262144, 1.25),
        "16 Mi": (1, 16777216, 0.97),
        "1000 x 64": (1000, 64000, 25.0),
        "465 groups x 64": (465, 465 * 64, 50.0),
        "465 groups x 1024": (465, 465 * 1024, None),
    }
    assert [len(work.groups) for work in STEP] == [1, 1, 1, 1, 1, 465, 465]


def test_summary() -> None:
    assert Summary.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Summary(3.0, 2.0, 4.0)
    assert Summary.of([1.0, 2.0]) == Summary(1.5, 1.25, 1.75)
    assert Summary.of([7.0]) == Summary(7.0, 7.0, 7.0)


def test_speedups_are_paired_round_by_round() -> None:
    times = {"torch": [2.0, 20.0, 4.0], "ours": [1.0, 10.0, 1.0]}
    ratios = timing.speedups(times, "torch")
    assert ratios["torch"] == Summary(1.0, 1.0, 1.0)
    assert ratios["ours"] == Summary(2.0, 2.0, 3.0)  # not 4.0 / 1.0, the ratio of the medians


def test_turns_rotate_and_reverse() -> None:
    orders = list(timing.turns("abc", 6))
    assert orders[:3] == [["a", "b", "c"], ["a", "c", "b"], ["c", "a", "b"]]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len({tuple(order) for order in orders}) == 6


def test_turn_times_all_but_the_first_step(clock: Clock) -> None:
    assert timing.time_turn(clock.step(0.25), batch=2, least_seconds=0.9) == 0.25
    assert clock.now == 0.25 + 4 * 0.25


def test_batches_are_short_beside_the_least_time(clock: Clock) -> None:
    assert timing.batch_size(clock.step(1.0), 0.002) == 1
    assert timing.batch_size(clock.step(2.0**-20), 2.0**-10) == 512


def test_rounds_interleave_all_contestants(clock: Clock) -> None:
    steps = {"fast": clock.step(0.001), "slow": clock.step(0.002)}
    for rounds in (timing.warm_rounds, timing.cold_rounds):
        times = rounds(steps, QUICK)
        assert times == {"fast": pytest.approx([0.001] * 2), "slow": pytest.approx([0.002] * 2)}


def test_contestants_that_disagree_are_refused() -> None:
    params, others = (contestants.make_groups(TINY[0].groups) for _ in range(2))
    contestants.check_same("same", params, others)
    torch.optim.AdamW(others).step()
    with pytest.raises(AssertionError, match="lazy"):
        contestants.check_same("lazy", params, others)


def test_absent_contestants_are_named() -> None:
    rows = (*contestants.OPTIMIZERS[1:2], contestants.Contestant("nobody", "no_such_module"))
    lineup = contestants.line_up(rows, "AdamW", TINY[0].groups)
    assert list(lineup.steps) == [contestants.BASELINE]
    assert lineup.absent == {"nobody": "no_such_module.AdamW not found (ModuleNotFoundError)"}


def test_bystanders_are_who_is_busy_beside_us(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([(100.0, 10.0), (120.0, 15.0)])
    monkeypatch.setattr(machine.Bystanders, "now", lambda _: next(moments))
    assert machine.Bystanders().share() == 0.25


def test_bystanders_are_unknown_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.Bystanders, "now", lambda _: None)
    assert machine.Bystanders().share() is None


@pytest.mark.parametrize(("text", "size"), [("48K", 49152), ("32M", 33554432), ("64", 64)])
def test_cache_sizes(text: str, size: int) -> None:
    assert machine.parse_size(text) == size

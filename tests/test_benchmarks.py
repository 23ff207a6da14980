"""The benchmarks run, compare what they say they compare, and count right. No times are judged."""

import json
import subprocess

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import agreement, contestants, machine, measuring, models, step, suites, timing
from benchmarks.__main__ import app
from benchmarks.contestants import BASELINE, FASTEST, FOREACH, OPTIMIZERS, OURS, SWEEP
from benchmarks.timing import Settings, Summary
from benchmarks.workloads import Workload, group_per_tensor, one_group, one_tensor, sized
from tests.support import ROOT

TINY = (
    Workload("one", one_tensor(8), {BASELINE: 1.0}),
    Workload("many", one_group(3, 4)),
    Workload("groups", group_per_tensor(2, 4)),
)
QUICK = Settings(rounds=2, least_seconds=1e-5, cache_bytes=64)
EVERYONE = {row.name for row in OPTIMIZERS} | {SWEEP}


@pytest.fixture(autouse=True)
def only_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may be installed or not, and compiling takes long."""
    monkeypatch.setattr(step, "CONTESTANTS", OPTIMIZERS)


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
@pytest.mark.parametrize("dtype", measuring.DTYPES)
@pytest.mark.parametrize("work", TINY, ids=lambda work: work.name)
def test_every_contestant_runs(work: Workload, dtype: str, algorithm: str) -> None:
    work = step.stored(work, dtype)
    measured = step.measure(work, algorithm, QUICK)
    expected = EVERYONE if measured["memory_bound"] else EVERYONE - {SWEEP}
    assert measured["absent"] == {}
    for kind in ("warm", "cold"):
        assert set(measured[kind]) == expected
        for row in measured[kind].values():
            assert len(row["rounds"]) == QUICK.rounds
            assert row["seconds"]["low"] <= row["seconds"]["median"] <= row["seconds"]["high"]
            assert (row["bytes_per_second"] is not None) == measured["memory_bound"]
    row = measured["warm"][OURS]
    if measured["memory_bound"]:
        moved = row["bytes_per_second"] * row["seconds"]["median"]
        assert moved == pytest.approx(7 * work.elements * work.torch_dtype.itemsize)
    assert measured["warm"][BASELINE]["speedup"]["median"] == 1
    assert set(measured["onepass_over"]) == expected - {OURS}
    promised = {rival: kept["at_least"] for rival, kept in measured["promises"].items()}
    assert promised == work.promises


def test_command_writes_json_and_plot(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setitem(suites.SUITES, "promised", TINY)
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


@pytest.mark.parametrize(
    "option",
    [
        ["--only", "none such"],
        ["--algorithm", "Lion"],
        ["--suite", "all"],
        ["--dtype", "int8"],
    ],
)
def test_command_refuses_unknown_names(option: list[str]) -> None:
    done = CliRunner().invoke(app, ["step", *option])
    assert done.exit_code == 2
    assert "choose from" in done.output


def test_make_bench_measures_everything() -> None:
    dry = ["make", "--dry-run", "--no-print-directory", "bench"]
    said = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ".venv/bin/python -m benchmarks all\n" in said


def test_workloads_are_those_promised() -> None:
    assert {work.name: (work.tensors, work.elements, work.promises) for work in suites.STEP} == {
        "4 Ki": (1, 4096, {FASTEST: 2.5}),
        "64 Ki": (1, 65536, {FASTEST: 2.0}),
        "256 Ki": (1, 262144, {FASTEST: 1.3}),
        "16 Mi": (1, 16777216, {FASTEST: 0.97, SWEEP: 0.97}),
        "1000 x 64": (1000, 64000, {BASELINE: 30.0, FOREACH: 75.0}),
        "465 groups x 64": (465, 465 * 64, {BASELINE: 80.0}),
        "465 groups x 1 Ki": (465, 465 * 1024, {}),
        "ResNet-50": (161, 25_557_032, {BASELINE: 1.1, SWEEP: 0.95}),
        "ResNet-50, 161 groups": (161, 25_557_032, {BASELINE: 1.25}),
    }
    assert [len(work.groups) for work in suites.STEP] == [1, 1, 1, 1, 1, 465, 465, 1, 161]
    assert [work.elements for work in suites.SIZES] == [256 << k for k in range(0, 19, 2)]
    assert {(work.tensors, work.elements // work.tensors) for work in suites.TENSORS} == {
        (tensors, elements) for tensors in (10, 100, 1000, 10_000) for elements in (64, 1024, 16384)
    }


@pytest.mark.parametrize(
    ("shapes", "tensors", "elements"),
    [
        (models.resnet_50(), 161, 25_557_032),
        (models.vit_b_16(), 152, 86_567_656),
        (models.gpt_2_small(), 148, 124_439_808),
        (models.bert_base(), 199, 109_482_240),
        (models.llama_1b(layers=22), 201, 1_100_048_384),
    ],
)
def test_models_have_the_parameters_that_their_papers_count(
    shapes: models.Shapes, tensors: int, elements: int
) -> None:
    assert (len(shapes), Workload("model", (shapes,)).elements) == (tensors, elements)


@pytest.mark.parametrize("count", (2, 50, 465))
def test_groups_hold_every_parameter_once(count: int) -> None:
    shapes = models.resnet_50()
    groups = models.in_groups(shapes, count)
    assert len(groups) == min(count, len(shapes)) and all(groups)
    assert sorted(shape for group in groups for shape in group) == sorted(shapes)
    if count == 2:  # as decay is left to matrices
        assert [{len(shape) > 1 for shape in group} for group in groups] == [{True}, {False}]


def test_sizes_have_names() -> None:
    assert [sized(elements) for elements in (256, 4096, 65536, 1 << 24)] == [
        "256", "4 Ki", "64 Ki", "16 Mi",
    ]  # fmt: skip


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
    agreement.check_same("same", params, others)
    torch.optim.AdamW(others).step()
    with pytest.raises(AssertionError, match="lazy"):
        agreement.check_same("lazy", params, others)


def absent(contestant: contestants.Contestant, work: Workload = TINY[0]) -> str:
    """Returns why a contestant does not take part beside torch."""
    lineup = contestants.line_up((*OPTIMIZERS[1:2], contestant), "AdamW", work)
    assert list(lineup.steps) == [BASELINE]
    return lineup.absent[contestant.name]


def test_absent_contestants_are_named() -> None:
    nobody = contestants.Contestant("nobody", "no_such_module")
    assert absent(nobody) == "no_such_module.AdamW not found (ModuleNotFoundError)"


def test_torchs_own_class_takes_no_part_under_another_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "AdamW", torch.optim.AdamW, raising=False)
    assert "torch's own class" in absent(contestants.Contestant("other", "benchmarks.timing"))


def test_who_computes_something_else_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    class AdamW(torch.optim.SGD):
        def __init__(self, params: object, lr: float, **_: object) -> None:
            super().__init__(params, lr)

    monkeypatch.setattr(timing, "AdamW", AdamW, raising=False)
    assert absent(contestants.Contestant("other", "benchmarks.timing")) == "computes something else"


def test_who_takes_too_long_or_too_much_memory_takes_no_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = contestants.Contestant("slow", "torch.optim", most_tensors=2)
    assert absent(slow, TINY[1]) == "takes too long to start with more than 2 tensors"
    free = iter([1 << 30, 0])
    monkeypatch.setattr(machine, "available_bytes", lambda: next(free))
    assert "GiB of memory" in absent(contestants.Contestant("large", "torch.optim"))


def test_the_fastest_peer_is_neither_ours_nor_the_bare_sweep() -> None:
    times = {OURS: [1.0] * 3, SWEEP: [0.5] * 3, "slow": [9.0, 2.0, 9.0], "fast": [3.0] * 3}
    assert measuring.fastest(times) == "fast"
    verdict = measuring.verdict(times, {FASTEST: 2.5})
    assert verdict["promises"] == {"fast": {"at_least": 2.5, "met": True}}


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

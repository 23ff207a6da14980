"""The benchmarks run, leave out who computes something else, pair rounds. No times are judged."""

from __future__ import annotations

import functools
import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import __main__ as cli
from benchmarks import contestants, machine, measuring, suites, timing
from benchmarks.bare_sweep import sweep_without_arithmetic
from benchmarks.contestants import FASTEST, FOR_LOOP, OPTIMIZERS, OURS, SWEEP, Contestant
from benchmarks.timing import Summary
from benchmarks.workloads import Workload, group_per_tensor, one_group, one_tensor

TINY = (Workload("many", one_group(3, 4)), Workload("groups", group_per_tensor(2, 4)))
NOBODY = Contestant("nobody", "no_such_module")
OTHER = Contestant("other", "benchmarks.timing")  # which is given a class by the test
NOT_OF_A_CPU = {"all", "gpu", "host", "page"}
EMBEDDING = ["--algorithm", "Adam", "--algorithm", "AdamW", "--rows", "3000", "--rows", "2000"]
PLOTTED = {
    "step": [],
    "step --dtype bfloat16": [],
    "algorithms": ["--algorithm", "RMSprop", "--algorithm", "Lion", "--elements", "64"],
    "curves": [],
    "embedding": EMBEDDING,
}
TABLES = {
    "overhead": ["--tensors", "2"],
    "storage": ["--elements", "64"],
    "training": [],
    "startup": ["--tensors", "2"],
    "memory": [],
}


class Idle(torch.optim.Optimizer):
    """Whose step does nothing: the fastest there is."""

    def __init__(self, params: Any, **_: object) -> None:
        super().__init__(params, {})

    def step(self, closure: object = None) -> None:
        pass


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves little to measure, and nobody who may not be installed."""
    for module in (cli.step, cli.algorithms, cli.curves):
        monkeypatch.setattr(module, "CONTESTANTS", (*OPTIMIZERS, NOBODY))
    monkeypatch.setattr(cli.startup, "CONTESTANTS", (OPTIMIZERS[0], NOBODY))
    monkeypatch.setattr(cli.startup, "REPEATS", 1)
    monkeypatch.setitem(suites.SUITES, "promised", TINY)
    monkeypatch.setattr(cli.curves, "SIZES", suites.SIZES[:2])
    monkeypatch.setattr(cli.curves, "TENSORS", suites.TENSORS[:2])
    monkeypatch.setattr(machine, "last_level_cache_bytes", lambda: 32)
    monkeypatch.setattr(cli.memory, "WORKLOADS", (Workload("transposed", (((2048, 2048),),)),))
    monkeypatch.setattr(cli.memory, "OPTIMIZERS", OPTIMIZERS[:1])
    monkeypatch.setattr(cli.memory, "PEERS", ())
    monkeypatch.setattr(cli.training, "LEAST_SECONDS", 1e-4)
    linear = functools.partial(torch.nn.Linear, 784, 10)
    monkeypatch.setattr(cli.training, "MODELS", {"linear": (linear, cli.training.images)})
    monkeypatch.setattr(gc, "collect", lambda: 0)  # which takes longer than all the rest
    monkeypatch.setattr(measuring, "Settings", lambda rounds, **more: timing.Settings(
        rounds, least_seconds=1e-5, **more))  # fmt: skip


def results_of(command: str, options: Sequence[str], folder: Path) -> tuple[Any, Path]:
    """Runs `python -m benchmarks ...` and returns what it wrote, and where."""
    rounds = [] if command in ("startup", "memory") else ["--rounds", "9"]
    line = [*command.split(), *options, *rounds, "--folder", str(folder)]
    done = CliRunner().invoke(cli.app, line)
    assert done.exit_code == 0, done.output
    (written,) = folder.glob(f"{command.split()[0]}-*.json")
    assert written.name in done.output
    result = json.loads(written.read_text())
    assert result["machine"]["cpu"] and result["machine"]["torch"] == torch.__version__
    return result, written


# ---- the commands


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("command", PLOTTED)
def test_commands_write_json_and_plot(command: str, tmp_path: Path) -> None:
    result, written = results_of(command, PLOTTED[command], tmp_path)
    assert written.with_suffix(".png").stat().st_size > 0
    assert len(result["workloads"]) in (2, 3, 4)
    for work in result["workloads"]:
        ours = [row for name, row in work["warm"].items() if name.startswith(OURS)]
        assert ours and all(len(row["rounds"]) == 9 for row in ours)
        assert all(row["seconds"]["median"] > 0 for row in ours)
        if command == "embedding":
            assert ("torch" in work["absent"]) == (work["name"] == "AdamW")
        else:
            assert "no_such_module" in work["absent"]["nobody"]
            assert SWEEP in work["warm"]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("command", TABLES)
def test_commands_write_their_table(command: str, tmp_path: Path) -> None:
    result, _ = results_of(command, TABLES[command], tmp_path)
    assert result["rows"] and result["legend"]
    assert all(row.keys() == result["rows"][0].keys() for row in result["rows"])
    if command == "memory":  # a step of ours holds nothing for a while, here in MiB
        assert result["rows"][0]["states"] == pytest.approx(32, rel=0.2)
        assert result["rows"][0]["later"] < 6


def test_all_runs_every_benchmark_of_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = []
    names = {command.name for command in cli.app.registered_commands} - NOT_OF_A_CPU
    assert names == {command.split()[0] for command in (*PLOTTED, *TABLES)}
    for name in names:
        module = getattr(cli, name)
        monkeypatch.setattr(module, "command", lambda name=name, **given: ran.append((name, given)))
    done = CliRunner().invoke(cli.app, ["all", "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert {name for name, _ in ran} == names
    assert all(given["folder"] == tmp_path for _, given in ran)


# ---- who takes part


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", cli.algorithms.names())
def test_who_computes_the_same_takes_part_and_who_does_not_is_left_out(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, name, Idle, raising=False)
    work = Workload(name, one_tensor(1024), dtype=dtype)
    lineup = contestants.line_up((*OPTIMIZERS, OTHER), name, work)
    assert lineup.absent["other"] == "computes something else"
    assert OURS in lineup.steps and (FOR_LOOP in lineup.steps) == hasattr(torch.optim, name)


@pytest.mark.parametrize("name", cli.embedding.ALGORITHMS)
def test_who_does_nothing_with_sparse_gradients_is_noticed(name: str) -> None:
    classes = cli.embedding.find_classes(cli.embedding.ALGORITHMS[name], {})
    with pytest.raises(AssertionError, match="idle, 2,000 rows"):
        list(cli.embedding.same_steps({**classes, "idle": Idle}, 2000))


# ---- what is said


def test_speedups_and_promises_are_judged_round_by_round() -> None:
    times = {OURS: [1.0, 10.0, 1.0], SWEEP: [0.5] * 3, "slow": [9.0] * 3, "fast": [2.0, 20.0, 4.0]}
    assert timing.speedups(times, "fast")[OURS] == Summary(2.0, 2.0, 3.0)  # of medians it were 4
    verdict = measuring.verdict(times, {FASTEST: 2.5, "slow": 2.5})
    assert verdict["onepass_over"]["fast"]["median"] == 2.0
    met = {rival: kept["met"] for rival, kept in verdict["promises"].items()}
    assert met == {"fast": False, "slow": True}


def test_the_page_is_written_from_the_newest_results() -> None:
    text = cli.page.PAGE.read_text()
    assert cli.page.render(text) == text, "run: python -m benchmarks page"
    assert cli.page.BLOCK.search(text)


@pytest.mark.parametrize("size", (0, 1, 37, 100_003))
def test_the_bare_sweep_reads_and_writes_everything_once(size: int) -> None:
    for states in range(5):
        before = [torch.randn(size).view(torch.int32) for _ in range(2 + states)]
        param, grad, *rest = [tensor.clone().view(torch.float32) for tensor in before]
        sweep_without_arithmetic(param, grad, rest)
        written = [before[0] ^ before[1], before[1], *(had ^ before[1] for had in before[2:])]
        for had, has in zip(written, [param, grad, *rest], strict=True):
            assert torch.equal(has.view(torch.int32), had)
    for wrong in ([torch.zeros(8)] * 5, [torch.zeros(7)], [torch.zeros(8).double()],
                  [torch.zeros(16)[::2]]):  # fmt: skip
        with pytest.raises(ValueError, match=r"states|tensors"):
            sweep_without_arithmetic(torch.zeros(8), torch.zeros(8), wrong)

"""The benchmark on a GPU: what it measures, promises and reports. A CPU rehearses it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import gpu, gpu_device, gpu_lineup, gpu_report
from benchmarks.__main__ import app
from benchmarks.contestants import BASELINE, OURS, Contestant
from benchmarks.gpu_device import HostClock
from benchmarks.suites import GPU
from benchmarks.workloads import Workload, one_group, one_tensor

CPU = HostClock(torch.device("cpu"))
ONE = Workload("one", one_tensor(64))
MANY = Workload("many", one_group(3, 4))
SESSION = gpu.Session(CPU, cache_bytes=64, copy=1e9, largest=64)


# ---- the measurements


def test_workloads_are_those_promised() -> None:
    sizes = {f"{size} Mi {dtype}": (1, size << 20) for dtype in ("float32", "bfloat16")
             for size in (1, 16, 64, 256)}  # fmt: skip
    assert {work.name: (work.tensors, work.elements) for work in GPU} == {
        **sizes,
        "1000 x 64": (1000, 64_000),
        "465 groups x 64": (465, 465 * 64),
        "465 groups x 1024": (465, 465 * 1024),
        "ResNet-50": (161, 25_557_032),
        "GPT-2 small": (148, 124_439_808),
    }
    assert all(work.dtype in work.name for work in GPU if "Mi" in work.name)
    assert set(gpu.GRAPHS) <= {work.name for work in GPU}


def test_a_workload_is_timed_on_the_device_and_on_the_host() -> None:
    made = gpu.adamw(SESSION, MANY, seconds=0.0)
    for kind in ("warm", "host"):
        assert set(made[kind]) >= {BASELINE, "torch foreach", OURS}
        assert all(len(row["rounds"]) == gpu.FEWEST_ROUNDS for row in made[kind].values())
    row = made["warm"][OURS]
    moved = row["bytes_per_second"] * row["seconds"]["median"]
    assert moved == pytest.approx(28 * MANY.elements)
    assert row["share_of_copy"] == pytest.approx(row["bytes_per_second"] / SESSION.copy)
    assert made["memory_bound"]  # 192 bytes, in a cache of 64
    assert len(made["promises"]) == 2


def test_rounds_fit_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 2.0] * 3)  # a round takes 2 s
    monkeypatch.setattr(gpu, "perf_counter", lambda: next(moments))
    nobody = gpu_lineup.DeviceLineup()
    rounds = [gpu.rounds_until(end, nobody, SESSION) for end in (32.0, 3.0, 1e6)]
    assert rounds == [15, gpu.FEWEST_ROUNDS, gpu.MOST_ROUNDS]


def test_what_fails_or_has_no_time_is_named_and_the_rest_is_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [0.0]
    monkeypatch.setattr(gpu, "perf_counter", lambda: now[0])
    shares = []

    def run(share: float) -> dict[str, Any]:
        shares.append(share)
        now[0] += 4.0
        if len(shares) == 2:
            raise RuntimeError("broken")
        return {"name": "done"}

    tasks = [gpu.Task("graphs", str(number), run) for number in range(4)]
    gpu.measure_all(tasks, 10.0, {}, tmp_path / "gpu.json")
    assert shares == [10 / 4, 6 / 3, 2 / 2]
    saved = json.loads((tmp_path / "gpu.json").read_text())
    assert saved["graphs"] == [{"name": "done"}] * 2
    assert saved["failed"] == {"graphs: 1": "RuntimeError: broken"}
    assert saved["left_out"] == ["graphs: 3"]


# ---- the verdict


def test_promises_say_what_is_kept() -> None:
    made = {
        "baseline": BASELINE,
        "memory_bound": True,
        "warm": {OURS: {"share_of_copy": 0.85}},
        "onepass_over": {BASELINE: {"median": 0.97}},
    }
    speed, bytes_ = gpu.promises_on_time(made)
    assert speed["met"] is True and bytes_["met"] is False
    assert gpu_report.wording(bytes_) == "0.85 of a copy's bytes per second, at least 0.9"
    assert len(gpu.promises_on_time({**made, "reads_twice": True})) == 1
    assert len(gpu.promises_on_time({**made, "memory_bound": False})) == 1
    assert gpu.promises_on_time({**made, "warm": {}}) == []


@pytest.mark.parametrize(("waits", "met"), [(0.0, True), (0.25, False), (None, None)])
def test_a_step_that_waits_breaks_its_promise(waits: float | None, met: bool | None) -> None:
    (promise,) = gpu.promises_on_waits({OURS: {"waits": waits}})
    assert promise["met"] is met


# ---- the command


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "GPU", (ONE, MANY))
    absent = Contestant("peer", "no_such_module")
    monkeypatch.setattr(gpu, "ADAMW", (*gpu.ADAMW[:3], absent))
    monkeypatch.setattr(gpu.algorithms, "names", lambda: ["AdamW", "Lion", "LAMB"])
    monkeypatch.setattr(gpu, "LEAST_SECONDS", 1e-5)
    monkeypatch.setattr(gpu, "MOST_ROUNDS", gpu.FEWEST_ROUNDS)
    monkeypatch.setattr(gpu_device, "COPY_SECONDS", 1e-5)


@pytest.mark.usefixtures("small")
def test_command_writes_json_and_plot(tmp_path: Path) -> None:
    line = ["gpu", "--device", "cpu", "--largest", "64", "--folder", str(tmp_path)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert "Skipped: peer: no_such_module.AdamW not found" in done.output
    assert "(reads twice)" in done.output and "NOT SEEN: traces: one" in done.output
    (written,) = tmp_path.glob("gpu-*.json")
    assert written.with_suffix(".png").stat().st_size > 0
    result = json.loads(written.read_text())
    assert [work["name"] for work in result["workloads"]] == ["one", "many"]
    assert [work["name"] for work in result["algorithms"]] == ["AdamW", "Lion", "LAMB"]
    assert [work["name"] for work in result["traces"]] == ["one", "many"]
    assert result["failed"] == {} and result["left_out"] == []
    assert {"machine", "device", "copy", "settings"} <= set(result)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("faulty", ["absent", "wrong"])
def test_command_fails_where_onepass_is_absent_or_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, faulty: str
) -> None:
    if faulty == "absent":
        monkeypatch.setattr(gpu, "ADAMW", (gpu.ADAMW[0], Contestant(OURS, "no_such_module")))
    else:
        monkeypatch.setattr(gpu_lineup, "difference", lambda *_: 0.5)
    line = ["gpu", "--device", "cpu", "--largest", "64", "--folder", str(tmp_path)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 1
    assert len(list(tmp_path.glob("gpu-*.*"))) == 2
    assert ("no_such_module" if faulty == "absent" else "DIFFERS: one: onepass") in done.output


def test_command_says_when_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(app, ["gpu"])
    assert done.exit_code == 2
    assert "torch finds no CUDA device" in done.output


def test_counts_stand_beside_the_times_of_their_workload() -> None:
    counts = {"kernels": 2.0, "copies": 1.0, "fills": 0.0, "waits": 0.0, "busy_seconds": 3e-6}
    work = {**gpu.adamw(SESSION, ONE, 0.0), "counts": {OURS: {**counts, "calls": {}}}}
    assert gpu_report.cells(work, OURS)[-4:] == ["2", "1", "0", "3.00 us"]
    assert gpu_report.cells(work, BASELINE)[-4:] == [""] * 4


def test_a_session_that_was_cut_short_is_reported(tmp_path: Path) -> None:
    result = {
        "benchmark": "gpu",
        "device": {"name": "some GPU"},
        "copy": {"bytes_per_second": 4e12},
        "machine": dict.fromkeys(("torch", "onepass", "commit", "onepass_build")),
        **{section: [] for section in gpu_report.SECTIONS},
        "failed": {"graphs: 64 Mi": "RuntimeError: broken"},
        "left_out": ["traces: 64 Mi"],
    }
    console = Console(record=True, file=io.StringIO())
    gpu_report.show(result, console)
    gpu_report.save_plot(result, tmp_path / "plot.png")
    said = console.export_text()
    assert "FAILED: graphs: 64 Mi: RuntimeError: broken" in said
    assert "No time left for: traces: 64 Mi" in said

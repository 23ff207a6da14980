"""The benchmark on a GPU, rehearsed on the CPU: figures, and a report whatever fails there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import gpu, gpu_device, gpu_session
from benchmarks.__main__ import app
from benchmarks.contestants import BASELINE, OURS, Contestant
from benchmarks.workloads import Workload, one_group, one_tensor
from tests.support import ROOT

NOBODY = Contestant("peer", "no_such_module")
STEPS = ("environment", "machine", "packages", "build", "tests", "benchmark", "memcheck",
         "initcheck", "racecheck")  # fmt: skip
JUNIT = """<testsuites><testsuite tests="4" failures="1" errors="0" skipped="1">
<testcase classname="tests.test_cuda" name="test_b"><failure message="wrong bits"/></testcase>
</testsuite></testsuites>"""


# ---- the command


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    works = Workload("one", one_tensor(64)), Workload("many", one_group(3, 4))
    monkeypatch.setattr(gpu, "GPU", works)
    monkeypatch.setattr(gpu, "GRAPHS", ("many",))
    monkeypatch.setattr(gpu, "ADAMW", (*gpu.ADAMW[:3], NOBODY))
    monkeypatch.setattr(gpu.algorithms, "names", lambda: ["AdamW", "Lion", "LAMB"])
    monkeypatch.setattr(gpu, "LEAST_SECONDS", 1e-5)
    monkeypatch.setattr(gpu, "MOST_ROUNDS", gpu.FEWEST_ROUNDS)
    monkeypatch.setattr(gpu_device, "COPY_SECONDS", 1e-5)
    monkeypatch.setattr(gpu.gc, "collect", lambda: 0)  # which takes longer than all the rest


def run(folder: Path, device: str = "cpu") -> Any:
    line = ["gpu", "--device", device, "--largest", "64", "--folder", str(folder)]
    return CliRunner().invoke(app, line)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.cuda)])
def test_the_command_writes_json_and_plot_of_which_a_report_is_made(
    device: str, tmp_path: Path
) -> None:
    done = run(tmp_path, device)
    assert done.exit_code == 0, done.output
    assert "Skipped: peer: no_such_module.AdamW not found" in done.output
    (written,) = tmp_path.glob("gpu-*.json")
    assert written.with_suffix(".png").stat().st_size > 0
    result = json.loads(written.read_text())
    names = [[work["name"] for work in result[s]] for s in ("workloads", "traces", "algorithms")]
    assert names == [["one", "many"], ["one", "many"], ["AdamW", "Lion", "LAMB"]]
    assert result["failed"] == {} and result["left_out"] == [] and result["copy"]["bytes"] > 0
    for work in result["workloads"]:
        assert {BASELINE, OURS} <= set(work["warm"]) == set(work["host"]) and not work["differs"]
        moved = work["warm"][OURS]["bytes_per_second"] * work["warm"][OURS]["seconds"]["median"]
        assert moved == pytest.approx(28 * work["elements"])
    if device != "cpu":  # where the profiler sees what is launched
        counts = [work["counts"][OURS] for work in result["traces"]]
        assert all(count["kernels"] > 0 and count["waits"] == 0 for count in counts)
        assert [work["name"] for work in result["graphs"]] == ["many"]

    (tmp_path / "tests.xml").write_text(JUNIT)
    (tmp_path / "steps.tsv").write_text("build\t0\t71\ntests\t1\t30\nmemcheck\t124\t60\n")
    (tmp_path / "sanitizer-memcheck.log").write_text("==== ERROR SUMMARY: 0 errors\n")
    (tmp_path / "sanitizer-racecheck.log").write_text("Device not supported\n")
    text = gpu_session.report(tmp_path)
    assert text.startswith(f"# onepass on {result['device']['name']}\n")
    for line in ("| build | done | 71 |", "| tests | exit 1 | 30 |", "| memcheck | out of time |",
                 "2 passed, 1 failed, 0 errors, 1 skipped.", "- `tests.test_cuda.test_b`: wrong",
                 "- memcheck: ERROR SUMMARY: 0 errors", "- racecheck: no summary", "| many |",
                 "| LAMB |", "met; not met, or not seen"):  # fmt: skip
        assert line in text


@pytest.mark.parametrize(
    ("ours", "problem"),
    [
        (Contestant(OURS, "no_such_module"), "onepass: no_such_module.AdamW not found"),
        (Contestant(OURS, "torch.optim", classes={"AdamW": "Adam"}), "onepass: its move differs"),
    ],
    ids=["absent", "wrong"],
)
def test_the_command_fails_where_onepass_is_absent_or_wrong_and_measures_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ours: Contestant, problem: str
) -> None:
    monkeypatch.setattr(gpu, "ADAMW", (gpu.ADAMW[0], ours))
    monkeypatch.setattr(gpu, "traced", lambda *_: 1 / 0)
    assert run(tmp_path).exit_code == 1
    text = gpu_session.report(tmp_path)
    assert f"- workloads: one: {problem}" in text and "| Lion |" in text
    assert "- traces: many: ZeroDivisionError: division by zero" in text


# ---- the script


def executable(path: Path, text: str) -> Path:
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def session(folder: Path, fails: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with a python that does nothing but note it, and write the real report."""
    python = executable(
        folder / "python",
        f'case "$*" in *"gpu_session report"*) exec "{sys.executable}" "$@" ;; esac\n'
        f'echo "$*" >> "{folder}/calls"\n'
        f'case "$*" in {fails}) exit 3 ;; esac\n',
    )
    executable(folder / "compute-sanitizer", f'echo "sanitizer $*" >> "{folder}/calls"\n')
    env = {**os.environ, "PYTHON": str(python), "PATH": f"{folder}:{os.environ['PATH']}"}
    line = ["bash", str(ROOT / "benchmarks/run_on_gpu.sh"), str(folder / "results")]
    return subprocess.run(line, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("fails", "code"),
    [("*", 1), ("*venv*", 0), ("*venv*|*pytest*", 1), ("*venv*|*'benchmarks gpu '*", 0)],
    ids=["everything", "environment", "tests", "benchmark"],
)
def test_the_script_goes_on_where_steps_fail_and_brings_a_report(
    tmp_path: Path, fails: str, code: int
) -> None:
    done = session(tmp_path, fails)
    assert done.returncode == code, done.stdout
    lines = (tmp_path / "results" / "steps.tsv").read_text().splitlines()
    ended = dict(line.split("\t")[:2] for line in lines)
    assert tuple(ended) == STEPS and ended["build"] == ("3" if fails == "*" else "0")
    assert ended["tests"] == ("3" if code else "0") and ended["racecheck"] == "0"
    report = (tmp_path / "results" / "report.md").read_text()
    assert report == done.stdout[done.stdout.index("# onepass") :]
    assert "| environment | exit 3 |" in report and "No results: see tests.log." in report
    calls = (tmp_path / "calls").read_text()
    assert "setup.py build_ext --inplace" in calls and "-m pytest -q " in calls
    assert "-m benchmarks gpu --seconds 140 --folder" in calls
    assert "sanitizer --tool memcheck " in calls


def test_the_report_needs_nothing_that_may_be_missing() -> None:
    code = "import sys, benchmarks.gpu_session; print(*{'torch', 'typer', 'rich'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n")

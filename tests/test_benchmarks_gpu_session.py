"""A session on a machine with a GPU brings home a report, whatever fails there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_session
from tests.support import ROOT

SCRIPT = ROOT / "benchmarks" / "run_on_gpu.sh"
SUMMARY = {"median": 2e-4, "low": 1e-4, "high": 3e-4}


def workload(name: str, **more: Any) -> dict[str, Any]:
    row = {"seconds": SUMMARY, "speedup": {"median": 1.25}, "share_of_copy": 0.93}
    return {
        "name": name,
        "baseline": "torch fused",
        "warm": {"torch fused": row, "onepass": row},
        "host": {"onepass": {"seconds": {"median": 1e-5}}},
        "absent": {"apex": "not found"},
        "differs": {},
        "promises": [{"what": "times as fast as torch fused", "value": 1.25, "met": True}],
        **more,
    }


RESULT = {
    "device": {"name": "NVIDIA H200", "capability": "9.0", "driver": "580.1"},
    "machine": {"torch": "2.13.0", "onepass": "0.1.0", "onepass_build": None, "commit": "abc"},
    "copy": {"bytes_per_second": 4.3e12},
    "workloads": [workload("64 Mi float32")],
    "graphs": [],
    "traces": [
        {
            "name": "64 Mi float32",
            "counts": {"onepass": {"kernels": 1.0, "waits": 0.0}},
            "absent": {},
            "promises": [{"what": "waits for the device", "value": 0.0, "met": True}],
        }
    ],
    "algorithms": [
        workload("Lion", baseline="onepass"),
        workload("LAMB", warm={}, absent={"onepass": "RuntimeError: no kernel"}),
        workload("SGD", promises=[{"what": "of a copy", "value": 0.4, "met": False}]),
    ],
    "failed": {"graphs: GPT-2 small": "RuntimeError: broken"},
    "left_out": ["algorithms: Adan"],
}

JUNIT = """<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1">
<testcase classname="tests.test_cuda" name="test_a"/>
<testcase classname="tests.test_cuda" name="test_b">
<failure message="wrong bits&#10;more"/></testcase>
<testcase classname="" name="tests.test_c"><error message="collection failure"/></testcase>
<testcase classname="tests.test_cuda" name="test_d"><skipped/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def full(tmp_path: Path) -> Path:
    (tmp_path / "gpu-2026-01-01-000000.json").write_text(json.dumps(RESULT))
    (tmp_path / "tests.xml").write_text(JUNIT)
    (tmp_path / "steps.tsv").write_text("build\t0\t71\ntests\t1\t30\nmemcheck\t124\t60\n")
    (tmp_path / "sanitizer-memcheck.log").write_text(
        "1 passed\n========= ERROR SUMMARY: 0 errors\n"
    )
    (tmp_path / "sanitizer-racecheck.log").write_text("Device not supported\n")
    return tmp_path


def test_the_report_has_device_steps_tests_and_sanitizers(full: Path) -> None:
    text = gpu_session.report(full)
    assert text.startswith("# onepass on NVIDIA H200\n")
    assert "| copy | 4300 GB/s, read and written |" in text
    assert "| build | done | 71 |" in text
    assert "| tests | exit 1 | 30 |" in text
    assert "| memcheck | out of time | 60 |" in text
    assert "2 passed, 1 failed, 1 errors, 1 skipped." in text
    assert "- `tests.test_cuda.test_b`: wrong bits\n" in text
    assert "- `tests.test_c`: collection failure" in text
    assert "- memcheck: ERROR SUMMARY: 0 errors" in text
    assert "- racecheck: no summary: see sanitizer-racecheck.log" in text


def test_the_report_has_the_headline_figures(full: Path) -> None:
    text = gpu_session.report(full)
    assert "| 64 Mi float32 | 200.0 us | 1.25 | torch fused | 93.0% | 10.0 us | 1 | 0 |" in text
    assert "| Lion | 200.0 us |  |  | 93.0% | 10.0 us |  |  |" in text
    assert "| LAMB | absent |" in text
    assert "4 of 5 met" in text and "- algorithms: SGD: of a copy: 0.4" in text


def test_the_report_names_what_went_wrong(full: Path) -> None:
    problems = gpu_session.report(full).partition("## Problems")[2]
    assert "- algorithms: LAMB: onepass: RuntimeError: no kernel" in problems
    assert "- graphs: GPT-2 small: RuntimeError: broken" in problems
    assert "- algorithms: Adan: no time left" in problems
    assert "apex" not in problems


def test_a_session_that_brought_nothing_is_reported_too(tmp_path: Path) -> None:
    text = gpu_session.report(tmp_path)
    assert "a machine that gave no figures" in text
    assert "No results: see tests.log." in text
    assert "Not run." in text and "None: see benchmark.log." in text


def test_missing_packages_are_named_with_what_they_are_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    versions = {"setuptools": "65.5.1", "pytest": "9.1.1", "torch": "2.8.0+cu130"}
    monkeypatch.setattr(gpu_session, "installed", lambda name: versions.get(name, ""))
    missing = gpu_session.missing()
    assert missing["setuptools>=77.0.3"] == "build"
    assert missing["typer>=0.12"] == "benchmark"
    assert "pytest>=8.2" not in missing and not any("torch" in name for name in missing)
    text = gpu_session.report(tmp_path)
    assert "- typer>=0.12: benchmark" in text
    assert "- torch>=2.9,<2.16: here is 2.8.0+cu130, with which nothing is promised" in text


def test_what_is_needed_is_what_the_package_asks_for() -> None:
    asked = (ROOT / "pyproject.toml").read_text()
    for name, (least, _) in gpu_session.NEEDED.items():
        assert f'"{name}>={least}' in asked


def test_what_the_report_needs_is_in_the_standard_library() -> None:
    code = "import sys, benchmarks.gpu_session; print(*{'torch', 'typer', 'rich'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n")


# ---- the script


def executable(path: Path, text: str) -> Path:
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def session(tmp_path: Path, fails: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Runs the script with a python that does nothing but note it, and write the real report."""
    python = executable(
        tmp_path / "python",
        f'case "$*" in *"gpu_session report"*) exec "{sys.executable}" "$@" ;; esac\n'
        f'echo "$*" >> "{tmp_path}/calls"\n'
        f'case "$*" in {fails}) exit 3 ;; esac\n',
    )
    executable(tmp_path / "compute-sanitizer", f'echo "sanitizer $*" >> "{tmp_path}/calls"\n')
    path = f"{tmp_path}:{os.environ['PATH']}"
    line = ["bash", str(SCRIPT), str(tmp_path / "results")]
    done = subprocess.run(
        line,
        env={**os.environ, "PYTHON": str(python), "PATH": path},
        capture_output=True,
        text=True,
    )
    return done, tmp_path / "results"


def test_the_script_goes_on_where_steps_fail(tmp_path: Path) -> None:
    done, results = session(tmp_path, fails="*")
    assert done.returncode == 1
    ended = [line.split("\t")[:2] for line in (results / "steps.tsv").read_text().splitlines()]
    names = ["environment", "machine", "packages", "build", "tests", "benchmark"]
    assert [name for name, _ in ended] == [*names, "memcheck", "initcheck", "racecheck"]
    assert dict(ended) | {"packages": "3"} == {
        **dict.fromkeys(names, "3"), "memcheck": "0", "initcheck": "0", "racecheck": "0",
    }  # fmt: skip
    assert (results / "report.md").read_text() == done.stdout[done.stdout.index("# onepass") :]


@pytest.mark.parametrize(
    ("fails", "code"),
    [("nothing", 0), ("*setup.py*", 1), ("*pytest*", 1), ("*'benchmarks gpu '*", 0)],
    ids=["nothing", "build", "tests", "benchmark"],
)
def test_the_script_fails_with_the_build_and_the_tests(
    tmp_path: Path, fails: str, code: int
) -> None:
    done, _ = session(tmp_path, fails=f"*venv*|{fails}")
    assert done.returncode == code, done.stdout
    calls = (tmp_path / "calls").read_text()
    assert "setup.py build_ext --inplace" in calls
    assert "-m pytest -q -p no:cacheprovider -m cuda " in calls
    assert "-m benchmarks gpu --seconds 140 --folder" in calls
    for tool in ("memcheck", "initcheck", "racecheck"):
        assert f"sanitizer --tool {tool} " in calls

"""docs/performance.md says what the results say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from benchmarks import page
from benchmarks.contestants import OURS

BLOCK = "before\n<!-- results: {}, {} -->\nold\n<!-- end -->\nafter\n"
MACHINE = {"cpu": "a processor", "cores": 2, "threads": 2, "torch": "2.13.0", "date": "2026-01-02"}


def save(folder: Path, stem: str, **content: object) -> None:
    result = {"machine": MACHINE, "benchmark": "step one", "workloads": [], **content}
    (folder / f"{stem}.json").write_text(json.dumps(result))


def work(seconds: float, over: dict[str, float], absent: dict[str, str]) -> dict[str, object]:
    return {
        "name": "4 Ki",
        "warm": {OURS: {"seconds": {"median": seconds}}},
        "onepass_over": {rival: {"median": ratio} for rival, ratio in over.items()},
        "promises": {},
        "absent": absent,
        "compile_seconds": {},
        "bystanders": 0.0,
    }


def test_the_page_is_written_from_the_newest_results() -> None:
    text = page.PAGE.read_text()
    assert page.render(text) == text, "run: python -m benchmarks page"
    assert page.BLOCK.search(text)


def test_ratios_become_a_table_with_who_was_left_out(tmp_path: Path) -> None:
    save(tmp_path, "step-1", workloads=[work(1.0, {"old": 1.0}, {})])
    save(tmp_path, "step-2", workloads=[work(2e-6, {"torch": 3.25}, {"nobody": "not there"})])
    save(tmp_path, "step-3", benchmark="step two")
    (tmp_path / "step-2.png").touch()
    written = page.render(BLOCK.format("step one", "2 threads"), tmp_path)
    assert written.startswith("before\n<!-- results: step one, 2 threads -->\na processor, 2 cores")
    assert written.endswith("<!-- end -->\nafter\n") and "old" not in written
    assert "|  | onepass | torch |\n|---|---|---|\n| 4 Ki | 2.00 us | 3.25 |\n" in written
    assert "- nobody: not there" in written and "results/step-2.png" in written


def test_workloads_that_no_later_run_has_are_shown_with_it(tmp_path: Path) -> None:
    title = "step AdamW promised float32"
    large = {**work(1.0, {"torch": 1.5}, {}), "name": "16 Mi"}
    elsewhere = {"machine": {**MACHINE, "cpu": "another"}}
    foreign = {**work(1.0, {"torch": 9.5}, {}), "name": "64 Ki"}
    save(tmp_path, "step-0", benchmark=title, workloads=[foreign], **elsewhere)
    save(tmp_path, "step-1", benchmark=title, workloads=[work(3e-6, {"torch": 4.5}, {}), large])
    save(tmp_path, "step-2", benchmark=title, workloads=[work(2e-6, {"torch": 3.25}, {})])
    written = page.render(BLOCK.format(title, "2 threads"), tmp_path)
    assert "| 4 Ki | 2.00 us | 3.25 |\n| 16 Mi | 1000.00 ms | 1.5 |\n" in written
    assert "4.5" not in written and "9.5" not in written
    assert written.index("results/step-1.json") < written.index("results/step-2.json")


def test_promises_that_are_missed_and_noise_are_named(tmp_path: Path) -> None:
    promises = {"torch": {"at_least": 2.5, "met": True}, "peer": {"at_least": 2, "met": False}}
    promised = {**work(2e-6, {"torch": 3.25, "peer": 1.5}, {}), "promises": promises}
    save(tmp_path, "step-1", workloads=[{**promised, "bystanders": 0.25}])
    written = page.render(BLOCK.format("step one", "2 threads"), tmp_path)
    assert "| 2.00 us | 3.25 (2.5 promised) | 1.5 (2 promised, not met) |\n" in written
    assert "Noisy, as other programs had part of the cores: 4 Ki 25%.\n" in written


def test_the_classes_that_somebody_lacks_share_a_line() -> None:
    absent = [
        "torch, peer: lib.SGD not found (AttributeError)",
        "peer: too slow",
        "peer: lib.optim.LAMB not found (AttributeError)",
    ]
    assert list(page.gathered(absent)) == [
        "peer: too slow",
        "torch has no SGD",
        "peer has no SGD, LAMB",
    ]


def test_rows_become_a_table_without_empty_columns(tmp_path: Path) -> None:
    rows = [{"who": "a", "ms": 1.23456, "met": True, "why": None}]
    save(tmp_path, "step-1", rows=rows)
    written = page.render(BLOCK.format("step one", "2 threads"), tmp_path)
    assert "| who | ms | met |\n|---|---|---|\n| a | 1.235 | met |\n" in written


def test_a_table_of_rows_is_explained_and_names_who_is_absent(tmp_path: Path) -> None:
    rows = [
        {"size": 1, "contestant": "a", "ms": 2.5, "absent": None},
        {"size": 1, "contestant": "b", "ms": None, "absent": "not there"},
        {"size": 2, "contestant": "b", "ms": None, "absent": "not there"},
    ]
    save(tmp_path, "step-1", rows=rows, legend="ms: of a step.")
    written = page.render(BLOCK.format("step one", "2 threads"), tmp_path)
    assert "\nms: of a step.\n\n| size | contestant | ms |\n" in written
    assert "| 1 | b |" not in written and written.count("- b: not there\n") == 1


def test_an_embedding_is_shown_by_tables_of_rows(tmp_path: Path) -> None:
    columns = {
        kind: {"onepass, 2 rows": {"seconds": {"median": 3e-6}}} for kind in ("warm", "cold")
    }
    only = {**work(1.0, {}, {}), **columns, "growth": {}, "promises": {}, "touched_rows": 1000}
    save(tmp_path, "embedding-1", benchmark="embedding", workloads=[only])
    written = page.render(BLOCK.format("embedding", "2 threads"), tmp_path)
    assert "| 4 Ki | onepass, 2 rows | 3 ns |  | 3 ns |  |  |  |  |\n" in written


@pytest.mark.parametrize("threads", ["1 thread", "3 threads"])
def test_results_of_another_number_of_threads_are_not_taken(tmp_path: Path, threads: str) -> None:
    save(tmp_path, "step-1")
    with pytest.raises(typer.BadParameter, match="run it first"):
        page.render(BLOCK.format("step one", threads), tmp_path)

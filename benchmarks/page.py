"""`page`: the tables of docs/performance.md, written from the newest results.

A block of the page begins with a line that names a benchmark as its results do:

    <!-- results: step AdamW promised float32, 2 threads -->

and ends with `<!-- end -->`; what stands between is written here.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from benchmarks import embedding, report, results, rows
from benchmarks.contestants import OURS
from benchmarks.suites import SUITES

Run = tuple[Path, dict[str, Any]]
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MISSING = re.compile(r"(.*): [\w.]+\.(\w+) not found \(AttributeError\)")
BLOCK = re.compile(r"(<!-- results: ([^\n]*), (\d+) threads? -->\n).*?(<!-- end -->)", re.DOTALL)


def command() -> None:
    """Write the newest results into docs/performance.md."""
    PAGE.write_text(render(PAGE.read_text()))


def render(page: str, folder: Path = results.FOLDER) -> str:
    """The page with every block written anew."""

    def block(found: re.Match[str]) -> str:
        runs = list(newest(runs_of(found[2], int(found[3]), folder)))
        return found[1] + "\n".join(lines_of(runs)) + "\n" + found[4]

    return BLOCK.sub(block, page)


def runs_of(benchmark: str, threads: int, folder: Path) -> list[Run]:
    """The results of a benchmark on so many threads, the last first."""
    paths = sorted(folder.glob(f"{benchmark.split()[0]}-*.json"), reverse=True)
    runs = [(path, json.loads(path.read_text())) for path in paths]
    found = [
        (path, result)
        for path, result in runs
        if result["benchmark"] == benchmark and result["machine"]["threads"] == threads
    ]
    if not found:
        raise typer.BadParameter(f"no results of '{benchmark}' on {threads} threads; run it first")
    return found


def newest(runs: list[Run]) -> Iterator[Run]:
    """The last run, and before it those of this machine with workloads that no later one has."""
    seen: set[str] = set()
    kept: list[Run] = []
    for path, result in runs:
        if kept and machine_of(result) != machine_of(kept[0][1]):
            continue
        works = [work for work in result["workloads"] if work["name"] not in seen]
        if works or not kept:
            kept.append((path, {**result, "workloads": works}))
        seen |= {work["name"] for work in works}
    yield from reversed(kept)


def machine_of(result: dict[str, Any]) -> str:
    """What results of several runs must share to stand in one table."""
    info = result["machine"]
    return f"{info['cpu']}, {info['cores']} cores, torch {info['torch']}"


def lines_of(runs: list[Run]) -> Iterator[str]:
    """Where the results came from, a table, who was left out, and the plots that there are."""
    result = {**runs[-1][1], "workloads": in_order(runs)}
    yield f"{machine_of(result)}; the data:"
    dates = [(result["machine"]["date"][:10], path.name) for path, result in runs]
    yield ", ".join(f"[{date}](../benchmarks/results/{name})" for date, name in dates) + "."
    if "legend" in result:
        yield from ("", result["legend"])
    yield from ("", *table_of(result), "")
    shares = [(work["name"], work["bystanders"] or 0) for work in result["workloads"]]
    if noisy := [f"{name} {share:.0%}" for name, share in shares if share > report.QUIET]:
        yield from (f"Noisy, as other programs had part of the cores: {', '.join(noisy)}.", "")
    if absent := list(gathered(left_out(result))):
        yield from ("<details><summary>Who is left out where, and why</summary>", "")
        yield from (f"- {line}" for line in absent)
        yield from ("", "</details>", "")
    for path, _ in runs:
        if path.with_suffix(".png").exists():
            yield from (f"![{result['benchmark']}](../benchmarks/results/{path.stem}.png)", "")


def in_order(runs: list[Run]) -> list[dict[str, Any]]:
    """The workloads of all runs as their suite has them."""
    suite = next((word for word in runs[0][1]["benchmark"].split() if word in SUITES), "")
    order = [work.name for work in SUITES.get(suite, ())]
    works = [work for _, result in runs for work in result["workloads"]]
    return sorted(works, key=lambda work: (*order, work["name"]).index(work["name"]))


def table_of(result: dict[str, Any]) -> Iterator[str]:
    """The table that suits a benchmark."""
    if "rows" in result:
        return plain([line for line in result["rows"] if not line.get("absent")])
    return lanes(result) if result["benchmark"] == "embedding" else ratios(result)


def left_out(result: dict[str, Any]) -> list[str]:
    """Who took no part, and why."""
    named = (f"{line['contestant']}: {line['absent']}" for line in result.get("rows", ())
             if line.get("absent"))  # fmt: skip
    return [*report.skipped(result), *dict.fromkeys(named)]


def gathered(absent: list[str]) -> Iterator[str]:
    """Who is left out, and why: a line for all classes that somebody lacks."""
    lacking: dict[str, list[str]] = {}
    for line in absent:
        if found := MISSING.fullmatch(line):
            for name in found[1].split(", "):
                lacking.setdefault(name, []).append(found[2])
        else:
            yield line
    yield from (f"{name} has no {', '.join(classes)}" for name, classes in lacking.items())


def ratios(result: dict[str, Any]) -> Iterator[str]:
    """Our time of each workload, and how many times as fast as each of the others that is."""
    works = result["workloads"]
    rivals = list(dict.fromkeys(name for work in works for name in work["onepass_over"]))
    yield from header("", "onepass", *rivals)
    for work in works:
        cells = [cell(work, rival) for rival in rivals]
        ours = report.duration(work["warm"][OURS]["seconds"]["median"])
        yield row(work["name"], ours, *cells)


def cell(work: dict[str, Any], rival: str) -> str:
    """How many times as fast as a rival, and what was promised."""
    ratio, promised = work["onepass_over"].get(rival), work["promises"].get(rival)
    if not ratio:
        return ""
    if not promised:
        return f"{ratio['median']:.3g}"
    missed = "" if promised["met"] else ", not met"
    return f"{ratio['median']:.3g} ({promised['at_least']:.3g} promised{missed})"


def lanes(result: dict[str, Any]) -> Iterator[str]:
    """The time of a row of an embedding in small and large tables."""
    yield from header(*embedding.COLUMNS)
    for work in result["workloads"]:
        yield from (row(work["name"], name, *embedding.cells(work, name)) for name in work["warm"])


def plain(table: list[rows.Row]) -> Iterator[str]:
    """Results that are a table already, without columns that are empty."""
    keys = [key for key in table[0] if any(line[key] not in (None, "") for line in table)]
    yield from header(*keys)
    for line in table:
        yield row(*(rows.shown(line[key]) for key in keys))


def header(*cells: str) -> Iterator[str]:
    yield row(*cells)
    yield "|---" * len(cells) + "|"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"

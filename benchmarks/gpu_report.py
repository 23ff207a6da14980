"""The result of `gpu` as tables on the terminal and as a picture."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks import plot, report
from benchmarks.contestants import OURS

SECTIONS = ("workloads", "algorithms", "graphs", "traces")
COLUMNS = ("workload", "contestant", "step", "speed", "GB/s", "of copy", "host", "kernels",
           "copies", "waits", "busy")  # fmt: skip
SHORT = ("workload", "contestant", "step", "speed", "GB/s", "of copy")
LEGEND = (
    "AdamW. Medians; speed: times as fast as '{base}', paired round by round, with quartiles."
    " step: by the device's events while steps follow one another; GB/s: what the step must read"
    " and write; of copy: beside a plain copy of {copy:.0f} GB/s, more than 100% in the cache;"
    " host: until step() returns, the device idle and the others' steps before. Per step, by the"
    " profiler: kernels, copies and fills, calls that wait for the device, and the time that the"
    " device works."
)

TITLES = {
    "algorithms": "Every algorithm on one tensor of {elements:,} elements, beside torch's default.",
    "graphs": "AdamW captured in a CUDA graph: time per replay.",
}


def show(result: dict[str, Any], console: Console) -> None:
    """Print all tables, and what to know about them."""
    if not console.is_terminal:
        console.width = report.PLAIN_WIDTH
    for line in header(result):
        console.print(line, highlight=False)
    counts = {work["name"]: work["counts"] for work in result["traces"]}
    copy = result["copy"]["bytes_per_second"] / 1e9
    if works := result["workloads"]:
        full = [{**work, "counts": counts.get(work["name"], {})} for work in works]
        legend = LEGEND.format(base=works[0]["baseline"], copy=copy)
        show_section(console, full, COLUMNS, cells, legend)
    for section, title in TITLES.items():
        if works := result[section]:
            legend = title.format(elements=works[0]["elements"])
            show_section(console, works, SHORT, short_cells, legend)
    for line in remarks(result):
        console.print(line, highlight=False)


def header(result: dict[str, Any]) -> Iterator[str]:
    """What was measured, and on what."""
    device, info = result["device"], result["machine"]
    facts = [
        f"{name.replace('_', ' ')} {value}" for name, value in device.items() if name != "name"
    ]
    yield f"{result['benchmark']} on {', '.join((device['name'], *facts))}"
    yield f"torch {info['torch']}, onepass {info['onepass']}, commit {info['commit']}"
    yield f"onepass build: {info['onepass_build']}"


def show_section(
    console: Console,
    works: list[dict[str, Any]],
    columns: tuple[str, ...],
    cells_of: Callable[[dict[str, Any], str], list[str]],
    legend: str,
) -> None:
    console.print(report.table(works, columns, cells_of, report.style(console)))
    console.print(legend, highlight=False)


def short_cells(work: dict[str, Any], name: str) -> list[str]:
    """The numbers of the device's clock."""
    row = work["warm"][name]
    speed, share = row["bytes_per_second"], row["share_of_copy"]
    return [
        report.duration(row["seconds"]["median"]),
        report.spread(row["speedup"]) if name != work["baseline"] else "1",
        f"{speed / 1e9:.0f}",
        f"{share:.1%}" + (" (reads twice)" if work.get("reads_twice") and name == OURS else ""),
    ]


def cells(work: dict[str, Any], name: str) -> list[str]:
    """All numbers of one row of AdamW."""
    counts = work["counts"].get(name)
    traced = ["", "", "", ""]
    if counts:
        waits = counts["waits"]
        traced = [
            f"{counts['kernels']:g}",
            f"{counts['copies'] + counts['fills']:g}",
            "?" if waits is None else f"{waits:g}",
            report.duration(counts["busy_seconds"]),
        ]
    host = report.duration(work["host"][name]["seconds"]["median"])
    return [*short_cells(work, name), host, *traced]


def remarks(result: dict[str, Any]) -> Iterator[str]:
    """The promises, who was skipped or wrong and why, what failed, what there was no time for."""
    kept = [promise for _, promise in promises(result)]
    yield f"Promises: {sum(bool(one['met']) for one in kept)} of {len(kept)} met."
    for where, one in promises(result):
        if not one["met"]:
            yield f"{'NOT MET' if one['met'] is False else 'NOT SEEN'}: {where}: {wording(one)}"
    timed = [work for section in SECTIONS[:3] for work in result[section]]
    yield from report.remarks({"workloads": timed})
    for work in timed:
        for name, how in work["differs"].items():
            yield f"DIFFERS: {work['name']}: {name}: {how} from the first's"
    for where, why in result["failed"].items():
        yield f"FAILED: {where}: {why}"
    if result["left_out"]:
        yield f"No time left for: {', '.join(result['left_out'])}"


def promises(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All promises, each with where it was made."""
    for section in SECTIONS:
        for work in result[section]:
            for promise in work["promises"]:
                yield f"{section}: {work['name']}", promise


def wording(promise: dict[str, Any]) -> str:
    """A promise in words: 0.93 of a copy's bytes per second, at least 0.9."""
    value = "?" if promise["value"] is None else f"{promise['value']:.3g}"
    bounds = [
        f"{bound.replace('_', ' ')} {promise[bound]:g}"
        for bound in ("at_least", "at_most")
        if promise[bound] is not None
    ]
    return f"{value} {promise['what']}, {' and '.join(bounds)}"


def faults(result: dict[str, Any]) -> list[str]:
    """Where onepass did not take part, or computed something else than torch."""
    return [
        f"{section}: {work['name']}"
        for section in SECTIONS
        for work in result[section]
        if OURS in work["absent"] or OURS in work.get("differs", {})
    ]


# ---- the picture


def save_plot(result: dict[str, Any], path: Path) -> None:
    """Speed beside the baseline, and bytes per second beside a copy."""
    bound = [
        work
        for name in ("workloads", "algorithms")
        for work in result[name]
        if work["memory_bound"]
    ]
    figure = Figure(figsize=(max(16, 0.8 * len(bound)), 10), layout="constrained")
    figure.suptitle(f"{result['device']['name']}, torch {result['machine']['torch']}")
    upper, lower = figure.subplots(2, 1)
    plot.draw_bars(upper, result["workloads"], "warm", lambda _, row: row["speedup"])
    upper.set(yscale="log", ylabel="times as fast as the baseline", title="AdamW")
    plot.draw_bars(lower, bound, "warm", share_of_copy)
    lower.set(ylabel="part of a copy's bytes per second", title="limited by memory")
    for ax in (upper, lower):
        finish(ax)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def finish(ax: Axes) -> None:
    """A line at 1, and a legend where there is something to name."""
    ax.axhline(1, color="black", linewidth=0.8)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small")


def share_of_copy(_: dict[str, Any], row: dict[str, Any]) -> dict[str, float]:
    """Median and quartiles of the part of a copy's bytes per second: a long time, a small part."""
    seconds, share = row["seconds"], row["share_of_copy"]
    scaled = {name: share * seconds["median"] / value for name, value in seconds.items()}
    return {"median": scaled["median"], "low": scaled["high"], "high": scaled["low"]}

"""Result files as tables on the terminal."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.contestants import OURS, SWEEP

COLUMNS = ("workload", "contestant", "warm", "speed", "cold", "speed", "GB/s", "onepass is",
           "promised", "met")  # fmt: skip
PLAIN_WIDTH = 160
VERDICTS = {True: "met", False: "NOT MET", None: ""}
QUIET = 0.05  # share of the cores that others may have before the table says so


def show(result: dict[str, Any], console: Console) -> None:
    """Print times and speeds, workload by workload."""
    base = result["workloads"][0]["baseline"]
    legend = (
        f"Medians. speed: times as fast as '{base}'; onepass is: times as fast as the row;"
        " ratios are paired round by round, with quartiles."
    )
    show_table(result, console, COLUMNS, cells, legend)


def show_table(
    result: dict[str, Any],
    console: Console,
    columns: Sequence[str],
    cells: Callable[[dict[str, Any], str], list[str]],
    legend: str,
) -> None:
    """Print the machine, the table and what was skipped; plain text when nobody looks."""
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    info = result["machine"]
    console.print(
        f"{result['benchmark']} on {info['cpu']}, {info['cores']} cores, {info['threads']} threads,"
        f" torch {info['torch']}, onepass {info['onepass']}",
        highlight=False,
    )
    console.print(table(result["workloads"], columns, cells, style(console)))
    for line in (legend, *remarks(result)):
        console.print(line, highlight=False)


def style(console: Console) -> box.Box:
    """The lines of a table; plain characters when nobody looks."""
    return box.SIMPLE if console.is_terminal else box.ASCII


def table(
    workloads: list[dict[str, Any]],
    columns: Sequence[str],
    cells: Callable[[dict[str, Any], str], list[str]],
    lines: box.Box,
) -> Table:
    """One section per workload, one row per contestant."""
    made = Table(box=lines, pad_edge=False)
    for position, title in enumerate(columns):
        made.add_column(title, justify="left" if position < 2 else "right")
    for work in workloads:
        for position, name in enumerate(work["warm"]):
            made.add_row(work["name"] if position == 0 else "", name, *cells(work, name))
        made.add_section()
    return made


def cells(work: dict[str, Any], name: str) -> list[str]:
    """The numbers of one row."""
    speed = work["warm"][name]["bytes_per_second"]
    return [
        *timed(work, "warm", name),
        *timed(work, "cold", name),
        f"{speed / 1e9:.1f}" if speed else "",
        *promise(work, name),
    ]


def timed(work: dict[str, Any], kind: str, name: str) -> list[str]:
    """How long a step took, and how much faster than the baseline that is."""
    if name not in work[kind]:
        return ["", ""]
    column = work[kind][name]
    speed = spread(column["speedup"]) if name != work["baseline"] else "1"
    return [duration(column["seconds"]["median"]), speed]


def promise(work: dict[str, Any], rival: str) -> list[str]:
    """How many times as fast as a rival onepass is, has to be, and whether that is kept."""
    ratio, promised = work["onepass_over"].get(rival), work["promises"].get(rival)
    shown = [f"{ratio['median']:.3g} x" if ratio else ""]
    if not promised:
        return [*shown, "", ""]
    return [*shown, f"{promised['at_least']:.3g} x", VERDICTS[promised["met"]]]


def remarks(result: dict[str, Any]) -> list[str]:
    """Who was skipped and why, how long compiling took, noise, the share of the bytes' limit."""
    lines = [f"Skipped: {line}" for line in skipped(result)]
    for work in result["workloads"]:
        lines += [f"{work['name']}: {remark}" for remark in remarks_on(work)]
    return lines


def skipped(result: dict[str, Any]) -> list[str]:
    """Who was absent from a workload, by the reasons."""
    reasons: dict[str, dict[str, None]] = {}
    for work in result["workloads"]:
        for name, why in work["absent"].items():
            reasons.setdefault(why, {})[name] = None
    return [f"{', '.join(who)}: {why}" for why, who in reasons.items()]


def remarks_on(work: dict[str, Any]) -> Iterator[str]:
    """What to know about the numbers of one workload."""
    for name, seconds in work["compile_seconds"].items():
        yield f"{name} took {seconds:.1f} s to compile the step."
    if (others := work["bystanders"]) and others > QUIET:
        yield (
            f"NOISY: other programs had {others:.0%} of the cores meanwhile;"
            " parallel steps suffer most."
        )
    if share := work["onepass_over"].get(SWEEP):
        yield (
            f"{OURS} moves {share['median']:.1%} ({share['low']:.1%}..{share['high']:.1%})"
            " of the bytes per second of a sweep over the same bytes without arithmetic."
        )


def duration(seconds: float) -> str:
    """A time with a readable unit."""
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds * 1e6:.2f} us"


def spread(summary: dict[str, float]) -> str:
    """Median and quartiles."""
    return f"{summary['median']:.3g} ({summary['low']:.3g}..{summary['high']:.3g})"

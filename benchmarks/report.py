"""Result files as tables on the terminal."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.contestants import OURS

COLUMNS = ("workload", "contestant", "warm", "x fused", "cold", "x fused", "GB/s", "target", "met")
PLAIN_WIDTH = 140
QUIET = 0.05  # share of the cores that others may have before the table says so


def show(result: dict[str, Any], console: Console) -> None:
    """Print the machine, the table and what was skipped; plain text when nobody looks."""
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    info = result["machine"]
    console.print(
        f"{result['benchmark']} on {info['cpu']}, {info['cores']} cores, {info['threads']} threads,"
        f" torch {info['torch']}, onepass {info['onepass']}",
        highlight=False,
    )
    console.print(table(result, box.SIMPLE if console.is_terminal else box.ASCII))
    console.print("Medians; ratios are paired round by round, with quartiles.", highlight=False)
    for line in remarks(result):
        console.print(line, highlight=False)


def table(result: dict[str, Any], style: box.Box) -> Table:
    """One section per workload, one row per contestant."""
    made = Table(box=style, pad_edge=False)
    for position, title in enumerate(COLUMNS):
        made.add_column(title, justify="left" if position < 2 else "right")
    for work in result["workloads"]:
        for position, name in enumerate(work["warm"]):
            made.add_row(work["name"] if position == 0 else "", name, *cells(work, name))
        made.add_section()
    return made


def cells(work: dict[str, Any], name: str) -> list[str]:
    """The numbers of one row."""
    warm, cold = work["warm"][name], work["cold"][name]
    speed = warm["bytes_per_second"]
    promise = ["", ""]
    if name == OURS and work["target"] is not None:
        promise = [f"{work['target']:g} x", "met" if work["met"] else "NOT MET"]
    return [
        duration(warm["seconds"]["median"]),
        spread(warm["speedup"]) if name != work["baseline"] else "1",
        duration(cold["seconds"]["median"]),
        spread(cold["speedup"]) if name != work["baseline"] else "1",
        f"{speed / 1e9:.1f}" if speed else "",
        *promise,
    ]


def remarks(result: dict[str, Any]) -> list[str]:
    """One line per missing contestant, and the share of the memory-bound limit."""
    absent = {name: why for work in result["workloads"] for name, why in work["absent"].items()}
    lines = [f"Skipped: {name}: {why}" for name, why in absent.items()]
    for work in result["workloads"]:
        if (others := work["bystanders"]) and others > QUIET:
            lines.append(
                f"{work['name']}: NOISY: other programs had {others:.0%} of the cores meanwhile;"
                " parallel steps suffer most."
            )
        if share := work["share_of_sweep"]:
            lines.append(
                f"{work['name']}: {OURS} moves {share['median']:.1%}"
                f" ({share['low']:.1%}..{share['high']:.1%}) of the bytes per second"
                " of a sweep over the same bytes without arithmetic."
            )
    return lines


def duration(seconds: float) -> str:
    """A time with a readable unit."""
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds * 1e6:.2f} us"


def spread(summary: dict[str, float]) -> str:
    """Median and quartiles."""
    return f"{summary['median']:.3g} ({summary['low']:.3g}..{summary['high']:.3g})"

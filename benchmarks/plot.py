"""Result files as pictures."""

from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = colormaps["tab20"].colors[::2] + colormaps["tab20"].colors[1::2]
FEW = 10  # workloads


def save(result: dict[str, Any], path: Path) -> None:
    """Speed relative to the baseline, warm and cold, with the promises."""
    save_bars(result, path, draw, f"times as fast as {result['workloads'][0]['baseline']}")


def save_bars(
    result: dict[str, Any],
    path: Path,
    draw: Callable[[Axes, list[dict[str, Any]], str], None],
    label: str,
) -> None:
    """Two plots, warm and cold: beside one another, or of many workloads one below the other."""
    works = len(result["workloads"])
    rows, columns = (2, 1) if works > FEW else (1, 2)
    figure = Figure(figsize=(max(12, columns * works), 4.5 * rows), layout="constrained")
    figure.suptitle(title(result))
    axes = figure.subplots(rows, columns, sharey=True)
    for ax, kind in zip(axes, ("warm", "cold"), strict=True):
        draw(ax, result["workloads"], kind)
        ax.set_title(f"{kind} caches")
    axes[0].set_ylabel(label)
    if rows > 1:
        axes[1].set_ylabel(label)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def title(result: dict[str, Any]) -> str:
    """What was measured, and on what."""
    info = result["machine"]
    return f"{result['benchmark']}, {info['cpu']}, {info['threads']} threads, torch {info['torch']}"


def draw(ax: Axes, workloads: list[dict[str, Any]], kind: str) -> None:
    """Bars of all contestants' speeds."""
    draw_bars(ax, workloads, kind, lambda _, column: column["speedup"])
    if kind == "warm":
        draw_promises(ax, workloads)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set(yscale="log")


def draw_bars(
    ax: Axes,
    workloads: list[dict[str, Any]],
    kind: str,
    height: Callable[[dict[str, Any], dict[str, Any]], dict[str, float]],
) -> None:
    """Bars of all contestants, workload by workload, with quartiles."""
    names = list(dict.fromkeys(name for work in workloads for name in work[kind]))
    width = 0.8 / max(1, len(names))
    for position, name in enumerate(names):
        bars = [(at, height(work, work[kind][name])) for at, work in enumerate(workloads)
                if name in work[kind]]  # fmt: skip
        low = [bar["median"] - bar["low"] for _, bar in bars]
        high = [bar["high"] - bar["median"] for _, bar in bars]
        ax.bar(
            [at + (position - (len(names) - 1) / 2) * width for at, _ in bars],
            [bar["median"] for _, bar in bars],
            width,
            yerr=[low, high],
            label=name,
            color=COLORS[position % len(COLORS)],
        )
    ax.set_xticks(range(len(workloads)), [fill(work["name"], 12) for work in workloads])


def draw_promises(ax: Axes, workloads: list[dict[str, Any]]) -> None:
    """A dashed line over each workload at the speed promised beside the baseline."""
    for at, work in enumerate(workloads):
        if promise := work["promises"].get(work["baseline"]):
            least = promise["at_least"]
            ax.hlines(least, at - 0.45, at + 0.45, colors="black", linestyles="dashed")

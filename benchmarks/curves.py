"""`curves`: the time of an element and of a tensor as the work grows."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import measuring, plot, results
from benchmarks.contestants import BASELINE, SWEEP, line_up
from benchmarks.measuring import Dtype, Folder, Rounds, Threads
from benchmarks.step import CONTESTANTS, stored
from benchmarks.suites import SIZES, TENSORS
from benchmarks.timing import Settings
from benchmarks.workloads import Workload


def command(
    rounds: Rounds = 9,
    threads: Threads = 0,
    dtype: Dtype = "float32",
    folder: Folder = results.FOLDER,
) -> None:
    """Time AdamW from 256 elements to 64 Mi, and from 10 tensors to 10,000, on log-log plots."""
    settings = measuring.prepare(rounds, threads)
    measuring.publish(
        f"curves AdamW {dtype}",
        [stored(work, dtype) for work in (*SIZES, *TENSORS)],
        lambda work: measure(work, settings),
        settings,
        folder,
        save_plot=save_plot,
    )


def measure(work: Workload, settings: Settings) -> dict[str, Any]:
    """Step one workload with everyone, and a sweep over the same bytes."""
    lineup = line_up(CONTESTANTS, "AdamW", work)
    lineup.add_sweep(work)
    return measuring.measure(work, lineup, settings, BASELINE, {}, times_cold=False)


def save_plot(result: dict[str, Any], path: Path) -> None:
    """One plot of the single tensors, and one for each size of many tensors."""
    figure = Figure(figsize=(15, 10), layout="constrained")
    figure.suptitle(plot.title(result))
    sizes = [work for work in result["workloads"] if work["tensors"] == 1]
    panels = {1: sizes}
    for work in result["workloads"]:
        if work["tensors"] > 1:
            panels.setdefault(work["elements"] // work["tensors"], []).append(work)
    for ax, (elements, works) in zip(figure.subplots(2, 2).flat, panels.items(), strict=False):
        if works is sizes:
            draw(ax, works, "elements", 1e9)
            ax.set(title="one tensor", xlabel="elements", ylabel="ns an element")
        else:
            draw(ax, works, "tensors", 1e6)
            ax.set(title=f"tensors of {elements}", xlabel="tensors", ylabel="us a tensor")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw(ax: Axes, works: list[dict[str, Any]], unit: str, scale: float) -> None:
    """Median times of a unit of work; dashed what moving the bytes takes."""
    names = dict.fromkeys(name for work in works for name in work["warm"])
    for name in names:
        points = [(work[unit], scale * work["warm"][name]["seconds"]["median"] / work[unit])
                  for work in works if name in work["warm"]]  # fmt: skip
        line = {"linestyle": "--", "color": "black"} if name == SWEEP else {"marker": "."}
        ax.plot(*zip(*points, strict=True), label=name, **line)
    ax.set(xscale="log", yscale="log")
    ax.grid(True, which="both", alpha=0.2)

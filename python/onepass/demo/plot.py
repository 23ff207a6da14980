"""Draws the loss curves, one above the other, and their differences."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from onepass.demo.training import Run

_POINTS = 150
# Ours is a thin dark line on wide light ones: all stay visible where they agree, in grey too.
_OURS: dict[str, Any] = {"color": "#10305c", "linewidth": 1.4}
_TORCH: dict[str, Any] = {"color": "#f0b060", "linewidth": 5.0}
_PEERS: tuple[dict[str, Any], ...] = (
    {"color": "#a0a0a0", "linewidth": 4.0, "linestyle": ":"},
    {"color": "#90c890", "linewidth": 5.0},
)


def draw(torch_run: Run, our_run: Run, peers: list[Run], epochs: int, path: Path) -> None:
    """Writes the picture.

    Args:
        torch_run: the run that the others are compared with.
        our_run: the run to compare.
        peers: other runs; their differences from `torch_run` are the yardstick.
        epochs: how many there were.
        path: the PNG file to write.
    """
    figure = Figure(figsize=(11, 4.5), dpi=150, layout="constrained")
    losses, differences = figure.subplots(1, 2)
    _draw_losses(losses, torch_run, our_run, epochs)
    _draw_differences(differences, torch_run, our_run, peers, epochs)
    for axes in (losses, differences):
        axes.set_xlabel("epoch")
        axes.set_xlim(0, epochs)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=epochs > 5))
        axes.grid(alpha=0.3)
    losses.legend(frameon=False)
    # Below the axes: nobody knows beforehand where the differences leave room.
    figure.legend(
        *differences.get_legend_handles_labels(), loc="outside lower right", ncols=3, frameon=False
    )
    figure.savefig(path)


def _draw_losses(axes: Axes, torch_run: Run, our_run: Run, epochs: int) -> None:
    block = max(1, len(torch_run.losses) // _POINTS)
    for run, style in ((torch_run, _TORCH), (our_run, _OURS)):
        means = _block_means(np.asarray(run.losses), block)
        middles = (np.arange(len(means)) + 0.5) * block
        axes.plot(middles * epochs / len(run.losses), means, label=run.name, **style)
    axes.set_title("The two loss curves")
    axes.set_ylabel(f"training loss (cross entropy, mean of {block} batches)")


def _draw_differences(
    axes: Axes, torch_run: Run, our_run: Run, peers: list[Run], epochs: int
) -> None:
    for run, style in zip((*peers, our_run), (*_PEERS, _OURS), strict=True):
        so_far = np.maximum.accumulate(np.abs(np.subtract(run.losses, torch_run.losses)))
        # A logarithm has no place for zero: those steps stay empty, and the legend says it.
        shown = np.where(so_far > 0, so_far, np.nan)
        label = run.name if so_far[-1] > 0 else f"{run.name} (none: same bits)"
        steps = np.arange(1, len(shown) + 1)
        axes.plot(steps * epochs / len(shown), shown, label=label, **style)
    axes.set_yscale("log")
    # From below float32's rounding to the size of a loss, whatever the differences are.
    axes.set_ylim(1e-8, max(1.0, axes.get_ylim()[1]))
    axes.set_title(f"Largest difference from {torch_run.name} so far")
    axes.set_ylabel("difference in the loss of one batch")


def _block_means(losses: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """Returns the means of equal blocks of steps; what is left at the end is left out."""
    count = len(losses) // block
    means: NDArray[np.float64] = losses[: count * block].reshape(count, block).mean(axis=1)
    return means

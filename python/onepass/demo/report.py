"""Prints what the runs gave: a table, and how far their loss curves lie apart."""

from statistics import median

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from onepass.demo.data import Dataset
from onepass.demo.training import Run

EARLY_STEPS = 200


def difference(run: Run, other: Run, steps: int | None = None) -> float:
    """Returns the largest difference of two loss curves.

    Args:
        run: one of them.
        other: the other.
        steps: how many steps to look at, from the first; None for all.
    """
    return float(np.abs(np.subtract(run.losses[:steps], other.losses[:steps])).max())


def print_results(console: Console, runs: list[Run], dataset: Dataset) -> None:
    """Prints what each run reached and what it took.

    Args:
        console: where to print.
        runs: the runs, trained.
        dataset: the images they were trained on.
    """
    table = _table(
        console, "", "final\ntrain loss", "test accuracy", "optimizer step", "whole time"
    )
    for run in runs:
        table.add_row(
            run.name,
            f"{run.evaluate(dataset.train)[0]:.4f}",
            f"{run.evaluate(dataset.test)[1]:.2%}",
            f"{median(run.step_seconds) * 1e6:.0f} us",
            f"{run.seconds:.1f} s",
        )
    console.print(table)
    _say(console, "Final train loss: over all training images. Optimizer step: median.")


def print_differences(console: Console, torch_run: Run, our_run: Run, peers: list[Run]) -> None:
    """Prints how far the loss curves lie apart, with torch's own differences as the yardstick.

    Args:
        console: where to print.
        torch_run: the run that the others are compared with.
        our_run: the run to compare.
        peers: torch's other implementations.
    """
    steps = len(torch_run.losses)
    early = min(EARLY_STEPS, steps)
    table = _table(
        console,
        f"largest difference from\nthe losses of {torch_run.name}",
        f"first {early} steps",
        f"all {steps:,} steps",
    )
    for run in (our_run, *peers):
        name = run.name if run is our_run else f"{run.name} (yardstick)"
        apart = (difference(run, torch_run, early), difference(run, torch_run))
        table.add_row(name, *(f"{value:.1e}" if value else "0 (same bits)" for value in apart))
    console.print(table)
    _say(
        console,
        "All compute the same formula and round it in different places. Training amplifies what\n"
        "starts near 1e-7, so the yardstick is how far torch's own implementations (its foreach,\n"
        "its fused kernel) come apart from its for-loop.",
    )


def _table(console: Console, first: str, *others: str) -> Table:
    style = box.ROUNDED if console.is_terminal else box.ASCII2
    table = Table(box=style)
    table.add_column(first, no_wrap=True)
    for header in others:
        table.add_column(header, justify="right")
    return table


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)

"""Trains a perceptron with torch.optim.Adam and with onepass.Adam and compares the runs.

    python examples/perceptron.py [--data FOLDER] [--epochs 20] [--output demo]

All runs start from the same weights and see the same batches in the same order: only the line that
makes the optimizer differs. Needs `pip install .[demo]`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich import print as rich_print
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import onepass
from images import Images, load

TORCH, OURS = "torch.optim.Adam", "onepass.Adam"
# torch's fused kernel is the yardstick: the same formula too, rounded in other places.
OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    TORCH: lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    OURS: lambda parameters: onepass.Adam(parameters, lr=1e-3),
    "torch fused": lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True),
}
# Ours is a thin dark line on wide light ones: all stay visible where they agree, in grey too.
COLORS_AND_WIDTHS = (("#f0b060", 8.0), ("#10305c", 1.4), ("#90c890", 4.5))
BATCH, HIDDEN = 64, 128
# Steps of one run before the next takes over: enough for warm caches, and few enough that whatever
# else the machine does slows all runs alike.
TURN = 50
EARLY = 200


@dataclass
class Run:
    """A network with its optimizer; the loss of each batch, the seconds of each optimizer step."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Learns from one batch."""
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(images), labels)
        loss.backward()
        before = perf_counter()
        self.optimizer.step()
        self.seconds.append(perf_counter() - before)
        self.losses.append(loss.item())

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Returns the share of right answers."""
        return float((self.model(images).argmax(1) == labels).double().mean())


def start(images: Images) -> list[Run]:
    """Returns a run for each optimizer."""
    pixels, classes = images.train[0].shape[1], int(images.train[1].max()) + 1
    runs = []
    for name, optimizer in OPTIMIZERS.items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(pixels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))
        runs.append(Run(name, model, optimizer(model.parameters())))
    return runs


def train(images: Images, epochs: int) -> list[Run]:
    """Trains a network with each optimizer and prints the mean losses of each epoch."""
    runs = start(images)
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(images.train[1]))
        for turn in order.split(BATCH * TURN):
            for run in runs:
                for batch in turn.split(BATCH):
                    run.step(images.train[0][batch], images.train[1][batch])
        steps = len(runs[0].losses) // epoch
        means = (f"{run.name} {np.mean(run.losses[-steps:]):.4f}" for run in runs)
        print(f"epoch {epoch}/{epochs}, mean loss: {', '.join(means)}", flush=True)
    return runs


def differences(run: Run, other: Run) -> NDArray[np.float64]:
    """Returns the largest difference of the losses so far, step by step."""
    return np.maximum.accumulate(np.abs(np.array(run.losses) - other.losses))


def report(runs: list[Run], images: Images) -> Table:
    """Returns what each run reached, what it took, and how far it is from the first one."""
    table = Table("", "test\naccuracy", "optimizer\nstep")
    table.add_column(f"apart, first\n{EARLY} steps")
    table.add_column("apart,\nall steps")
    for run in runs:
        apart = differences(run, runs[0])
        table.add_row(
            run.name,
            f"{run.accuracy(*images.test):.2%}",
            f"{median(run.seconds) * 1e6:.0f} us",
            *(f"{largest:.1e}" for largest in (apart[:EARLY][-1], apart[-1])),
        )
    return table


def draw(runs: list[Run], path: Path) -> None:
    """Writes the picture: the loss curves, and how they come apart."""
    figure = Figure(figsize=(11, 4.5), dpi=150, layout="constrained")
    losses, apart = figure.subplots(1, 2)
    block = max(1, len(runs[0].losses) // 150)
    for run, (color, width) in zip(runs, COLORS_AND_WIDTHS, strict=True):
        style: dict[str, Any] = {"color": color, "linewidth": width, "zorder": 10 - width}
        whole = len(run.losses) // block * block
        means = np.reshape(run.losses[:whole], (-1, block)).mean(1)
        losses.plot(np.arange(block, whole + 1, block), means, label=run.name, **style)
        if run is not runs[0]:
            apart.plot(differences(run, runs[0]), label=run.name, **style)
    losses.set(title="The loss curves", xlabel="step", ylabel=f"loss, mean of {block} batches")
    apart.set(title=f"Largest difference from {TORCH} so far", xlabel="step", ylim=(0, 1))
    apart.set_yscale("symlog", linthresh=1e-8)  # has a place for 0: the same bits
    for axes in (losses, apart):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path)


def main(
    data: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of MNIST's four files."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    output: Annotated[Path, typer.Option(file_okay=False, help="For the picture.")] = Path("demo"),
) -> None:
    """Train a perceptron with torch.optim.Adam and with onepass.Adam, and compare the runs."""
    if "OMP_NUM_THREADS" not in os.environ:
        # So small a network gains little from a second thread, and waits for it on a busy machine.
        torch.set_num_threads(1)
    try:
        images = load(data)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--data") from None
    output.mkdir(parents=True, exist_ok=True)
    print(f"{images.name}: {len(images.train[1]):,} + {len(images.test[1]):,} images")
    runs = train(images, epochs)
    rich_print(report(runs, images))
    print(
        f"Step: median. Apart: largest difference from the loss of a batch with {TORCH}.\n"
        "All compute the same formula and round it in different places; training amplifies what\n"
        "starts near 1e-7. torch's own fused kernel is the yardstick."
    )
    draw(runs, output / "loss.png")
    print(output / "loss.png")


if __name__ == "__main__":
    typer.run(main)

"""Runs the demo from the data to the picture."""

import os
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console

from onepass import Adam
from onepass.demo import data, plot, report
from onepass.demo.progress import progress
from onepass.demo.training import OptimizerFactory, Settings, train

PICTURE = "loss.png"
TORCH, OURS = "torch.optim.Adam", "onepass.Adam"
# torch's default on the CPU is its for-loop; saying so makes it certain. Its foreach runs the
# same kernels there, to the same bits; the fused kernel is the one that rounds elsewhere.
FACTORIES: dict[str, OptimizerFactory] = {
    TORCH: partial(torch.optim.Adam, lr=1e-3, foreach=False, fused=False),
    OURS: partial(Adam, lr=1e-3),
    "torch foreach": partial(torch.optim.Adam, lr=1e-3, foreach=True),
    "torch fused": partial(torch.optim.Adam, lr=1e-3, fused=True),
}


def demonstrate(console: Console, folder: Path | None, epochs: int, output: Path) -> None:
    """Trains, prints the tables and writes the picture.

    Args:
        console: where to print.
        folder: where the MNIST-format files lie; None for Fashion-MNIST.
        epochs: how many passes over the training images.
        output: an existing folder for the picture.

    Raises:
        DataError: there is no usable data.
    """
    start = perf_counter()
    threads = _choose_threads()
    dataset = data.choose(folder, lambda line: console.print(line, soft_wrap=True))
    settings = Settings(epochs=epochs)
    pixels = dataset.train.images.shape[1]
    steps = -(-len(dataset.train.labels) // settings.batch)
    console.print(
        f"{dataset}\n"
        f"{pixels}-{settings.hidden}-{data.CLASSES} perceptron, batches of {settings.batch}, "
        f"{epochs} epoch{'s' if epochs > 1 else ''}, Adam with lr 1e-3, "
        f"on {threads} thread{'s' if threads > 1 else ''}\n"
        f"{TORCH} is torch's for-loop (foreach=False), its default on the CPU",
        soft_wrap=True,
    )
    with progress(console, epochs, steps, len(FACTORIES)) as tick:
        runs = train(FACTORIES, dataset, settings, tick)
    report.print_results(console, runs, dataset)
    report.print_differences(console, runs[0], runs[1], runs[2:])
    picture = output / PICTURE
    plot.draw(runs[0], runs[1], runs[2:], epochs, picture)
    console.print(f"{picture}: both curves ({perf_counter() - start:.0f} s in all)", soft_wrap=True)


def _choose_threads() -> int:
    """Takes one thread, unless the user asked torch for more, and returns how many it is.

    With so small a network a second one saves a quarter of the time on an idle machine, and takes
    ten times as long and more where something else wants that core: every step waits for it.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    return torch.get_num_threads()

"""Trains one network several times, alike in everything but the optimizer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from onepass.demo.data import CLASSES, Dataset, Part

# Steps of one run before the next one takes over: long enough to have warm caches, short enough
# that whatever else the machine does for a second slows all runs alike.
_TURN = 50

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Settings:
    """What all runs have in common."""

    epochs: int = 20
    batch: int = 64
    hidden: int = 128
    seed: int = 0


@dataclass
class Run:
    """One network with its optimizer, and what was measured while it learned.

    `losses` and `step_seconds` have an entry for each step: the loss of its batch, and the time
    of the optimizer alone. `seconds` is the time of the whole training.
    """

    name: str
    model: nn.Module
    optimizer: Optimizer
    losses: list[float] = field(default_factory=list, repr=False)
    step_seconds: list[float] = field(default_factory=list, repr=False)
    seconds: float = 0.0

    def train_batch(self, images: Tensor, labels: Tensor) -> None:
        """Makes one step."""
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(images), labels)
        torch.autograd.backward(loss)
        before = perf_counter()
        self.optimizer.step()
        self.step_seconds.append(perf_counter() - before)
        self.losses.append(loss.item())

    @torch.no_grad()
    def evaluate(self, part: Part) -> tuple[float, float]:
        """Returns the mean loss and the share of right answers."""
        answers = self.model(part.images)
        right = (answers.argmax(1) == part.labels).double().mean().item()
        return cross_entropy(answers, part.labels).item(), right


def make_runs(
    factories: Mapping[str, OptimizerFactory], dataset: Dataset, settings: Settings
) -> list[Run]:
    """Returns a run for each optimizer, every network with the same initial weights.

    Args:
        factories: makes the optimizer of the run of that name from the parameters.
        dataset: tells the size of an image.
        settings: hidden units and seed.
    """
    pixels = dataset.train.images.shape[1]
    runs = []
    for name, factory in factories.items():
        # The seed is for these weights; the caller's random numbers are left as they were.
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(settings.seed)
            model = nn.Sequential(
                nn.Linear(pixels, settings.hidden),
                nn.ReLU(),
                nn.Linear(settings.hidden, CLASSES),
            )
        runs.append(Run(name, model, factory(model.parameters())))
    return runs


def train(
    factories: Mapping[str, OptimizerFactory],
    dataset: Dataset,
    settings: Settings,
    tick: Callable[[Run], None],
) -> list[Run]:
    """Trains a network with each optimizer.

    The runs take turns, and get the same batches in the same order because there is one order.

    Args:
        factories: makes the optimizer of the run of that name from the parameters.
        dataset: the images.
        settings: what all runs have in common.
        tick: is called with a run after each of its turns.
    """
    _warm_up(factories, dataset, settings)
    runs = make_runs(factories, dataset, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        order = torch.randperm(len(dataset.train.labels), generator=generator)
        for turn in torch.split(order, settings.batch * _TURN):
            for run in runs:
                before = perf_counter()
                for batch in torch.split(turn, settings.batch):
                    run.train_batch(dataset.train.images[batch], dataset.train.labels[batch])
                run.seconds += perf_counter() - before
                tick(run)
    return runs


def _warm_up(
    factories: Mapping[str, OptimizerFactory], dataset: Dataset, settings: Settings
) -> None:
    """Makes a few steps with throw-away runs: the first ones import, allocate, start threads."""
    for run in make_runs(factories, dataset, settings):
        for _ in range(3):
            run.train_batch(
                dataset.train.images[: settings.batch], dataset.train.labels[: settings.batch]
            )

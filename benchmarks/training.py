"""`training`: whole training steps of small models, and the optimizer's share of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor, nn

from benchmarks import measuring, results, rows
from benchmarks.contestants import BASELINE, FOR_LOOP, OPTIMIZERS, Contestant
from benchmarks.measuring import Folder, Rounds, Threads
from benchmarks.timing import Settings, Summary, no_garbage_collection, speedups, turns

LEAST_SECONDS = 0.05  # per contestant and round
WORDS = 1000

LEGEND = (
    f"AdamW. share: of the iteration's time that is the step; times: as fast as {FOR_LOOP}, whole"
    " iterations, with quartiles."
)


class Transformer(nn.Module):
    """A language model of four layers of width 128."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.next = nn.Linear(128, WORDS)

    def forward(self, text: Tensor) -> Tensor:
        return self.next(self.layers(self.words(text))).flatten(0, 1)


def perceptron() -> nn.Module:
    """Two hidden layers of 512, as for images of 28 by 28."""
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def images() -> tuple[Tensor, Tensor]:
    """A batch of 64 images and their classes."""
    return torch.randn(64, 784), torch.randint(10, (64,))


def text() -> tuple[Tensor, Tensor]:
    """A batch of 4 texts of 32 words, and the next word at every place."""
    return torch.randint(WORDS, (4, 32)), torch.randint(WORDS, (128,))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]]]] = {
    "perceptron": (perceptron, images),
    "transformer": (Transformer, text),
}


@dataclass
class Training:
    """A model with its batch and optimizer, and the seconds that its iterations took."""

    model: nn.Module
    batch: tuple[Tensor, Tensor]
    optimizer: torch.optim.Optimizer
    whole: list[float] = field(default_factory=list)  # per iteration, one number per round
    step: list[float] = field(default_factory=list)

    def iterate(self) -> float:
        """Take one training step; returns the optimizer's seconds."""
        self.optimizer.zero_grad()
        inputs, targets = self.batch
        nn.functional.cross_entropy(self.model(inputs), targets).backward()
        start = perf_counter()
        self.optimizer.step()
        return perf_counter() - start

    def take_turn(self, least_seconds: float) -> None:
        """One iteration untimed, then as many as take the least time."""
        self.iterate()
        count, stepping, start = 0, 0.0, perf_counter()
        while (elapsed := perf_counter() - start) < least_seconds or count == 0:
            stepping += self.iterate()
            count += 1
        self.whole.append(elapsed / count)
        self.step.append(stepping / count)


def command(rounds: Rounds = 21, threads: Threads = 0, folder: Folder = results.FOLDER) -> None:
    """Train a perceptron and a tiny transformer with every optimizer in turn."""
    settings = measuring.prepare(rounds, threads)
    measured = [row for model in MODELS for row in measure(model, settings, LEAST_SECONDS)]
    rows.publish("training of small models", measured, settings, folder, LEGEND)


def measure(name: str, settings: Settings, least_seconds: float) -> list[rows.Row]:
    """A row for each optimizer."""
    trainings = {row.name: start(name, row) for row in OPTIMIZERS}
    with no_garbage_collection():
        for order in turns(list(trainings), settings.rounds):
            for contestant in order:
                trainings[contestant].take_turn(least_seconds)
    ratios = speedups({who: training.whole for who, training in trainings.items()}, FOR_LOOP)
    over_fused = speedups({who: training.step for who, training in trainings.items()}, BASELINE)
    return [
        {
            "model": name,
            "optimizer": who,
            "ms an iteration": 1e3 * Summary.of(training.whole).median,
            "ms a step": 1e3 * Summary.of(training.step).median,
            "share": f"{Summary.of(training.step).median / Summary.of(training.whole).median:.1%}",
            "times": ratios[who].median,
            "quartiles": f"{ratios[who].low:.3g}..{ratios[who].high:.3g}",
            "step over fused": over_fused[who].median,
        }
        for who, training in trainings.items()
    ]


def start(name: str, contestant: Contestant) -> Training:
    """The same model and batch for every contestant."""
    torch.manual_seed(0)
    make_model, make_batch = MODELS[name]
    model = make_model()
    params = [{"params": list(model.parameters())}]
    return Training(model, make_batch(), contestant.make("AdamW", params))

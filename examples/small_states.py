"""Trains a small language model in 12, 10, 6 and 4 bytes a parameter, and compares the losses.

    python examples/small_states.py [--steps 600] [--seed 0]

All runs start from the same weights, rounded to the dtype that they are stored in, and see the same
batches: bytes of the source code of Python's own library. The run in 4 bytes is saved half way and
resumed by a new optimizer. At the end torch.optim.AdamW loads its moments. Needs
`pip install .[demo]`.
"""

import io
import math
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import onepass

CONTEXT, WIDTH, HEADS, LAYERS, BATCH = 64, 96, 4, 2, 16
TEXT_BYTES = 4_000_000
WARM_UP = 50


@dataclass(frozen=True)
class Storage:
    """How weights and moments are stored."""

    name: str
    dtype: torch.dtype
    options: dict[str, Any]


STORAGES = (
    Storage("float32", torch.float32, {}),
    Storage("float32, int8 moments", torch.float32, {"state_dtype": torch.int8}),
    Storage("bfloat16, rounded to nearest", torch.bfloat16, {"state_dtype": torch.float32}),
    Storage(
        "bfloat16, int8 moments, stochastic",
        torch.bfloat16,
        {"state_dtype": torch.int8, "stochastic_rounding": True},
    ),
)


class Block(nn.Module):
    """Causal self-attention and a perceptron, each with a residual connection."""

    def __init__(self) -> None:
        """Starts from torch's weights."""
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Returns as many vectors as it is given."""
        heads = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        result: Tensor = x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))
        return result


class Model(nn.Module):
    """A GPT of 255,000 parameters over bytes."""

    def __init__(self) -> None:
        """Starts from torch's weights, and embeddings of standard deviation 0.02."""
        super().__init__()
        self.bytes, self.positions = nn.Embedding(128, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 128)
        for table in (self.bytes, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        """Returns the logits of the byte after each."""
        x = self.bytes(text) + self.positions.weight[: text.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def read_text() -> Tensor:
    """Returns bytes of Python's library, of ASCII alone."""
    text = b""
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text += file.read_bytes()
    plain = bytes(byte for byte in text if byte < 128)[:TEXT_BYTES]
    return torch.frombuffer(bytearray(plain), dtype=torch.uint8).long()


class Run:
    """A model with its optimizer, and the generator of its batches."""

    def __init__(self, storage: Storage, text: Tensor, seed: int, steps: int) -> None:
        """Makes the same weights and batches for a seed, however they are stored."""
        torch.manual_seed(seed)
        self.model = Model().to(storage.dtype)
        self.optimizer = onepass.AdamW(
            self.model.parameters(), lr=2e-3, weight_decay=0.1, max_grad_norm=1.0, **storage.options
        )
        self.generator = torch.Generator().manual_seed(seed)
        cut = len(text) * 95 // 100
        self.text, self.held_out, self.steps = text[:cut], text[cut:], steps

    def batch(self, text: Tensor, generator: torch.Generator, count: int) -> Tensor:
        """Returns pieces of text, each a byte longer than the context."""
        start = torch.randint(len(text) - CONTEXT - 1, (count, 1), generator=generator)
        return text[start + torch.arange(CONTEXT + 1)]

    def loss(self, batch: Tensor) -> Tensor:
        """Returns the mean loss of all next bytes.

        All arithmetic is float32, whatever the weights are stored in.
        """
        weights = {name: weight.float() for name, weight in self.model.named_parameters()}
        logits = functional_call(self.model, weights, (batch[:, :-1],))
        return cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    def step(self, number: int) -> None:
        """Takes a step at the rate of its number: warm-up, then half a cosine."""
        share = math.cos(math.pi * number / self.steps)
        self.optimizer.param_groups[0]["lr"] = (
            2e-3 * min(1.0, (number + 1) / WARM_UP) * (0.1 + 0.45 * (1 + share))
        )
        self.loss(self.batch(self.text, self.generator, BATCH)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def final_loss(self) -> float:
        """Returns the loss over text that was not trained on, the same for all runs."""
        generator = torch.Generator().manual_seed(5)
        losses = [self.loss(self.batch(self.held_out, generator, 128)) for _ in range(8)]
        return float(torch.stack(losses).mean())

    def bytes_a_parameter(self) -> float:
        """Returns what weights and state take, without gradients."""
        weights = list(self.model.parameters())
        size = sum(weight.numel() * weight.itemsize for weight in weights)
        return (size + self.optimizer.state_bytes()) / sum(weight.numel() for weight in weights)


def resumed(run: Run, storage: Storage, text: Tensor, seed: int) -> Run:
    """Returns the run as another process would go on with it, from a file."""
    file = io.BytesIO()
    torch.save(
        (run.model.state_dict(), run.optimizer.state_dict(), run.generator.get_state()), file
    )
    file.seek(0)
    model, optimizer, generator = torch.load(file, weights_only=True)
    other = Run(storage, text, seed + 1, run.steps)
    other.model.load_state_dict(model)
    other.optimizer.load_state_dict(optimizer)
    other.generator.set_state(generator)
    return other


def train(storage: Storage, text: Tensor, seed: int, steps: int) -> Run:
    """Trains one; the last kind of storage is saved half way, and goes on from the file."""
    run = Run(storage, text, seed, steps)
    for number in track(range(steps), storage.name):
        if number == steps // 2 and storage is STORAGES[-1]:
            run = resumed(run, storage, text, seed)
        run.step(number)
    return run


def main(
    steps: Annotated[int, typer.Option(min=2, help="Steps of each run.")] = 600,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
) -> None:
    """Trains all, and prints bytes and losses."""
    text = read_text()
    table = Table("weights and moments", "bytes a parameter", "loss on held-out text", "to float32")
    first = None
    for storage in STORAGES:
        run = train(storage, text, seed, steps)
        loss = run.final_loss()
        first = loss if first is None else first
        table.add_row(
            storage.name, f"{run.bytes_a_parameter():.2f}", f"{loss:.4f}", f"{loss - first:+.4f}"
        )
    theirs = torch.optim.AdamW(run.model.parameters())
    theirs.load_state_dict(onepass.to_float32_state_dict(run.optimizer))
    Console().print(table, "torch.optim.AdamW has loaded the moments, in the weights' dtype.")


if __name__ == "__main__":
    typer.run(main)

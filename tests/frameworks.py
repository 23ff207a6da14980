"""What the tests of frameworks share: marks, options, small models, a loop written by hand."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tests.support import randn, raw, seeded

FRAMEWORK = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the frameworks' warnings are their own
]
OPTIONS = {"lr": 2e-3, "weight_decay": 0.01}
STEPS, SAVED_AT, BATCH = 24, 12, 16


def options_of(cls: Any) -> dict[str, Any]:
    """Returns those of OPTIONS that a class knows."""
    known = inspect.signature(cls).parameters
    return {key: value for key, value in OPTIONS.items() if key in known}


def weights_of(model: Any) -> dict[str, bytes]:
    return {name: raw(value) for name, value in model.state_dict().items()}


# ---- a language model


def gpt2() -> Any:
    """Returns a two-layer GPT-2 of random weights, the same at every call."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    dropout = {name: 0.0 for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=64, n_positions=16,
        bos_token_id=0, eos_token_id=0, **dropout,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def texts() -> list[dict[str, Tensor]]:
    """Returns sequences that count up from a random start, which a model can learn."""
    starts = torch.randint(0, 64, (256,), generator=seeded(1))
    rows = [(start + torch.arange(16)) % 64 for start in starts]
    return [{"input_ids": row, "labels": row} for row in rows]


# ---- a classifier of points


def classifier() -> torch.nn.Sequential:
    """Returns a perceptron of random weights, the same at every call."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def points() -> tuple[Tensor, Tensor]:
    """Returns points and on which side of a plane they lie: six batches."""
    x = randn((6 * BATCH, 4), torch.float32, 1)
    return x, (x.sum(1) > 0).long()


def batches() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*points()), BATCH)


def warm_up(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, 1.0, STEPS)


def plain_loop(
    model: Any, optimizer: Any, epochs: int, schedule: Any = None, clip: float | None = None
) -> list[float]:
    """Trains a classifier of points as one would without a framework, and returns the losses."""
    losses = []
    for _, (x, y) in ((epoch, batch) for epoch in range(epochs) for batch in batches()):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if clip is not None:
            assert torch.nn.utils.clip_grad_norm_(model.parameters(), clip) > clip
        optimizer.step()
        if schedule is not None:
            schedule.step()
        losses.append(float(loss.detach()))
    return losses


def mean(numbers: Iterable[float]) -> float:
    return float(torch.tensor(list(numbers)).mean())

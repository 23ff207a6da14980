"""What the tests of onepass.in_backward train: a model with all that hooks may stumble over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.support import randn, raw

Change = Callable[[Any, int], Any]


class Model(torch.nn.Module):
    """Has a tied weight, a layer that runs twice, one that is frozen and one that rarely runs."""

    def __init__(self, dtype: torch.dtype = torch.float32, reentrant: bool | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.reentrant = reentrant  # None: without activation checkpoints
        self.words = torch.nn.Embedding(11, 6)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(3))
        self.frozen = torch.nn.Linear(6, 6).requires_grad_(False)
        self.rare = torch.nn.Linear(6, 6)
        self.head = torch.nn.Linear(6, 11, bias=False)
        self.head.weight = self.words.weight
        self.to(dtype)

    def forward(self, tokens: Tensor, is_rare: bool = False) -> Tensor:
        x = self.words(tokens)
        for block in (*self.blocks[:2], self.blocks[1], self.blocks[2]):
            x = self.run(block, x)
        x = self.frozen(x)
        return self.head(self.rare(x) if is_rare else x)

    def run(self, block: Any, x: Tensor) -> Tensor:
        if self.reentrant is None or (self.reentrant and block is self.blocks[1]):
            return block(x).relu()
        return checkpoint(lambda y: block(y).relu(), x, use_reentrant=self.reentrant)


def groups_of(model: torch.nn.Module) -> list[dict[str, Any]]:
    params = list(model.parameters())
    return [{"params": params[:3]}, {"params": params[3:], "lr": 0.03}]


def loss_of(model: Any, number: int, is_rare: bool = False) -> Tensor:
    tokens = (randn((4, 5), torch.float32, number) * 100).long() % 11
    return model(tokens, is_rare).float().logsumexp(-1).square().mean()


def train(model: Any, optimizer: Any, stepping: Any, numbers: Any, micro_batches: int = 1) -> list:
    """Trains and returns the bytes of all losses; without a handle by the ordinary loop.

    The rare layer runs in the first micro-batch of every second step.
    """
    losses = []
    for number in numbers:
        for k in range(micro_batches):
            keeps = stepping is not None and k + 1 < micro_batches
            with stepping.accumulating() if keeps else contextlib.nullcontext():
                loss = loss_of(model, 10 * number + k, is_rare=k == 0 and number % 2 == 0)
                loss.backward()
            losses.append(raw(loss))
        if stepping is None:
            optimizer.step()
            optimizer.zero_grad()
    return losses

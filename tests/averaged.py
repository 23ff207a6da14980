"""A model whose weights have every kind, and averages of it, ours and torch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from onepass.ema import EMA
from tests.support import randn, raw


class Tied(nn.Module):
    """Has tied, strided and frozen weights, and buffers of numbers and of counts."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5, bias=False)
        self.second = nn.Linear(6, 5)
        self.second.weight = self.first.weight
        self.conv = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.sliced = nn.Parameter(randn((7, 9), torch.float32, 1)[:, 1:8:2])
        self.frozen = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.to(dtype)

    def train_on(self, seed: int) -> None:
        """Changes every tensor, as a step of training does."""
        with torch.no_grad():
            for k, param in enumerate(self.parameters()):
                param.copy_(randn(param.shape, torch.float32, 100 * seed + k))
            self.norm.running_mean.copy_(randn((4,), torch.float32, seed))
            self.norm.num_batches_tracked += 3


def theirs(model: nn.Module, beta: float, use_buffers: bool = False) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(beta), use_buffers=use_buffers)


def after(updates: int, model: Tied, **options: Any) -> EMA:
    average = EMA(model, **options)
    for seed in range(updates):
        model.train_on(seed)
        average.update()
    return average


def shown(average: EMA, model: nn.Module) -> list[Any]:
    """Returns all bytes that a refused call must leave."""
    averages = [raw(tensor) for tensor in average.averages.values()]
    weights = [raw(t) for t in (*model.parameters(), *model.buffers()) if not t.is_sparse]
    return [average.n_averaged, averages, weights]

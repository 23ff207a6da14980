"""The table of algorithms for the tests: one row each, and every property is tested over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import onepass
from tests import reference


@dataclass(frozen=True)
class Case:
    ours: type[Any]
    theirs: type[torch.optim.Optimizer] | None  # the class of torch.optim, if it has the algorithm
    reference: Callable[..., Any]  # one step in float64 numpy, written from the paper
    settings: tuple[dict[str, Any], ...]  # options that all mean something, for torch's class too
    extras: tuple[dict[str, Any], ...] = ()  # options that torch does not have

    def __str__(self) -> str:
        return self.ours.__name__


ADAM_SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-2, "weight_decay": 0.3},
    {"lr": 0.02, "amsgrad": True, "weight_decay": 0.1},
    {"lr": 0.02, "maximize": True, "betas": (0.0, 0.99)},
    {"lr": 0.05, "amsgrad": True, "maximize": True, "betas": (0.95, 0.5), "weight_decay": 0.01},
    {"lr": 0.1, "betas": (0.0, 0.0), "eps": 1e-6},
)
ADAM_EXTRAS: tuple[dict[str, Any], ...] = (
    {"eps": 0.0, "eps_root": 1e-8},
    {"eps_root": 1e-2, "lr": 0.1, "weight_decay": 0.1},
)
DECAY_EXTRAS: tuple[dict[str, Any], ...] = ({"decouple_lr": True, "weight_decay": 1e-3, "lr": 0.1},)

CASES: tuple[Case, ...] = (
    Case(
        onepass.Adam,
        torch.optim.Adam,
        reference.adam,
        (*ADAM_SETTINGS, {"lr": 0.1, "weight_decay": 0.3, "decoupled_weight_decay": True}),
        ADAM_EXTRAS,
    ),
    Case(
        onepass.AdamW,
        torch.optim.AdamW,
        reference.adamw,
        ADAM_SETTINGS,
        (*ADAM_EXTRAS, *DECAY_EXTRAS),
    ),
)

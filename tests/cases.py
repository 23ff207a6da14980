"""The table of algorithms for the tests: one row each, and every property is tested over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import onepass
from tests import reference

Options = dict[str, Any]


@dataclass(frozen=True)
class Case:
    ours: type[Any]
    theirs: type[torch.optim.Optimizer] | None  # the class of torch.optim, if it has the algorithm
    reference: Callable[..., Any]  # one step in float64 numpy, written from the paper
    # Options that all mean something, for torch's class too; the second row sets every number.
    settings: tuple[Options, ...]
    extras: tuple[Options, ...] = ()  # options that torch does not have

    def __str__(self) -> str:
        return self.ours.__name__


ADAM = (
    {},
    {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-2, "weight_decay": 0.3},
    {"lr": 0.02, "amsgrad": True, "weight_decay": 0.1},
    {"lr": 0.02, "maximize": True, "betas": (0.0, 0.99)},
    {"lr": 0.05, "amsgrad": True, "maximize": True, "betas": (0.95, 0.5), "weight_decay": 0.01},
    {"lr": 0.1, "betas": (0.0, 0.0), "eps": 1e-6},
)
COUPLED = {"lr": 0.1, "weight_decay": 0.3, "decoupled_weight_decay": True}
EPS_ROOT = (
    {"eps": 0.0, "eps_root": 1e-8},
    {"eps_root": 1e-2, "lr": 0.1, "weight_decay": 0.1},
)
CAUTIOUS = {"cautious": True, "lr": 0.1, "weight_decay": 0.1}
DECAY = {"decouple_lr": True, "weight_decay": 1e-3, "lr": 0.1}
COUPLED_DECAY = {**DECAY, "decoupled_weight_decay": True}


def row(name: str, *settings: Options, extras: tuple[Options, ...] = ()) -> Case:
    theirs = getattr(torch.optim, name, None)
    return Case(getattr(onepass, name), theirs, getattr(reference, name.lower()), settings, extras)


CASES: tuple[Case, ...] = (
    row(
        "SGD",
        {},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.3},
        {"lr": 0.05, "momentum": 0.8, "nesterov": True},
        {"lr": 0.1, "maximize": True, "weight_decay": 0.1},
        {"lr": 0.02, "momentum": 0.5, "maximize": True},
    ),
    row(
        "Momentum",
        {},
        {"lr": 0.1, "momentum": 0.7, "weight_decay": 0.3},
        {"lr": 0.1, "bias_correction": True, "maximize": True},
        {"lr": 0.1, "bias_correction": True, "nesterov": True},
        COUPLED,
        extras=(COUPLED_DECAY,),
    ),
    row(
        "Adagrad",
        {},
        {"lr": 0.1, "lr_decay": 0.2, "eps": 1e-2, "weight_decay": 0.3,
         "initial_accumulator_value": 0.5},
        {"lr": 0.1, "maximize": True},
        extras=EPS_ROOT,
    ),
    row(
        "RMSprop",
        {},
        {"lr": 0.1, "alpha": 0.7, "eps": 1e-2, "weight_decay": 0.3, "momentum": 0.5},
        {"lr": 0.02, "centered": True, "eps": 1e-3},
        {"lr": 0.02, "centered": True, "eps": 1e-2, "momentum": 0.9, "maximize": True},
        extras=EPS_ROOT,
    ),
    row(
        "Adadelta",
        {},
        {"lr": 0.5, "rho": 0.7, "eps": 1e-2, "weight_decay": 0.3},
        {"maximize": True, "rho": 0.99},
    ),
    row(
        "Rprop",
        {},
        {"lr": 0.1, "etas": (0.7, 1.5), "step_sizes": (0.03, 0.09)},
        {"lr": 0.02, "maximize": True},
    ),
    row(
        "ASGD",
        {},
        {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "t0": 2.0, "weight_decay": 0.3},
        {"lr": 0.02, "maximize": True, "t0": 0.0},
    ),
    row(
        "Adam",
        *ADAM,
        COUPLED,
        extras=(*EPS_ROOT, CAUTIOUS),
    ),
    row("AdamW", *ADAM, extras=(*EPS_ROOT, DECAY, CAUTIOUS)),
    row(
        "Adamax",
        {},
        {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-2, "weight_decay": 0.3},
        {"lr": 0.02, "maximize": True, "betas": (0.0, 0.99)},
    ),
    row(
        "NAdam",
        {},
        {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-2, "weight_decay": 0.3, "momentum_decay": 0.1},
        {"lr": 0.02, "maximize": True, "betas": (0.0, 0.99)},
        COUPLED,
        extras=(*EPS_ROOT, COUPLED_DECAY),
    ),
    row(
        "RAdam",
        {},
        {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-2, "weight_decay": 0.3},
        {"lr": 0.02, "maximize": True, "betas": (0.0, 0.99)},
        COUPLED,
        extras=(*EPS_ROOT, COUPLED_DECAY),
    ),
    row(
        "LaProp",
        {},
        {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-2, "weight_decay": 0.3},
        {"lr": 0.02, "maximize": True, "betas": (0.0, 0.99)},
        extras=(*EPS_ROOT, DECAY),
    ),
    row(
        "AdaBelief",
        {},
        {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-2, "weight_decay": 0.3},
        {"lr": 0.02, "maximize": True, "betas": (0.0, 0.99), "eps": 1e-8},
        extras=(DECAY,),
    ),
    row(
        "Adan",
        {},
        {"lr": 0.1, "betas": (0.7, 0.8, 0.9), "eps": 1e-2, "weight_decay": 0.3},
        {"lr": 0.02, "maximize": True, "betas": (0.0, 0.9, 0.99)},
        extras=EPS_ROOT,
    ),
    row(
        "Lion",
        {},
        {"lr": 0.1, "betas": (0.7, 0.9), "weight_decay": 0.3},
        {"lr": 0.02, "maximize": True},
        extras=(DECAY, CAUTIOUS),
    ),
    row(
        "ADOPT",
        {},
        {"lr": 0.1, "betas": (0.7, 0.9), "eps": 0.5, "weight_decay": 0.3},
        {"lr": 0.02, "maximize": True, "betas": (0.0, 0.99)},
        extras=(DECAY,),
    ),
    row(
        "LARS",
        {},
        {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.3, "trust_coefficient": 0.1, "eps": 1e-2},
        {"lr": 0.5, "maximize": True, "trust_coefficient": 0.02},
    ),
    row(
        "NovoGrad",
        {},
        {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-2, "weight_decay": 0.3},
        {"lr": 0.02, "maximize": True, "betas": (0.0, 0.99)},
    ),
    row(
        "LAMB",
        {},
        {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-2, "weight_decay": 0.3},
        {"lr": 0.02, "maximize": True, "betas": (0.0, 0.99), "weight_decay": 0.0},
    ),
)  # fmt: skip

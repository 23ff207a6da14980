"""Who steps: the table of optimizers, and how a workload becomes a step to time."""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Step
from benchmarks.workloads import Groups

ParamGroups = list[dict[str, Any]]


@dataclass(frozen=True)
class Contestant:
    """One implementation, found in `module` under the name of the algorithm.

    Args:
        name: how it is called in tables.
        module: the module that holds the class; a contestant without it is skipped.
        options: keyword arguments of the class beside the hyper-parameters.
    """

    name: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)

    def find(self, algorithm: str) -> Callable[..., torch.optim.Optimizer]:
        """The class; raises Absent if it cannot be imported."""
        return find_attribute(self.module, algorithm)


BASELINE = "torch fused"
OURS = "onepass"
SWEEP = "same bytes, no arithmetic"

OPTIMIZERS = (
    Contestant(OURS, "onepass"),
    Contestant(BASELINE, "torch.optim", {"fused": True}),
    Contestant("torch foreach", "torch.optim", {"foreach": True}),
    Contestant("torch for-loop", "torch.optim", {"foreach": False}),
)

# Settings that every contestant gets.
HYPERS: dict[str, dict[str, Any]] = {
    "Adam": {"lr": 1e-3},
    "AdamW": {"lr": 1e-3, "weight_decay": 1e-2},
}

# Bytes that a step must move per float32 element: parameter, gradient and states read, all but the
# gradient written.
BYTES_PER_ELEMENT = {"Adam": 28, "AdamW": 28}


class Absent(Exception):
    """A contestant cannot take part; the text says why."""


def find_attribute(module: str, name: str) -> Any:
    """`module.name`, or Absent."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise Absent(f"{module}.{name} not found ({type(error).__name__})") from error


def make_groups(groups: Groups) -> ParamGroups:
    """New parameters with fixed gradients; the same numbers at every call."""
    generator = torch.Generator().manual_seed(0)

    def parameter(shape: tuple[int, ...]) -> torch.nn.Parameter:
        made = torch.nn.Parameter(torch.randn(shape, generator=generator))
        made.grad = torch.randn(shape, generator=generator)
        return made

    return [{"params": [parameter(shape) for shape in group]} for group in groups]


def make_steps(
    contestants: Iterable[Contestant], algorithm: str, groups: Groups
) -> tuple[dict[str, Step], dict[str, str]]:
    """The bound `step` of each contestant on its own parameters, and who is absent and why."""
    steps: dict[str, Step] = {}
    absent: dict[str, str] = {}
    reference: ParamGroups = []
    for contestant in contestants:
        try:
            make = contestant.find(algorithm)
        except Absent as reason:
            absent[contestant.name] = str(reason)
            continue
        params = make_groups(groups)
        optimizer = make(params, **HYPERS[algorithm], **contestant.options)
        optimizer.step()
        check_same(contestant.name, params, reference or params)
        reference = reference or params
        steps[contestant.name] = optimizer.step
    return steps, absent


def check_same(name: str, params: ParamGroups, reference: ParamGroups) -> None:
    """All contestants must compute the same: a step that does nothing is not a fast one."""
    for own, other in zip(params, reference, strict=True):
        for mine, theirs in zip(own["params"], other["params"], strict=True):
            torch.testing.assert_close(mine, theirs, msg=lambda text: f"{name}: {text}")


def make_sweep(groups: Groups) -> Step:
    """A sweep over the bytes of an AdamW step that computes nothing; raises Absent."""
    sweep = find_attribute("onepass._C", "sweep_without_arithmetic")
    shapes = [shape for group in groups for shape in group]
    rows: list[list[Tensor]] = [[torch.rand(shape) for _ in range(4)] for shape in shapes]

    def run() -> None:
        for row in rows:
            sweep(*row)

    return run

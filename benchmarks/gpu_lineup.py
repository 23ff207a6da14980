"""Who steps on the device: made, started, compared, and asked how many bytes a step needs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.agreement import difference
from benchmarks.contestants import (
    BASELINE,
    COMPARED,
    HYPERS,
    OURS,
    STARTING,
    Absent,
    Contestant,
    Lineup,
    make_groups,
)
from benchmarks.gpu_device import Clock
from benchmarks.timing import Step, time_batch
from benchmarks.workloads import Workload

DEFAULT = "torch default"  # on a CUDA device its foreach path
FOREACH = "torch foreach"
APEX = Contestant(
    "apex",
    "apex.optimizers",
    classes={"Adam": "FusedAdam", "AdamW": "FusedAdam", "SGD": "FusedSGD", "LAMB": "FusedLAMB"},
)

# The first who takes part is who the others are compared with.
ADAMW = (
    Contestant(BASELINE, "torch.optim", {"fused": True}),
    Contestant(FOREACH, "torch.optim", {"foreach": True}),
    Contestant(OURS, "onepass"),
    APEX,
    Contestant("bitsandbytes", "bitsandbytes.optim"),
)
ALGORITHMS = (
    Contestant(DEFAULT, "torch.optim"),
    Contestant(BASELINE, "torch.optim", {"fused": True}),
    Contestant(OURS, "onepass"),
)
CAPTURED = (
    Contestant(BASELINE, "torch.optim", {"fused": True, "capturable": True}),
    Contestant(FOREACH, "torch.optim", {"foreach": True, "capturable": True}),
    Contestant(OURS, "onepass", {"capturable": True}),
)

# How far the moves of two may lie apart, as a part of the move. A bfloat16 parameter is rounded at
# every step, by some more than once.
SAME_MOVE = {"float32": 1e-3, "bfloat16": 2e-2}

Start = Callable[[torch.optim.Optimizer], Step]


@dataclass
class DeviceLineup(Lineup):
    """Who steps a workload on a device.

    Args:
        step_bytes: what each must read and write in a step.
        held_bytes: memory of parameters, gradients and states of the one that has most.
        differs: who computes something else than the first, and by how much.
    """

    step_bytes: dict[str, int] = field(default_factory=dict)
    held_bytes: int = 0
    differs: dict[str, str] = field(default_factory=dict)


def started(optimizer: torch.optim.Optimizer) -> Step:
    """The bound step, after the first ones."""
    time_batch(optimizer.step, STARTING)
    return optimizer.step


def captured(optimizer: torch.optim.Optimizer) -> Step:
    """The replay of a CUDA graph of one step, after the first ones."""
    if not torch.cuda.is_available():
        raise Absent("a CUDA graph needs a CUDA device")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as torch wants what is captured later to be warmed up
        time_batch(optimizer.step, STARTING)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return partial(replay, graph, optimizer)


def replay(graph: torch.cuda.CUDAGraph, _owner: torch.optim.Optimizer) -> None:
    """Step as captured; the owner's tensors have to live as long as the graph."""
    graph.replay()


def line_up(
    contestants: Iterable[Contestant],
    algorithm: str,
    work: Workload,
    clock: Clock,
    start: Start = started,
    hypers: dict[str, Any] | None = None,
) -> DeviceLineup:
    """The step of each contestant on its own parameters, after they were compared.

    Who fails, in whatever way, is absent with the reason: a session on a GPU is too rare to end
    there.
    """
    made, reference = DeviceLineup(), None
    dtype = getattr(torch, work.dtype)
    settings = {**HYPERS.get(algorithm, {}), **(hypers or {})}
    for contestant in contestants:
        try:
            params = make_groups(work.groups, clock.device, dtype)
            optimizer = contestant.find(algorithm)(params, **settings, **contestant.options)
            step = start(optimizer)
            time_batch(step, COMPARED - STARTING)
            clock.synchronize()
            reference = reference or params
            apart = difference(params, reference, make_groups(work.groups, clock.device, dtype))
        except Exception as error:
            made.absent[contestant.name] = reason(error)
            continue
        if not apart <= SAME_MOVE[work.dtype]:  # NaN is not
            made.differs[contestant.name] = f"its move differs by {apart:.1%}"
        made.steps[contestant.name] = step
        made.step_bytes[contestant.name], held = count_bytes(optimizer)
        made.held_bytes = max(made.held_bytes, held)
    return made


def reason(error: Exception) -> str:
    """The first line of an error; of ours as it is."""
    line = (str(error).splitlines() or [""])[0]
    return line if isinstance(error, Absent) else f"{type(error).__name__}: {line}"


def count_bytes(optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """Bytes that a step has to move (the gradient's once, the others twice), and that it holds."""
    moved = held = 0
    for group in optimizer.param_groups:
        for param in group["params"]:
            states = [
                value.nbytes
                for value in optimizer.state[param].values()
                if isinstance(value, Tensor) and value.shape == param.shape
            ]
            moved += 2 * (param.nbytes + sum(states)) + param.grad.nbytes
            held += param.nbytes + sum(states) + param.grad.nbytes
    return moved, held

"""What a step on a GPU costs the host: everything but the kernels, which are not run."""

from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

import onepass
from benchmarks.timing import time_batch
from onepass import _C

ROUNDS = 51
LAYOUTS = {"1 group": 1, "465 groups": 465}


def microseconds(tensors: int, groups: int, scheduled: bool) -> float:
    """The median time of a step of AdamW over small tensors, with or without a changing lr."""
    params = [torch.ones(64, requires_grad=True) for _ in range(tensors)]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer = onepass.AdamW([{"params": params[k::groups]} for k in range(groups)], lr=1e-3)
    times = []
    for round_number in range(ROUNDS):
        if scheduled:
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 / (1 + round_number)
        times.append(time_batch(optimizer.step, 1))
    return 1e6 * sorted(times)[ROUNDS // 2]


def command(
    tensors: Annotated[int, typer.Option(min=1, help="Parameters of 64 elements.")] = 1000,
) -> None:
    """Measure plan, tables and launches of a step; needs a build with ONEPASS_CUDA=emulate."""
    emulation = getattr(_C, "emulation", None)
    if emulation is None:
        raise typer.BadParameter("this build has no emulation; build with ONEPASS_CUDA=emulate")
    emulation.use("all")
    emulation.set_running(False)
    table = Table("tensors", "in", "lr", "us a step", "ns a tensor")
    for name, groups in LAYOUTS.items():
        for scheduled in (False, True):
            time = microseconds(tensors, min(groups, tensors), scheduled)
            rate = "changes" if scheduled else "stays"
            table.add_row(f"{tensors}", name, rate, f"{time:.1f}", f"{1e3 * time / tensors:.0f}")
    Console().print(table)

"""`memory`: the most that a process holds during a step, beside what it held before."""

import contextlib
import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks import machine, measuring, results, rows
from benchmarks.agreement import ParamGroups
from benchmarks.contestants import OPTIMIZERS, PEERS, Absent, Contestant, make_groups
from benchmarks.measuring import Folder
from benchmarks.timing import time_batch
from benchmarks.workloads import MI, Workload, one_tensor
from onepass.model_shapes import resnet_50

MIB = 1 << 20
WORKLOADS = (
    Workload("16 Mi", one_tensor(16 * MI)),
    Workload("16 Mi, gradients transposed", (((4096, 4096),),)),
    Workload("ResNet-50", (resnet_50(),)),
)

LEGEND = (
    "AdamW, MiB of resident memory in a process of its own. parameters: with gradients; states:"
    " that two steps leave; first, later: the most that a step held beside what it left."
)


def command(folder: Folder = results.FOLDER) -> None:
    """Measure the memory that a first and a later step take at their height (Linux)."""
    settings = measuring.prepare(1, 0)
    measured = [in_own_process(work, contestant) for work in WORKLOADS
                for contestant in (*OPTIMIZERS, *PEERS)]  # fmt: skip
    rows.publish("memory of a step", measured, settings, folder, LEGEND)


def in_own_process(work: Workload, contestant: Contestant) -> rows.Row:
    """What a fresh process measures, whose memory nobody else has used."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(measure, work, contestant).result()


def measure(work: Workload, contestant: Contestant) -> rows.Row:
    """A row of the table."""
    row: rows.Row = {"parameters are": work.name, "contestant": contestant.name}
    warm_up(contestant)
    params = make_groups(work.groups)
    if "transposed" in work.name:
        transpose_gradients(params)
    before = resident("VmRSS")
    try:
        optimizer = contestant.make("AdamW", params)
        first = height(optimizer)
    except Absent as reason:
        return (
            row
            | dict.fromkeys(("parameters", "states", "first", "later"))
            | {"absent": str(reason)}
        )
    later = height(optimizer)
    states = resident("VmRSS") - before
    return row | {
        "parameters": 2 * 4 * work.elements / MIB,
        "states": states / MIB,
        "first": max(0, first) / MIB,
        "later": max(0, later) / MIB,
        "absent": None,
    }


def warm_up(contestant: Contestant) -> None:
    """Load code and start threads, whose memory belongs to no step."""
    small = make_groups(one_tensor(MI))
    with contextlib.suppress(Absent):
        time_batch(contestant.make("AdamW", small).step, 2)
    del small
    gc.collect()


def transpose_gradients(params: ParamGroups) -> None:
    """Lay gradients out column by column, as a product with a transposed matrix leaves them."""
    for group in params:
        for param in group["params"]:
            param.grad = param.grad.t().contiguous().t()


def height(optimizer: torch.optim.Optimizer) -> int:
    """The bytes that a step held at its height beyond what it left."""
    forget_the_height()
    optimizer.step()
    return resident("VmHWM") - resident("VmRSS")


def forget_the_height() -> None:
    """Let the system measure the most that is held from now on (proc(5))."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise Absent("this system does not measure the height of memory") from error


def resident(field: str) -> int:
    """Bytes of this process that are in memory, now (VmRSS) or at most (VmHWM)."""
    return machine.sizes_of("/proc/self/status")[field]

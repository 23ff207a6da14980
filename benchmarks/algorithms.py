"""`algorithms`: the step of every algorithm on one large tensor, beside torch's and the bytes."""

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from benchmarks import measuring, results
from benchmarks.contestants import (
    BASELINE,
    COMPILED,
    COMPILING,
    FOR_LOOP,
    OPTIMIZERS,
    PEERS,
    SWEEP,
    Contestant,
    line_up,
)
from benchmarks.machine import optional_module
from benchmarks.measuring import Dtype, Folder, Rounds, Threads
from benchmarks.timing import Settings
from benchmarks.workloads import MI, Workload, one_tensor

CONTESTANTS = (*OPTIMIZERS, COMPILING, *PEERS)

# How many times as fast as a rival onepass has to be.
NOT_SLOWER = 0.97
WITHOUT_FUSED = {FOR_LOOP: 5.0, COMPILED: NOT_SLOWER}
WITH_FUSED = {BASELINE: NOT_SLOWER}
PROMISES = {
    **dict.fromkeys(("RMSprop", "Adadelta", "Adamax", "NAdam", "RAdam"), WITHOUT_FUSED),
    **dict.fromkeys(("SGD", "Adagrad"), WITH_FUSED),
}
NEAR_THE_BYTES = 1 / 1.1  # within 10 % of the sweep's time


def command(
    algorithm: Annotated[list[str] | None, typer.Option(help="A class; repeatable.")] = None,
    elements: Annotated[int, typer.Option(min=1, help="Size of the tensor.")] = 16 * MI,
    rounds: Rounds = 21,
    threads: Threads = 0,
    dtype: Dtype = "float32",
    folder: Folder = results.FOLDER,
) -> None:
    """Time every algorithm on one tensor beside torch's paths and a sweep over the same bytes.

    What torch takes by default on the CPU is its for-loop.
    """
    known = names()
    chosen = algorithm or known
    measuring.check(set(chosen) <= set(known), "--algorithm", known)
    settings = measuring.prepare(rounds, threads)
    measuring.check(dtype in measuring.DTYPES, "--dtype", measuring.DTYPES)
    tensor = one_tensor(elements)
    measuring.publish(
        f"algorithms of {elements} elements {dtype}",
        [Workload(name, tensor, dtype=dtype) for name in known if name in chosen],
        lambda work: measure(work, CONTESTANTS, settings),
        settings,
        folder,
    )


def names() -> list[str]:
    """The classes of onepass, in the order of its table."""
    onepass, table = optional_module("onepass"), optional_module("onepass.rules")
    found = {getattr(onepass, name) for name in getattr(onepass, "__all__", ())}
    classes = {cls.rule: cls.__name__ for cls in found if hasattr(cls, "rule")}
    return [classes[rule] for rule in getattr(table, "RULES", ())]


def reads_twice(name: str) -> bool:
    """Whether a class sums over a parameter before it steps."""
    onepass, table = optional_module("onepass"), optional_module("onepass.rules")
    return onepass is not None and bool(table.RULES[getattr(onepass, name).rule].sums)


def measure(
    work: Workload, contestants: Iterable[Contestant], settings: Settings
) -> dict[str, Any]:
    """Step the algorithm that the workload is named after, warm and cold."""
    lineup = line_up(contestants, work.name, work)
    lineup.add_sweep(work)
    return measuring.measure(work, lineup, settings, SWEEP, promises_of(work))


def promises_of(work: Workload) -> dict[str, float]:
    """How fast a class has to be beside others, which is promised for float32."""
    if work.dtype != "float32":
        return {}
    near = {} if reads_twice(work.name) else {SWEEP: NEAR_THE_BYTES}
    return {**PROMISES.get(work.name, {}), **near}

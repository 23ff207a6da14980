"""`step`: the time of the public `opt.step()` against all peers, workload by workload."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from benchmarks import measuring, results
from benchmarks.contestants import BASELINE, COMPILING, OPTIMIZERS, PEERS, line_up
from benchmarks.measuring import Dtype, Folder, Rounds, Threads
from benchmarks.suites import SUITES
from benchmarks.timing import Settings
from benchmarks.workloads import Workload

ALGORITHMS = ("Adam", "AdamW")
CONTESTANTS = (*OPTIMIZERS, COMPILING, *PEERS)


def command(
    suite: Annotated[str, typer.Option(help=f"{', '.join(SUITES)}.")] = "promised",
    rounds: Rounds = 21,
    threads: Threads = 0,
    algorithm: Annotated[str, typer.Option(help="Adam or AdamW.")] = "AdamW",
    dtype: Dtype = "float32",
    only: Annotated[list[str] | None, typer.Option(help="A workload; repeatable.")] = None,
    folder: Folder = results.FOLDER,
) -> None:
    """Time opt.step() of onepass beside torch's paths and other projects' optimizers.

    The suites: what is promised, one tensor of growing size, tensors of growing number, models.
    """
    measuring.check(suite in SUITES, "--suite", SUITES)
    measuring.check(algorithm in ALGORITHMS, "--algorithm", ALGORITHMS)
    names = [work.name for work in SUITES[suite]]
    measuring.check(set(only or names) <= set(names), "--only", names)
    settings = measuring.prepare(rounds, threads)
    measuring.publish(
        f"step {algorithm} {suite} {dtype}",
        [stored(work, dtype) for work in SUITES[suite] if work.name in (only or names)],
        lambda work: measure(work, algorithm, settings),
        settings,
        folder,
    )


def stored(work: Workload, dtype: str) -> Workload:
    """A workload in another dtype; promises are made for float32."""
    measuring.check(dtype in measuring.DTYPES, "--dtype", measuring.DTYPES)
    return work if dtype == work.dtype else replace(work, dtype=dtype, promises={})


def measure(work: Workload, algorithm: str, settings: Settings) -> dict[str, Any]:
    """Step one workload with every contestant there is, warm and cold."""
    lineup = line_up(CONTESTANTS, algorithm, work)
    memory_bound = work.elements * lineup.bytes_held > settings.cache_bytes
    if memory_bound:
        lineup.add_sweep(work)
    measured = measuring.measure(work, lineup, settings, BASELINE, work.promises, memory_bound)
    return {**measured, "memory_bound": memory_bound}

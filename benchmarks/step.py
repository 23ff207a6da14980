"""`step`: the time of the public `opt.step()` against torch's, workload by workload."""

from typing import Annotated, Any

import typer

from benchmarks import measuring, results
from benchmarks.contestants import BASELINE, OPTIMIZERS, line_up
from benchmarks.measuring import Folder, Rounds, Threads
from benchmarks.timing import Settings
from benchmarks.workloads import STEP, Workload

ALGORITHMS = ("Adam", "AdamW")


def command(
    rounds: Rounds = 21,
    threads: Threads = 0,
    algorithm: Annotated[str, typer.Option(help="Adam or AdamW.")] = "AdamW",
    only: Annotated[list[str] | None, typer.Option(help="A workload; repeatable.")] = None,
    folder: Folder = results.FOLDER,
) -> None:
    """Time opt.step() of onepass beside torch's fused, foreach and for-loop paths."""
    measuring.check(algorithm in ALGORITHMS, "--algorithm", ALGORITHMS)
    workloads = [work for work in STEP if only is None or work.name in only]
    measuring.check(bool(workloads), "--only", [work.name for work in STEP])
    settings = measuring.prepare(rounds, threads)
    measuring.publish(
        f"step {algorithm}",
        workloads,
        lambda work: measure(work, algorithm, settings),
        settings,
        folder,
    )


def measure(work: Workload, algorithm: str, settings: Settings) -> dict[str, Any]:
    """Step one workload with every contestant there is, warm and cold."""
    lineup = line_up(OPTIMIZERS, algorithm, work.groups)
    memory_bound = work.elements * lineup.bytes_held > settings.cache_bytes
    if memory_bound:
        lineup.add_sweep(work.groups)
    promises = {} if work.target is None else {BASELINE: work.target}
    measured = measuring.measure(work, lineup, settings, BASELINE, promises, memory_bound)
    return {**measured, "memory_bound": memory_bound}

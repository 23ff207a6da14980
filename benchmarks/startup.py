"""`startup`: the time to import a module, and to the first steps of an optimizer."""

import statistics
import subprocess
import sys
from dataclasses import replace
from time import perf_counter
from typing import Annotated, Any

import typer

from benchmarks import measuring, results, rows
from benchmarks.contestants import (
    COMPILING,
    OPTIMIZERS,
    PEERS,
    Absent,
    Contestant,
    make_groups,
)
from benchmarks.measuring import Folder
from benchmarks.timing import Step, time_batch
from benchmarks.workloads import KI, Workload, one_group

REPEATS = 5
STEADY = 20
CONTESTANTS = (*OPTIMIZERS, replace(COMPILING, most_tensors=None), *PEERS)

LEGEND = (
    "AdamW over tensors of 1 Ki elements. import: beside torch, in a fresh process; made: the"
    " constructor; first: the first two steps, which make the state and whatever is compiled;"
    " steady: a step from then on. Medians."
)


def command(
    tensors: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    folder: Folder = results.FOLDER,
) -> None:
    """Time imports and first steps, beside torch.compile's."""
    settings = measuring.prepare(REPEATS, 0)
    work = Workload("startup", one_group(tensors, KI))
    measured = [measure(contestant, work) for contestant in CONTESTANTS]
    rows.publish(f"startup with {tensors} tensors", measured, settings, folder, LEGEND)


def measure(contestant: Contestant, work: Workload) -> rows.Row:
    """The times of one contestant, or why there are none."""
    row: rows.Row = {"contestant": contestant.name}
    try:
        contestant.find("AdamW")
        times = [first_steps(contestant, work) for _ in range(1 if contestant.compiled else 3)]
    except Absent as reason:
        return (
            row
            | dict.fromkeys(("import ms", "made ms", "first ms", "steady us"))
            | {"absent": str(reason)}
        )
    made, first, steady = (statistics.median(column) for column in zip(*times, strict=True))
    return row | {
        "import ms": import_ms(contestant.module),
        "made ms": 1e3 * made,
        "first ms": 1e3 * first,
        "steady us": 1e6 * steady,
        "absent": None,
    }


def first_steps(contestant: Contestant, work: Workload) -> tuple[float, float, float]:
    """Seconds of the constructor, of the first two steps, and of a step after them."""
    params = make_groups(work.groups)
    start = perf_counter()
    optimizer = contestant.make("AdamW", params)
    made = perf_counter() - start
    start = perf_counter()
    step: Step = contestant.start(optimizer)[0]
    first = perf_counter() - start
    return made, first, time_batch(step, STEADY) / STEADY


def import_ms(module: str) -> float:
    """Milliseconds that importing a module takes in a fresh process that has torch."""
    code = (
        "import torch, time; start = time.perf_counter();"
        f"import {module}; print(time.perf_counter() - start)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], **CAPTURED).stdout.splitlines()[-1])
        for _ in range(REPEATS)
    ]
    return 1e3 * statistics.median(times)


CAPTURED: dict[str, Any] = {"capture_output": True, "text": True, "check": True}

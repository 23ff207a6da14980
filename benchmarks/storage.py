"""`storage`: the step by the types that parameters and states are stored in."""

from typing import Annotated, Any

import torch
import typer

import onepass
from benchmarks import measuring, results, rows
from benchmarks.contestants import HYPERS, STARTING, make_groups
from benchmarks.measuring import Folder, Rounds, Threads
from benchmarks.timing import Settings, Step, Summary, speedups, time_batch, warm_rounds
from benchmarks.workloads import MI, one_tensor

FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16
SINGLE = "onepass, all float32"
HALVED = "onepass, all bfloat16"
PROMISED = 1.3  # times as fast as all float32 where memory is the limit

# Class, type of parameters and gradients, type of states.
STORED: dict[str, tuple[Any, torch.dtype, torch.dtype]] = {
    SINGLE: (onepass.AdamW, FLOAT32, FLOAT32),
    HALVED: (onepass.AdamW, BFLOAT16, BFLOAT16),
    "onepass, states bfloat16": (onepass.AdamW, FLOAT32, BFLOAT16),
    "onepass, states float32": (onepass.AdamW, BFLOAT16, FLOAT32),
    "onepass, float16, states float32": (onepass.AdamW, FLOAT16, FLOAT32),
    "torch fused, all float32": (torch.optim.AdamW, FLOAT32, FLOAT32),
    "torch fused, all bfloat16": (torch.optim.AdamW, BFLOAT16, BFLOAT16),
}

LEGEND = (
    "Steps of AdamW on one tensor. times: as fast as onepass, all float32, with quartiles;"
    " bytes: that a step moves, for each element."
)


def command(
    elements: Annotated[int, typer.Option(min=1, help="Size of the tensor.")] = 16 * MI,
    rounds: Rounds = 21,
    threads: Threads = 0,
    folder: Folder = results.FOLDER,
) -> None:
    """Time AdamW with parameters and states of 32 and 16 bits."""
    settings = measuring.prepare(rounds, threads)
    measured = measure(elements, settings)
    rows.publish(f"storage of {elements} elements", measured, settings, folder, LEGEND)


def measure(elements: int, settings: Settings) -> list[rows.Row]:
    """A row for each way to store the numbers."""
    times = warm_rounds({name: step_of(name, elements) for name in STORED}, settings)
    ratios = speedups(times, SINGLE)
    made = []
    for name, (_, param, state) in STORED.items():
        seconds = Summary.of(times[name]).median
        moved = 3 * param.itemsize + 4 * state.itemsize
        ratio = ratios[name]
        made.append(
            {
                "stored": name,
                "ms": 1e3 * seconds,
                "bytes": moved,
                "GB/s": moved * elements / seconds / 1e9,
                "times": ratio.median,
                "quartiles": f"{ratio.low:.3g}..{ratio.high:.3g}",
                "promised": PROMISED if name == HALVED else None,
                "met": ratio.median >= PROMISED if name == HALVED else None,
            }
        )
    return made


def step_of(name: str, elements: int) -> Step:
    """A started step of one way to store the numbers."""
    cls, param, state = STORED[name]
    options = {"state_dtype": state} if cls is onepass.AdamW else {"fused": True}
    params = make_groups(one_tensor(elements), dtype=param)
    optimizer = cls(params, **HYPERS["AdamW"], **options)
    time_batch(optimizer.step, STARTING)
    return optimizer.step

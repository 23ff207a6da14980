"""`overhead`: what a step costs beside its arithmetic, by the number of tensors and groups."""

from typing import Annotated, Any

import torch
import typer

from benchmarks import measuring, results, rows
from benchmarks.contestants import BASELINE, OPTIMIZERS, OURS, line_up, make_groups
from benchmarks.measuring import Folder, Rounds, Threads
from benchmarks.timing import Settings, Summary, warm_rounds
from benchmarks.workloads import Workload, group_per_tensor, one_group

NOTHING = "nothing"
TENSORS = (1, 10, 100, 1000, 10_000)
FIXED = 5e-6  # seconds of a step that do not depend on the number of tensors
PROMISED = 100  # nanoseconds a tensor beside them

LEGEND = (
    "Steps of AdamW over tensors of one element. nothing: an optimizer whose step does nothing, in"
    " the wrapper that torch puts around it and that ours is entered without; ns a tensor: what is"
    " left beside that and 5 us, by the tensors."
)


class Nothing(torch.optim.Optimizer):
    """Whose step is only what torch wraps around every step."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:
        pass


def command(
    tensors: Annotated[list[int] | None, typer.Option(min=1, help="How many; repeatable.")] = None,
    rounds: Rounds = 21,
    threads: Threads = 0,
    folder: Folder = results.FOLDER,
) -> None:
    """Time steps of next to no arithmetic, in one group and in a group for each tensor."""
    settings = measuring.prepare(rounds, threads)
    counts = tensors or TENSORS
    works = [Workload("1 group", one_group(count, 1)) for count in counts]
    works += [Workload("a group each", group_per_tensor(count, 1)) for count in counts if count > 1]
    measured = [row for work in works for row in measure(work, settings)]
    rows.publish("overhead of a step", measured, settings, folder, LEGEND)


def measure(work: Workload, settings: Settings) -> list[rows.Row]:
    """A row for each who steps."""
    chosen = [row for row in OPTIMIZERS if row.name in (OURS, BASELINE)]
    steps = dict(line_up(chosen, "AdamW", work).steps)
    steps[NOTHING] = Nothing(make_groups(work.groups)).step
    times = warm_rounds(steps, settings)
    seconds = {name: Summary.of(column).median for name, column in times.items()}
    return [row_of(work, name, seconds) for name in seconds if name != NOTHING]


def row_of(work: Workload, name: str, seconds: dict[str, float]) -> rows.Row:
    """What one costs, and whether ours keeps what is promised."""
    left = 1e9 * (seconds[name] - seconds[NOTHING] - FIXED) / work.tensors
    return {
        "tensors": f"{work.tensors} in {work.name}",
        "contestant": name,
        "us a step": 1e6 * seconds[name],
        "us of nothing": 1e6 * seconds[NOTHING],
        "ns a tensor in all": 1e9 * seconds[name] / work.tensors,
        "ns a tensor": left,
        "promised": PROMISED if name == OURS else None,
        "met": left <= PROMISED if name == OURS else None,
    }

"""`embedding`: sparse gradients on small and large tables, where a row should cost the same."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib.axes import Axes
from rich.console import Console
from torch import Tensor

from benchmarks import machine, measuring, plot, report, results
from benchmarks.agreement import ParamGroups, check_same
from benchmarks.contestants import OURS, Absent, Contestant, Lineup
from benchmarks.measuring import Folder, Rounds, Threads
from benchmarks.timing import Settings, Step, Summary, Times, speedups, time_batch
from benchmarks.workloads import Workload

Make = Callable[..., torch.optim.Optimizer]

TORCH = "torch"
ROWS = (200_000, 2_000_000)
WIDTH = 128
INDICES = 2_000  # of a gradient
TOUCHED = 1_800  # rows among them: some words come twice in a batch
GRADIENTS = 8  # taken in turn
COMPARED = 2 * GRADIENTS  # steps before all are compared: each row was stepped with a state
FLAT = 1.25  # times as long as in the smallest table a row may take in a larger one
MEMORY = 10 * 10**9  # bytes of all tables and states that are there at a time

COLUMNS = ("algorithm", "contestant", "warm", "growth", "cold", "growth", "onepass is",
           "promised growth", "met")  # fmt: skip


@dataclass(frozen=True)
class Algorithm:
    """What is stepped, and the class of torch that computes the same.

    Args:
        ours: the class of onepass.
        theirs: the class of torch.optim.
        states: the tensors of the table's shape that an optimizer keeps.
        options: the hyper-parameters that are not the defaults.
        alone: why torch does not take part.
    """

    ours: str
    theirs: str
    states: int
    options: dict[str, Any] = field(default_factory=dict)
    alone: str = ""


ALGORITHMS = {
    # SparseAdam corrects eps for bias too; where it is this small that does not show.
    "Adam": Algorithm("Adam", "SparseAdam", 2, {"eps": 1e-12}),
    "AdamW": Algorithm(
        "AdamW", "AdamW", 2, alone="torch.optim.AdamW takes no sparse gradients"
    ),
    "Adagrad": Algorithm("Adagrad", "Adagrad", 1),
    "SGD": Algorithm("SGD", "SGD", 0),
    "SGD with momentum": Algorithm(
        "SGD", "SGD", 1, {"momentum": 0.9},
        "torch.optim.SGD's momentum moves rows without a gradient, and its buffer grows",
    ),
}  # fmt: skip


def command(
    rows: Annotated[
        list[int] | None, typer.Option(min=INDICES, help="Rows of a table; repeatable.")
    ] = None,
    algorithm: Annotated[list[str] | None, typer.Option(help="A name; repeatable.")] = None,
    rounds: Rounds = 21,
    threads: Threads = 0,
    folder: Folder = results.FOLDER,
) -> None:
    """Time sparse gradients on embedding tables of several sizes, beside torch's classes.

    A gradient has 2000 random indices, some of them twice, and rows of 128 elements.
    """
    chosen = algorithm or ALGORITHMS
    measuring.check(set(chosen) <= set(ALGORITHMS), "--algorithm", ALGORITHMS)
    shapes = tuple((size, WIDTH) for size in sorted(set(rows or ROWS)))
    settings = measuring.prepare(rounds, threads)
    measuring.publish(
        "embedding",
        [Workload(name, (shapes,)) for name in ALGORITHMS if name in chosen],
        lambda work: measure(work, settings),
        settings,
        folder,
        show,
        save_plot,
    )


def measure(work: Workload, settings: Settings) -> dict[str, Any]:
    """Step tables of all sizes in the same rounds, warm and cold."""
    sizes = [rows for rows, _ in work.groups[0]]
    lineup = line_up(ALGORITHMS[work.name], sizes)
    baseline = next(iter(lineup.steps), "")
    measured = measuring.measure(work, lineup, settings, baseline, {}, counts_bytes=False)
    return {**measured, **verdict(measured, sizes), "touched_rows": TOUCHED}


# ---- who steps


def line_up(algorithm: Algorithm, sizes: Iterable[int]) -> Lineup:
    """A step for each contestant and table; on each table all were compared."""
    made = Lineup(states=algorithm.states)
    classes = find_classes(algorithm, made.absent)
    free = min(MEMORY, machine.available_bytes() or MEMORY)
    for rows in sizes:
        needed = 4 * WIDTH * rows * (1 + algorithm.states) * len(classes)
        if needed > free:
            made.absent[f"{rows:,} rows"] = f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} left"
            continue
        free -= needed
        made.steps.update({lane(name, rows): step for name, step in same_steps(classes, rows)})
    return made


def find_classes(algorithm: Algorithm, absent: dict[str, str]) -> dict[str, Make]:
    """What makes the optimizers of those who take part."""
    made = {}
    for name, module, cls, reason in (
        (OURS, "onepass", algorithm.ours, ""),
        (TORCH, "torch.optim", algorithm.theirs, algorithm.alone),
    ):
        try:
            found = Contestant(name, module, algorithm.options).find(cls)
        except Absent as error:
            reason = str(error)
        if reason:
            absent[name] = reason
        else:
            made[name] = partial(found, **algorithm.options)
    return made


def same_steps(classes: Mapping[str, Make], rows: int) -> Iterator[tuple[str, Step]]:
    """The steps of all on tables of one size, after the rows that they touch were compared."""
    gradients = make_gradients(rows)
    touched = torch.cat([grad._indices()[0] for grad in gradients]).unique()
    reference: ParamGroups = []
    for name, make in classes.items():
        table = make_table(rows)
        step = take_in_turn(make([table]), table, gradients)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's Adagrad: sparse tensors are not checked
            time_batch(step, COMPARED)
        moved: ParamGroups = [{"params": [table.detach()[touched]]}]
        check_same(lane(name, rows), moved, reference or moved)
        reference = reference or moved
        yield name, step


def lane(name: str, rows: int) -> str:
    """What a contestant on one table is called."""
    return f"{name}, {rows:,} rows"


def make_table(rows: int) -> torch.nn.Parameter:
    """A table of equal rows, which are quickly made; the same numbers at every call."""
    row = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    return torch.nn.Parameter(row.repeat(rows, 1))


def make_gradients(rows: int) -> list[Tensor]:
    """Gradients as nn.Embedding(sparse=True) makes them: uncoalesced, values for each index."""
    generator = torch.Generator().manual_seed(0)

    def gradient() -> Tensor:
        words = torch.randperm(rows, generator=generator)[:TOUCHED]
        again = torch.randint(TOUCHED, (INDICES - TOUCHED,), generator=generator)
        order = torch.randperm(INDICES, generator=generator)
        indices = torch.cat([words, words[again]])[order]
        values = torch.randn((INDICES, WIDTH), generator=generator)
        return torch.sparse_coo_tensor(indices[None], values, (rows, WIDTH), check_invariants=True)

    return [gradient() for _ in range(GRADIENTS)]


def take_in_turn(
    optimizer: torch.optim.Optimizer, table: torch.nn.Parameter, gradients: Iterable[Tensor]
) -> Step:
    """A step along the next of the gradients."""
    turns = itertools.cycle(gradients)

    def step() -> None:
        table.grad = next(turns)
        optimizer.step()

    return step


# ---- what came of it


def verdict(measured: dict[str, Any], sizes: Sequence[int]) -> dict[str, Any]:
    """How much longer a row takes in larger tables, and torch's than onepass's in the same."""
    warm, cold = (
        {name: column["rounds"] for name, column in measured[kind].items()}
        for kind in ("warm", "cold")
    )
    grown = {
        lane(name, rows): {
            "warm": asdict(ratio(warm, lane(name, rows), lane(name, sizes[0]))),
            "cold": asdict(ratio(cold, lane(name, rows), lane(name, sizes[0]))),
        }
        for rows in sizes[1:]
        for name in (OURS, TORCH)
        if lane(name, rows) in warm
    }
    return {
        "growth": grown,
        "onepass_over": {
            lane(TORCH, rows): asdict(ratio(warm, lane(TORCH, rows), lane(OURS, rows)))
            for rows in sizes
            if {lane(TORCH, rows), lane(OURS, rows)} <= warm.keys()
        },
        "promises": {
            name: {"at_most": FLAT, "met": grown[name]["warm"]["median"] <= FLAT}
            for name in (lane(OURS, rows) for rows in sizes)
            if name in grown
        },
    }


def ratio(times: Times, over: str, under: str) -> Summary:
    """How many times as long one takes as another, round by round."""
    return speedups({name: times[name] for name in (over, under)}, over)[under]


def show(result: dict[str, Any], console: Console) -> None:
    """Print the time of a row, and how it grows with the table."""
    legend = (
        f"Medians of the time per touched row, of which a gradient of {INDICES:,} indices has"
        f" {TOUCHED:,}. growth: beside the smallest table, promised with warm caches; onepass is:"
        " times as fast as the row. Ratios are paired round by round, with quartiles."
        " torch: SparseAdam for Adam, else the class of that name."
    )
    report.show_table(result, console, COLUMNS, cells, legend)


def cells(work: dict[str, Any], name: str) -> list[str]:
    """The numbers of one row."""
    grown, promised = work["growth"].get(name), work["promises"].get(name)
    times = []
    for kind in ("warm", "cold"):
        times.append(f"{a_row(work, work[kind][name])['median']:.0f} ns")
        times.append(report.spread(grown[kind]) if grown else "")
    over = work["onepass_over"].get(name)
    return [
        *times,
        f"{over['median']:.3g} x" if over else "",
        f"{promised['at_most']:.3g} x" if promised else "",
        report.VERDICTS[promised["met"] if promised else None],
    ]


def a_row(work: dict[str, Any], column: dict[str, Any]) -> dict[str, float]:
    """Nanoseconds per touched row: median and quartiles."""
    return {name: 1e9 * part / work["touched_rows"] for name, part in column["seconds"].items()}


def save_plot(result: dict[str, Any], path: Path) -> None:
    """The time of a row, warm and cold."""
    plot.save_bars(result, path, draw, "ns per touched row")


def draw(ax: Axes, workloads: list[dict[str, Any]], kind: str) -> None:
    """Bars of all contestants on all tables."""
    plot.draw_bars(ax, workloads, kind, a_row)

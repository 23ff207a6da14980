"""What the sub-commands share: a workload measured with a line-up, and the results published."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from tqdm import tqdm

from benchmarks import machine, plot, report, results
from benchmarks.contestants import FASTEST, OURS, SWEEP, Lineup
from benchmarks.timing import Settings, Summary, Times, cold_rounds, speedups, warm_rounds
from benchmarks.workloads import Workload

Rounds = Annotated[int, typer.Option(min=9, help="Rounds per workload.")]
Threads = Annotated[int, typer.Option(min=0, help="0: as many as torch takes.")]
Dtype = Annotated[str, typer.Option(help="float32, float64 or bfloat16.")]
Folder = Annotated[Path, typer.Option(help="Where JSON and plot go.")]

ALL_THREADS = torch.get_num_threads()
DTYPES = ("float32", "float64", "bfloat16")


def check(allowed: bool, option: str, choices: Iterable[str]) -> None:
    """Refuse a wrong option with the values it can have."""
    if not allowed:
        raise typer.BadParameter(f"choose from: {', '.join(choices)}", param_hint=option)


def prepare(rounds: int, threads: int) -> Settings:
    """How long to measure on this machine, with so many threads from now on."""
    torch.set_num_threads(threads or ALL_THREADS)
    tqdm.monitor_interval = 0  # no second thread while measuring
    return Settings(rounds, cache_bytes=machine.last_level_cache_bytes())


def measure(
    work: Workload,
    lineup: Lineup,
    settings: Settings,
    baseline: str,
    promises: Mapping[str, float],
    counts_bytes: bool = True,
    times_cold: bool = True,
) -> dict[str, Any]:
    """Step one workload with everyone in the line-up, warm and, unless told not to, cold."""
    bystanders = machine.Bystanders()
    warm = warm_rounds(lineup.steps, settings)
    cold = cold_rounds(lineup.steps, settings) if times_cold else {}
    bytes_moved = dict.fromkeys(
        lineup.steps if counts_bytes else (), work.elements * lineup.bytes_moved
    )
    return {
        "name": work.name,
        "groups": len(work.groups),
        "tensors": work.tensors,
        "elements": work.elements,
        "dtype": work.dtype,
        "baseline": baseline,
        **verdict(warm, promises),
        "warm": results.column(warm, baseline, bytes_moved),
        "cold": results.column(cold, baseline, bytes_moved),
        "absent": lineup.absent,
        "compile_seconds": lineup.compile_seconds,
        "bystanders": bystanders.share(),
    }


def verdict(warm: Times, promises: Mapping[str, float]) -> dict[str, Any]:
    """How many times as fast as each of the others we are, and which promises that keeps."""
    ours = {rival: speedups(warm, rival)[OURS] for rival in warm} if OURS in warm else {}
    promises = {fastest(warm) if rival == FASTEST else rival: least
                for rival, least in promises.items()}  # fmt: skip
    return {
        "onepass_over": {rival: asdict(ratio) for rival, ratio in ours.items() if rival != OURS},
        "promises": {
            rival: {
                "at_least": least,
                "met": ours[rival].median >= least if rival in ours else None,
            }
            for rival, least in promises.items()
        },
    }


def fastest(times: Times) -> str:
    """Who took the least time beside us and the sweep that computes nothing."""
    others = times.keys() - {OURS, SWEEP}
    return min(others, key=lambda name: Summary.of(times[name]).median, default=FASTEST)


def publish(
    title: str,
    workloads: list[Workload],
    measure_one: Callable[[Workload], dict[str, Any]],
    settings: Settings,
    folder: Path,
    show: Callable[[dict[str, Any], Console], None] = report.show,
    save_plot: Callable[[dict[str, Any], Path], None] = plot.save,
) -> None:
    """Measure the workloads; print the table, write JSON and plot; fail where we were absent."""
    stem = folder / results.file_stem(title.split()[0])
    measured: list[dict[str, Any]] = []
    result = results.document(title, machine.describe(), settings, measured)
    for work in tqdm(workloads, disable=None, leave=False, unit="workload"):
        measured.append(measure_one(work))
        results.save(result, stem.with_suffix(".json"))  # a run that is cut short keeps what it has
    console = Console()
    show(result, console)
    save_plot(result, stem.with_suffix(".png"))
    console.print(f"Written: {stem.name}.json and {stem.name}.png in {folder.name}/")
    if any(OURS in work["absent"] for work in measured):
        raise typer.Exit(1)

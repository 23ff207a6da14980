"""`step`: the time of the public `opt.step()` against torch's, workload by workload."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from tqdm import tqdm

from benchmarks import machine, plot, report, results
from benchmarks.contestants import (
    BASELINE,
    BYTES_PER_ELEMENT,
    OPTIMIZERS,
    OURS,
    SWEEP,
    Absent,
    make_steps,
    make_sweep,
)
from benchmarks.timing import Settings, Times, cold_rounds, speedups, warm_rounds
from benchmarks.workloads import STEP, Workload

BYTES_HELD_PER_ELEMENT = 16  # parameter, gradient, two states


def command(
    rounds: Annotated[int, typer.Option(min=9, help="Rounds per workload.")] = 21,
    threads: Annotated[int, typer.Option(min=0, help="0: as many as torch takes.")] = 0,
    algorithm: Annotated[str, typer.Option(help="Adam or AdamW.")] = "AdamW",
    only: Annotated[list[str] | None, typer.Option(help="A workload; repeatable.")] = None,
    folder: Annotated[Path, typer.Option(help="Where JSON and plot go.")] = results.FOLDER,
) -> None:
    """Time opt.step() of onepass beside torch's fused, foreach and for-loop paths."""
    check(algorithm in BYTES_PER_ELEMENT, "--algorithm", list(BYTES_PER_ELEMENT))
    workloads = [work for work in STEP if only is None or work.name in only]
    check(bool(workloads), "--only", [work.name for work in STEP])
    torch.set_num_threads(threads or torch.get_num_threads())
    settings = Settings(rounds, cache_bytes=machine.last_level_cache_bytes())
    tqdm.monitor_interval = 0  # no second thread while measuring
    measured = [
        measure(work, algorithm, settings)
        for work in tqdm(workloads, disable=None, leave=False, unit="workload")
    ]
    result = results.document(f"step {algorithm}", machine.describe(), settings, measured)
    console = Console()
    report.show(result, console)
    stem = folder / results.file_stem("step")
    results.save(result, stem.with_suffix(".json"))
    plot.save(result, stem.with_suffix(".png"))
    console.print(f"Written: {stem.name}.json and {stem.name}.png in {folder.name}/")
    if any(OURS in work["absent"] for work in measured):
        raise typer.Exit(1)


def check(allowed: bool, option: str, choices: list[str]) -> None:
    """Refuse a wrong option with the values it can have."""
    if not allowed:
        raise typer.BadParameter(f"choose from: {', '.join(choices)}", param_hint=option)


def measure(work: Workload, algorithm: str, settings: Settings) -> dict[str, Any]:
    """Step one workload with every contestant there is, warm and cold."""
    steps, absent = make_steps(OPTIMIZERS, algorithm, work.groups)
    memory_bound = work.elements * BYTES_HELD_PER_ELEMENT > settings.cache_bytes
    if memory_bound:
        try:
            steps[SWEEP] = make_sweep(work.groups)
        except Absent as reason:
            absent[SWEEP] = str(reason)
    bystanders = machine.Bystanders()
    warm, cold = warm_rounds(steps, settings), cold_rounds(steps, settings)
    bytes_moved = work.elements * BYTES_PER_ELEMENT[algorithm] if memory_bound else None
    return {
        "name": work.name,
        "groups": len(work.groups),
        "tensors": work.tensors,
        "elements": work.elements,
        "memory_bound": memory_bound,
        "baseline": BASELINE,
        **verdict(warm, work.target),
        "warm": results.column(warm, BASELINE, bytes_moved),
        "cold": results.column(cold, BASELINE, bytes_moved),
        "absent": absent,
        "bystanders": bystanders.share(),
    }


def verdict(warm: Times, target: float | None) -> dict[str, Any]:
    """The promise, whether it is kept, and how near we are to a sweep that computes nothing."""
    ours = speedups(warm, BASELINE)[OURS].median if OURS in warm else None
    limit = speedups(warm, SWEEP)[OURS] if OURS in warm and SWEEP in warm else None
    return {
        "target": target,
        "met": None if target is None or ours is None else ours >= target,
        "share_of_sweep": limit and asdict(limit),
    }

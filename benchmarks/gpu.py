"""`gpu`: the step on a CUDA device, against torch's, other fused optimizers and a plain copy."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from tqdm import tqdm

from benchmarks import algorithms, gpu_device, gpu_report, machine, measuring, results
from benchmarks.contestants import BASELINE, OURS
from benchmarks.gpu_device import TRACED, Clock, per_step, record
from benchmarks.gpu_lineup import (
    ADAMW,
    ALGORITHMS,
    CAPTURED,
    DEFAULT,
    DeviceLineup,
    captured,
    line_up,
    reason,
)
from benchmarks.measuring import Folder
from benchmarks.suites import GPU
from benchmarks.timing import Settings, single_rounds, warm_rounds
from benchmarks.workloads import MI, Workload, one_tensor

FEWEST_ROUNDS, MOST_ROUNDS = 9, 41
LEAST_SECONDS = 0.01  # per contestant and round
COPY_BYTES = 1 << 30
GRAPHS = ("64 Mi float32", "1000 x 64", "GPT-2 small")

# What is promised: at least so many times as fast as torch's fused path, at least this part of a
# copy's bytes per second where memory is what limits, and no waiting for the device.
NOT_SLOWER = 0.97
NEAR_THE_COPY = 0.9
NO_WAITS = 0


@dataclass(frozen=True)
class Session:
    """What all measurements share.

    Args:
        clock: of the device.
        cache_bytes: of the device; what is larger is limited by memory.
        copy: bytes per second of a plain copy.
        largest: elements of the largest workload.
    """

    clock: Clock
    cache_bytes: int
    copy: float
    largest: int


@dataclass(frozen=True)
class Task:
    """One entry of a section of the result, made in so many seconds, more or less."""

    section: str
    name: str
    run: Callable[[float], dict[str, Any]]


def command(
    device: Annotated[str, typer.Option(help="The device; cpu is a rehearsal.")] = "cuda:0",
    seconds: Annotated[float, typer.Option(min=1, help="Time for everything.")] = 150,
    largest: Annotated[int, typer.Option(min=1, help="Elements of a workload.")] = 256 * MI,
    folder: Folder = results.FOLDER,
) -> None:
    """Time AdamW in many shapes and in CUDA graphs, and every algorithm, on a GPU; count launches.

    The result file is written again after each measurement: what was measured is never lost.
    """
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("torch finds no CUDA device", param_hint="--device")
    end = perf_counter() + seconds
    tqdm.monitor_interval = 0  # no second thread while measuring
    clock = gpu_device.clock_of(chosen)
    copy = gpu_device.copy_bandwidth(clock, min(COPY_BYTES, 8 * largest))
    session = Session(clock, gpu_device.cache_bytes(chosen), copy["bytes_per_second"], largest)
    result = {
        **results.document("gpu", machine.describe(), settings_of(session), []),
        "device": gpu_device.describe(chosen),
        "copy": copy,
    }
    stem = folder / results.file_stem("gpu")
    measure_all(tasks_of(session), end, result, stem.with_suffix(".json"))
    console = Console()
    gpu_report.show(result, console)
    gpu_report.save_plot(result, stem.with_suffix(".png"))
    console.print(f"Written: {stem.name}.json and {stem.name}.png in {folder.name}/")
    if result["failed"] or gpu_report.faults(result):
        raise typer.Exit(1)


def settings_of(session: Session) -> Settings:
    return Settings(MOST_ROUNDS, LEAST_SECONDS, session.cache_bytes)


def tasks_of(session: Session) -> list[Task]:
    """Everything to measure.

    What the profiler leaves behind slows launches, so only the algorithms come after it: on their
    one large tensor that does not show.
    """
    works = {work.name: work for work in GPU if work.elements <= session.largest}
    classes = [
        Workload(name, one_tensor(min(64 * MI, session.largest))) for name in algorithms.names()
    ]
    graphs = [name for name in GRAPHS if name in works and session.clock.device.type == "cuda"]
    return [
        *(Task("workloads", name, partial(adamw, session, work)) for name, work in works.items()),
        *(Task("graphs", name, partial(graph, session, works[name])) for name in graphs),
        *(Task("traces", name, partial(traced, session, work)) for name, work in works.items()),
        *(Task("algorithms", w.name, partial(one_class, session, w)) for w in classes),
    ]


def measure_all(tasks: Sequence[Task], end: float, result: dict[str, Any], path: Path) -> None:
    """Carry out the tasks, which share the time left evenly; save the growing result after each."""
    result |= {section: [] for section in gpu_report.SECTIONS}
    result |= {"failed": {}, "left_out": []}
    for position, task in enumerate(tqdm(tasks, disable=None, leave=False)):
        left = end - perf_counter()
        if left <= 0:
            result["left_out"].append(f"{task.section}: {task.name}")
            continue
        gc.collect()  # so that the device has its memory back
        try:
            result[task.section].append(task.run(left / (len(tasks) - position)))
        except Exception as error:  # the others may still tell something
            result["failed"][f"{task.section}: {task.name}"] = reason(error)
        results.save(result, path)
    results.save(result, path)


# ---- the tasks


def adamw(session: Session, work: Workload, seconds: float) -> dict[str, Any]:
    """AdamW on one workload."""
    return compare(session, work, partial(line_up, ADAMW, "AdamW"), BASELINE, seconds)


def one_class(session: Session, work: Workload, seconds: float) -> dict[str, Any]:
    """The algorithm that the workload is named after."""
    made = compare(session, work, partial(line_up, ALGORITHMS, work.name), DEFAULT, seconds)
    made["reads_twice"] = algorithms.reads_twice(work.name)
    return {**made, "promises": promises_on_time(made)}


def graph(session: Session, work: Workload, seconds: float) -> dict[str, Any]:
    """AdamW in a CUDA graph, with a learning rate that lies on the device."""
    hypers = {"lr": torch.tensor(1e-3, device=session.clock.device)}
    in_graph = partial(line_up, CAPTURED, "AdamW", start=captured, hypers=hypers)
    return compare(session, work, in_graph, BASELINE, seconds)


def traced(session: Session, work: Workload, seconds: float) -> dict[str, Any]:
    """What each contestant's step of AdamW launches and copies, and whether it waits."""
    lineup = line_up(ADAMW, "AdamW", work, session.clock)
    idle = record(lambda: None, 1, session.clock)
    counts = {
        name: per_step(record(step, TRACED, session.clock), idle, TRACED)
        for name, step in lineup.steps.items()
    }
    return {
        "name": work.name,
        "counts": counts,
        "absent": lineup.absent,
        "promises": promises_on_waits(counts),
    }


def compare(
    session: Session,
    work: Workload,
    make: Callable[[Workload, Clock], DeviceLineup],
    baseline: str,
    seconds: float,
) -> dict[str, Any]:
    """Time the steps of a line-up in about so many seconds, on the device and on the host."""
    end = perf_counter() + seconds
    bystanders = machine.Bystanders()
    lineup = make(work, session.clock)
    rounds = rounds_until(end, lineup, session)
    settings = replace(settings_of(session), rounds=rounds)
    times = warm_rounds(lineup.steps, settings, session.clock.time_batch)
    host = single_rounds(lineup.steps, rounds, session.clock.synchronize)
    base = baseline if baseline in times else next(iter(times), "")
    made = {
        "name": work.name,
        "dtype": work.dtype,
        "groups": len(work.groups),
        "tensors": work.tensors,
        "elements": work.elements,
        "memory_bound": lineup.held_bytes > session.cache_bytes,
        "baseline": base,
        "warm": results.column(times, base, lineup.step_bytes),
        "host": results.column(host, base, {}),
        "onepass_over": measuring.verdict(times, {})["onepass_over"],
        "absent": lineup.absent,
        "differs": lineup.differs,
        "compile_seconds": {},
        "bystanders": bystanders.share(),
    }
    for row in made["warm"].values():
        row["share_of_copy"] = row["bytes_per_second"] / session.copy
    return {**made, "promises": promises_on_time(made)}


def rounds_until(end: float, lineup: DeviceLineup, session: Session) -> int:
    """As many rounds as there is time for, by the time that one takes."""
    start = perf_counter()
    trial = replace(settings_of(session), rounds=1)
    warm_rounds(lineup.steps, trial, session.clock.time_batch)
    single_rounds(lineup.steps, 1, session.clock.synchronize)
    now = perf_counter()
    affordable = int((end - now) / max(now - start, 1e-9))
    return min(MOST_ROUNDS, max(FEWEST_ROUNDS, affordable))


# ---- the verdict


def promises_on_time(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Which promises on time a measured workload keeps; none where onepass did not take part."""
    if OURS not in made["warm"]:
        return []
    kept = []
    if over := made["onepass_over"].get(made["baseline"]):
        what = f"times as fast as {made['baseline']}"
        kept.append(promise(what, over["median"], at_least=NOT_SLOWER))
    if made["memory_bound"] and not made.get("reads_twice"):
        share = made["warm"][OURS]["share_of_copy"]
        kept.append(promise("of a copy's bytes per second", share, at_least=NEAR_THE_COPY))
    return kept


def promises_on_waits(counts: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether onepass never waits for the device; None where that could not be seen."""
    if OURS not in counts:
        return []
    return [promise("waits for the device", counts[OURS]["waits"], at_most=NO_WAITS)]


def promise(
    what: str, value: float | None, at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    """A promise with what was measured."""
    met = None
    if value is not None:
        met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return {"what": what, "value": value, "at_least": at_least, "at_most": at_most, "met": met}

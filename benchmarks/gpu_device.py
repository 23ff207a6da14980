"""The device: its clock, its facts, what it does in a step.

Note [Three times] The host only hands work to the device. So a step has the time that it takes when
steps follow one another (by the device's events; the longer of the host's and the device's part),
the time that the host alone takes to hand over a step to an idle device, and the time that kernels
and copies run (by the profiler).
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import machine
from benchmarks.timing import Settings, Step, Summary, time_batch, warm_rounds

COPY_ROUNDS = 21
COPY_SECONDS = 0.01
TRACED = 4  # steps under the profiler


class Clock(Protocol):
    """Times what a device does."""

    device: torch.device
    activity: ProfilerActivity

    def synchronize(self) -> None:
        """Wait until the device has nothing left to do."""

    def time_batch(self, step: Step, batch: int) -> float:
        """Seconds that `batch` steps take together when others came before."""


class EventClock:
    """The clock of a CUDA device: events between the steps."""

    activity = ProfilerActivity.CUDA

    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.cuda.set_device(device)  # events are recorded on the stream of the current device

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def time_batch(self, step: Step, batch: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        step()  # the device is busy when the first timed step is handed to it
        start.record()
        for _ in range(batch):
            step()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


class HostClock:
    """The clock of the CPU, where everything can be tried but nothing is learnt about a GPU."""

    activity = ProfilerActivity.CPU

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def synchronize(self) -> None:
        pass

    def time_batch(self, step: Step, batch: int) -> float:
        return time_batch(step, batch)


def clock_of(device: torch.device) -> Clock:
    """The clock that tells how long a device works."""
    return EventClock(device) if device.type == "cuda" else HostClock(device)


# ---- what it is


def describe(device: torch.device) -> dict[str, Any]:
    """The device as the result file names it."""
    if device.type != "cuda":
        return {"name": machine.cpu_model()}
    facts = torch.cuda.get_device_properties(device)
    return {
        "name": facts.name,
        "capability": f"{facts.major}.{facts.minor}",
        "memory_bytes": facts.total_memory,
        "cache_bytes": facts.L2_cache_size,
        "multiprocessors": facts.multi_processor_count,
        "driver": machine.output_of(
            "nvidia-smi",
            "--query-gpu=driver_version",
            "--format=csv,noheader",
            f"--id={device.index or 0}",
        ),
        "cuda": torch.version.cuda,
    }


def cache_bytes(device: torch.device) -> int:
    """Size of the last cache before memory."""
    if device.type != "cuda":
        return machine.last_level_cache_bytes()
    return torch.cuda.get_device_properties(device).L2_cache_size


def copy_bandwidth(clock: Clock, most_bytes: int) -> dict[str, Any]:
    """How fast memory is: bytes read plus written per second by a large copy on the device."""
    source = torch.ones(most_bytes, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    settings = Settings(COPY_ROUNDS, COPY_SECONDS)
    rounds = warm_rounds({"copy": lambda: target.copy_(source)}, settings, clock.time_batch)
    seconds = Summary.of(rounds["copy"])
    return {
        "bytes": 2 * most_bytes,
        "seconds": asdict(seconds),
        "bytes_per_second": 2 * most_bytes / seconds.median,
    }


# ---- what it does in a step


@dataclass
class Trace:
    """What the profiler saw.

    Args:
        work: kernels, copies and fills of the device.
        calls: calls of the CUDA runtime and driver, by name.
        busy_seconds: time that the work took on the device.
    """

    work: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    busy_seconds: float = 0.0


WORK = {"kernel": "kernels", "gpu_memcpy": "copies", "gpu_memset": "fills"}
CALLS = ("cuda_runtime", "cuda_driver")
BLOCKING = ("cudaMemcpy", "cudaMemcpy2D", "cudaFree", "cuMemcpyDtoH_v2", "cuMemcpyHtoD_v2")


def read_trace(events: Iterable[dict[str, Any]]) -> Trace:
    """Count the events of a trace in Chrome's format, as torch.profiler exports it."""
    trace = Trace()
    for event in events:
        category = event.get("cat")
        if event.get("ph") != "X":  # an arrow from a call to its kernel, or a label
            continue
        if category in WORK:
            trace.work[WORK[category]] += 1
            trace.busy_seconds += float(event.get("dur", 0)) / 1e6
        elif category in CALLS:
            trace.calls[event["name"]] += 1
    return trace


def waits(call: str) -> bool:
    """Whether a call of the runtime or the driver makes the host wait for the device."""
    return "Synchronize" in call or call in BLOCKING


def per_step(trace: Trace, idle: Trace, steps: int) -> dict[str, Any]:
    """What one step does; `idle` is what the profiler does by itself, such as waiting at its end.

    Where no call that launches work was seen, nothing is said about waiting: the profiler was deaf.
    """
    calls = {
        name: (count - idle.calls[name]) / steps
        for name, count in sorted(trace.calls.items())
        if count > idle.calls[name]
    }
    heard = any("Launch" in name for name in calls)
    return {
        **{name: (trace.work[name] - idle.work[name]) / steps for name in WORK.values()},
        "waits": sum(count for name, count in calls.items() if waits(name)) if heard else None,
        "busy_seconds": (trace.busy_seconds - idle.busy_seconds) / steps,
        "calls": calls,
    }


def record(step: Step, steps: int, clock: Clock) -> Trace:
    """Take steps under torch's profiler."""
    clock.synchronize()
    with TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        with profile(activities=[clock.activity]) as profiler:
            time_batch(step, steps)
        profiler.export_chrome_trace(str(path))
        return read_trace(json.loads(path.read_text(), strict=False)["traceEvents"])

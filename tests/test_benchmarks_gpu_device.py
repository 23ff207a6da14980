"""The benchmark on a GPU: the profiler's counts, the clocks, who steps. A CPU rehearses it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import onepass
from benchmarks import agreement, gpu_device, gpu_lineup, timing
from benchmarks.contestants import BASELINE, COMPARED, OURS, Contestant, make_groups
from benchmarks.gpu_device import HostClock, per_step, read_trace
from benchmarks.timing import Settings
from benchmarks.workloads import Workload, one_group, one_tensor

CPU = HostClock(torch.device("cpu"))
ONE = Workload("one", one_tensor(64))
MANY = Workload("many", one_group(3, 4))


def event(category: str, name: str, **more: Any) -> dict[str, Any]:
    """Returns an event as torch.profiler exports it."""
    return {"ph": "X", "cat": category, "name": name, "ts": 1.0, "dur": 2.0, **more}


STEP_OF_TORCH = [
    event("cuda_runtime", "cudaLaunchKernel"),
    event("cuda_driver", "cuLaunchKernelEx"),
    event("kernel", "void at::native::multi_tensor_apply_kernel<...>(...)", dur=5.0),
    event("kernel", "void at::native::vectorized_elementwise_kernel<4, ...>(...)", dur=1.0),
    event("cuda_runtime", "cudaMemcpyAsync"),
    event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)"),
    event("gpu_memset", "Memset (Device)"),
    event("cuda_runtime", "cudaStreamSynchronize"),
    {"ph": "s", "cat": "ac2g", "name": "ac2g", "ts": 1.0, "id": 7},
    {"ph": "M", "name": "process_name", "args": {"name": "python"}},
    event("gpu_user_annotation", "Optimizer.step#AdamW.step"),
    event("cpu_op", "aten::add_"),
]
END_OF_THE_PROFILER = [event("cuda_runtime", "cudaDeviceSynchronize")]

# ---- what the profiler saw


def test_kernels_copies_and_fills_are_counted_and_nothing_else() -> None:
    trace = read_trace(STEP_OF_TORCH)
    assert trace.work == {"kernels": 2, "copies": 1, "fills": 1}
    assert trace.busy_seconds == pytest.approx(10e-6)
    assert set(trace.calls) == {
        "cudaLaunchKernel",
        "cuLaunchKernelEx",
        "cudaMemcpyAsync",
        "cudaStreamSynchronize",
    }


def test_counts_are_of_one_step_and_without_what_the_profiler_does_itself() -> None:
    trace = read_trace([*STEP_OF_TORCH * 4, *END_OF_THE_PROFILER])
    counts = per_step(trace, read_trace(END_OF_THE_PROFILER), 4)
    assert (counts["kernels"], counts["copies"], counts["fills"]) == (2, 1, 1)
    assert counts["waits"] == 1  # not 1.25
    assert counts["busy_seconds"] == pytest.approx(10e-6)
    assert "cudaDeviceSynchronize" not in counts["calls"]


def test_a_step_that_never_waits_has_no_waits() -> None:
    launches = [event("cuda_runtime", "cudaLaunchKernel"), event("kernel", "sweep")]
    idle = read_trace(END_OF_THE_PROFILER)
    trace = read_trace([*launches * 4, *END_OF_THE_PROFILER])
    assert per_step(trace, idle, 4)["waits"] == 0


def test_where_no_calls_are_seen_nothing_is_said_of_waiting() -> None:
    trace = read_trace([event("kernel", "sweep")] * 4)
    assert per_step(trace, read_trace([]), 4)["waits"] is None


@pytest.mark.parametrize(
    ("call", "does"),
    [
        ("cudaStreamSynchronize", True),
        ("cudaEventSynchronize", True),
        ("cuCtxSynchronize", True),
        ("cudaMemcpy", True),
        ("cudaMemcpyAsync", False),
        ("cudaLaunchKernel", False),
        ("cudaStreamIsCapturing", False),
        ("cudaStreamWaitEvent", False),
    ],
)
def test_calls_that_make_the_host_wait(call: str, does: bool) -> None:
    assert gpu_device.waits(call) == does


def test_the_profiler_of_this_torch_is_read() -> None:
    trace = gpu_device.record(lambda: torch.ones(4).add_(1), 2, CPU)
    assert not trace.work and not trace.calls


@pytest.mark.cuda
def test_a_gpus_kernels_and_waits_are_seen() -> None:
    clock = gpu_device.clock_of(torch.device("cuda:0"))
    number = torch.ones((), device=clock.device)
    number.add_(1).item()  # both kernels are loaded now
    idle = gpu_device.record(lambda: None, 1, clock)
    silent = per_step(gpu_device.record(lambda: number.add_(1), 4, clock), idle, 4)
    asking = per_step(gpu_device.record(lambda: number.item(), 4, clock), idle, 4)
    assert (silent["kernels"], silent["copies"], silent["waits"]) == (1, 0, 0)
    assert (asking["kernels"], asking["copies"]) == (0, 1) and asking["waits"] >= 1


# ---- clocks


class FakeEvent:
    """Tells when it was recorded on a device that takes 2 ms for a step."""

    log: list[str]

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = self.log.count("step")
        self.log.append("record")

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.log[-1] == "synchronize"
        return 2.0 * (end.at - self.at)


def test_events_time_a_batch_on_a_busy_device(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeEvent.log = []
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    clock = gpu_device.clock_of(torch.device("cuda:0"))
    seconds = clock.time_batch(lambda: FakeEvent.log.append("step"), 3)
    assert seconds == pytest.approx(0.006)
    assert FakeEvent.log == ["step", "record", *["step"] * 3, "record", "synchronize"]


def test_rounds_are_timed_by_the_clock_of_the_device() -> None:
    timer = lambda step, batch: 0.25 * batch  # noqa: E731
    times = timing.warm_rounds({"a": lambda: None}, Settings(rounds=3), timer)
    assert times == {"a": [0.25] * 3}


def test_the_copy_counts_what_it_reads_and_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_device, "warm_rounds", lambda *_: {"copy": [1.0, 2.0, 4.0]})
    copy = gpu_device.copy_bandwidth(CPU, 1000)
    assert (copy["bytes"], copy["bytes_per_second"]) == (2000, 1000.0)


# ---- who steps


@pytest.mark.parametrize(
    ("dtype", "options", "moved", "held"),
    [("float32", {}, 28, 16), ("bfloat16", {}, 14, 8),
     ("bfloat16", {"state_dtype": torch.float32}, 22, 12)],
)  # fmt: skip
def test_bytes_are_those_of_parameter_states_and_gradient(
    dtype: str, options: dict[str, Any], moved: int, held: int
) -> None:
    optimizer = onepass.AdamW(make_groups(ONE.groups, CPU.device, getattr(torch, dtype)), **options)
    optimizer.step()
    assert gpu_lineup.count_bytes(optimizer) == (64 * moved, 64 * held)


def test_each_contestant_has_the_bytes_of_its_own_states() -> None:
    lineup = gpu_lineup.line_up(gpu_lineup.ALGORITHMS, "SGD", ONE, CPU)
    assert set(lineup.step_bytes.values()) == {64 * 4 * 5} and lineup.held_bytes == 64 * 4 * 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_contestants_that_compute_the_same_do_not_differ(dtype: str) -> None:
    work = Workload("some", one_tensor(10_000), dtype=dtype)
    lineup = gpu_lineup.line_up(gpu_lineup.ADAMW[:3], "AdamW", work, CPU)
    assert list(lineup.steps) == [BASELINE, "torch foreach", OURS]
    assert lineup.differs == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("factor", "percent"), [(0.0, "100.0%"), (1.1, "10.0%")])
def test_a_contestant_that_does_something_else_is_named(
    monkeypatch: pytest.MonkeyPatch, dtype: str, factor: float, percent: str
) -> None:
    other = type("AdamW", (torch.optim.AdamW,), {})
    real = Contestant.find
    monkeypatch.setattr(
        Contestant, "find", lambda self, name: other if self.name == "odd" else real(self, name)
    )
    init = torch.optim.AdamW.__init__
    other.__init__ = lambda self, params, lr, **more: init(  # type: ignore[misc]
        self, params, lr * factor, **{**more, "weight_decay": 1e-2}
    )
    work = Workload("small numbers", one_tensor(10_000), dtype=dtype)
    rows = (gpu_lineup.ADAMW[0], Contestant("odd", "nowhere"))
    lineup = gpu_lineup.line_up(rows, "AdamW", work, CPU)
    assert set(lineup.steps) == set(lineup.step_bytes) == {BASELINE, "odd"}
    assert set(lineup.differs) == {"odd"}
    if dtype == "float32":
        assert lineup.differs["odd"] == f"its move differs by {percent}"


def test_nan_is_not_the_same() -> None:
    first, second, start = (make_groups(ONE.groups) for _ in range(3))
    for one in (first, second):
        torch.optim.SGD(one, lr=0.1).step()
    assert agreement.difference(first, second, start) == 0
    second[0]["params"][0].data[3] = torch.nan
    assert not agreement.difference(first, second, start) <= 1


def test_who_fails_is_absent_and_the_others_go_on() -> None:
    def fails_for_ours(optimizer: torch.optim.Optimizer) -> timing.Step:
        if isinstance(optimizer, onepass.AdamW):
            raise RuntimeError("CUDA error: an illegal memory access\nand so on")
        return gpu_lineup.started(optimizer)

    rows = gpu_lineup.ADAMW[:3]
    lineup = gpu_lineup.line_up(rows, "AdamW", MANY, CPU, fails_for_ours)
    assert lineup.absent[OURS] == "RuntimeError: CUDA error: an illegal memory access"
    assert set(lineup.steps) == {BASELINE, "torch foreach"}


def test_peers_are_looked_for_under_their_own_names() -> None:
    peer = Contestant("peer", "no_such_module", classes=gpu_lineup.APEX.classes)
    lineup = gpu_lineup.line_up([peer], "LAMB", ONE, CPU)
    assert lineup.absent == {"peer": "no_such_module.FusedLAMB not found (ModuleNotFoundError)"}


@pytest.mark.cuda
def test_the_replay_of_a_graph_is_a_step() -> None:
    clock = gpu_device.clock_of(torch.device("cuda:0"))
    params = make_groups(MANY.groups, clock.device)
    eager = make_groups(MANY.groups, clock.device)
    rate = torch.tensor(1e-3, device=clock.device)
    replay = gpu_lineup.captured(torch.optim.AdamW(params, lr=rate, capturable=True))
    timing.time_batch(replay, COMPARED - gpu_lineup.STARTING)
    timing.time_batch(torch.optim.AdamW(eager, lr=1e-3).step, COMPARED)
    assert agreement.difference(params, eager, make_groups(MANY.groups, clock.device)) < 1e-3

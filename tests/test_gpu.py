"""What only a GPU can show: nothing waits, graphs, streams, several devices, GradScaler."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import onepass
from tests.cases import Case
from tests.devices import CUDA, Pair, leaves, of
from tests.layouts import same_bits
from tests.support import SHAPES, each_case, params_of, randn


@contextmanager
def no_waiting() -> Iterator[None]:
    """Makes whatever waits for the device an error."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")
@each_case
def test_no_step_waits_for_the_device(case: Case) -> None:
    for options in ({}, {"fused": True}, {"capturable": True}):
        params = [p.detach().cuda().requires_grad_() for p in leaves((*SHAPES, 2100))]
        optimizer = case.ours(params, **options)
        scale, found_inf = torch.ones((), device="cuda"), torch.zeros((), device="cuda")
        for _ in range(3):
            for param in params:
                param.grad = torch.randn_like(param)
            if "fused" in options:
                optimizer.grad_scale, optimizer.found_inf = scale, found_inf
            with no_waiting():
                optimizer.step()


class Captured:
    """An optimizer in a graph, and its twin that was never captured."""

    def __init__(self, case: Case) -> None:
        self.options: dict[str, Any] = {"lr": 0.1}
        if "weight_decay" in inspect.signature(case.ours).parameters:
            self.options["weight_decay"] = 0.1
        params = leaves((*SHAPES, 2100))
        self.ours = self._made(case, params)
        self.twin = self._made(case, params)
        self.graph = torch.cuda.CUDAGraph()

    def _made(self, case: Case, params: list[Tensor]) -> Any:
        moved = [p.detach().cuda().requires_grad_() for p in params]
        made = case.ours(moved, capturable=True, **self.options)
        for key, number in self.options.items():
            made.param_groups[0][key] = torch.tensor(number, device="cuda")
        return made

    def _params(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(params_of(self.ours), params_of(self.twin), strict=True)

    def set_gradients(self, seed: int) -> None:
        for k, (here, there) in enumerate(
            zip(*map(params_of, (self.ours, self.twin)), strict=True)
        ):
            there.grad = randn(here.shape, here.dtype, 100 * seed + k).cuda()
            # A graph keeps the address of a gradient.
            here.grad = there.grad.clone() if here.grad is None else here.grad.copy_(there.grad)

    def capture(self) -> None:
        for seed in (1, 2):
            self.set_gradients(seed)
            self.ours.step()
            self.twin.step()
        with torch.cuda.graph(self.graph):
            self.ours.step()

    def schedule(self) -> None:
        for optimizer in (self.ours, self.twin):
            for key in self.options:
                optimizer.param_groups[0][key].mul_(0.8)

    def check(self) -> None:
        for here, there in self._params():
            assert same_bits(here.cpu(), there.cpu())
            for key, value in self.twin.state.get(there, {}).items():
                assert same_bits(self.ours.state[here][key].cpu(), value.cpu()), key


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore")  # of torch, that a capturable class steps uncaptured
@each_case
def test_c14_a_captured_step_follows_rates_and_counts_that_change(case: Case) -> None:
    """Replays are the steps of an optimizer that was never captured, bit for bit."""
    pair = Captured(case)
    pair.capture()
    for seed in range(3, 9):
        pair.set_gradients(seed)
        pair.schedule()
        pair.graph.replay()
        pair.twin.step()
        pair.check()


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore")
def test_a_graph_outlives_later_steps_and_the_optimizer() -> None:
    param = torch.ones(5000, device="cuda", requires_grad=True)
    param.grad = torch.ones_like(param)
    optimizer = onepass.SGD([param], lr=torch.tensor(0.5, device="cuda"), capturable=True)
    optimizer.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for _ in range(3):
        optimizer.step()
    rate = optimizer.param_groups[0]["lr"]
    del optimizer
    junk = [torch.full((1 << 20,), -1.0, device="cuda") for _ in range(8)]
    graph.replay()
    torch.cuda.synchronize()
    assert junk and rate.item() == 0.5
    assert torch.equal(param.detach().cpu(), torch.full((5000,), 1 - 5 * 0.5))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["AdamW", "LAMB", "NAdam"])
def test_steps_run_in_the_stream_that_is_current(name: str) -> None:
    pair = Pair(of(name), CUDA, [{"params": leaves((*SHAPES, 100_000))}])
    streams = [torch.cuda.Stream() for _ in range(2)]
    for seed in range(1, 7):
        pair.set_gradients(seed)
        torch.cuda.synchronize()
        stream = streams[seed % 2]
        stream.wait_stream(streams[1 - seed % 2])
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10_000_000)
            for param in params_of(pair.theirs):  # a step elsewhere would see the old ones
                param.grad.mul_(2)
            pair.theirs.step()
        for param in params_of(pair.ours):
            param.grad.mul_(2)
        pair.ours.step()
    torch.cuda.synchronize()
    pair.check()


@pytest.mark.cuda
@pytest.mark.parametrize("fused", [None, True])
def test_one_optimizer_steps_parameters_of_the_cpu_and_of_a_device(fused: bool | None) -> None:
    here = leaves((33, 2100, 5, 77))
    there = [(p.detach().cuda() if k % 2 else p.detach().clone()).requires_grad_()
             for k, p in enumerate(here)]  # fmt: skip
    optimizers = [
        of("SGD").ours(p, momentum=0.9, dampening=0.5, fused=fused) for p in (here, there)
    ]
    for seed, skipped in ((1, True), (2, False), (3, True), (4, False)):
        for k, (a, b) in enumerate(zip(here, there, strict=True)):
            a.grad = randn(a.shape, a.dtype, 10 * seed + k)
            b.grad = a.grad.to(b.device)
        if fused:
            optimizers[1].grad_scale = torch.ones((), device="cuda")
            optimizers[1].found_inf = torch.full((), float(skipped), device="cuda")
        optimizers[1].step()
        if not (fused and skipped):
            optimizers[0].step()
        for a, b in zip(here, there, strict=True):
            assert same_bits(a, b.cpu()), seed


@pytest.mark.cuda
def test_parameters_of_one_optimizer_lie_on_several_devices() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    case = of("NAdam")
    here = leaves((33, 2100, 5, 77))
    there = [p.detach().to(f"cuda:{k % 2}").requires_grad_() for k, p in enumerate(here)]
    optimizers = case.ours(here, lr=0.1), case.ours(there, lr=torch.tensor(0.1, device="cuda:1"))
    for seed in (1, 2, 3):
        for k, (a, b) in enumerate(zip(here, there, strict=True)):
            a.grad = randn(a.shape, a.dtype, 10 * seed + k)
            b.grad = a.grad.to(b.device)
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(here, there, strict=True):
        assert same_bits(a, b.cpu())


@pytest.mark.cuda
def test_tensors_on_different_devices_are_refused_before_anything_is_written() -> None:
    for key in ("exp_avg", "step"):
        optimizer = onepass.AdamW([torch.ones(3, device="cuda", requires_grad=True)], fused=True)
        (param,) = params_of(optimizer)
        param.grad = torch.ones_like(param)
        optimizer.step()
        before = param.detach().clone()
        optimizer.state[param][key] = optimizer.state[param][key].cpu()
        optimizer.found_inf = torch.zeros((), device="cuda")
        with pytest.raises(RuntimeError, match=f"{key} of parameter 0 of group 0"):
            optimizer.step()
        assert torch.equal(param, before)


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adagrad", "RMSprop"])
def test_c10_under_gradscaler_as_torch_does(name: str) -> None:
    case = of(name)
    assert case.theirs is not None
    found = []
    for cls, options in ((case.ours, {"fused": True}), (case.ours, {}), (case.theirs, {})):
        weight = torch.ones(64, device="cuda", requires_grad=True)
        optimizer = cls([weight], lr=0.1, **options)
        scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10, growth_interval=3)
        for step in range(8):
            optimizer.zero_grad()
            loss = (weight * (float("inf") if step in (0, 4) else 0.5 + step)).sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        found.append(weight.detach().cpu())
    torch.testing.assert_close(found[0], found[2], rtol=1e-5, atol=1e-6)
    assert torch.equal(found[0], found[1])

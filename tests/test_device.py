"""Kernels compute the bits of the CPU's loops, whatever they are launched over, and wait for none.

On a GPU these tests carry the marker cuda. In a build with ONEPASS_CUDA=emulate the same kernels
run on the CPU, their threads in several orders, and every access is counted and checked.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing._internal.two_tensor import TwoTensor

import onepass
from onepass.rules import RULES
from tests.cases import CASES, Case
from tests.devices import (
    CUDA,
    ELEMENTS,
    EMULATION,
    HERE,
    Device,
    Pair,
    each_device,
    each_kind_of_device,
    each_whole_device,
    leaves,
    of,
)
from tests.layouts import READABLE, WRITABLE, place, same_bits
from tests.oracle import all_states_on
from tests.support import REAL, SHAPES, each_case, params_of, randn

CHUNK = 2048  # elements of the smallest share of a thread block
SUMMING = [case for case in CASES if RULES[case.ours.rule].sums]


def two_groups(params: list[Tensor]) -> list[dict[str, Any]]:
    return [{"params": params[:3]}, {"params": params[3:], "lr": 0.03}]


def richest(case: Case) -> dict[str, Any]:
    """Returns options with which the class has all its states."""
    return {**case.settings[1], **all_states_on(case)}


# ---- the same bits


@each_case
@each_device
def test_every_class_computes_the_bits_of_the_cpu_in_every_dtype(
    case: Case, device: Device
) -> None:
    for options in (*case.settings, *case.extras):
        for dtype in (*REAL, torch.complex64):
            if options.get("cautious") and dtype.is_complex:
                continue
            for fused in (None, True):
                params = leaves((*SHAPES, 2100), dtype)
                pair = Pair(case, device, two_groups(params), fused=fused, **options)
                pair.check_steps(3, f"{options}, {dtype}, fused={fused}")


@each_case
@each_kind_of_device
def test_parameters_gradients_and_states_have_dtypes_of_their_own(
    case: Case, device: Device
) -> None:
    options = richest(case)
    for param_dtype, grad_dtype, state_dtype in itertools.product(REAL, REAL, (None, *REAL)):
        param = randn((77,), param_dtype, 1).requires_grad_()
        param.grad_dtype = None
        pair = Pair(case, device, [{"params": [param]}], state_dtype=state_dtype, **options)
        for seed in (1, 2):
            param.grad = randn((77,), grad_dtype, seed)
            pair.step(0)
            pair.check(f"{param_dtype}, {grad_dtype}, {state_dtype}")


@pytest.mark.sanitize
@each_case
@each_kind_of_device
def test_tensors_lie_in_memory_as_they_like(case: Case, device: Device) -> None:
    shapes = ((), (5, 7), (2, 3, 4, 5))
    options = richest(case)
    for name, layout in (*WRITABLE.items(), *READABLE.items()):
        for shape in shapes:
            param = randn(shape, torch.float32, 1)
            if name in WRITABLE:
                param = place(param, layout).view
            pair = Pair(case, device, [{"params": [param.requires_grad_()]}], **options)
            for seed in (1, 2):
                param.grad = place(randn(shape, torch.float32, seed), layout).view
                pair.step(0)
                pair.check(f"{name}, {shape}")


@each_kind_of_device
def test_only_the_elements_of_a_view_are_written(device: Device) -> None:
    for shape, layout in itertools.product(((5, 7), (2, 3, 4)), WRITABLE.values()):
        placed = place(randn(shape, torch.float32, 1), layout)
        there = device.put(placed.view.requires_grad_())
        there.grad = device.put(randn(shape, torch.float32, 2))
        with device.running():
            onepass.AdamW([there], lr=0.1).step()
        memory = torch.empty(0).set_(there.detach().cpu().untyped_storage())
        after = memory.view(torch.int32)[: len(placed.memory)]
        before = placed.before.view(torch.int32)
        assert torch.equal(after[~placed.own], before[~placed.own])
        assert not torch.equal(after[placed.own], before[placed.own])


@pytest.mark.sanitize
@each_kind_of_device
def test_every_alignment_and_every_length_of_the_edge(device: Device) -> None:
    adamw = of("AdamW")
    for dtype, offset in itertools.product(REAL, range(8)):
        sizes = (*range(1, 20), CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5)
        memory = randn((sum(sizes) + offset,), dtype, 3)
        views = memory[offset:].split(list(sizes))
        pair = Pair(adamw, device, [{"params": [view.requires_grad_() for view in views]}])
        pair.check_steps(2, f"{dtype}, offset {offset}")


@pytest.mark.sanitize
@each_device
def test_one_tensor_or_thousands_with_empty_ones_anywhere(device: Device) -> None:
    draw = random.Random(0)
    for count in (1, 2, 3, 1000 if device in (CUDA, ELEMENTS) else 100):
        for name in ("AdamW", "LAMB"):
            case = of(name)
            sizes = [draw.choice((0, 0, 1, 3, 7, 64, 300)) for _ in range(count)]
            sizes[draw.randrange(count)] = 5000
            groups = [{"params": leaves(sizes)[k::7], "lr": 0.01 * k} for k in range(7)]
            pair = Pair(case, device, [group for group in groups if group["params"]])
            pair.check_steps(2, f"{name}, {count} tensors")


@pytest.mark.sanitize
@pytest.mark.parametrize("case", SUMMING, ids=str)
@each_device
def test_sums_over_a_parameter_are_added_in_the_order_of_the_cpu(
    case: Case, device: Device
) -> None:
    for dtype, size in ((torch.float32, 300_000), (torch.float64, 140_001), (torch.bfloat16, 1025)):
        pair = Pair(case, device, [{"params": leaves((size, 3, 1024), dtype)}])
        pair.check_steps(2, f"{dtype}, {size}")


@each_kind_of_device
def test_tied_memory_is_stepped_in_the_order_of_the_parameters(device: Device) -> None:
    memory = randn((100,), torch.float32, 1)
    there = device.put(memory)
    sgd = of("SGD")

    def run(shared: Tensor) -> Tensor:
        views = [shared[:60].requires_grad_(), shared[40:].requires_grad_()]
        for k, view in enumerate(views):
            view.grad = randn((60,), torch.float32, k).to(shared.device)
        sgd.ours(views, lr=0.1, weight_decay=0.1).step()
        return shared.detach().cpu()

    with device.running():
        found = run(there)
    assert same_bits(found, run(memory))


# ---- what a step takes


def record_of(device: Device, optimizer: Any) -> dict[str, Any]:
    EMULATION.take_record()
    with device.running():
        optimizer.step()
    record: dict[str, Any] = EMULATION.take_record()
    return record


def launched(record: dict[str, Any]) -> list[str]:
    """Returns the kernels that ran: sweep, prepare and so on."""
    return [name.strip("(").split("<")[0] for name in record["launches"]]


def with_gradients(params: list[Tensor]) -> list[Tensor]:
    for k, param in enumerate(params):
        param.grad = randn(param.shape, param.dtype, 100 + k)
    return params


@pytest.mark.emulated
@each_case
def test_no_byte_is_read_or_written_twice(case: Case) -> None:
    """A rule that waits for sums reads what it sums over once more."""
    for options in ({}, richest(case)):
        for dtype, size in ((torch.float32, 4), (torch.float64, 8), (torch.bfloat16, 2)):
            optimizer = case.ours(with_gradients(leaves((4096, 5), dtype)), **options)
            rule = RULES[optimizer.rule]
            states = len(list(rule.states_in(optimizer.param_groups[0])))
            record = record_of(HERE, optimizer)
            elements = 4096 + 5
            reads = (2 if "sum_blocks" in launched(record) else 1) * (2 + states)
            assert record["loads"]["bytes"] == elements * size * reads
            assert record["stores"]["bytes"] == elements * size * (1 + states)


@pytest.mark.emulated
def test_adamw_moves_28_bytes_a_parameter_and_all_but_the_edge_in_words_of_16() -> None:
    optimizer = onepass.AdamW(with_gradients(leaves((CHUNK * 3 + 2,))))
    record = record_of(HERE, optimizer)
    assert record["loads"]["bytes"] + record["stores"]["bytes"] == 28 * (CHUNK * 3 + 2)
    assert record["loads"]["words"] == {16: 4 * CHUNK * 3 // 4, 4: 4 * 2}
    assert record["stores"]["words"] == {16: 3 * CHUNK * 3 // 4, 4: 3 * 2}


@pytest.mark.emulated
def test_a_thousand_tensors_in_465_groups_take_one_sweep_and_one_small_launch() -> None:
    params = with_gradients(leaves([64] * 1000))
    groups = [{"params": params[k::465], "lr": 1e-3 * k} for k in range(465)]
    for _ in range(2):
        record = record_of(HERE, onepass.AdamW(groups))
        assert launched(record) == ["prepare", "sweep"]


@pytest.mark.emulated
def test_each_dtype_of_the_arithmetic_takes_one_sweep() -> None:
    params = [p for dtype in REAL for p in with_gradients(leaves((9, 70), dtype))]
    assert launched(record_of(HERE, onepass.AdamW(params))) == ["prepare", "sweep"] * 2


# ---- what lies on the device stays there


def on_device(device: Device, number: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(number, dtype=dtype, device=device.name)


@each_case
@each_whole_device
def test_rates_that_are_tensors_of_the_device_count_as_numbers_do(
    case: Case, device: Device
) -> None:
    options = dict(case.settings[1])
    for dtype in (torch.float32, torch.float64):
        tensors: dict[str, Any] = {
            "lr": on_device(device, options.get("lr", 1e-2), dtype),
        }
        if "betas" in options:
            tensors["betas"] = tuple(on_device(device, beta, dtype) for beta in options["betas"])
        plain: dict[str, Any] = {"lr": tensors["lr"].item()}
        if "betas" in options:
            plain["betas"] = tuple(beta.item() for beta in tensors["betas"])
        pair = Pair(case, device, [{"params": leaves(SHAPES)}], **{**options, **plain})
        for group in pair.theirs.param_groups:
            group.update(tensors)
        for seed in (1, 2, 3):
            pair.step(seed)
            pair.check(f"{dtype}, step {seed}")
            tensors["lr"].mul_(0.5)
            for group in pair.ours.param_groups:
                group["lr"] = tensors["lr"].item()


@each_case
@each_whole_device
def test_c10_an_overflow_found_on_the_device_skips_the_whole_step(
    case: Case, device: Device
) -> None:
    for options in (*case.settings, *case.extras):
        pair = Pair(case, device, [{"params": leaves((*SHAPES, 2100))}], fused=True, **options)
        # The first step of all, and one later on: on the CPU they are not taken.
        for skipped, seed in ((True, 1), (False, 2), (True, 3), (False, 4)):
            before = snapshot_there(pair) if seed > 1 else {}
            for here, there in pair._params():
                here.grad = randn(here.shape, here.dtype, seed)
                there.grad = device.put(here).grad
            pair.theirs.grad_scale = on_device(device, 1.0)
            pair.theirs.found_inf = on_device(device, float(skipped))
            with device.running():
                pair.theirs.step()
            del pair.theirs.grad_scale, pair.theirs.found_inf
            if skipped:
                after = snapshot_there(pair)
                assert all(torch.equal(before[key], after[key]) for key in before), options
            else:
                pair.ours.step()
                pair.check(f"{options}, step {seed}")


def snapshot_there(pair: Pair) -> dict[Any, Tensor]:
    """Returns copies of the parameters and states on the device."""
    seen = {}
    for k, there in enumerate(params_of(pair.theirs)):
        seen["param", k] = there.detach().clone()
        for key, value in pair.theirs.state.get(there, {}).items():
            seen[key, k] = value.clone()
    return seen


@pytest.mark.sanitize
@each_case
@each_whole_device
def test_c10_gradients_are_unscaled_and_written_back(case: Case, device: Device) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        pair = Pair(case, device, [{"params": leaves((*SHAPES, 2100), dtype)}], fused=True)
        for seed, shape in ((1, ()), (2, (1,))):
            for here, there in pair._params():
                here.grad = 3 * randn(here.shape, here.dtype, seed)
                there.grad = device.put(here).grad
            for optimizer, name in ((pair.ours, "cpu"), (pair.theirs, device.name)):
                optimizer.grad_scale = torch.full(shape, 3.0, device=name)
                optimizer.found_inf = torch.zeros(shape, device=name)
            pair.ours.step()
            with device.running():
                pair.theirs.step()
            pair.check(f"{dtype}, step {seed}")
            for here, there in pair._params():
                assert same_bits(here.grad, there.grad.cpu())


@each_whole_device
def test_a_number_on_the_device_that_kernels_cannot_read_is_refused(device: Device) -> None:
    params = [device.put(p) for p in with_gradients(leaves((3,)))]
    optimizer = onepass.AdamW(params)
    optimizer.param_groups[0]["lr"] = on_device(device, 0.1, torch.float16)
    before = params[0].detach().clone()
    with device.running(), pytest.raises(TypeError, match="lr has dtype Half"):
        optimizer.step()
    assert torch.equal(params[0], before) and not optimizer.state


@each_kind_of_device
def test_sparse_gradients_are_refused_before_anything_is_written(device: Device) -> None:
    param = device.put(torch.ones(4, 2).requires_grad_())
    param.grad = torch.ones(4, 2, device=device.name).to_sparse(1)
    with device.running(), pytest.raises(RuntimeError, match="sparse, which only steps on the CPU"):
        onepass.AdamW([param]).step()
    assert torch.equal(param.detach().cpu(), torch.ones(4, 2))


@pytest.mark.emulated
def test_a_launch_that_fails_is_told() -> None:
    optimizer = onepass.AdamW(with_gradients(leaves((3,))))
    with HERE.running():
        EMULATION.fail_next_launch()
        with pytest.raises(RuntimeError, match="the step on cpu failed: unspecified launch"):
            optimizer.step()


@pytest.mark.emulated
def test_a_launch_that_fails_leaves_a_subclass_its_state() -> None:
    """The step is taken by then, whatever the device made of it."""
    param = TwoTensor(torch.ones(4), torch.ones(4)).requires_grad_()
    param.grad = TwoTensor(torch.ones(4), torch.ones(4))
    optimizer = onepass.AdamW([param])
    with HERE.running():
        EMULATION.fail_next_launch()
        with pytest.raises(RuntimeError, match="the step on cpu failed: unspecified launch"):
            optimizer.step()
    assert "exp_avg" in optimizer.state[param]


# ---- the tables that kernels read


@pytest.mark.emulated
def test_a_captured_step_has_tables_of_its_own_that_later_steps_leave_alone() -> None:
    case = of("AdamW")
    pair = Pair(case, HERE, [{"params": leaves((9, 2100))}], capturable=True)
    pair.check_steps(2)
    EMULATION.set_capturing(True)
    pair.step(3)
    pair.check("captured")
    pair.check_steps(2)


@each_kind_of_device
def test_one_optimizer_steps_parameters_here_and_on_the_device(device: Device) -> None:
    case = of("NAdam")
    pair = Pair(case, device, [{"params": leaves(SHAPES)}])
    pair.check_steps(2)
    extra = leaves((33,))
    pair.theirs.add_param_group({"params": [device.put(p) for p in extra]})
    pair.ours.add_param_group({"params": extra})
    pair.check_steps(2)
    pair.theirs.load_state_dict(pair.ours.state_dict())
    pair.check("loaded")
    pair.check_steps(1)


@each_whole_device
@pytest.mark.parametrize("options", ({"max_grad_norm": 1.0}, {"skip_nonfinite": True}), ids=str)
def test_clipping_on_a_device_is_refused_in_words(device: Device, options: dict[str, Any]) -> None:
    pair = Pair(of("AdamW"), device, [{"params": leaves((3,))}], **options)
    pair.set_gradients(1)
    with device.running(), pytest.raises(RuntimeError, match=r"clip_grad_norm_ before step\(\)"):
        pair.theirs.step()
    assert not pair.theirs.state

"""What each rank does in tests/test_in_backward_ranks.py; assertions hold on every rank."""

from __future__ import annotations

import contextlib
import copy
import itertools
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import onepass
from onepass.rules import RULES
from tests.backward_models import Model, groups_of, loss_of
from tests.cases import CASES
from tests.support import params_of, raw

SUMS = [case for case in CASES if RULES[case.ours.rule].sums]
Loop = tuple[Any, Any, Any]  # a wrapped model, its optimizer, and the handle or None


def train(loop: Loop, steps: int, micro_batches: int = 1, rare_on: tuple[int, ...] = ()) -> None:
    """Trains on batches that differ between ranks.

    The rare layer runs in the first micro-batch of every second step, on some ranks.
    """
    wrapped, optimizer, stepping = loop
    for number, k in itertools.product(range(steps), range(micro_batches)):
        is_last = k + 1 == micro_batches
        keeping: Any = contextlib.nullcontext()
        if not is_last:
            keeping = wrapped.no_sync() if stepping is None else stepping.accumulating()
        with keeping:
            is_rare = number % 2 == 1 and k == 0 and dist.get_rank() in rare_on
            loss_of(wrapped, 100 * number + 10 * k + dist.get_rank(), is_rare).backward()
        if is_last and stepping is None:
            optimizer.step()
            optimizer.zero_grad()
        assert is_last == all(param.grad is None for param in params_of(optimizer))


def contents(optimizer: Any) -> list[bytes]:
    """Returns the bytes of what this rank has of parameters and states."""
    params = params_of(optimizer)
    states = (value for param in params for value in optimizer.state.get(param, {}).values())
    return [raw(local(value)) for value in (*params, *states)]


def local(tensor: Any) -> Tensor:
    held: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return held


def assert_alike(ordinary: Loop, ours: Loop, about: object) -> None:
    assert contents(ordinary[1]) == contents(ours[1]), about


# ---- DDP


def under_ddp(cls: Any, is_ours: bool, **options: Any) -> Loop:
    model = Model()
    if not options.get("find_unused_parameters"):
        model.rare.requires_grad_(False)
    wrapped = DistributedDataParallel(model, bucket_cap_mb=2e-4, **options)
    optimizer = cls(groups_of(model), lr=0.02)
    stepping = onepass.in_backward(optimizer, ddp=wrapped) if is_ours else None
    return wrapped, optimizer, stepping


def every_class_under_ddp() -> None:
    for case in CASES:
        loops = [under_ddp(case.ours, is_ours) for is_ours in (False, True)]
        for loop in loops:
            train(loop, 3, 2)
        assert_alike(*loops, case)
        ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, contents(loops[1][1]))
        assert all(one == ranks[0] for one in ranks)


def every_mode_of_ddp() -> None:
    for options in (
        {"gradient_as_bucket_view": True},
        {"find_unused_parameters": True},
        {"find_unused_parameters": True, "gradient_as_bucket_view": True},
        {"static_graph": True},
    ):
        loops = [under_ddp(onepass.AdamW, is_ours, **options) for is_ours in (False, True)]
        for loop in loops:
            micro_batches = 1 if "static_graph" in options else 3
            train(loop, 4, micro_batches, (1,) if "find_unused_parameters" in options else ())
        assert_alike(*loops, options)


def a_backward_alone_within_accumulating_is_averaged_and_kept() -> None:
    loops = [under_ddp(onepass.AdamW, is_ours) for is_ours in (False, True)]
    for wrapped, optimizer, stepping in loops:
        keeping = wrapped.no_sync if stepping is None else stepping.accumulating
        for number in range(6):
            loss = loss_of(wrapped, 10 * number + dist.get_rank())
            with keeping() if number % 2 == 0 else contextlib.nullcontext():
                loss.backward()
            if number % 2 == 1 and stepping is None:
                optimizer.step()
                optimizer.zero_grad()
    assert_alike(*loops, "forward outside")


def batches_that_end_earlier_on_one_rank() -> None:
    loops = [under_ddp(onepass.AdamW, is_ours) for is_ours in (False, True)]
    for loop in loops:
        with loop[0].join():
            train(loop, 2 + 2 * dist.get_rank())
    assert_alike(*loops, "join")


def reentrant_checkpoints_under_ddp() -> None:
    """Each is a backward of its own, in which DDP may get its last gradients."""
    loops = []
    for is_ours in (False, True):
        model = Inputs()
        wrapped = DistributedDataParallel(model)
        optimizer = onepass.AdamW(model.parameters(), lr=0.1)
        loops.append((model, optimizer))
        if is_ours:
            onepass.in_backward(optimizer, ddp=wrapped)
        for number in range(3):
            x = torch.full((2, 3), float(number + dist.get_rank())).requires_grad_()
            wrapped(x).square().sum().backward()
            if not is_ours:
                optimizer.step()
                optimizer.zero_grad()
    assert contents(loops[0][1]) == contents(loops[1][1])


class Inputs(torch.nn.Module):
    """Has its first layer in a reentrant checkpoint, inside of which the last gradients come."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        inner = checkpoint(self.first, x, use_reentrant=True)
        out: Tensor = self.last(inner)
        return out


def several_optimizers_share_a_ddp() -> None:
    wrapped, optimizer, stepping = under_ddp(onepass.AdamW, True)
    stepping.remove()
    params = params_of(optimizer)
    parts = [onepass.SGD(params[:2], lr=0.1), onepass.Lion(params[2:], lr=0.1)]
    handles = [onepass.in_backward(part, ddp=wrapped) for part in parts]
    before = [raw(param) for param in params if param.requires_grad]
    loss_of(wrapped, 1).backward()
    after = [raw(param) for param in params if param.requires_grad]
    assert all(a != b for a, b in zip(after, before, strict=True))
    for handle in handles:
        handle.remove()
    loss_of(wrapped, 2).backward()
    assert [raw(param) for param in params if param.requires_grad] == after
    assert params[0].grad is not None  # averaged as ever
    other = copy.deepcopy(wrapped)
    again = onepass.SGD(other.parameters(), lr=0.1)
    onepass.in_backward(again, ddp=other)
    loss_of(other, 3).backward()
    assert raw(params_of(again)[0]) != after[0]


def another_ddp_than_that_of_the_parameters_is_refused() -> None:
    wrapped, optimizer, _ = under_ddp(onepass.AdamW, False)
    with pytest.raises(RuntimeError, match=r"parameter 0 of group 0 .*ddp=model"):
        onepass.in_backward(optimizer)
    unwrapped = onepass.AdamW(Model().parameters())
    with pytest.raises(ValueError, match="ddp has none of the optimizer's parameters"):
        onepass.in_backward(unwrapped, ddp=wrapped)
    onepass.in_backward(unwrapped)
    wrapped.register_comm_hook(None, allreduce_hook)
    with pytest.raises(RuntimeError, match="can only be called once"):
        onepass.in_backward(optimizer, ddp=wrapped)
    optimizer.step()


def errors_under_ddp_name_the_parameter() -> None:
    wrapped, optimizer, _ = under_ddp(onepass.AdamW, True)
    loss_of(wrapped, 1).backward()
    optimizer.state[params_of(optimizer)[3]]["exp_avg"] = torch.ones(3)
    with pytest.raises(RuntimeError, match="parameter 0 of group 1"):
        loss_of(wrapped, 2).backward()


# ---- FSDP


def sharded(cls: Any, is_ours: bool, layers: tuple[int, ...] = (0, 1, 2), **options: Any) -> Loop:
    model = Model()
    for layer in layers:
        fully_shard(model.blocks[layer])
    fully_shard(model)
    optimizer = cls(groups_of(model), lr=0.02, **options)
    return model, optimizer, onepass.in_backward(optimizer) if is_ours else None


def every_class_under_fsdp() -> None:
    eight_bits: dict[str, Any] = {"state_dtype": torch.int8}
    asked = [(case, {}) for case in CASES if case not in SUMS]
    adamw = next(case for case in CASES if case.ours is onepass.AdamW)
    for case, options in (*asked, (adamw, eight_bits)):
        loops = [sharded(case.ours, is_ours, **options) for is_ours in (False, True)]
        for model, optimizer, stepping in loops:
            model.no_sync = contextlib.nullcontext  # gradients are kept after their reduction
            before = contents(optimizer)[: len(params_of(optimizer))]
            train((model, optimizer, stepping), 3, 2, rare_on=(0, 1))
            assert contents(optimizer)[: len(before)] != before
        assert_alike(*loops, (case, options))


def accumulation_before_the_reduction() -> None:
    # The layer that runs twice would be reduced twice then: first what was kept.
    loops = [sharded(onepass.AdamW, is_ours, layers=(0, 2)) for is_ours in (False, True)]
    for model, optimizer, stepping in loops:
        for number in range(6):
            model.set_requires_gradient_sync(number % 2 == 1)
            loss_of(model, 10 * number + dist.get_rank()).backward()
            if stepping is None and number % 2 == 1:
                optimizer.step()
                optimizer.zero_grad()
    assert_alike(*loops, "accumulation")


def parts_of_what_is_summed_are_refused_at_once() -> None:
    for case in SUMS:
        with pytest.raises(TypeError, match="sums over whole parameters"):
            sharded(case.ours, True)


def flat_parameters_are_refused_at_once() -> None:
    for use_orig_params in (True, False):
        wrapped = FullyShardedDataParallel(
            torch.nn.Linear(4, 4),
            use_orig_params=use_orig_params,
            device_id=torch.device("cpu"),
        )
        with pytest.raises(TypeError, match=r"FSDP1 .*fully_shard"):
            onepass.in_backward(onepass.AdamW(wrapped.parameters()))

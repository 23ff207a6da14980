"""What each rank does in tests/test_dtensor_ranks.py; assertions hold on every rank."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import onepass
from onepass.rules import RULES
from tests.cases import CASES
from tests.support import make_params, params_of, randn, raw, set_grads

PLACED = (Replicate(), Shard(0), Shard(1), Partial(), Partial("avg"))
SUMS = [case for case in CASES if RULES[case.ours.rule].sums]


def placed(full: Tensor, mesh: Any, placement: Any) -> Any:
    """Returns a DTensor of the same numbers on every rank, a half exactly in each summand."""
    if not placement.is_partial():
        return distribute_tensor(full.clone(), mesh, [placement])
    share = full / mesh.size() if placement.reduce_op == "sum" else full.clone()
    return DTensor.from_local(share, mesh, [placement])


def gradients_of_any_placement() -> None:
    """Every class, every placement of the parameter: the steps of the same plain tensor."""
    mesh = init_device_mesh("cpu", (2,))
    for case, (own, of_grad) in itertools.product(CASES, itertools.product(PLACED[:3], PLACED)):
        if RULES[case.ours.rule].sums and own != Replicate():
            continue
        plain = case.ours(make_params(((4, 6),)), **case.settings[1])
        (reference,) = params_of(plain)
        param = torch.nn.Parameter(placed(reference.detach(), mesh, own))
        spread = case.ours([param], **case.settings[1])
        before = raw(reference)
        for number in range(3):
            set_grads([reference], number)
            param.grad = placed(reference.grad, mesh, of_grad)
            plain.step()
            spread.step()
            assert param.grad.placements == (of_grad,)
        about = f"{case} {own} {of_grad}"
        assert raw(param.full_tensor()) == raw(reference) != before, about
        for key, value in spread.state.get(param, {}).items():
            if isinstance(value, DTensor):
                assert value.placements == (own,), about
                assert raw(value.full_tensor()) == raw(plain.state[reference][key]), about


def states_of_eight_bits() -> None:
    """Of rows: those of the plain tensor that each process holds, in tensors placed alike."""
    mesh = init_device_mesh("cpu", (2,))
    full = randn((5, 70), torch.float32, 1)
    param = torch.nn.Parameter(distribute_tensor(full, mesh, [Shard(0)]))
    local = param.to_local().detach().clone().requires_grad_()
    spread, plain = (onepass.AdamW([p], state_dtype=torch.int8) for p in (param, local))
    for number in range(2):
        param.grad = distribute_tensor(randn((5, 70), torch.float32, 5 + number), mesh, [Shard(0)])
        local.grad = param.grad.to_local().clone()
        spread.step()
        plain.step()
    assert torch.equal(param.to_local(), local)
    for key, value in plain.state[local].items():
        placed_alike = spread.state[param][key]
        if key != "step":
            assert placed_alike.placements == (Shard(0),)
            assert torch.equal(placed_alike.to_local(), value), key
    assert spread.state[param]["exp_avg_exponent"].shape == (5, 2)
    numbers = onepass.to_float32_state_dict(spread)["state"][0]["exp_avg"]
    assert numbers.shape == (5, 70) and numbers.placements == (Shard(0),)
    again = onepass.AdamW([param], state_dtype=torch.int8)
    again.load_state_dict(spread.state_dict())
    assert raw(again.state[param]["exp_avg"].to_local()) == raw(
        spread.state[param]["exp_avg"].to_local()
    )
    columns = torch.nn.Parameter(distribute_tensor(full, mesh, [Shard(1)]))
    columns.grad = distribute_tensor(full, mesh, [Shard(1)])
    try:
        onepass.AdamW([columns], state_dtype=torch.int8).step()
    except ValueError as error:
        assert "Shard(0)" in str(error)
    else:
        raise AssertionError("columns were taken")


def states_of_any_placement() -> None:
    """As a checkpoint of torch's SGD has them: its momentum is placed as the gradient was."""
    mesh = init_device_mesh("cpu", (2,))
    for own, of_state in itertools.product(PLACED[:3], PLACED[:3]):
        ours, theirs = (
            module.SGD([weight(mesh, own)], lr=0.1, momentum=0.9)
            for module in (onepass, torch.optim)
        )
        for number in range(3):
            for optimizer in (ours, theirs):
                (param,) = params_of(optimizer)
                param.grad = placed(randn((4, 6), torch.float32, number), mesh, of_state)
                optimizer.step()
            if number == 0:
                ours.load_state_dict(theirs.state_dict())
                buffer = ours.state[params_of(ours)[0]]["momentum_buffer"]
                assert buffer.placements == (of_state,)
        a, b = (params_of(optimizer)[0].full_tensor() for optimizer in (ours, theirs))
        torch.testing.assert_close(a, b)
        assert ours.state[params_of(ours)[0]]["momentum_buffer"].placements == (own,)


def weight(mesh: Any, placement: Any) -> Tensor:
    return torch.nn.Parameter(placed(randn((4, 6), torch.float32, 9), mesh, placement))


def scaled_gradients_of_another_placement() -> None:
    mesh = init_device_mesh("cpu", (2,))
    param, reference = weight(mesh, Shard(0)), randn((4, 6), torch.float32, 9).requires_grad_()
    gradient = randn((4, 6), torch.float32, 1)
    for each, grad in ((param, placed(gradient, mesh, Partial())), (reference, gradient.clone())):
        optimizer = onepass.AdamW([each], fused=True)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
        each.grad = grad
        optimizer.step()
    assert raw(param.full_tensor()) == raw(reference)
    assert raw(param.grad.full_tensor()) == raw(reference.grad) == raw(gradient / 4)


def refusals_before_collectives() -> None:
    """A first parameter that would be redistributed, and a second that is refused on rank 1 too."""
    mesh, other = init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (1, 2))
    ones = torch.ones(4, 6)
    refused = {
        "Partial": (placed(ones, mesh, Partial()), placed(ones, mesh, Partial())),
        "one mesh": (
            placed(ones, mesh, Shard(0)),
            distribute_tensor(ones, other, [Replicate(), Replicate()]),
        ),
        "Shard": (placed(ones, mesh, Shard(0)), distribute_tensor(ones, other, [Shard(0)] * 2)),
        "its gradient is a Tensor": (placed(ones, mesh, Shard(0)), ones),
        "its gradient is a DTensor": (ones.clone(), placed(ones, mesh, Replicate())),
    }
    cases = [case for case in CASES if case not in SUMS]
    for case, (words, (value, grad)) in itertools.product(cases, refused.items()):
        first, second = weight(mesh, Replicate()), torch.nn.Parameter(value)
        first.grad = placed(ones, mesh, Partial())
        second.grad = None
        try:
            second.grad = grad
        except RuntimeError:
            continue
        optimizer = case.ours([first, second])
        count, before = len(optimizer.state), raw(first.to_local())
        try:
            optimizer.step()
        except TypeError as error:
            assert words in str(error) and "parameter 1 of group 0" in str(error), error
        else:
            raise AssertionError(f"{case} {words}: stepped")
        assert (len(optimizer.state), raw(first.to_local())) == (count, before)


def late_gradients() -> None:
    """The result of a collective that has not been waited for."""
    mesh = init_device_mesh("cpu", (2,))
    for own in PLACED[:3]:
        params = [weight(mesh, own) for _ in range(2)]
        for asynchronous, param in zip((False, True), params, strict=True):
            partial = placed(randn((4, 6), torch.float32, 1), mesh, Partial())
            param.grad = partial.redistribute(placements=[own], async_op=asynchronous)
            before = raw(param.full_tensor())
            onepass.AdamW([param], lr=0.1).step()
            assert raw(param.full_tensor()) != before
        assert raw(params[0].full_tensor()) == raw(params[1].full_tensor())


# ---- FSDP


def model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 3))


def bytes_of_this_process() -> None:
    for case in CASES:
        if case in SUMS:
            continue
        for options in (*case.settings, {"state_dtype": torch.bfloat16}):
            net = model()
            fully_shard(net)
            told = onepass.state_bytes(net, case.ours, **options)
            optimizer = case.ours(net.parameters(), **options)
            net(torch.ones(2, 5)).square().sum().backward()
            before = [raw(param.to_local()) for param in net.parameters()]
            optimizer.step()
            if case.ours is onepass.ADOPT:  # which only looks in the first
                optimizer.step()
            after = [raw(param.to_local()) for param in net.parameters()]
            assert all(a != b or not a for a, b in zip(after, before, strict=True)), case
            taken = sum(
                (value.to_local() if isinstance(value, DTensor) else value)
                .untyped_storage()
                .nbytes()
                for state in optimizer.state.values()
                for value in state.values()
            )
            assert optimizer.state_bytes() == told == taken, (case, options)
    shares: list[Any] = [None, None]
    dist.all_gather_object(shares, taken)
    assert shares[0] != shares[1]  # of 7 rows one rank has 4


def eight_bits_under_fsdp() -> None:
    """Checkpoints of shards and of the whole go on, of states whose blocks no shard cuts."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(70, 7), torch.nn.Linear(7, 130))
    fully_shard(net)
    optimizer, *others = (
        onepass.AdamW(net.parameters(), lr=0.1, state_dtype=torch.int8) for _ in range(3)
    )
    for _ in range(2):
        net(torch.randn(2, 70)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()  # else torch makes no state to load into
    for whole, other in zip((False, True), others, strict=True):
        saved = get_optimizer_state_dict(
            net, optimizer, options=StateDictOptions(full_state_dict=whole, cpu_offload=whole)
        )
        set_optimizer_state_dict(
            net,
            other,
            optim_state_dict=saved,
            options=StateDictOptions(full_state_dict=whole, broadcast_from_rank0=whole),
        )
        for param in net.parameters():
            for key, value in optimizer.state[param].items():
                pair = [v.to_local() if isinstance(v, DTensor) else v
                        for v in (value, other.state[param][key])]  # fmt: skip
                assert torch.equal(*pair), (whole, key)


def flat_shards_of_fsdp() -> None:
    cautious = [case for case in CASES if any("cautious" in extra for extra in case.extras)]
    asked = [(case, {}) for case in SUMS] + [(case, {"cautious": True}) for case in cautious]
    for (case, options), use_orig_params, strategy in itertools.product(
        asked, (True, False), (ShardingStrategy.FULL_SHARD, ShardingStrategy.NO_SHARD)
    ):
        net = FullyShardedDataParallel(
            model(), use_orig_params=use_orig_params, sharding_strategy=strategy,
            device_id=torch.device("cpu"),
        )  # fmt: skip
        optimizer = case.ours(net.parameters(), lr=0.1, **options)
        net(torch.ones(2, 5)).square().sum().backward()
        graded = [param for param in net.parameters() if param.grad is not None and param.numel()]
        before = [raw(param) for param in graded]
        is_whole = use_orig_params and strategy == ShardingStrategy.NO_SHARD
        try:
            optimizer.step()
        except TypeError as error:
            assert not is_whole and "sums over whole parameters" in str(error), error
            assert [raw(param) for param in graded] == before and not optimizer.state
        else:
            assert is_whole or not graded, (case, use_orig_params, strategy)
            assert [raw(param) for param in graded] != before

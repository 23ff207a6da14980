"""Tensor subclasses as parameters and in DTensors: their inner tensors are stepped, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.two_tensor import TwoTensor

import onepass
from tests.cases import CASES, Case
from tests.support import each_case, make_params, params_of, randn, raw, set_grads
from tests.wrapped import Float8Weight, Int8Weight, Scaled

IN = {
    "alone": lambda tensor, mesh: tensor,
    "in a DTensor": lambda tensor, mesh: DTensor.from_local(tensor, mesh, [Shard(0)]),
}
each_place = pytest.mark.parametrize("place", IN.values(), ids=IN)


def values_of(optimizer: Any) -> dict[str, bytes]:
    """Returns the bytes of plain parameters and states, by names."""
    found = {}
    for k, param in enumerate(params_of(optimizer)):
        found[f"param {k}"] = raw(param)
        for key, value in optimizer.state.get(param, {}).items():
            found[f"{key} {k}"] = raw(value)
    return found


def part_of(tensor: Any, key: str) -> Tensor:
    inner: Tensor = getattr(getattr(tensor, "_local_tensor", tensor), key)
    return inner


@each_place
@pytest.mark.parametrize("case", [c for c in CASES if c.ours is not onepass.NovoGrad], ids=str)
def test_the_inner_tensors_of_a_subclass_step_as_plain_ones(
    case: Case, mesh: Any, place: Any
) -> None:
    """And the parameter beside it steps too."""
    for options in (*case.settings, *case.extras):
        plain = [case.ours(make_params(((4, 3), (5,)), seed=k), **options) for k in (1, 2)]
        a, b = (params_of(each)[0].detach().clone() for each in plain)
        pair = torch.nn.Parameter(place(TwoTensor(a, b), mesh))
        beside = params_of(plain[0])[1].detach().clone().requires_grad_()
        ours, before = case.ours([pair, beside], **options), (raw(a), raw(b), raw(beside))
        for number in range(3):
            for k, each in enumerate(plain):
                set_grads(params_of(each), 10 * k + number)
            gradients = [params_of(each)[0].grad for each in plain]
            pair.grad = place(TwoTensor(*(grad.clone() for grad in gradients)), mesh)
            beside.grad = params_of(plain[0])[1].grad.clone()
            for each in (*plain, ours):
                each.step()
        for old, key, each in zip(before, "ab", plain, strict=False):
            assert old != raw(part_of(pair, key)) == raw(params_of(each)[0]), options
            for name, value in each.state.get(params_of(each)[0], {}).items():
                own = ours.state[pair][name]
                assert raw(own if value.ndim == 0 else part_of(own, key)) == raw(value), name
        assert before[2] != raw(beside) == raw(params_of(plain[0])[1])


@each_place
@each_case
def test_a_weight_with_a_scale_beside_it_steps_as_a_plain_one(
    case: Case, mesh: Any, place: Any
) -> None:
    """As those of float8 training: the scale is of the next cast, all else is plain."""
    for options in case.settings:
        plain = case.ours(make_params(((4, 3),)), **options)
        weight = params_of(plain)[0].detach().clone()
        param = torch.nn.Parameter(place(Float8Weight(weight), mesh))
        ours, before = case.ours([param], **options), raw(weight)
        for number in range(3):
            set_grads(params_of(plain), number)
            param.grad = None
            gradient = place(params_of(plain)[0].grad.clone(), mesh)
            give_gradient(param, gradient)
            plain.step()
            ours.step()
        assert before != raw(weight) == raw(params_of(plain)[0]), options


def give_gradient(param: Tensor, gradient: Tensor) -> None:
    """Lets a parameter have a gradient of another class, as backward() may."""
    if type(param) is type(gradient):
        param.grad = gradient
    else:
        (param * 1.0).backward(gradient)


def ways_to_wait(mesh: Any) -> dict[str, Any]:
    """Returns parameters with gradients of ones, of which some part is still on its way."""

    def spread(local: Tensor) -> Any:
        return DTensor.from_local(local, mesh, [Replicate()])

    def late(local: Tensor) -> Any:
        return AsyncCollectiveTensor(local)

    def made(param: Any, grad: Any) -> Any:
        param = torch.nn.Parameter(param)
        param.grad = grad
        return param

    return {
        "gradient": made(spread(torch.ones(4)), spread(late(torch.ones(4)))),
        "parameter": made(spread(late(torch.ones(4))), spread(torch.ones(4))),
        "both": made(spread(late(torch.ones(4))), spread(late(torch.ones(4)))),
    }


@each_case
def test_what_is_on_its_way_is_waited_for(case: Case, mesh: Any) -> None:
    plain = case.ours([torch.ones(4, requires_grad=True)], lr=0.1)
    spread = ways_to_wait(mesh)
    ours = [case.ours([param], lr=0.1) for param in spread.values()]
    for _ in range(2):  # in the first, ADOPT only looks
        for optimizer in (plain, *ours):
            for param in params_of(optimizer):
                param.grad = torch.ones(4) if optimizer is plain else param.grad
            optimizer.step()
    wanted = raw(params_of(plain)[0])
    assert wanted != raw(torch.ones(4))
    assert {way: raw(p.full_tensor()) for way, p in spread.items()} == dict.fromkeys(spread, wanted)


def refused_pairs() -> dict[str, tuple[Tensor, Tensor]]:
    """Returns parameters and gradients that no step of inner tensors is right for."""
    ones = torch.ones(4)
    return {
        "scaled": (Scaled(torch.zeros(4)), ones),
        "whole numbers": (Int8Weight(torch.ones(4, dtype=torch.int8)), ones),
        "other inner tensors": (Float8Weight(ones.clone()), TwoTensor(ones, ones)),
        "plain gradient of two": (TwoTensor(ones.clone(), ones.clone()), ones),
        "gradient of two": (ones.clone(), TwoTensor(ones, ones)),
    }


@each_place
@pytest.mark.parametrize("kind", refused_pairs())
@each_case
def test_what_cannot_be_stepped_by_its_parts_is_refused_before_anything_is_written(
    case: Case, mesh: Any, kind: str, place: Any
) -> None:
    given = refused_pairs()[kind]
    param = torch.nn.Parameter(place(given[0], mesh))
    with torch.no_grad():
        try:
            param.grad = place(given[1], mesh)
        except RuntimeError:
            pytest.skip("torch does not let this be a gradient")
    beside = make_params(((3,),))[0]
    beside.grad = torch.ones(3)
    inner = [raw(part) for part in tensors_in(given[0])]
    optimizer = case.ours([beside, param])
    before = raw(beside), len(optimizer.state)  # torch's Adagrad makes states at once
    with pytest.raises(TypeError, match=r"parameter 1 of group 0"):
        optimizer.step()
    assert (raw(beside), len(optimizer.state)) == before
    assert [raw(part) for part in tensors_in(given[0])] == inner


def tensors_in(tensor: Any) -> list[Tensor]:
    if type(tensor) is Tensor:
        return [tensor]
    return [getattr(tensor, key) for key in tensor.__tensor_flatten__()[0]]


def test_a_number_of_the_whole_is_not_kept_for_several_inner_tensors() -> None:
    param = torch.nn.Parameter(TwoTensor(torch.ones(2), torch.ones(2)))
    param.grad = TwoTensor(torch.ones(2), torch.ones(2))
    with pytest.raises(TypeError, match="a number of each whole parameter, but parameter 0"):
        onepass.NovoGrad([param]).step()


def test_what_has_no_gradient_may_be_of_any_class(mesh: Any) -> None:
    frozen = torch.nn.Parameter(Int8Weight(torch.ones(4, dtype=torch.int8)), requires_grad=False)
    param = torch.nn.Parameter(DTensor.from_local(torch.ones(2), mesh, [Shard(0)]))
    param.grad = torch.ones_like(param)
    onepass.AdamW([frozen, param], lr=0.1).step()
    assert param.full_tensor().tolist() == pytest.approx([0.899] * 2)


def test_a_gradient_out_of_a_function_transform_is_no_silent_step() -> None:
    param, caught = torch.ones(3, requires_grad=True), []
    torch.vmap(lambda row: (caught.append(row), row)[1])(torch.ones(2, 3))
    param.grad = caught[0]
    optimizer = onepass.AdamW([param])
    with pytest.raises((RuntimeError, TypeError)):
        optimizer.step()
    assert param.tolist() == [1.0] * 3 and not optimizer.state


def test_autograd_sees_that_a_step_wrote_a_dtensor(mesh: Any) -> None:
    param = torch.nn.Parameter(
        DTensor.from_local(randn((3, 3), torch.float32, 1), mesh, [Shard(0)])
    )
    loss = (param @ param).sum()
    loss.backward(retain_graph=True)
    onepass.AdamW([param]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_steps_and_copies_of_a_subclass_go_on_from_its_state(mesh: Any) -> None:
    param = torch.nn.Parameter(TwoTensor(torch.ones(2), torch.zeros(2)))
    optimizer = onepass.AdamW([param], lr=0.1)
    for _ in range(2):
        param.grad = TwoTensor(torch.ones(2), torch.ones(2))
        optimizer.step()
    assert optimizer.state[param]["step"].item() == 2
    assert optimizer.state_bytes() == 4 + 2 * 2 * 2 * 4

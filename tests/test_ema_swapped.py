"""A model that holds its averages for a while, and leaves as it came whatever is done to it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import update_bn

from onepass.ema import EMA
from tests.averaged import Tied, after, shown
from tests.layouts import same_bits
from tests.support import raw


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_weights_come_back_after_a_swap_whatever_happens_in_it(dtype: torch.dtype) -> None:
    model = Tied(dtype)
    average = after(3, model, beta=0.9, use_buffers=True)
    model.train_on(7)
    with torch.no_grad():
        model.conv.bias[:3] = torch.tensor([float("nan"), -0.0, float("inf")])
    before, places = shown(average, model), [p.data_ptr() for p in model.parameters()]
    for failure in (None, ZeroDivisionError, KeyboardInterrupt):
        try:
            with average.swapped():
                for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                    assert same_bits(tensor, average.averages[name].to(tensor.dtype)) or (
                        tensor.dtype == torch.int64 and tensor == average.averages[name]
                    )
                with torch.no_grad():
                    model.first.weight += 1
                if failure is not None:
                    raise failure
        except (ZeroDivisionError, KeyboardInterrupt) as error:
            assert type(error) is failure
        assert shown(average, model) == before
    assert places == [p.data_ptr() for p in model.parameters()]


def test_an_average_that_is_swapped_in_is_left_alone() -> None:
    model = Tied()
    average = after(2, model)
    model.train_on(5)
    outside = shown(average, model)
    with average.swapped():
        inside = shown(average, model)
        for call in (
            average.update, average.copy_to, lambda: average.swapped().__enter__(),
            lambda: copy.deepcopy(average), lambda: pickle.dumps(average),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match=r"while it is swapped in.*leave the block"):
                call()
            assert shown(average, model) == inside
        saved = average.state_dict()
    assert inside != outside == shown(average, model)
    assert same_bits(saved["module.conv.bias"], average.averages["conv.bias"])
    average.update()


# ---- what a block may do, and what comes back


class Kinds(nn.Module):
    """Has a weight, normalized activations and buffers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.tied = self.linear
        self.register_buffer("expanded", torch.arange(3.0).reshape(3, 1).expand(3, 4))
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("phase", torch.tensor([1j, 2.0]))
        self.register_buffer("nowhere", torch.ones(2, device="meta"))
        self.register_buffer("absent", None)
        self.register_buffer("cache", torch.full((2,), 5.0), persistent=False)

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.linear(x))


def entries(model: nn.Module) -> list[Any]:
    """Returns which tensors a model has, where they are and what is in them."""
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
    seen: list[Any] = [list(model.state_dict())]
    for name, tensor in named:
        dense = tensor.layout == torch.strided and not tensor.is_meta
        place = tensor.data_ptr() if dense else None
        values = None if tensor.is_meta else raw(tensor.detach().to_dense().clone())
        seen.append((name, id(tensor), tensor.dtype, tensor.device, tensor.stride(), place)
                    if dense else (name, id(tensor)))  # fmt: skip
        seen.append(values)
    return seen


def calibrate(model: Any) -> None:
    update_bn([torch.randn(8, 3) for _ in range(3)], model)


def train(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()


def assign(model: Any) -> None:
    state = {name: torch.full_like(t, 3) if t.layout == torch.strided else t.clone()
             for name, t in model.state_dict().items()}  # fmt: skip
    model.load_state_dict(state, assign=True)


def convert_by_swapping(model: Any) -> None:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.linear.half()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def free(model: Any) -> None:
    model.linear.weight.untyped_storage().resize_(0)
    model.cache.untyped_storage().resize_(0)


def change_buffers(model: Any) -> None:
    del model.cache
    model.register_buffer("cache", torch.zeros(1))  # which is saved now
    del model.mask
    model.absent = torch.zeros(2)
    model.register_buffer("added", torch.zeros(2))
    model.norm.running_mean = torch.full((3,), 9.0)
    model.norm.register_buffer("added", torch.zeros(2), persistent=False)


def replace_parameters(model: Any) -> None:
    model.linear.weight = nn.Parameter(torch.zeros(3, 3))
    model.linear.bias.data = torch.zeros(3)


def raising(model: Any) -> None:
    change_buffers(model)
    raise ZeroDivisionError


BLOCKS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda model: None,
    "update_bn": calibrate,
    "reset": lambda model: model.norm.reset_running_stats(),
    "train": train,
    "load": lambda model: model.norm.load_state_dict(nn.BatchNorm1d(3).state_dict()),
    "assign": assign,
    "half": lambda model: model.half(),
    "double and back": lambda model: model.double().float(),
    "swap_tensors": convert_by_swapping,
    "device": lambda model: model.to("meta"),
    "free": free,
    "buffers": change_buffers,
    "parameters": replace_parameters,
    "parametrize": lambda model: (
        parametrize.register_parametrization(model.linear, "bias", nn.Identity())
        and parametrize.remove_parametrizations(model.linear, "bias")
    ),
    "raise": raising,
}


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_model_leaves_the_block_as_it_came(block: str, use_buffers: bool) -> None:
    model = Kinds()
    if use_buffers:  # which are averaged then, and those cannot be
        del model.sparse, model.nowhere, model.expanded
    average = EMA(model, 0.5, use_buffers=use_buffers)
    train(model)
    before = entries(model)
    averaged = [raw(tensor.clone()) for tensor in average.averages.values()]
    try:
        with average.swapped():
            assert same_bits(model.linear.weight, average.averages["linear.weight"])
            BLOCKS[block](model)
    except ZeroDivisionError:
        assert block == "raise"
    left = entries(model)
    if block == "free":  # torch has to allocate anew
        for one in (left, before):
            one[:] = [e[:-1] if isinstance(e, tuple) and len(e) > 2 else e for e in one]
    assert left == before
    assert [raw(tensor.clone()) for tensor in average.averages.values()] == averaged
    grad = model.linear.weight.grad
    assert grad is not None and grad.dtype == torch.float32 and not grad.is_meta
    average.update()


def test_the_statistics_of_the_averages_are_those_of_the_block_alone() -> None:
    """The issue: they stayed in the model that trains."""
    model = Kinds()
    average = EMA(model, 0.5)
    train(model)
    own = model.norm.running_mean.clone(), model.norm.num_batches_tracked.clone()
    with average.swapped():
        calibrate(model)
        assert not torch.equal(model.norm.running_mean, own[0])
        assert model.norm.num_batches_tracked == 3
        kept = copy.deepcopy(model.state_dict())
    assert torch.equal(model.norm.running_mean, own[0])
    assert torch.equal(model.norm.num_batches_tracked, own[1])
    assert kept["norm.num_batches_tracked"] == 3


def test_tensors_without_a_module_come_back_too() -> None:
    weight = torch.arange(3.0)
    average = EMA({"w": weight}, 0.5)
    weight.add_(1)
    place = weight.data_ptr()
    with average.swapped():
        weight.data = weight.data.double() * 7
    assert weight.tolist() == [1, 2, 3] and weight.data_ptr() == place


def test_averages_of_one_model_can_be_swapped_in_within_each_other() -> None:
    model = Kinds()
    slow, fast = EMA(model, 0.9), EMA(model, 0.1)
    for _ in range(2):
        train(model)
        slow.update()
        fast.update()
    before = entries(model)
    with slow.swapped():
        outer = entries(model)
        with fast.swapped():
            assert same_bits(model.linear.weight, fast.averages["linear.weight"])
        assert entries(model) == outer
    assert entries(model) == before


def test_a_buffer_made_in_inference_mode_comes_back_outside_of_it() -> None:
    model = Kinds()
    with torch.inference_mode():
        model.cache = torch.ones(2)
    average = EMA(model, 0.5)
    with average.swapped(), torch.inference_mode():
        model.cache.zero_()
    assert model.cache.tolist() == [1, 1]


STRUCTURES: dict[str, Callable[[Any], Any]] = {
    "'head.weight' is new": lambda model: setattr(model, "head", nn.Linear(1, 1)),
    "'linear.weight' is new.*'tied.weight' is new": lambda model: (
        setattr(model, "linear", nn.Linear(3, 3)) or setattr(model, "tied", model.linear)
    ),
    "'linear.scale' is new": lambda model: setattr(
        model.linear, "scale", nn.Parameter(torch.ones(1))
    ),
    "'linear.bias' is gone": lambda model: delattr(model.linear, "bias"),
}


@pytest.mark.parametrize("words", STRUCTURES)
def test_a_block_that_changes_what_a_model_consists_of_is_told(words: str) -> None:
    model = Kinds()
    average = EMA(model, 0.5)
    train(model)
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.layout == torch.strided)]
    before = [raw(t) for t in tensors if not t.is_meta]
    with pytest.raises(RuntimeError, match=f"not all of the model.*{words}"), average.swapped():
        STRUCTURES[words](model)
    assert [raw(t) for t in tensors if not t.is_meta] == before and not average._is_swapped
    with pytest.raises(ZeroDivisionError), EMA(model, 0.5).swapped():
        model.other = nn.Linear(1, 1)
        raise ZeroDivisionError  # which is what went wrong first

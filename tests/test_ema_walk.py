"""An update finds what a model holds now, though it walks through the model only after a change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import onepass


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.ones(2))


def replace_parameter(model: Any) -> None:
    model.scale = nn.Parameter(torch.full((2,), 5.0))


def replace_module(model: Any) -> None:
    model.head = nn.Linear(3, 2)


def replace_deep_module(model: Any) -> None:
    model.body[0] = nn.Linear(3, 3)


def swap_memory(model: Any) -> None:
    model.scale.data = torch.full((2,), 7.0)


def replace_buffer(model: Any) -> None:
    model.body[1].running_mean = torch.full((3,), 9.0)


def change_the_order(model: Any) -> None:
    model.body[0].weight = model.body[0]._parameters.pop("weight")


KEPT: tuple[Callable[[Any], None], ...] = (
    replace_parameter,
    replace_module,
    replace_deep_module,
    swap_memory,
    replace_buffer,
    change_the_order,
)


def add_parameter(model: Any) -> None:
    model.more = nn.Parameter(torch.ones(1))


def add_deep_module(model: Any) -> None:
    model.body.append(nn.Linear(3, 3))


def remove_parameter(model: Any) -> None:
    del model.scale


def tie_parameters(model: Any) -> None:
    model.body[0].bias = model.body[1].bias


REFUSED: tuple[Callable[[Any], None], ...] = (
    add_parameter,
    add_deep_module,
    remove_parameter,
    tie_parameters,
)


@pytest.mark.parametrize("change", KEPT, ids=lambda change: change.__name__)
@pytest.mark.parametrize("use_buffers", (False, True))
def test_what_was_replaced_is_averaged(change: Callable[[Any], None], use_buffers: bool) -> None:
    """beta 0 copies: after an update the average is what a new one of the model would be."""
    model = Model()
    ema = onepass.ema.EMA(model, beta=0.0, use_buffers=use_buffers)
    for _ in range(2):
        ema.update()
        change(model)
        ema.update()
        fresh = onepass.ema.EMA(model, use_buffers=use_buffers).averages
        assert all(torch.equal(ema.averages[name], fresh[name]) for name in fresh)


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_a_model_of_other_tensors_is_refused_at_once(change: Callable[[Any], None]) -> None:
    model = Model()
    ema = onepass.ema.EMA(model)
    ema.update()
    change(model)
    before = {name: average.clone() for name, average in ema.averages.items()}
    for _ in range(2):
        with pytest.raises(ValueError, match="make a new EMA"):
            ema.update()
    assert all(torch.equal(ema.averages[name], before[name]) for name in before)


def test_a_module_with_a_walk_of_its_own_is_always_asked() -> None:
    class Turning(Model):
        turned = False

        def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
            for name, param in super().named_parameters(*args, **kwargs):
                yield name, (param.detach() * 2 if self.turned else param)

    model = Turning()
    ema = onepass.ema.EMA(model, beta=0.0)
    ema.update()
    model.turned = True
    ema.update()
    assert torch.equal(ema.averages["scale"], torch.full((2,), 2.0))


def test_averages_that_were_loaded_are_those_that_are_updated() -> None:
    model = Model()
    ema = onepass.ema.EMA(model, beta=0.0)
    ema.update()
    ema.load_state_dict(onepass.ema.EMA(Model()).state_dict())
    ema.update()
    assert torch.equal(ema.averages["head.weight"], model.head.weight)


def test_nothing_is_walked_where_nothing_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    ema = onepass.ema.EMA(model)
    ema.update()

    def walk(*_: Any, **__: Any) -> Iterator[Any]:
        raise AssertionError("walked")

    monkeypatch.setattr(nn.Module, "named_parameters", walk)
    ema.update()

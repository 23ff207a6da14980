"""Random tensors of all kinds for one call, and what the call must have done with them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from onepass.rules import RULES
from tests.bad_inputs import MAY_BE_NEGATIVE
from tests.cases import Case
from tests.oracle import (
    NOT_OPTIONS,
    Operands,
    as_op_argument,
    assert_near,
    expected,
    op_lists,
    op_options,
    state_names,
)
from tests.support import COMPLEX, REAL

FOREIGN = (torch.int32, torch.int64, torch.uint8, torch.bool, torch.float8_e5m2)
BAD_STEPS = (math.nan, -1.0, 0.5, math.inf, 1e30, [1.0, 2.0], [], True, 1j)
NOT_FINITE, NEGATIVE = (math.nan, math.inf, 1e400), (-1.0, -1e-3)


@dataclass
class Call:
    """The operands and options of one call."""

    operands: list[Operands]
    options: dict[str, Any]
    hopeless: str = ""  # why the call must be refused


class Fuzz:
    """Draws calls, and remembers all memory it hands out, so that nothing changes unseen."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case, self.random = case, random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.memories: list[Tensor] = []
        self.views: dict[int, tuple[int, tuple[int, ...], tuple[int, ...], int]] = {}
        self.call = Call([], {})

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def draw(self) -> Call:
        self.memories, self.views = [], {}
        settings = self.random.choice([*self.case.settings, *self.case.extras])
        group = self.case.ours([torch.ones(1)], **settings).param_groups[0]
        options = {key: value for key, value in group.items() if key not in NOT_OPTIONS}
        self.call = Call([], options)
        for _ in range(self.random.choice((1, 1, 2, 3))):
            self.call.operands.append(self._draw_operands())
        if self.chance(0.15):
            self._share()
        if self.chance(0.35):
            self.random.choice([self._foreign, self._misshapen, self._freed, self._elsewhere])()
        if self.chance(0.05):
            self._bad_step()
        return self.call

    # ---- good tensors, of any layout

    def _draw_operands(self) -> Operands:
        shape = tuple(
            self.random.choice((0, 1, 1, 2, 3, 5)) for _ in range(self.random.randint(0, 3))
        )
        if self.chance(0.1):
            shape = (self.random.choice((17, 64, 1025, 4099)),)
        dtypes = COMPLEX if self.chance(0.15) else REAL
        dtype = self.random.choice(dtypes)
        other = self.random.choice((dtype, dtype, self.random.choice(dtypes)))
        param = self.tensor(shape, dtype)
        grad = self.tensor(shape, self.random.choice((dtype, dtype, other)), written=False)
        states = {
            name: self.tensor(shape, other, positive=True)
            for name in state_names(self.case, self.call.options)
        }
        count = self.random.choice((0, 1, 7, 1000, 10**6))
        kind = self.random.choice((torch.float32, torch.float32, torch.float64, torch.int64))
        step = self.tensor((), kind)
        step.fill_(count)
        numbers = {
            one.name: self.tensor((), torch.float32) for one in RULES[self.case.ours.rule].numbers
        }
        for number in numbers.values():
            number.fill_(0.25)
        return Operands(param, grad, step, states, numbers)

    def tensor(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        *,
        written: bool = True,
        positive: bool = False,
    ) -> Tensor:
        """Returns a tensor of some layout in memory of its own, with neighbours on both sides."""
        strides = self._strides(shape, written)
        offset = self.random.randint(0, 17)
        reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        length = offset + (reach + 1 if math.prod(shape) else 0) + 5
        made = torch.complex64 if dtype.is_complex else torch.float32
        memory = torch.randn(length, generator=self.generator, dtype=made)
        memory = (memory.abs() + 0.1 if positive else memory).to(dtype)
        self.memories.append(memory)
        return self._remember(memory.as_strided(shape, strides, offset), len(self.memories) - 1)

    def _remember(self, view: Tensor, memory: int) -> Tensor:
        about = (memory, tuple(view.shape), view.stride(), view.storage_offset())
        self.views[id(view)] = about
        return view

    def _strides(self, shape: Sequence[int], written: bool) -> list[int]:
        if self.chance(0.05 if written else 0.2):  # most of these reach some element twice
            strides = [self.random.choice((0, 1, 1, 2, 3, 4)) for _ in shape]
            places = {0}
            for size, stride in zip(shape, strides, strict=True):
                places = {place + k * stride for place in places for k in range(size)}
            if written and len(places) < math.prod(shape):
                self.call.hopeless = "a written tensor overlaps itself"
            return strides
        order = list(range(len(shape)))
        if self.chance(0.5):
            self.random.shuffle(order)
        gap, strides, reach = self.random.choice((0, 0, 1, 3)), [0] * len(shape), 1
        reach += gap
        for dim in reversed(order):
            strides[dim] = reach
            reach = reach * max(shape[dim], 1) + gap
        return strides

    # ---- memory in common

    def _share(self) -> None:
        """Makes one operand a view of another's memory."""
        first, second = self.random.choices(self.call.operands, k=2)
        source = self.random.choice([first.param, *first.states.values()])
        name = self.random.choice(["param", "grad", *second.states])
        target = getattr(second, name) if name in ("param", "grad") else second.states[name]
        if source is target or source.dtype != target.dtype or source.dtype.itemsize < 4:
            return
        if source.shape != target.shape:
            return
        shared = self._remember(source.view_as(source), self.views[id(source)][0])
        if name in second.states:
            second.states[name] = shared
        else:
            setattr(second, name, shared)
        if first is second and source.numel() > 0:
            self.call.hopeless = "two operands of one parameter share memory"

    # ---- bad tensors

    def _replace(self, change: Callable[[Tensor], Tensor], why: str) -> None:
        operands = self.random.choice(self.call.operands)
        name = self.random.choice(["param", "grad", *operands.states])
        if name in ("param", "grad"):
            setattr(operands, name, change(getattr(operands, name)))
        else:
            operands.states[name] = change(operands.states[name])
        self.call.hopeless += f" {name} {why}"

    def _foreign(self) -> None:
        dtype = self.random.choice(FOREIGN)
        self._replace(lambda tensor: torch.zeros(tensor.shape, dtype=dtype), f"is {dtype}")

    def _misshapen(self) -> None:
        def change(tensor: Tensor) -> Tensor:
            shape = (*tensor.shape, self.random.choice((1, 2)))
            return torch.zeros(shape, dtype=tensor.dtype)

        self._replace(change, "has another shape")

    def _elsewhere(self) -> None:
        def change(tensor: Tensor) -> Tensor:
            if where == "meta":
                return torch.zeros(tensor.shape, dtype=tensor.dtype, device="meta")
            return torch.zeros(tensor.shape, dtype=tensor.dtype).to_sparse()

        where = self.random.choice(("meta", "sparse"))
        self._replace(change, f"is {where}")

    def _freed(self) -> None:
        def change(tensor: Tensor) -> Tensor:
            tensor = torch.zeros((*tensor.shape, 2), dtype=tensor.dtype)[..., 1]
            tensor.untyped_storage().resize_(self.random.choice((0, 1, tensor.itemsize)))
            return tensor

        if all(operands.param.numel() for operands in self.call.operands):
            self._replace(change, "lost its memory")

    def _bad_step(self) -> None:
        operands = self.random.choice(self.call.operands)
        operands.step = torch.tensor(self.random.choice(BAD_STEPS))
        self.call.hopeless += f" step is {operands.step}"

    # ---- the op, and what it must do

    def arguments(self, call: Call) -> tuple[list[list[Tensor]], dict[str, Any]]:
        return op_lists(self.case, call.operands), op_options(self.case, call.options)

    def wrong_arguments(self, lists: list[list[Tensor]], options: dict[str, Any]) -> str:
        """Makes a list too short or a number wrong, and says what it was."""
        if self.chance(0.5):
            which = self.random.randrange(1, len(lists))
            lists[which] = [*lists[which], *[torch.zeros(())] * 4]
            return f"list {which} is too long"
        name = self.random.choice([n for n, v in options.items() if not isinstance(v, bool)])
        bad = self.random.choice(NOT_FINITE + (() if name in MAY_BE_NEGATIVE else NEGATIVE))
        options[name] = as_op_argument(self.case, name, bad)
        return f"{name} is {bad}"

    def model(self, call: Call) -> Model:
        return Model(self, call)


@dataclass
class Model:
    """A copy of all memory, in which the same step is taken in float64, one parameter at a time."""

    fuzz: Fuzz
    call: Call
    memories: list[Tensor] = field(init=False)
    written: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.memories = [memory.clone() for memory in self.fuzz.memories]
        self.written = [torch.zeros(m.numel(), dtype=torch.bool) for m in self.memories]

    def twin(self, tensor: Tensor, memories: list[Tensor]) -> Tensor:
        memory, *layout = self.fuzz.views[id(tensor)]
        return memories[memory].as_strided(*layout)

    def assert_right(self, about: object) -> None:
        """Compares the memory after the call with a step of the copy."""
        call = self.call
        steps = []
        for operands in call.operands:
            twin = Operands(
                self.twin(operands.param, self.memories),
                self.twin(operands.grad, self.memories),
                self.twin(operands.step, self.memories),
                {k: self.twin(v, self.memories) for k, v in operands.states.items()},
                {k: self.twin(v, self.memories) for k, v in operands.numbers.items()},
            )
            steps.append((operands, expected(self.fuzz.case, twin, call.options)))
            self._store(twin, steps[-1][1])
            if not operands.param.numel():  # of numbers no element tells
                for name, number in operands.numbers.items():
                    twin.numbers[name].copy_(number)
            for tensor in (operands.param, operands.step, *operands.written()):
                self.twin(tensor, self.written).fill_(True)
        pairs = zip(self.fuzz.memories, self.memories, self.written, strict=True)
        for memory, model, written in pairs:
            same = (memory == model) | written
            assert bool(same.all()), f"{about}: a neighbour changed"
            if not self._written_once():
                close = torch.allclose(memory, model, rtol=2e-2, atol=2e-2, equal_nan=True)
                assert close, f"{about}: {memory} should be {model}"
        for operands, want in steps if self._written_once() else ():
            assert_near(want, operands, about, slack=8)

    def _written_once(self) -> bool:
        owners = [self.fuzz.views[id(t)][0] for o in self.call.operands for t in o.all()]
        return len(set(owners)) == len(owners)

    def _store(self, twin: Operands, want: Any) -> None:
        twin.step += 1
        for name, tensor in (("param", twin.param), *twin.states.items(), *twin.numbers.items()):
            values = torch.as_tensor(want.param if name == "param" else want.state[name])
            pair = tensor.is_complex()
            if name in twin.numbers:
                values = values.flatten()[0] if values.numel() else tensor
            tensor.copy_(torch.complex(values[..., 0], values[..., 1]) if pair else values)

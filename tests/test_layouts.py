"""However tensors lie in memory, a step computes the same bits and touches nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from onepass.rules import RULES
from tests.cases import Case
from tests.layouts import READABLE, WRITABLE, Layout, Placed, place, same_bits
from tests.oracle import all_states_on, state_names
from tests.support import each_case, each_kind, each_torch_case

SHAPES = ((), (1,), (0,), (37,), (5, 7), (6, 1, 5), (2, 3, 4, 5), (1, 3, 1, 4), (2, 1, 2, 1, 2, 2))
DTYPES = (torch.float32, torch.float16, torch.complex64)  # in place, through tiles, in pairs
PER_ALGORITHM = 750  # C2 asks for 1500; each of the first two algorithms has its half


def settings_of(case: Case, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Any], ...]:
    """Returns settings of which the first uses all states."""
    all_states = {**case.settings[1], **all_states_on(case)}
    return (all_states, case.settings[1]) if dtype == torch.float32 else (all_states,)


@dataclass
class Pair:
    """One parameter of which one operand lies in some layout, and its contiguous twin."""

    shape: Sequence[int]
    dtype: torch.dtype
    layouts: dict[str, Layout]  # by operand: "param", "grad" and names of states
    placed: dict[str, Placed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = torch.randn(self.shape, dtype=self.dtype)
        self.plain = values.clone().requires_grad_()
        self.ours = self._place("param", values).requires_grad_()

    def _place(self, operand: str, values: Tensor) -> Tensor:
        if operand not in self.layouts:
            return values.clone(memory_format=torch.contiguous_format)
        self.placed[operand] = place(values, self.layouts[operand])
        return self.placed[operand].view

    def set_gradient(self) -> None:
        self.ours.grad = self._place("grad", torch.randn(self.shape, dtype=self.dtype))
        self.plain.grad = self.ours.grad.clone(memory_format=torch.contiguous_format)

    def place_states(self, state: dict[str, Tensor]) -> None:
        for name in state.keys() & self.layouts.keys():
            state[name] = self._place(name, state[name])

    def check(self, ours: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
        assert same_bits(self.ours, self.plain)
        assert ours.keys() == plain.keys()
        assert all(same_bits(ours[name], plain[name]) for name in ours)
        for operand, placed in self.placed.items():
            current = {"param": self.ours, "grad": self.ours.grad, **ours}[operand]
            assert current.data_ptr() == placed.view.data_ptr()
            assert current.stride() == placed.view.stride()
            unchanged = placed.all_unchanged if operand == "grad" else placed.neighbours_unchanged
            assert unchanged(), f"{operand}: neighbours changed"


def check_pairs(case: Case, options: dict[str, Any], pairs: list[Pair], threads: int = 1) -> None:
    """Takes three steps of both twins; states take their layout after the first."""
    ours = case.ours([pair.ours for pair in pairs], **options)
    plain = case.ours([pair.plain for pair in pairs], **options)
    for step in range(3):
        for pair in pairs:
            pair.set_gradient()
        torch.set_num_threads(threads)
        ours.step()
        torch.set_num_threads(1)
        plain.step()
        for pair in pairs:
            try:
                pair.check(ours.state[pair.ours], plain.state[pair.plain])
            except AssertionError as error:
                where = f"{case}({options}) {pair.dtype} {pair.shape} {list(pair.placed)}"
                raise AssertionError(f"{where} step {step + 1}") from error
            if step == 0:
                pair.place_states(ours.state[pair.ours])


def states_of(case: Case, options: dict[str, Any]) -> list[str]:
    p = torch.ones(1, requires_grad=True)
    p.grad = torch.ones(1)
    optimizer = case.ours([p], **options)
    optimizer.step()
    return [name for name in optimizer.state[p] if name != "step"]


def pairs_of(shape: Sequence[int], dtype: torch.dtype, states: list[str]) -> list[Pair]:
    """Returns every layout for each operand alone and for all operands together."""
    operands = ["param", "grad", *states]
    pairs = [
        Pair(shape, dtype, {operand: layout})
        for layout in WRITABLE.values()
        for operand in operands
    ]
    pairs += [Pair(shape, dtype, dict.fromkeys(operands, layout)) for layout in WRITABLE.values()]
    pairs += [Pair(shape, dtype, {"grad": layout}) for layout in READABLE.values()]
    return pairs


def mixed_pair(shape: Sequence[int], dtype: torch.dtype, states: list[str]) -> Pair:
    """Returns a parameter every operand of which lies in another layout, drawn at random."""

    def draw(table: dict[str, Layout]) -> Layout:
        return list(table.values())[int(torch.randint(len(table), ()))]

    chosen = {operand: draw(WRITABLE) for operand in ["param", *states]}
    return Pair(shape, dtype, {**chosen, "grad": draw(WRITABLE | READABLE)})


@each_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_c2_any_layout_of_any_operand_gives_the_contiguous_bits(case, dtype):
    assert len(WRITABLE) >= 12
    count = 0
    for options in settings_of(case, dtype):
        states = states_of(case, options)
        pairs = [pair for shape in SHAPES for pair in pairs_of(shape, dtype, states)]
        pairs += [mixed_pair(shape, dtype, states) for shape in SHAPES for _ in range(20)]
        check_pairs(case, options, pairs)
        count += len(pairs)
    assert count >= PER_ALGORITHM


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_c2_in_tensors_that_threads_share_and_whose_rows_are_longer_than_a_tile(case, dtype):
    options, _ = settings_of(case)
    states = states_of(case, options)
    for shape in ((3, 23, 1100), (50000,)):
        pairs = [
            Pair(shape, dtype, dict.fromkeys(["param", *states], layout))
            for layout in list(WRITABLE.values())[:13]
        ]
        pairs += [mixed_pair(shape, dtype, states) for _ in range(10)]
        check_pairs(case, options, pairs, threads=2)


@each_case
def test_new_states_lie_as_their_parameter_whatever_its_gradient_does(case):
    for shape in SHAPES:
        for layout in WRITABLE.values():
            p = place(torch.randn(shape), layout).view.requires_grad_()
            p.grad = torch.randn(shape)
            optimizer = case.ours([p], **all_states_on(case))
            optimizer.step()
            for name in state_names(case, all_states_on(case)):
                assert optimizer.state[p][name].stride() == torch.zeros_like(p).stride()


@each_torch_case
def test_new_states_lie_as_those_of_torch(case):
    """Gradients lie as autograd lays them, like their parameter; some of torch's states follow."""
    for shape in SHAPES:
        for layout in WRITABLE.values():
            p = place(torch.randn(shape), layout).view.requires_grad_()
            p.grad = place(torch.randn(shape), layout).view
            strides = []
            for cls in (case.ours, case.theirs):
                optimizer = cls([p], **all_states_on(case))
                optimizer.step()
                strides.append({k: s.stride() for k, s in optimizer.state[p].items()})
            assert strides[0] == strides[1]


# ---- memory that several tensors share


def view_of(base: Tensor, key: Any) -> Tensor:
    return base.detach()[key].requires_grad_()


@each_case
def test_c2_interleaved_parameters_with_interleaved_gradients(case):
    even, odd = (slice(None), slice(0, None, 2)), (slice(None), slice(1, None, 2))
    for options in case.settings:
        base, grads = torch.randn(6, 8), torch.randn(3, 6, 8)
        params = [view_of(base, even), view_of(base, odd)]
        apart = [p.detach().clone().requires_grad_() for p in params]
        ours, plain = case.ours(params, **options), case.ours(apart, **options)
        for grad in grads:
            for p, separate, key in zip(params, apart, (even, odd), strict=True):
                p.grad, separate.grad = grad[key], grad[key].clone()
            ours.step()
            plain.step()
            assert all(map(same_bits, params, apart))


@each_case
def test_c2_a_gradient_and_states_between_the_elements_of_their_parameter(case):
    """No element is shared, though each tensor lies within the bounds of the others."""
    for options in settings_of(case):
        names = [
            "param",
            "grad",
            *state_names(case, {**dict.fromkeys(all_states_on(case)), **options}),
        ]
        together = torch.randn(10, len(names)).abs()
        apart = together.t().contiguous()
        results = []
        for tensors in (together.unbind(1), apart.unbind(0)):
            param, grad, *states = tensors
            param.requires_grad_().grad = grad
            optimizer = case.ours([param], **options)
            state = dict(zip(names[2:], states, strict=True))
            new = optimizer._new_state(param, optimizer.param_groups[0])
            optimizer.state[param] = {**new, **state}
            optimizer.step()
            results.append([param, *states])
        assert all(map(same_bits, *results))


def shared(kind: str, dtype: torch.dtype) -> list[Tensor]:
    """Returns two parameters, one of which shares memory with the other or with its gradient."""
    base = torch.linspace(-1, 1, 12, dtype=dtype)
    if kind == "parameters overlap":
        params = [view_of(base, slice(0, 8)), view_of(base, slice(4, 12))]
    else:
        params = [view_of(base, slice(0, 6)), view_of(base, slice(6, 12))]
    for p in params:
        p.grad = torch.linspace(1, 2, len(p), dtype=dtype)
    if kind == "the first is the gradient of the second":
        params[1].grad = params[0].detach()
    if kind == "the second is the gradient of the first":
        params[0].grad = params[1].detach()
    return params


@each_torch_case
@pytest.mark.parametrize(
    "kind",
    [
        "parameters overlap",
        "the first is the gradient of the second",
        "the second is the gradient of the first",
    ],
)
def test_what_shares_memory_is_stepped_in_order_as_by_the_for_loop(case, kind):
    for options in case.settings:
        ours, theirs = shared(kind, torch.float64), shared(kind, torch.float64)
        optimizers = [case.ours(ours, **options), case.theirs(theirs, foreach=False, **options)]
        for _ in range(3):
            for optimizer in optimizers:
                optimizer.step()
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@each_torch_case
@pytest.mark.filterwarnings("ignore:.*duplicate parameters")
def test_a_parameter_given_twice_is_stepped_twice_as_by_the_for_loop(case):
    for options in case.settings:
        ours, theirs = (torch.linspace(-1, 1, 9, dtype=torch.float64) for _ in range(2))
        optimizers = []
        for cls, p in ((case.ours, ours), (case.theirs, theirs)):
            p.requires_grad_().grad = torch.linspace(2, -1, 9, dtype=torch.float64)
            optimizers.append(cls([p, p], **options))
        for _ in range(3):
            for optimizer in optimizers:
                optimizer.step()
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
        if RULES[case.ours.rule].counts_steps:
            assert optimizers[0].state[ours]["step"] == 6


@each_case
def test_c2_unscaled_gradients_are_written_back_in_any_layout(case):
    for layout, dtype in itertools.product(WRITABLE.values(), DTYPES):
        values, scaled = torch.randn(2, 3, 4, 5, dtype=dtype), torch.randn(2, 3, 4, 5, dtype=dtype)
        results = []
        for placed in (place(scaled, layout), place(scaled, WRITABLE["contiguous"])):
            param = values.clone().requires_grad_()
            param.grad = placed.view
            optimizer = case.ours([param])
            optimizer.grad_scale = torch.tensor(3.0)
            optimizer.step()
            results.append((param.detach(), placed.view))
            assert placed.neighbours_unchanged()
            assert not same_bits(placed.view, scaled)
        assert all(map(same_bits, *results))

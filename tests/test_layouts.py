"""However tensors lie in memory, a step computes the same bits and touches nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import CASES, Case
from tests.layouts import READABLE, WRITABLE, Layout, Placed, place, same_bits

SHAPES = ((), (1,), (0,), (37,), (5, 7), (6, 1, 5), (2, 3, 4, 5), (1, 3, 1, 4), (2, 1, 2, 1, 2, 2))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64)
PER_ALGORITHM = 750  # C2 asks for 1500; each of the first two algorithms has its half

every_algorithm = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(autouse=True)
def one_thread(isolated: None) -> None:
    """Waking a second thread for tensors this small takes far longer than the work."""
    torch.set_num_threads(1)


def settings_of(case: Case) -> tuple[dict[str, Any], ...]:
    """Returns settings that between them use all states."""
    return case.settings[1], case.settings[2]


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
                where = f"{case}({options}) {pair.dtype} {pair.shape} {list(pair.placed)} step {step + 1}"
                raise AssertionError(where) from error
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


@every_algorithm
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_c2_any_layout_of_any_operand_gives_the_contiguous_bits(case, dtype):
    assert len(WRITABLE) >= 12
    count = 0
    for options in settings_of(case):
        states = states_of(case, options)
        pairs = [pair for shape in SHAPES for pair in pairs_of(shape, dtype, states)]
        pairs += [mixed_pair(shape, dtype, states) for shape in SHAPES for _ in range(20)]
        check_pairs(case, options, pairs)
        count += len(pairs)
    assert count >= PER_ALGORITHM


@every_algorithm
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_c2_in_tensors_that_threads_share_and_whose_rows_are_longer_than_a_tile(case, dtype):
    options = case.settings[2]
    states = states_of(case, options)
    for shape in ((3, 23, 1100), (50000,)):
        pairs = [Pair(shape, dtype, dict.fromkeys(["param", *states], layout))
                 for layout in list(WRITABLE.values())[:13]]
        pairs += [mixed_pair(shape, dtype, states) for _ in range(10)]
        check_pairs(case, options, pairs, threads=2)


@every_algorithm
def test_new_states_lie_as_those_of_torch(case):
    for shape in SHAPES:
        for layout in WRITABLE.values():
            p = place(torch.randn(shape), layout).view.requires_grad_()
            p.grad = torch.randn(shape)
            strides = []
            for cls in (case.ours, case.theirs):
                optimizer = cls([p], amsgrad=True)
                optimizer.step()
                strides.append({k: s.stride() for k, s in optimizer.state[p].items()})
            assert strides[0] == strides[1]

"""Optimizers with states of 8 bits, for the tests of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from onepass import _C
from onepass.rules import RULES
from tests.cases import CASES, Case
from tests.eight_bits import SIGNED, UNSIGNED, Format
from tests.support import make_params, randn
from tests.test_stochastic_rounding import U32, second_state_bits, state_bits

CODED = [
    case
    for case in CASES
    if RULES[case.ours.rule].counts_steps
    and not all(state.keeps_floats for state in RULES[case.ours.rule].states)
]
REFUSED = [case for case in CASES if case not in CODED]
ELEMENTWISE = [case for case in CODED if not RULES[case.ours.rule].sums]
each_elementwise_case = pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
each_coded_case = pytest.mark.parametrize("case", CODED, ids=str)
each_format = pytest.mark.parametrize("form", (SIGNED, UNSIGNED), ids=("signed", "unsigned"))

# Rows of whole blocks, of a block and a short one, of short ones alone, of one number, and none.
SHAPES = ((3, 64), (5, 100), (7, 3), (2, 5, 6, 7), (4, 1), (0, 5), (40, 130))


def random_bits(hashed: np.ndarray, state: int) -> np.ndarray:
    """The 16 bits of a hash that belong to the first, second, third or fourth state with codes."""
    if state < 2:
        return (state_bits, second_state_bits)[state](hashed)
    return (hashed * U32((0x85EBCA6B, 0xC2B2AE35)[state - 2])) >> U32(16)


def form_of(state: Any) -> Format:
    return UNSIGNED if state.is_non_negative else SIGNED


def numbers_of(form: Format, shape: tuple[int, ...], seed: int) -> Tensor:
    """Returns float32 numbers of sizes that differ by e^16 and more within a block."""
    x = randn(shape, torch.float32, seed) * torch.exp(4 * randn(shape, torch.float32, seed + 1))
    return x if form.is_signed else x * x


def floats_of(optimizer: Any, param: Tensor, name: str) -> Tensor:
    state = optimizer.state[param]
    return _C.decode_state(state[name], state[f"{name}_exponent"])


def model(case: Case, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    shapes = ((300, 7), (5,), (3, 70001), (), (513, 64))
    return case.ours(make_params(shapes, dtype), state_dtype=torch.int8, **options)

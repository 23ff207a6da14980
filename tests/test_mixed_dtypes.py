"""Parameter, gradient and each state may have types of their own: one rounding per store."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import onepass
from onepass.rules import RULES
from tests.cases import Case
from tests.layouts import WRITABLE, place, same_bits
from tests.oracle import all_states_on
from tests.support import any_grad_dtype, each_case

REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PER_ALGORITHM = 30  # C18 asks for 60; each of the first two algorithms has its half


def drawn(size: int, dtype: torch.dtype) -> Tensor:
    """Returns numbers that every type holds, most of them rounded."""
    return (torch.randn(size) * 10.0 ** torch.empty(size).uniform_(-3, 1)).to(dtype)


def moments_in(rule: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the states that have the parameter's shape."""
    return {one.name: state[one.name] for one in RULES[rule].states if one.name in state}


def moments(optimizer: Any, param: Tensor) -> dict[str, Tensor]:
    return moments_in(optimizer.rule, optimizer.state[param])


class Decoded:
    """What a step must give: the step of copies in the arithmetic type, each stored with .to()."""

    def __init__(self, case: Case, options: dict[str, Any], param: Tensor, optimizer: Any) -> None:
        rule, (group,) = RULES[case.ours.rule], optimizer.param_groups
        state = optimizer.state[param] or optimizer._new_state(param, group)
        known = moments_in(rule.name, state)
        kept = [s.dtype for s in known.values()]
        has_double = torch.float64 in [param.dtype, param.grad.dtype, *kept]
        self.wide = torch.float64 if has_double else torch.float32
        self.param = param.detach().to(self.wide, copy=True).requires_grad_()
        self.param.grad = param.grad.to(self.wide, copy=True)
        self.optimizer = case.ours([self.param], **options)
        if optimizer.state[param] or rule.counts_steps:  # else it must know that its state is new
            copies = {name: s.clone() for name, s in state.items()}
            copies |= {name: s.to(self.wide, copy=True) for name, s in known.items()}
            self.optimizer.state[self.param] = copies
        self.optimizer.step()

    def check(self, param: Tensor, optimizer: Any, where: str) -> None:
        assert same_bits(param, self.param.detach().to(param.dtype)), where
        expected = moments(self.optimizer, self.param)
        found = moments(optimizer, param)
        assert found.keys() == expected.keys()
        for name, state in found.items():
            assert same_bits(state, expected[name].to(state.dtype)), f"{where}: {name}"


def mixes(case: Case, *dtypes: Any) -> list[tuple[Any, ...]]:
    return list(itertools.product((*case.settings, *case.extras), *dtypes))


@each_case
def test_states_have_the_dtype_that_was_asked_for(case):
    wanted = (None, torch.float32, torch.float64, torch.bfloat16, torch.float16)
    for dtype, state_dtype in itertools.product(wanted[1:], wanted):
        param = torch.zeros(3, dtype=dtype, requires_grad=True)
        param.grad = torch.ones_like(param)
        optimizer = case.ours([param], state_dtype=state_dtype, **all_states_on(case))
        optimizer.step()
        default = torch.float32 if dtype == torch.float16 else dtype
        found = {s.dtype for s in moments(optimizer, param).values()}
        assert found == {state_dtype or default}


@any_grad_dtype
@each_case
def test_any_mix_of_types_is_the_wide_step_rounded_once(case):
    for options, param_dtype, grad_dtype, state_dtype in mixes(case, REAL, REAL, (None, *REAL)):
        param = drawn(200, param_dtype).requires_grad_()
        param.grad_dtype = None
        optimizer = case.ours([param], **options, state_dtype=state_dtype)
        for step in range(3):
            param.grad = drawn(200, grad_dtype)
            expected = Decoded(case, options, param, optimizer)
            optimizer.step()
            where = f"{options}: {param_dtype}, {grad_dtype}, {state_dtype}, step {step + 1}"
            expected.check(param, optimizer, where)


@each_case
def test_each_state_may_have_a_type_of_its_own(case):
    options = {**case.settings[1], **all_states_on(case)}
    for param_dtype, *state_dtypes in itertools.product(REAL, REAL, REAL, REAL):
        param = drawn(200, param_dtype).requires_grad_()
        optimizer = case.ours([param], **options)
        for step in range(3):
            param.grad = drawn(200, param_dtype)
            if step == 0:
                optimizer.step()
                states = moments(optimizer, param).items()
                for (name, state), dtype in zip(states, state_dtypes, strict=False):
                    optimizer.state[param][name] = state.to(dtype)
                continue
            expected = Decoded(case, options, param, optimizer)
            optimizer.step()
            expected.check(param, optimizer, f"{param_dtype}, {state_dtypes}, step {step + 1}")


@any_grad_dtype
@each_case
def test_any_mix_of_types_may_lie_in_any_layout(case):
    layouts = list(WRITABLE.values())
    for param_dtype, grad_dtype, state_dtype in itertools.product(REAL, REAL, (None, *REAL)):
        plain = drawn(60, param_dtype).reshape(3, 4, 5).requires_grad_()
        spread = place(plain.detach(), layouts[int(torch.randint(len(layouts), ()))])
        ours = spread.view.requires_grad_()
        both = [plain, ours]
        optimizers = [case.ours([p], state_dtype=state_dtype) for p in both]
        for _ in range(2):
            grad = drawn(60, grad_dtype).reshape(3, 4, 5)
            layout = layouts[int(torch.randint(len(layouts), ()))]
            for p, g in zip(both, (grad, place(grad, layout).view), strict=True):
                p.grad_dtype = None
                p.grad = g
            for optimizer in optimizers:
                optimizer.step()
            assert same_bits(plain, ours) and spread.neighbours_unchanged()
            states = [moments(o, p) for o, p in zip(optimizers, both, strict=True)]
            assert all(same_bits(states[0][name], states[1][name]) for name in states[0])


@any_grad_dtype
@pytest.mark.parametrize("adam", [onepass.Adam, onepass.AdamW])
def test_a_float32_gradient_of_a_16_bit_parameter_is_not_rounded_to_it(adam):
    grad = torch.full((3,), 1 + 2.0**-12)
    for dtype in (torch.bfloat16, torch.float16):
        param = torch.zeros(3, dtype=dtype, requires_grad=True)
        param.grad_dtype = None
        param.grad = grad
        optimizer = adam([param], betas=(0.0, 0.9), weight_decay=0.0, state_dtype=torch.float32)
        optimizer.step()
        assert same_bits(optimizer.state[param]["exp_avg"], grad)


# ---- complex numbers


def pairs_step_alike(
    case: Case, options: dict[str, Any], dtypes: tuple[Any, ...], layout: Any
) -> None:
    """Steps a complex parameter beside its real and imaginary parts."""
    dtype, grad_dtype, state_dtype = dtypes
    shape = (3, 4, 5)
    param = place(torch.randn(shape, dtype=dtype), layout).view.requires_grad_()
    parts = torch.view_as_real(param.detach()).clone().requires_grad_()
    param.grad_dtype = parts.grad_dtype = None
    ours = case.ours([param], **options, state_dtype=state_dtype)
    real = case.ours([parts], **options, state_dtype=state_dtype)
    for _ in range(3):
        param.grad = place(torch.randn(shape, dtype=grad_dtype), layout).view
        parts.grad = torch.view_as_real(param.grad.clone())
        ours.step()
        real.step()
        assert same_bits(torch.view_as_real(param.detach()), parts)
        for name, state in moments(ours, param).items():
            assert state.is_complex()
            assert same_bits(torch.view_as_real(state), real.state[parts][name])


@any_grad_dtype
@each_case
def test_c18_complex_numbers_step_as_pairs_of_real_numbers(case):
    count = 0
    complex_dtypes = (torch.complex64, torch.complex128)
    types = itertools.product(complex_dtypes, complex_dtypes, (None, torch.float32, torch.float64))
    names = ("contiguous", "transposed", "every 2nd", "offset 1")
    for options, dtypes, name in mixes(case, list(types), names):
        pairs_step_alike(case, options, dtypes, WRITABLE[name])
        count += 1
    assert count >= PER_ALGORITHM


def lazy_gradients() -> list[Tensor]:
    """Returns gradients that hold their values only implicitly."""
    values = torch.randn(7, dtype=torch.complex64)
    zero = torch._efficientzerotensor((7,), dtype=torch.float32)
    return [values.conj(), torch._neg_view(values), values.conj().imag, zero]


@each_case
def test_c18_conjugated_and_negated_gradients_are_taken_at_their_value(case):
    for options in (*case.settings, *case.extras):
        for lazy in lazy_gradients():
            params = [torch.ones(7, dtype=lazy.dtype, requires_grad=True) for _ in range(2)]
            params[0].grad = lazy
            params[1].grad = lazy.resolve_conj().resolve_neg() + 0.0
            optimizers = [case.ours([p], **options) for p in params]
            for optimizer in optimizers * 2:
                optimizer.step()
            assert same_bits(*params)

"""States of 8 bits: which codes a step stores, what they stand for, what it means for training.

Formats and rounding are written once more in tests/eight_bits.py, from their definitions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import onepass
from onepass import _C
from onepass.rules import RULES
from tests import eight_bits
from tests.cases import Case
from tests.coded import (
    SHAPES,
    each_coded_case,
    each_elementwise_case,
    each_format,
    floats_of,
    form_of,
    numbers_of,
    random_bits,
)
from tests.eight_bits import SIGNED, UNSIGNED, Format
from tests.support import (
    make_params,
    params_of,
    randn,
    seeded,
    set_grads,
)
from tests.test_stochastic_rounding import U32, hashes, key_of

# ---- the formats


def test_a_byte_has_a_code_for_all_that_there_is() -> None:
    assert len(SIGNED.numbers) == 128  # 0 and 127 magnitudes: with both signs and NaN, 256 codes
    assert len(UNSIGNED.numbers) == 254
    assert list(SIGNED.numbers[[1, -1]]) == [2.0**-11, 2.0]
    assert list(UNSIGNED.numbers[[1, -1]]) == [2.0**-23, 2.0]


@each_format
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_are_rounded_to_the_nearest_code(form: Format, shape: tuple[int, ...]) -> None:
    x = numbers_of(form, shape, 1)
    codes, exponents = _C.encode_state(x, not form.is_signed)
    half = np.full(x.numel(), 0.5)
    want, want_exponents = eight_bits.encode(x.numpy().reshape(-1), shape, form, half)
    assert np.array_equal(codes.numpy().reshape(-1), want)
    assert np.array_equal(exponents.numpy().reshape(-1), want_exponents)
    back = _C.decode_state(codes, exponents).numpy().reshape(-1).astype(np.float64)
    assert np.array_equal(back, eight_bits.decode(want, want_exponents, shape, form))


@each_format
def test_what_was_decoded_stays_what_it_is(form: Format) -> None:
    x = numbers_of(form, (50, 130), 3)
    once = _C.decode_state(*_C.encode_state(x, not form.is_signed))
    assert torch.equal(_C.decode_state(*_C.encode_state(once, not form.is_signed)), once)


@each_format
@settings(max_examples=200, deadline=None)
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=70))
def test_any_floats_get_codes_of_the_definition(form: Format, bits: list[int]) -> None:
    """Subnormal numbers, the largest ones, infinities and NaN among them."""
    x = np.array(bits, np.uint32).view(np.float32)
    x = x if form.is_signed else np.abs(x)
    codes, exponents = _C.encode_state(torch.from_numpy(x.copy())[None], not form.is_signed)
    want, want_exponents = eight_bits.encode(x, (1, len(x)), form, np.full(len(x), 0.5))
    assert np.array_equal(codes.numpy()[0], want)
    assert np.array_equal(exponents.numpy()[0], want_exponents)
    back = _C.decode_state(codes, exponents).numpy()[0]
    assert np.array_equal(np.isfinite(back), np.isfinite(x))
    if not form.is_signed:
        assert np.array_equal(np.isinf(back), np.isinf(x))
        assert np.array_equal(back == 0, x == 0)  # never zero: the step after would divide by it


# ---- what a step stores


@each_coded_case
@pytest.mark.parametrize("shape", ((40, 130), (7, 3), (3, 5, 26)), ids=str)
def test_a_step_is_that_of_floats_and_rounds_by_the_hash(
    case: Case, shape: tuple[int, ...]
) -> None:
    """Bit for bit: a step from what the codes stand for, its states rounded as defined."""
    for options in (*case.settings, *case.extras):
        first, second = (make_params([shape]) for _ in range(2))
        coded = case.ours(first, **options, state_dtype=torch.int8)
        floats = case.ours(second, **options, state_dtype=torch.float32)
        for step in range(1, 4):
            for params in (first, second):
                set_grads(params, step)
            if step > 1:
                given = onepass.to_float32_state_dict(coded)
                groups = floats.state_dict()["param_groups"]
                floats.load_state_dict({**given, "param_groups": groups})
            coded.step()
            floats.step()
            assert torch.equal(first[0], second[0]), (options, step)
            _assert_codes(case, coded, floats, step)


def _assert_codes(case: Case, coded: Any, floats: Any, step: int) -> None:
    (param,), (twin,) = params_of(coded), params_of(floats)
    own, other = coded.state[param], floats.state[twin]
    hashed = hashes(param.numel(), key_of(0, 0, step))
    field = 0
    for state in RULES[case.ours.rule].states:
        if state.name not in own:
            continue
        if state.keeps_floats:
            assert torch.equal(own[state.name], other[state.name])
            continue
        random = random_bits(hashed, field) / 65536.0
        field += 1
        numbers = other[state.name].numpy().reshape(-1)
        want, exponents = eight_bits.encode(numbers, tuple(param.shape), form_of(state), random)
        assert np.array_equal(own[state.name].numpy().reshape(-1), want), state.name
        assert np.array_equal(own[f"{state.name}_exponent"].numpy().reshape(-1), exponents)


@each_format
def test_the_definition_rounds_without_bias(form: Format) -> None:
    """Of the definition alone, which steps follow: nearly all means within 4 standard errors.

    Unsigned numbers below the smallest code are left out: they are stored as that code.
    """
    shape, count = (1, 512), 1024
    x = randn(shape, torch.float32, 5)
    floats = (x if form.is_signed else x * x).numpy().reshape(-1)
    generator = np.random.default_rng(0)
    total, squares = np.zeros(512), np.zeros(512)
    for _ in range(count):
        random = generator.integers(0, 65536, 512) / 65536.0
        codes, exponents = eight_bits.encode(floats, shape, form, random)
        error = eight_bits.decode(codes, exponents, shape, form) - floats
        total += error
        squares += error * error
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0) / count)
    smallest = form.numbers[1] * np.repeat(2.0 ** exponents.astype(float), 64)
    is_between = (deviation > 0) & ((floats > smallest) | form.is_signed)
    scores = mean[is_between] / deviation[is_between]
    assert len(scores) > 400
    assert np.mean(np.abs(scores) < 4) > 0.99
    assert 0.9 < np.sqrt(np.mean(scores**2)) < 1.1


def test_the_random_bits_of_states_do_not_depend_on_each_other() -> None:
    size = 1 << 18
    for key in range(4):
        hashed = hashes(size, key_of(0, key, 7))
        fields = [hashed >> U32(16), *(random_bits(hashed, state) for state in range(4))]
        centred = np.stack([field / 65536.0 - 0.5 for field in fields])
        scores = (centred @ centred.T) * 12 / np.sqrt(size)
        others = scores[~np.eye(len(fields), dtype=bool)]
        assert np.abs(others).max() < 4.5


@each_elementwise_case
@pytest.mark.parametrize("bad", (torch.nan, torch.inf, -torch.inf), ids=str)
def test_one_gradient_that_is_no_number_spoils_one_element(case: Case, bad: float) -> None:
    (param,) = params = make_params([(4, 100)])
    optimizer = case.ours(params, lr=0.1, state_dtype=torch.int8)
    for step in range(3):
        set_grads(params, step)
        if step == 1:
            assert param.grad is not None
            param.grad[2, 7] = bad
        optimizer.step()
    spoilt = torch.zeros(4, 100, dtype=torch.bool)
    spoilt[2, 7] = True
    for state in RULES[case.ours.rule].states:
        if f"{state.name}_exponent" in optimizer.state[param]:
            is_bad = floats_of(optimizer, param, state.name).isnan()
            assert not bool((is_bad & ~spoilt).any()), state.name
    assert not bool((param.detach().isnan() & ~spoilt).any())


# ---- what it means for training


def test_second_moments_follow_float32() -> None:
    """Where gradients stay, become 100 times smaller, and are of many sizes in a block."""
    generator = seeded(1)
    sizes = 10 ** (-2 * torch.rand(16, 64, generator=generator))
    same = torch.ones(16, 64)
    for shrinks, sizes_of, spread in ((1.0, same, 0.06), (0.01, same, 0.2), (1.0, sizes, 0.2)):
        roots = {}
        params = {dtype: torch.zeros(16, 64, requires_grad=True) for dtype in ("int8", None)}
        optimizers = {d: onepass.Adam([p], state_dtype=d) for d, p in params.items()}
        for step in range(5000 if shrinks < 1 else 1500):
            noise = torch.randn(16, 64, generator=generator) * sizes_of
            for dtype, optimizer in optimizers.items():
                params[dtype].grad = noise * (1.0 if step < 1000 else shrinks)
                optimizer.step()
        roots["int8"] = floats_of(optimizers["int8"], params["int8"], "exp_avg_sq").double().sqrt()
        wide = optimizers[None].state[params[None]]["exp_avg_sq"].double().sqrt()
        ratio = roots["int8"] / wide
        assert 0.97 < float(ratio.mean()) < 1.03
        assert float(ratio.std()) < spread


def test_second_moments_rounded_to_nearest_do_not_decay() -> None:
    """Why rounding is stochastic: after gradients of 1 come 4000 of 0.01."""
    generator = seeded(1)
    codes, wide = torch.ones(2, 16, 64)
    for _ in range(4000):
        square = (0.01 * torch.randn(16, 64, generator=generator)).square()
        codes = _C.decode_state(*_C.encode_state(0.999 * codes + 0.001 * square, True))
        wide = 0.999 * wide + 0.001 * square
    assert float((codes / wide).sqrt().mean()) > 5


def test_sparse_coordinates_take_no_giant_steps() -> None:
    """Each coordinate has a gradient at its own rate, from always to one step in 1000."""
    generator = seeded(2)
    rates = 10 ** (-3 * torch.rand(32, 64, generator=generator))
    param = torch.zeros(32, 64, requires_grad=True)
    optimizer = onepass.Adam([param], lr=1.0, state_dtype=torch.int8)
    largest = 0.0
    for _ in range(2000):
        active = torch.rand(32, 64, generator=generator) < rates
        param.grad = torch.randn(32, 64, generator=generator) * active
        before = param.detach().clone()
        optimizer.step()
        largest = max(largest, float((param.detach() - before).abs().max()))
    assert largest < 8.0


def test_a_second_moment_that_overflows_stays_infinite() -> None:
    """As in float32: the step is then 0, and not NaN."""
    params = make_params([(2, 64)]) + make_params([(2, 64)])
    optimizers = [
        onepass.Adam([p], state_dtype=d) for p, d in zip(params, ("int8", None), strict=True)
    ]
    for _ in range(3):
        for param, optimizer in zip(params, optimizers, strict=True):
            param.grad = torch.full_like(param, 1e21)
            optimizer.step()
    assert bool(floats_of(optimizers[0], params[0], "exp_avg_sq").isinf().all())
    assert torch.equal(params[0], params[1])


@each_coded_case
def test_a_step_of_no_length_changes_nothing(case: Case) -> None:
    (param,) = params = make_params([(5, 70)])
    before = param.detach().clone()
    param.grad = torch.zeros_like(param)
    case.ours(params, lr=0.0, weight_decay=0.0, state_dtype=torch.int8).step()
    assert torch.equal(param.detach(), before)


def test_a_gradient_of_another_size_gives_the_same_codes() -> None:
    """Where eps is nothing, Adam does not see the size of gradients; nor do codes."""
    want = None
    for power in (-40, 0, 20):
        (param,) = params = make_params([(5, 130)])
        optimizer = onepass.Adam(params, eps=0.0, state_dtype=torch.int8)
        for step in range(3):
            param.grad = randn((5, 130), torch.float32, step) * 2.0**power
            optimizer.step()
        own = optimizer.state[param]
        seen = [own["exp_avg"], own["exp_avg_sq"], param.detach().clone()]
        want = want or seen
        for a, b in zip(seen, want, strict=True):
            assert torch.equal(a, b)

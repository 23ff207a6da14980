"""The numbers of onepass.ema: torch's bits, the formulas, their ranges."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from onepass import _C, ema
from onepass.ema import EMA
from tests.averaged import Tied, after, theirs
from tests.layouts import READABLE, WRITABLE, place, same_bits
from tests.support import COMPLEX, REAL, instruction_sets, randn
from tests.walks import close

BETAS = (0.0, 0.3, 0.5, 0.9, 0.999)
NARROW = (torch.bfloat16, torch.float16)


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether ours is torch's, whose kernels for machines without vectors round once more."""
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        return True
    return same_bits(a, b)


# ---- the numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("beta", BETAS)
def test_the_averages_are_those_of_averaged_model_bit_for_bit(beta, use_buffers, dtype) -> None:
    model = Tied(dtype)
    ours, want = EMA(model, beta, use_buffers=use_buffers), theirs(model, beta, use_buffers)
    for seed in range(30):
        model.train_on(seed)
        ours.update()
        want.update_parameters(model)
    expected = dict(want.module.named_parameters(remove_duplicate=False))
    if use_buffers:
        expected |= dict(want.module.named_buffers())
        del expected["norm.num_batches_tracked"]  # which ours copies
        assert ours.averages.pop("norm.num_batches_tracked") == 90
    assert ours.averages.keys() == expected.keys()
    assert all(alike(ours.averages[name], tensor) for name, tensor in expected.items())
    assert ours.averages["conv.weight"].stride() == model.conv.weight.stride()


@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX], ids=str)
@pytest.mark.parametrize("beta", BETAS)
def test_an_update_is_a_lerp(beta: float, dtype: torch.dtype) -> None:
    average, value = (randn((1003,), dtype, seed) for seed in (1, 2))
    if not dtype.is_complex:
        odd = torch.tensor([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan], dtype=dtype)
        average[:36], value[:36] = odd.repeat(6), odd.repeat_interleave(6)
    want = average.clone().lerp_(value, 1 - beta)
    assert ema.update_(average, value, beta) is average
    assert torch.equal(average.isnan(), want.isnan())
    if dtype.is_complex:  # which torch multiplies by a complex weight
        eps = torch.finfo(dtype).eps
        return close(average, want, 4 * eps, 4 * eps)
    assert alike(average.nan_to_num(0.5), want.nan_to_num(0.5))


def test_the_first_update_copies_whatever_the_average_was() -> None:
    value = torch.tensor([1.0, -0.0, math.inf, 3e38])
    for step, first in itertools.product((1, 1.0), (math.nan, math.inf, -3e38)):
        average = torch.full((4,), first)
        assert same_bits(ema.update_(average, value, 0.9, step), value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_average_of_ones_is_corrected_to_one(dtype):
    average, corrected = torch.zeros(1, dtype=dtype), torch.full((1,), 7.0, dtype=dtype)
    ulp = torch.finfo(dtype).eps
    for step, v in enumerate((0.1, 0.19), start=1):
        ema.update_(average, torch.ones(1, dtype=dtype), 0.9)
        ema.update_(corrected, torch.ones(1, dtype=dtype), 0.9, step)
        close(average.item(), v, 2 * ulp)
        assert abs(ema.bias_corrected(average, 0.9, step) - 1) <= ulp
        assert abs(corrected - 1) <= ulp


def test_a_third_of_the_weight_is_older_than_the_window():
    """The window of beta = 0.9 is 1 / (1 - beta) = 10 values."""
    window = round(ema.window(0.9))
    assert window == 10
    average = torch.ones(1, dtype=torch.float64)  # of ones without end, then of a window of zeros
    for _ in range(window):
        ema.update_(average, torch.zeros(1, dtype=torch.float64), 0.9)
    close(average.item(), 0.9**10, 1e-12)
    close(1 - sum(ema.weight(0.9, age) for age in range(window)), 0.9**10, 1e-12)
    close(0.9**10, 0.349, 1e-3)


@pytest.mark.parametrize("beta", BETAS)
def test_corrected_averages_are_the_formula(beta: float) -> None:
    values = randn((60, 50), torch.float64, 3)
    average, average32, v = torch.full((50,), math.nan).double(), torch.zeros(50), np.zeros(50)
    for t, value in enumerate(values, start=1):
        v = beta * v + (1 - beta) * value.numpy()
        ema.update_(average, value, beta, t)
        ema.update_(average32, value.float(), beta, t)
        want = torch.from_numpy(v / (1 - beta**t))
        torch.testing.assert_close(average, want, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(average32.double(), want, rtol=1e-5, atol=1e-6)
        plain = ema.bias_corrected(torch.from_numpy(v), beta, t)
        assert torch.equal(plain, want)


def test_the_class_corrects_as_the_function_does() -> None:
    model = Tied()
    ours, plain = EMA(model, 0.9, bias_correction=True), EMA(model, 0.9)
    want = torch.full_like(model.conv.weight, math.nan)
    for seed in range(5):
        model.train_on(seed)
        ours.update()
        plain.update()
        ema.update_(want, model.conv.weight, 0.9, seed + 1)
    assert same_bits(ours.averages["conv.weight"], want)
    assert not same_bits(plain.averages["conv.weight"], want)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_averages_of_narrow_weights_are_float32(dtype: torch.dtype) -> None:
    model = Tied(dtype)
    wide = copy.deepcopy(model).float()
    ours, want = EMA(model, 0.99), theirs(wide, 0.99)
    for seed in range(20):
        model.train_on(seed)
        wide.load_state_dict(model.state_dict())
        ours.update()
        want.update_parameters(wide)
    for name, tensor in want.module.named_parameters(remove_duplicate=False):
        assert ours.averages[name].dtype == torch.float32
        assert alike(ours.averages[name], tensor), name


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_the_dtype_of_the_averages_can_be_chosen(dtype: torch.dtype) -> None:
    model = Tied()
    ours = after(3, model, beta=0.5, dtype=dtype, use_buffers=True)
    float32 = after(3, Tied(), beta=0.5, use_buffers=True)
    assert {t.dtype for t in ours.averages.values()} == {dtype, torch.int64}
    for name, tensor in float32.averages.items():
        eps = torch.finfo(dtype).eps
        close(ours.averages[name].to(tensor.dtype), tensor, 3 * eps + 1e-6, 3 * eps + 1e-6)
    pair = EMA([torch.ones(2, dtype=torch.complex64)], dtype=torch.float64)
    assert pair.averages["0"].dtype == torch.complex128
    for wrong in (torch.int64, torch.complex64, "float32"):
        with pytest.raises(ValueError, match="Invalid dtype value"):
            EMA(model, dtype=wrong)


def test_every_layout_instruction_set_and_number_of_threads_gives_the_same_bits() -> None:
    shape = (37, 1000)
    average, value = (randn(shape, torch.float32, seed) for seed in (1, 2))
    want = ema.update_(average.clone(), value, 0.999)
    for name, (threads, layout) in itertools.product(
        instruction_sets(), ((1, "contiguous"), (2, "contiguous"), *((1, w) for w in WRITABLE))
    ):
        _C.set_instruction_set(name)
        torch.set_num_threads(threads)
        placed = place(average, WRITABLE[layout])
        assert same_bits(ema.update_(placed.view, value, 0.999), want), (name, threads, layout)
    for layout in READABLE.values():
        view = place(value, layout).view
        want = ema.update_(average.clone(), view.contiguous(), 0.9)
        assert same_bits(ema.update_(average.clone(), view, 0.9), want)


# ---- the formulas around it


def test_windows_betas_and_weights_belong_together() -> None:
    assert ema.window(0.9) == pytest.approx(10, rel=1e-15)
    assert ema.window(0.0) == 1.0 and ema.beta_for_window(1) == 0.0
    for beta in (0.0, 0.25, 0.9, 0.999, 1 - 2**-53):
        assert ema.beta_for_window(ema.window(beta)) == pytest.approx(beta, rel=1e-15)
        weights = [ema.weight(beta, age) for age in range(20)]
        assert math.fsum(weights) == pytest.approx(1 - beta**20, rel=1e-12)
    assert ema.weight(0.9, 2) == pytest.approx(0.081) and ema.weight(0.0, 0) == 1.0


def test_an_average_weighs_its_values_as_weight_says() -> None:
    values = torch.eye(30, dtype=torch.float64)  # value t is all that entry t ever sees
    average = torch.zeros(30, dtype=torch.float64)
    for value in values:
        ema.update_(average, value, 0.8)
    want = torch.tensor([ema.weight(0.8, 29 - t) for t in range(30)], dtype=torch.float64)
    torch.testing.assert_close(average, want, rtol=1e-14, atol=0.0)


NO_BETAS = (-0.1, 1.0, 1.5, math.nan, math.inf, -math.inf)
NO_STEPS = (0, -1, 1.5, math.nan, math.inf, 2**53)


def test_what_is_out_of_range_is_refused_and_nothing_is_written() -> None:
    average, value = torch.zeros(3), torch.ones(3)
    for beta in NO_BETAS:
        for call in (
            lambda b: ema.window(b), lambda b: ema.weight(b, 0), lambda b: EMA([value], b),
            lambda b: ema.bias_corrected(1.0, b, 1), lambda b: ema.update_(average, value, b),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=r"Invalid beta value: .* must be in \[0, 1\)"):
                call(beta)
        with pytest.raises(ValueError, match="Invalid beta value"):
            torch.ops.onepass.ema_([average], [value], beta=torch.tensor(beta))
    for step in NO_STEPS:
        with pytest.raises(ValueError, match=f"Invalid step value: {step} .*whole number from 1"):
            ema.bias_corrected(1.0, 0.9, step)
        with pytest.raises(ValueError, match="Invalid step value"):
            ema.update_(average, value, 0.9, step)
    for age in (-1, 0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match="Invalid age value"):
            ema.weight(0.9, age)
    for window in (0.999, 0, -1, math.nan, math.inf, 1e300):
        with pytest.raises(ValueError, match="Invalid window value"):
            ema.beta_for_window(window)
    assert not average.any()


def test_an_average_says_what_it_is() -> None:
    average = EMA(torch.nn.Linear(2, 3), beta=0.9, bias_correction=True)
    average.update()
    want = "EMA(beta=0.9, bias_correction=True, use_buffers=False, averages=2, n_averaged=1)"
    assert repr(average) == want

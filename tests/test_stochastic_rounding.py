"""Stochastic rounding of 16-bit weights and states: which way, how often, and from what it follows.

The hash and the rounding are written here once more, in numpy and from their definitions.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import onepass
from onepass.rules import RULES
from tests.bad_inputs import Mode
from tests.cases import CASES, Case
from tests.devices import of
from tests.layouts import WRITABLE, place
from tests.reproducible import assert_resumed_goes_on, assert_same_for_threads_and_instruction_sets
from tests.support import (
    assert_same,
    make_params,
    params_of,
    randn,
    set_grads,
    snapshot,
    take_steps,
)
from tests.unchanged import refused

ROUNDING = [c for c in CASES if "stochastic_rounding" in inspect.signature(c.ours).parameters]
STATE_ROUNDING = [c for c in CASES if "state_rounding" in inspect.signature(c.ours).parameters]
COUNTLESS = [case for case in CASES if not RULES[case.ours.rule].counts_steps]
each_rounding_case = pytest.mark.parametrize("case", ROUNDING, ids=str)
each_state_rounding_case = pytest.mark.parametrize("case", STATE_ROUNDING, ids=str)
SHORT = (torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", SHORT, ids=str)
SIZE = 3001

U32 = np.uint32


def hashes(size: int, key: int) -> np.ndarray:
    """lowbias32 of i G + key, by its author's definition (Wellons 2018)."""
    x = np.arange(size, dtype=U32) * U32(0x9E3779B9) + U32(key)
    x ^= x >> U32(16)
    x *= U32(0x7FEB352D)
    x ^= x >> U32(15)
    x *= U32(0x846CA68B)
    return np.asarray(x ^ (x >> U32(16)), dtype=U32)


def key_of(group: int, index: int, step: int) -> int:
    """splitmix64 of the parameter's place and the step (Steele et al. 2014)."""
    mask = (1 << 64) - 1
    x = (((group << 32 | index) * 0x9E3779B97F4A7C15 + step) + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
    return (x ^ x >> 31) & 0xFFFFFFFF


def weight_bits(hashed: np.ndarray) -> np.ndarray:
    return hashed >> U32(16)


def state_bits(hashed: np.ndarray) -> np.ndarray:
    return hashed & U32(0xFFFF)


def second_state_bits(hashed: np.ndarray) -> np.ndarray:
    return (hashed * U32(0x9E3779B1)) >> U32(16)


def rounded(x: Tensor, random: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Rounds float32 up where the fraction between its neighbours exceeds what is random."""
    value = x.detach().double().numpy().reshape(-1)
    if dtype == torch.bfloat16:
        bits = x.detach().numpy().reshape(-1).view(U32)
        return torch.from_numpy(((bits + random) >> U32(16)).astype(np.uint16).view(np.int16)).view(
            torch.bfloat16
        )
    _, exponent = np.frexp(np.abs(value))
    last_place = np.ldexp(1.0, np.maximum(exponent - 11, -24))
    steps = np.abs(value) / last_place
    up = np.floor(steps) + (steps - np.floor(steps) + (random >> U32(3)) / 8192.0 >= 1.0)
    return torch.from_numpy(np.copysign(up * last_place, value)).to(torch.float16)


def twins(case: Case, dtype: torch.dtype, **options: Any) -> tuple[Any, Any]:
    """Returns an optimizer of 16-bit numbers and one of the same numbers in float32."""
    values = randn((SIZE,), torch.float32, 3).to(dtype)
    short = values.clone().requires_grad_()
    wide = values.float().requires_grad_()
    short_options = {"state_dtype": dtype} if "state_rounding" in options else {}
    state = {**short_options, "state_dtype": short_options.get("state_dtype", torch.float32)}
    first = case.ours([short], **options, **state)
    plain = {k: v for k, v in options.items() if "rounding" not in k}
    return first, case.ours([wide], **plain, state_dtype=torch.float32)


def step_both(first: Any, second: Any, seed: int) -> None:
    grad = randn((SIZE,), torch.float32, 100 + seed)
    for optimizer in (first, second):
        param = params_of(optimizer)[0]
        param.grad = grad.to(param.dtype).to(param.dtype)
    params_of(second)[0].grad = params_of(first)[0].grad.float()
    first.step()
    second.step()


@each_rounding_case
@each_dtype
def test_a_weight_is_rounded_by_the_hash_of_its_element_and_step(
    case: Case, dtype: torch.dtype
) -> None:
    for options in case.settings[:2]:
        short, wide = twins(case, dtype, **options, stochastic_rounding=True)
        for step in range(1, 4):
            params_of(wide)[0].data = params_of(short)[0].detach().float()
            step_both(short, wide, step)
            random = weight_bits(hashes(SIZE, key_of(0, 0, step)))
            want = rounded(params_of(wide)[0], random, dtype)
            assert torch.equal(params_of(short)[0].detach(), want), (options, step)


@each_state_rounding_case
@each_dtype
def test_states_that_are_never_negative_are_rounded_by_bits_of_their_own(
    case: Case, dtype: torch.dtype
) -> None:
    short, wide = twins(case, dtype, lr=2.0**-7, state_rounding="stochastic")
    fields = iter((state_bits, second_state_bits))
    step_both(short, wide, 1)
    hashed = hashes(SIZE, key_of(0, 0, 1))
    own, other = (o.state[params_of(o)[0]] for o in (short, wide))
    for state in RULES[case.ours.rule].states:
        if state.name not in own:
            continue
        if state.is_non_negative:
            want = rounded(other[state.name], next(fields)(hashed), dtype)
        else:
            want = other[state.name].to(dtype)
        assert torch.equal(own[state.name], want), state.name


@each_dtype
def test_the_mean_over_many_steps_is_exact(dtype: torch.dtype) -> None:
    """Over 2048 steps from the same weights to numbers between those of 16 bits.

    Within 4 standard errors for nearly all elements, of root mean square 1.
    """
    before = (randn((512,), torch.float32, 5) * 3).to(dtype)
    update = (before.float() * torch.finfo(dtype).eps * torch.rand(512)).to(dtype)
    exact = before.double() - update.double()
    param = before.clone().requires_grad_()
    param.grad = update
    optimizer = onepass.Momentum([param], lr=1.0, momentum=0.0, stochastic_rounding=True)
    total, squares = torch.zeros(2, 512, dtype=torch.float64)
    count = 2048
    for _ in range(count):
        param.data.copy_(before)
        optimizer.step()
        error = param.detach().double() - exact
        total += error
        squares += error * error
    mean = total / count
    deviation = ((squares / count - mean * mean) / count).sqrt()
    scores = (mean / deviation)[deviation > 0]
    assert len(scores) > 500
    assert float((scores.abs() < 4).double().mean()) > 0.99
    assert 0.9 < float(scores.square().mean().sqrt()) < 1.1


@each_dtype
def test_updates_below_a_place_are_lost_to_nearest_and_kept_by_chance(dtype: torch.dtype) -> None:
    """A hundred steps of a tenth of the weight's last place: nearest stays where it was."""
    eps = torch.finfo(dtype).eps
    params = [torch.ones(4096, dtype=dtype, requires_grad=True) for _ in range(2)]
    nearest = onepass.Momentum(params[:1], lr=eps / 10, momentum=0.0)
    stochastic = onepass.Momentum(params[1:], lr=eps / 10, momentum=0.0, stochastic_rounding=True)
    for _ in range(100):
        for param, optimizer in zip(params, (nearest, stochastic), strict=True):
            param.grad = -torch.ones_like(param)
            optimizer.step()
    assert torch.equal(params[0], torch.ones_like(params[0]))
    mean = float(params[1].detach().double().mean())
    assert mean == pytest.approx(1 + 10 * eps, rel=0.02 * eps * 10)


def test_second_moments_that_decay_follow_float32_where_nearest_sticks() -> None:
    """Gradients become 100 times smaller: nearest ends several times too large (codecs)."""
    ratios = {}
    generator = torch.Generator().manual_seed(1)
    options: dict[str, dict[str, Any]] = {
        "nearest": {"state_dtype": torch.bfloat16},
        "stochastic": {"state_dtype": torch.bfloat16, "state_rounding": "stochastic"},
        "wide": {},
    }
    params = {name: torch.zeros(1024, requires_grad=True) for name in options}
    optimizers = {name: onepass.Adam([params[name]], **options[name]) for name in options}
    for step in range(6000):
        grad = torch.randn(1024, generator=generator) * (1.0 if step < 1000 else 0.01)
        for name, optimizer in optimizers.items():
            params[name].grad = grad
            optimizer.step()
    roots = {n: o.state[params[n]]["exp_avg_sq"].double().sqrt() for n, o in optimizers.items()}
    ratios = {
        name: float((roots[name] / roots["wide"]).mean()) for name in ("nearest", "stochastic")
    }
    assert 0.97 < ratios["stochastic"] < 1.03
    assert ratios["nearest"] > 3


@each_rounding_case
def test_a_step_of_no_length_changes_nothing(case: Case) -> None:
    """A step of no length leaves every finite 16-bit number as it is."""
    for dtype in SHORT:
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        every = every[every.isfinite()]
        param = every.clone().requires_grad_()
        param.grad = torch.zeros_like(param)
        options = {"lr": 0.0, "weight_decay": 0.0, "stochastic_rounding": True}
        known = inspect.signature(case.ours).parameters
        case.ours([param], **{k: v for k, v in options.items() if k in known}).step()
        assert torch.equal(param.detach(), every)


@each_dtype
def test_not_a_number_and_infinity_stay_such(dtype: torch.dtype) -> None:
    special = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0], dtype=dtype)
    param = special.clone().requires_grad_()
    param.grad = torch.zeros_like(param)
    onepass.Momentum([param], lr=0.0, stochastic_rounding=True).step()
    assert torch.equal(param.detach().view(torch.int16) & -0x40, special.view(torch.int16) & -0x40)


# ---- from what it follows


def model(case: Case, dtype: torch.dtype = torch.bfloat16, **options: Any) -> Any:
    known = inspect.signature(case.ours).parameters
    rounding = {"stochastic_rounding": True, "state_rounding": "stochastic", **options}
    shapes = ((300, 7), (5,), (70001,))
    wanted = {name: value for name, value in rounding.items() if name in known}
    return case.ours(make_params(shapes, dtype), **wanted)


@each_rounding_case
def test_threads_and_instruction_sets_do_not_show(case: Case) -> None:
    assert_same_for_threads_and_instruction_sets(lambda: model(case))


@each_dtype
def test_layouts_do_not_show(dtype: torch.dtype) -> None:
    values = randn((6, 5, 4, 3), dtype, 1)
    seen = set()
    for layout in WRITABLE.values():
        param = place(values, layout).view.requires_grad_()
        param.grad = values * 2
        onepass.AdamW([param], lr=0.1, stochastic_rounding=True).step()
        seen.add(param.detach().float().contiguous().numpy().tobytes())
    assert len(seen) == 1


@each_rounding_case
def test_a_resumed_run_goes_on_with_the_same_bits(case: Case) -> None:
    assert_resumed_goes_on(lambda: model(case))


@each_rounding_case
def test_one_parameter_by_itself_is_rounded_as_in_a_step(case: Case) -> None:
    """In every group: its number is part of the key."""
    whole, single = model(case), model(case)
    for optimizer in (whole, single):
        more = make_params(((300, 7), (5,)), torch.bfloat16)
        optimizer.add_param_group({"params": more})
    for step in range(2):
        for optimizer in (whole, single):
            set_grads(params_of(optimizer), step)
        whole.step()
        for param in reversed(params_of(single)):
            single.step_one(param)
        assert_same(snapshot(single), snapshot(whole))


@each_rounding_case
def test_wider_numbers_are_not_rounded(case: Case) -> None:
    """Models have parameters of both kinds; float32 ones are stepped as without the option."""
    rounding, plain = model(case, torch.float32), case.ours(make_params(((300, 7), (5,), (70001,))))
    for optimizer in (rounding, plain):
        take_steps(optimizer, 2)
    for a, b in zip(params_of(rounding), params_of(plain), strict=True):
        assert torch.equal(a, b)


# ---- refused


@pytest.mark.parametrize("case", COUNTLESS, ids=str)
def test_without_a_count_of_steps_it_is_refused(case: Case) -> None:
    for options in ({"stochastic_rounding": True}, {"state_rounding": "stochastic"}):
        optimizer = case.ours(make_params(((3,),), torch.bfloat16))
        optimizer.param_groups[0].update(options)
        set_grads(params_of(optimizer), 1)
        with refused(optimizer, options, errors=(ValueError,)):
            optimizer.step()


@each_state_rounding_case
@pytest.mark.parametrize("bad", ("nearest", "Stochastic", True, 1.0))
def test_an_unknown_rounding_is_refused_by_name_and_value(case: Case, bad: Any) -> None:
    with pytest.raises(ValueError, match=f"Invalid state_rounding value: {bad!r}"):
        case.ours(make_params(((3,),)), state_rounding=bad)
    optimizer = case.ours(make_params(((3,),)))
    set_grads(params_of(optimizer), 1)
    optimizer.param_groups[0]["state_rounding"] = bad
    with refused(optimizer, bad, errors=(ValueError,)):
        optimizer.step()


def test_a_compiled_step_is_refused_and_left_to_the_eager_one() -> None:
    """As a whole graph it fails; where torch.compile may fall back, the step is the eager one."""
    compiled, eager = (model(of("AdamW")) for _ in range(2))
    for optimizer in (compiled, eager):
        set_grads(params_of(optimizer), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._dynamo.reset()
        with pytest.raises(Exception, match="rounds stochastically"):
            torch.compile(compiled.step, backend="eager", fullgraph=True)()
        assert not compiled.state
        torch._dynamo.reset()
        torch.compile(compiled.step, backend="eager")()
        torch._dynamo.reset()  # it would remember that step() is left to Python
    eager.step()
    assert_same(snapshot(compiled), snapshot(eager))


def test_a_step_under_a_dispatch_mode_is_refused() -> None:
    optimizer = model(of("AdamW"))
    set_grads(params_of(optimizer), 1)
    with Mode(), refused(optimizer, "a mode", errors=(RuntimeError,)):
        optimizer.step()

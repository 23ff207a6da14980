"""Zeros, denormals, the largest numbers, infinities and NaN step as in torch's for-loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import onepass
from onepass.rules import RULES
from tests import rounded
from tests.cases import Case
from tests.layouts import WRITABLE, place, same_bits
from tests.support import each_case, each_kind, each_torch_case, numbers_of

each_adam = pytest.mark.parametrize("adam", [onepass.Adam, onepass.AdamW])
# States that are never under zero, and those that are one number for a parameter.
SQUARES = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta", "exp_inf", "step_size"}
REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def lattice(dtype: torch.dtype) -> Tensor:
    """Returns zero, the ends of the denormals and of the normals, 1, infinity and NaN."""
    info = torch.finfo(dtype)
    denormal = torch.tensor(info.smallest_normal, dtype=torch.float64) * info.eps
    positive = [0.0, float(denormal), info.smallest_normal - float(denormal), info.smallest_normal]
    positive += [1.0, info.max, torch.inf]
    return torch.tensor([*positive, *(-x for x in positive), torch.nan], dtype=dtype)


def combinations(dtypes: dict[str, torch.dtype]) -> dict[str, Tensor]:
    """Returns every combination of special values; of a third state only a few of them."""
    values = {name: lattice(dtype) for name, dtype in dtypes.items()}
    for name in values:
        if name in SQUARES:
            values[name] = values[name][[0, 1, 2, 3, 4, 5, 6, 7, 14]]
        if name.startswith("max_"):
            values[name] = values[name][[0, 1, 4, 6, 8]]
    indices = torch.meshgrid(*[torch.arange(len(v)) for v in values.values()], indexing="ij")
    return {name: v[i.reshape(-1)] for (name, v), i in zip(values.items(), indices, strict=True)}


def stepped(cls: Any, options: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns parameter and states after the fourth step, from these before it."""
    made = dict(tensors)
    param = made.pop("param").clone().requires_grad_()
    param.grad = made.pop("grad")
    state = {name: tensor.clone() for name, tensor in made.items()}
    optimizer = cls([param], **options)
    numbers = {name: torch.tensor(0.5) for name in numbers_of(cls)}
    optimizer.state[param] = {"step": torch.tensor(3.0), **numbers, **state}
    optimizer.step()
    return {"param": param.detach(), **{name: optimizer.state[param][name] for name in state}}


def operands(case: Case, options: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns the special values for parameter, gradient and the states that the options need."""
    param = torch.zeros(1, dtype=dtype, requires_grad=True)
    param.grad = torch.zeros(1, dtype=dtype)
    optimizer = case.ours([param], **options)
    optimizer.step()
    states = {
        name: state.dtype
        for name, state in optimizer.state[param].items()
        if name != "step" and name not in numbers_of(case.ours)
    }
    return combinations({"param": dtype, "grad": dtype, **states})


def wide(tensor: Tensor) -> np.ndarray:
    """Returns numbers of a range in which no square of a float64 overflows."""
    return tensor.double().numpy().astype(np.longdouble)


def by_formula(case: Case, options: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """Returns the fourth step as the paper has it, in numbers that do not overflow."""
    state = {name: wide(tensor) for name, tensor in tensors.items()}
    state |= {name: np.full_like(state["param"], 0.5) for name in numbers_of(case.ours)}
    with np.errstate(all="ignore"):
        return case.reference(state.pop("param"), state.pop("grad"), state, 4.0, options)


def near(ours: Tensor, value: Any, scale: Any) -> Tensor:
    """Returns which results are this value: as near as roundings allow, NaN, or infinite alike."""
    with np.errstate(all="ignore"):
        stored = torch.from_numpy(value.astype(np.float64)).to(ours.dtype)
        bound = rounded.bound(scale, value, str(ours.dtype).removeprefix("torch."))
        within = torch.from_numpy(abs(wide(ours) - value) <= 2 * bound)
    same = (ours == stored) | (ours.isnan() & stored.isnan())
    return same | (within & ours.isfinite())


@each_torch_case
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_c15_nan_inf_and_denormals_go_as_in_the_for_loop_of_torch(case, dtype):
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    for options in case.settings:
        tensors = operands(case, options, dtype)
        assert len(tensors["param"]) >= 225
        if options.get("centered"):  # the square of a mean overflows, unless it is fused as torch's
            usual = [~(abs(t) > 1e3) | t.isinf() for t in (tensors["grad"], tensors["grad_avg"])]
            tensors = {name: t[usual[0] & usual[1]] for name, t in tensors.items()}
        ours = stepped(case.ours, options, tensors)
        decoded = {name: tensor.to(arithmetic) for name, tensor in tensors.items()}
        loop = stepped(case.theirs, {**options, "foreach": False}, decoded)
        step = by_formula(case, options, tensors)
        for name, value in {"param": step.param, **step.state}.items():
            if name in numbers_of(case.ours):
                continue
            as_loop = near(ours[name], wide(loop[name]), step.scale[name])
            # The loop overflows on its way to results that do not.
            right = as_loop | near(ours[name], value, step.scale[name])
            assert right.all(), f"{options}: {name}: {(~right).sum()} values are off"
            assert as_loop.float().mean() > 0.8


@each_case
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_c15_special_values_of_the_extras_match_the_formula(case, dtype):
    """torch has no such options. At infinity its lerp is not what the formula says, and with a tiny
    numerator the quotient of the float32 loop is not either, nor ours: those are left out.
    """
    for options in case.extras:
        tensors = operands(case, options, dtype)
        usual = torch.stack([~(abs(t) > 1) for t in tensors.values()]).all(0)
        for name, t in tensors.items():
            # The decay of a tiny parameter is 0 in floats, of which a mask makes much.
            if (name != "param" or options.get("cautious")) and name not in SQUARES:
                usual &= ~((t != 0) & (abs(t) < 1))
        tensors = {name: tensor[usual] for name, tensor in tensors.items()}
        step = by_formula(case, options, tensors)
        ours = stepped(case.ours, options, tensors)
        for name, value in {"param": step.param, **step.state}.items():
            if name not in numbers_of(case.ours):
                right = near(ours[name], value, step.scale[name])
                assert right.all(), f"{options}: {name}: {(~right).sum()} values are off"


@each_kind
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_c15_special_values_do_not_depend_on_the_layout(case, dtype):
    for options in case.settings[:3]:
        tensors = operands(case, options, dtype)
        spread = {
            name: place(tensor, WRITABLE["every 2nd"]).view for name, tensor in tensors.items()
        }
        ours, expected = stepped(case.ours, options, spread), stepped(case.ours, options, tensors)
        assert all(same_bits(ours[name], expected[name]) for name in expected)


def all_numbers(dtype: torch.dtype) -> Tensor:
    """Returns all 65536 numbers of a 16-bit type."""
    return torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)


@each_adam
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("state_dtype", REAL, ids=str)
def test_every_16_bit_number_survives_a_step_of_nothing(adam, dtype, state_dtype):
    before = all_numbers(dtype)
    param = before.clone().requires_grad_()
    param.grad = torch.zeros_like(param)
    adam([param], weight_decay=0.0, state_dtype=state_dtype).step()
    numbers = ~before.isnan()
    assert same_bits(param[numbers], before[numbers])
    assert param[~numbers].isnan().all()


@each_adam
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=str)
def test_storing_rounds_to_the_nearest_and_ties_to_even(adam, dtype, wide):
    """With beta1 = 0 the first moment is the gradient, stored in the state's type."""
    halves = all_numbers(dtype)
    neighbours = torch.nextafter(halves, torch.full_like(halves, torch.inf))
    ties = (halves.to(wide) + neighbours.to(wide)) / 2
    beside = [torch.nextafter(ties, torch.full_like(ties, to)) for to in (-torch.inf, torch.inf)]
    drawn = torch.randint(-(2**31), 2**31, (300_000,)).to(torch.int32).view(torch.float32)
    grad = torch.cat([halves.to(wide), ties, *beside, drawn.to(wide)])
    grad = grad[grad.isfinite()]
    param = torch.zeros_like(grad).requires_grad_()
    param.grad = grad
    optimizer = adam([param], betas=(0.0, 0.9), weight_decay=0.0, state_dtype=dtype)
    optimizer.step()
    stored, wanted = optimizer.state[param]["exp_avg"], grad.to(dtype)
    assert torch.equal(stored, wanted)
    assert same_bits(stored[wanted != 0], wanted[wanted != 0])


@each_adam
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_denormals_are_kept(adam, dtype):
    """As parameters, as gradients and as states, in one thread and in several."""
    info = torch.finfo(dtype)
    denormal = torch.tensor(info.smallest_normal, dtype=torch.float64) * info.eps
    values = (denormal * torch.randint(1, 2 ** (10 if dtype.itemsize > 2 else 7), (40000,))).to(
        dtype
    )
    for threads in (1, 2):
        torch.set_num_threads(threads)
        param = values.clone().requires_grad_()
        param.grad = torch.zeros_like(param)
        optimizer = adam([param], betas=(0.0, 0.9), weight_decay=0.0, state_dtype=dtype)
        optimizer.step()
        assert same_bits(param, values) and (values != 0).all()
        param.grad = values
        optimizer.step()
        assert same_bits(optimizer.state[param]["exp_avg"], values)


@each_case
def test_c15_float16_parameters_stay_finite_under_tiny_gradients(case):
    grads = torch.tensor([0.0, 6e-8, -6e-8, 1e-7, 1e-4, -1e-4, 1e-3], dtype=torch.float16)
    for options in case.settings:
        param = torch.ones_like(grads).requires_grad_()
        optimizer = case.ours([param], **options)
        group = optimizer.param_groups[0]
        longest = 10 * group["lr"] * (1 + group.get("weight_decay", 0)) + 1e-3
        longest = group.get("step_sizes", [longest])[-1]  # Rprop's grow up to a limit
        for _ in range(100):
            before = param.detach().float()
            param.grad = grads.clone()
            optimizer.step()
            assert param.isfinite().all()
            limit = longest + 2.0**-10 * abs(before).max()
            if RULES[case.ours.rule].sums:  # steps are as long as the parameter
                limit *= 3 * max(1.0, float(before.norm()))
            assert (abs(param.detach().float() - before) <= limit).all()


@pytest.mark.parametrize(
    ("cls", "option"), [(onepass.NAdam, "momentum_decay"), (onepass.ASGD, "alpha")]
)
def test_an_exponent_that_no_integer_holds_is_merely_large(cls: Any, option: str) -> None:
    """0.96 to the power of a million is 0, and 1.1 to it is infinite, as to any that is larger."""
    ends = []
    for exponent in (1e6, 1e19, 1e20, 1e300):
        param = torch.ones(3, requires_grad=True)
        param.grad = torch.tensor([1.0, -2.0, 3.0])
        more = {"lambd": 1.0} if cls is onepass.ASGD else {}
        optimizer = cls([param], lr=0.1, **{option: exponent}, **more)
        for _ in range(3):
            optimizer.step()
        ends.append(param.detach())
    assert all(same_bits(end, ends[0]) for end in ends[1:])

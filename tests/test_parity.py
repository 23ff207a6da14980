"""Every step is torch's for-loop step in float64, up to the roundings of the stored type."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.testing._internal.common_optimizers import optim_db

from onepass.rules import RULES
from tests import layouts, reference, rounded
from tests.cases import Case
from tests.support import EXTRA_KEYS, betas_for, each_case, each_torch_case

DTYPES = (
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.bfloat16,
    torch.complex128,
    torch.float16,
)
SHAPES = (
    (), (1,), (2,), (7,), (67,), (1021,), (5, 3), (1, 9), (3, 1, 5), (2, 3, 4),
    (4, 2, 3, 3), (2, 1, 3, 1, 2), (0,), (3, 0, 2),
)  # fmt: skip
LAYOUTS = ("contiguous", "transposed", "every 2nd")
PER_ALGORITHM = 300  # C1 asks for 5000 cases of all


def database(case: Case) -> Any:
    return next(info for info in optim_db if info.optim_cls is case.theirs)


def inputs(case: Case) -> Iterator[dict[str, Any]]:
    """Yields the options that torch tests the class with; those for CUDA have tensors for lr."""
    for device in ("cpu", "cuda") if case.theirs else ():
        for given in database(case).optim_inputs_func(device=device):
            if device == "cpu" or "capturable" in given.kwargs:
                yield given.kwargs


def drawn(case: Case) -> Iterator[dict[str, Any]]:
    """Yields options with numbers drawn at random, those of the second settings."""
    draw = random.Random(0)
    numbers: dict[str, Callable[[], Any]] = {
        "lr": lambda: 10 ** draw.uniform(-4, 0),
        "betas": lambda: betas_for(case, draw.uniform(0, 0.99), 1 - 10 ** draw.uniform(-5, -0.5)),
        "eps": lambda: 10 ** draw.uniform(-9, -1),
        "weight_decay": lambda: draw.uniform(0, 0.5),
    }
    for _ in range(3):
        yield {k: numbers[k]() if k in numbers else v for k, v in case.settings[1].items()}


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options with numbers for tensors and without what must not change a result.

    In float64 the for-loop computes with tensors of float32, and less exactly than with numbers.
    """
    made = {key: value for key, value in options.items() if key != "capturable"}
    if "lr" in made:
        made["lr"] = float(made["lr"])
    if "betas" in made:
        made["betas"] = tuple(map(float, made["betas"]))
    return made


def random_values(shape: Sequence[int], dtype: torch.dtype, low: float, high: float) -> Tensor:
    """Returns normal numbers times powers of ten between 10^low and 10^high, some of them zero."""
    size = torch.empty(shape).uniform_(low, high)
    value = torch.randn(shape, dtype=dtype if dtype.is_complex else None) * 10.0**size
    return (value * (torch.rand(shape) > 0.05)).to(dtype)


def flat(tensors: Sequence[Tensor]) -> np.ndarray:
    """Returns all numbers of the tensors in float64, complex ones as pairs."""
    real = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
    return torch.cat([t.detach().double().reshape(-1) for t in real]).numpy()


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.atleast_1d(part) for part in parts])


def spread(state: Tensor, param: Tensor) -> np.ndarray:
    """Returns the numbers of a state as `flat`, one that the whole parameter shares repeated."""
    if state.shape == param.shape and state.is_complex() == param.is_complex():
        return flat([state])
    return np.full(param.numel() * (2 if param.is_complex() else 1), float(state))


def real_dtype(dtype: torch.dtype) -> str:
    real = dtype.to_real() if dtype.is_complex else dtype
    return str(real).removeprefix("torch.")


class Twins:
    """Our optimizer, torch's for-loop in float64 and the reference, all fed with the same numbers.

    The bound is that of one step, so before each step the other two take over our parameters and
    states: what is compared is what one step makes of the same input.
    """

    def __init__(self, case: Case, options: dict[str, Any], params: list[Tensor]) -> None:
        self.case, self.options, self.params = case, options, params
        self.numbers = {number.name for number in RULES[case.ours.rule].numbers}
        self.ours = case.ours(params, **options)
        self.wide = [p.detach().to(self._wide(p), copy=True).requires_grad_() for p in params]
        self.theirs: Any = None
        if case.theirs is not None and not options.keys() & EXTRA_KEYS:
            self.theirs = case.theirs(self.wide, foreach=False, **plain(options))

    @staticmethod
    def _wide(tensor: Tensor) -> torch.dtype:
        return torch.complex128 if tensor.is_complex() else torch.float64

    def _stored(self, param: Tensor, name: str, start: float) -> float:
        """Returns a state's first value as its dtype holds it."""
        narrow = name in self.numbers or param.dtype == torch.float16
        real = torch.float32 if narrow else param.real.dtype
        return float(torch.tensor(start, dtype=real))

    def set_gradients(self, grads: Sequence[Tensor | None]) -> None:
        for p, wide, grad in zip(self.params, self.wide, grads, strict=True):
            p.grad = grad
            wide.grad = None if grad is None else grad.to(self._wide(grad))

    def step(self) -> float:
        """Takes a step of all three; returns the largest error in units of the bound."""
        stepped = [k for k, p in enumerate(self.params) if p.grad is not None]
        resting = [k for k, p in enumerate(self.params) if p.grad is None]
        if self.theirs:
            self._hand_over()
            self.theirs.step()
        expected = self._expected(stepped)
        before = [layouts.bits(t).clone() for k in resting for t in self._tensors(k)]
        self.ours.step()
        after = [layouts.bits(t) for k in resting for t in self._tensors(k)]
        assert all(map(torch.equal, before, after)), "a parameter without a gradient changed"
        return self.error(stepped, expected)

    def error(self, stepped: list[int], expected: reference.Step) -> float:
        """Returns the largest error of these parameters and of their states, over the bound."""
        return max(self._error(stepped, name, expected) for name in expected.scale)

    def _tensors(self, k: int) -> list[Tensor]:
        return [self.params[k], *self.ours.state.get(self.params[k], {}).values()]

    def _hand_over(self) -> None:
        with torch.no_grad():
            for p, wide in zip(self.params, self.wide, strict=True):
                wide.copy_(p)
                state = self.ours.state.get(p)
                if not state and RULES[self.case.ours.rule].counts_steps:  # rounded when it starts
                    state = self.ours._new_state(p, self.ours.param_groups[0])
                for name, value in (state or {}).items():
                    kept = self.theirs.state[wide].get(name)
                    number = name == "step" or name in self.numbers
                    self.theirs.state[wide][name] = (
                        value.to(torch.float32 if number else self._wide(value), copy=True)
                        if kept is None
                        else kept.copy_(value)
                    )

    @property
    def _sums(self) -> bool:
        """Whether an element's step depends on its whole parameter."""
        return RULES[self.case.ours.rule].sums or bool(self.options.get("cautious"))

    def _expected(self, stepped: list[int]) -> reference.Step:
        """Returns what the reference says, in one call unless it sums over a parameter."""
        if not (self._sums and stepped):
            return self._expected_of(stepped)
        parts = [self._expected_of([k]) for k in stepped]
        state = {name: joined([part.state[name] for part in parts]) for name in parts[0].state}
        scale = {name: joined([part.scale[name] for part in parts]) for name in parts[0].scale}
        return reference.Step(joined([part.param for part in parts]), state, scale)

    def _expected_of(self, stepped: list[int]) -> reference.Step:
        params = [self.params[k] for k in stepped]
        states = [self.ours.state.get(p) or {} for p in params]
        pairs = [p.numel() * (2 if p.is_complex() else 1) for p in params]
        steps = [float(s.get("step", float(bool(s)))) + 1.0 for s in states]
        options = plain(self.options)
        state = {
            name: np.concatenate(
                [
                    spread(s[name], p)
                    if name in s
                    else np.full(count, self._stored(p, name, start))
                    for p, s, count in zip(params, states, pairs, strict=True)
                ]
            )
            for name, start in self.case.reference.starts(options).items()
        }
        return self.case.reference(
            flat(params), flat([p.grad for p in params]), state, np.repeat(steps, pairs), options
        )  # fmt: skip

    def _error(self, stepped: list[int], name: str, expected: reference.Step) -> float:
        def pick(params: list[Tensor], optimizer: Any) -> list[Tensor]:
            chosen = [params[k] for k in stepped]
            return chosen if name == "param" else [optimizer.state[p][name] for p in chosen]

        def spread_out(params: list[Tensor], optimizer: Any) -> np.ndarray:
            chosen = zip(pick(params, optimizer), [params[k] for k in stepped], strict=True)
            return np.concatenate([spread(value, param) for value, param in chosen])

        dtype = real_dtype(pick(self.params, self.ours)[0].dtype)
        ours = spread_out(self.params, self.ours)
        values = [expected.param if name == "param" else expected.state[name]]
        if self.theirs:
            values.append(spread_out(self.wide, self.theirs))
        worst = 0.0
        for value in values:
            bound = rounded.bound(expected.scale[name], value, dtype)
            error = abs(ours - value)
            assert np.isfinite(error).all()
            worst = max(worst, float((error / np.maximum(bound, 5e-324)).max(initial=0.0)))
        return worst


def make_params(dtype: torch.dtype) -> list[Tensor]:
    made = []
    for shape in SHAPES:
        for name in LAYOUTS:
            values = random_values(shape, dtype, -3, 1)
            made.append(layouts.place(values, layouts.WRITABLE[name]).view.requires_grad_())
    return made


def make_gradients(params: Sequence[Tensor]) -> list[Tensor | None]:
    """Returns a gradient or, three times out of ten, None for each, in layouts drawn at random."""
    sizes = [p.numel() for p in params]
    values = random_values((sum(sizes),), params[0].dtype, -4, 1).split(sizes)
    chosen = torch.randint(len(LAYOUTS), (len(params),)).tolist()
    present = (torch.rand(len(params)) > 0.3).tolist()
    return [
        layouts.place(value.reshape(p.shape), layouts.WRITABLE[LAYOUTS[k]]).view if there else None
        for p, value, k, there in zip(params, values, chosen, present, strict=True)
    ]


@each_case
def test_c1_every_step_is_the_for_loop_step_of_torch_in_float64(case):
    """For all inputs of torch's database, our settings and others; gradients are None at times."""
    count = 0
    own = (*case.settings, *case.extras)
    for options in (*own, *inputs(case), *drawn(case)):
        for dtype in DTYPES if options in own else DTYPES[:2]:
            params = make_params(dtype)
            twins = Twins(case, options, params)
            for step in range(4):
                twins.set_gradients(make_gradients(params))
                error = twins.step()
                where = f"{case}({options}), {dtype}, step {step + 1}"
                assert error <= 1.0, f"{where}: {error} times the bound"
            count += len(params)
    assert count >= PER_ALGORITHM


def hundred_steps(
    case: Case, options: dict[str, Any], dtype: torch.dtype
) -> tuple[Twins, reference.Step]:
    """Lets all three run on their own; returns the last step with the largest scales on the way."""
    p = random_values((500,), dtype, -3, 1).requires_grad_()
    twins = Twins(case, options, [p])
    expected, state, largest = flat([p]), {}, {}
    for t in range(1, 101):
        twins.set_gradients([random_values((500,), dtype, -4, 1)])
        step = case.reference(expected, flat([p.grad]), state, t, plain(options))
        expected, state = step.param, step.state
        largest = {k: np.maximum(largest.get(k, 0.0), scale) for k, scale in step.scale.items()}
        twins.ours.step()
        if twins.theirs:
            twins.theirs.step()
    return twins, reference.Step(expected, state, largest)


@each_case
def test_c1_errors_of_a_hundred_steps_add_up_and_do_not_grow(case):
    """In float64 they stay under 1e-10 of the scale, 100 times the bound of one step."""
    for options in (*case.settings, *case.extras):
        for dtype in (torch.float64, torch.float32):
            twins, last = hundred_steps(case, options, dtype)
            error = twins.error([0], last)
            assert error <= 100.0, f"{case}({options}), {dtype}: {error} times the bound of a step"


def torchs_and_our_error(case: Case, given: Any) -> list[tuple[type, str] | None]:
    params = given.params or [Parameter(torch.randn(2, 3))]
    errors: list[tuple[type, str] | None] = []
    for cls in (case.theirs, case.ours):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                cls(params, **given.kwargs).step()
            errors.append(None)
        except Exception as error:
            errors.append((type(error), str(error)))
    return errors


@each_torch_case
def test_every_error_input_of_torch_is_refused_in_its_words(case):
    given = database(case).optim_error_inputs_func(device="cpu", dtype=torch.float32)
    assert len(given) >= 6
    for error_input in given:
        theirs, ours = torchs_and_our_error(case, error_input.optimizer_error_input)
        assert theirs is not None and theirs[0] is error_input.error_type
        assert ours is not None and ours[0] is theirs[0]
        assert ours[1].startswith(theirs[1])  # ours goes on with the value and the place

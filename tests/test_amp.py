"""GradScaler: a skipped step changes nothing, an unscaled gradient is torch's."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from onepass.rules import RULES
from tests.bad_inputs import Mode
from tests.cases import Case
from tests.support import (
    assert_same,
    copies,
    each_case,
    each_case_with_fused,
    each_torch_case,
    each_torch_fused_case,
    make_params,
    numbers,
    params_of,
    raw,
    set_grads,
    snapshot,
    take_steps,
)

SHAPES = ((5, 7), (), (33,), (0,), (2100,))
PER_ALGORITHM = 40
SCALE = 1024.0  # a power of 2 for exact division, as GradScaler's
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

FORMS: dict[str, Callable[[float], Tensor]] = {
    "0-dim": torch.tensor,
    "1-element": lambda value: torch.tensor([value]),
    "[1, 1]": lambda value: torch.tensor([[value]]),
    "float64": lambda value: torch.tensor(value, dtype=torch.float64),
    "float16": lambda value: torch.tensor(value, dtype=torch.float16),
    "bfloat16": lambda value: torch.tensor(value, dtype=torch.bfloat16),
    "int64": lambda value: torch.tensor(int(value)),
    "int32": lambda value: torch.tensor([int(value)], dtype=torch.int32),
}


def settings_of(case: Case) -> tuple[dict[str, Any], ...]:
    return (*case.settings, *case.extras)


def ways_of(case: Case) -> tuple[dict[str, Any], ...]:
    """Returns the ways to say who unscales and skips; without the argument it is the scaler."""
    takes_fused = "fused" in inspect.signature(case.ours).parameters
    return ({"fused": True}, {"fused": None}, {"fused": False}) if takes_fused else ({},)


def scaler_sets(optimizer: Any, scale: Tensor | None, found_inf: Tensor | None) -> None:
    """Sets what GradScaler sets before a step."""
    if scale is not None:
        optimizer.grad_scale = scale
    if found_inf is not None:
        optimizer.found_inf = found_inf


def after_steps(case: Case, options: dict[str, Any], steps: int, dtype: torch.dtype) -> Any:
    optimizer = case.ours(make_params(SHAPES, dtype), fused=True, **options)
    take_steps(optimizer, steps)
    return optimizer


def bytes_of_state(optimizer: Any) -> dict[str, Any]:
    return {**snapshot(optimizer), "states": len(optimizer.state)}


# ---- skipping


@each_case_with_fused
@pytest.mark.parametrize("steps", (0, 1, 3))
def test_c10_a_skipped_step_changes_nothing(case: Case, steps: int) -> None:
    """No parameter, gradient, state, count or version; no state is added."""
    count = 0
    for options in settings_of(case):
        for name, make in FORMS.items():
            for scale in (None, torch.tensor([SCALE])):
                optimizer = after_steps(case, options, steps, torch.float32)
                set_grads(params_of(optimizer), 5)
                params_of(optimizer)[0].grad.fill_(float("inf"))
                before = bytes_of_state(optimizer)
                versions = [param._version for param in params_of(optimizer)]
                scaler_sets(optimizer, scale, make(1.0))
                optimizer.step()
                about = f"{options} found_inf {name}, grad_scale {scale}"
                assert_same(bytes_of_state(optimizer), before, about)
                assert [param._version for param in params_of(optimizer)] == versions, about
                count += 1
    assert count >= PER_ALGORITHM


@each_case_with_fused
def test_c10_training_goes_on_after_a_skipped_step_as_if_it_had_not_been(case: Case) -> None:
    for options in settings_of(case):
        for steps in (0, 2):
            skipping = after_steps(case, options, steps, torch.float32)
            set_grads(params_of(skipping), 5)
            skipping.found_inf = torch.tensor(1.0)
            skipping.step()
            del skipping.found_inf
            plain = after_steps(case, options, steps, torch.float32)
            for optimizer in (skipping, plain):
                take_steps(optimizer, 2, first=steps)
            assert_same(snapshot(skipping), snapshot(plain), options)


# ---- unscaling


@each_case_with_fused
def test_c10_a_scaled_gradient_steps_as_the_gradient_itself(case: Case) -> None:
    """The division by a power of 2 is exact, so that the bytes are those of an unscaled step."""
    not_found = (None, torch.tensor(0.0), torch.tensor([0]))
    count = 0
    for options in settings_of(case):
        for dtype in DTYPES:
            for name in ("0-dim", "1-element", "[1, 1]", "float64", "int64"):
                scaled = after_steps(case, options, 2, dtype)
                plain = after_steps(case, options, 2, dtype)
                for optimizer in (scaled, plain):
                    set_grads(params_of(optimizer), 5)
                for param in params_of(scaled):
                    param.grad.mul_(SCALE)
                scaler_sets(scaled, FORMS[name](SCALE), not_found[count % 3])
                scaled.step()
                plain.step()
                assert_same(snapshot(scaled), snapshot(plain), f"{options} {dtype} {name}")
                count += 1
    assert count >= PER_ALGORITHM


@each_case_with_fused
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_c10_the_unscaled_gradient_is_written_back_as_torch_divides(
    case: Case, dtype: torch.dtype
) -> None:
    for options in settings_of(case):
        optimizer = after_steps(case, options, 1, dtype)
        set_grads(params_of(optimizer), 5)
        arithmetic = torch.promote_types(dtype, torch.float32)
        scale = torch.tensor(3.7, dtype=torch.float32)
        want = [(p.grad.to(arithmetic) / scale.to(arithmetic)).to(dtype) for p in
                params_of(optimizer)]  # fmt: skip
        given = [param.grad for param in params_of(optimizer)]
        versions = [grad._version for grad in given]
        optimizer.grad_scale = scale
        optimizer.step()
        for param, grad, value, version in zip(
            params_of(optimizer), given, want, versions, strict=True
        ):
            assert param.grad is grad and raw(grad) == raw(value), options
            assert grad._version > version


@each_torch_fused_case
def test_c10_the_gradient_is_left_as_torchs_fused_step_leaves_it(case: Case) -> None:
    for options in case.settings:
        ours = case.ours(make_params(SHAPES), fused=True, **options)
        theirs = case.theirs(make_params(SHAPES), fused=True, **options)
        for optimizer in (ours, theirs):
            set_grads(params_of(optimizer), 5)
            optimizer.grad_scale = torch.tensor(3.7)
            optimizer.found_inf = torch.tensor(0.0)
            optimizer.step()
        for a, b in zip(params_of(ours), params_of(theirs), strict=True):
            assert raw(a.grad) == raw(b.grad), options
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@each_case_with_fused
def test_c10_a_grad_scale_that_is_no_scale_is_refused_and_nothing_changes(case: Case) -> None:
    for value in (0.0, -2.0, float("nan"), float("inf")):
        optimizer = after_steps(case, {}, 1, torch.float32)
        set_grads(params_of(optimizer), 5)
        before = bytes_of_state(optimizer)
        optimizer.grad_scale = torch.tensor(value)
        with pytest.raises(ValueError, match="grad_scale"):
            optimizer.step()
        assert_same(bytes_of_state(optimizer), before, value)


# ---- torch.amp.GradScaler itself


def overflows(number: int) -> bool:
    return number in (0, 3, 4)


def loss_of(params: list[Tensor], number: int) -> Tensor:
    """Returns a loss whose gradients differ at every step; some overflow once they are scaled."""
    loss = sum(((p - 0.1 * (number % 5 + k)) ** 2).sum() for k, p in enumerate(params))
    return loss * 1e38 if overflows(number) else loss


Finish = Callable[[Any, Any], None]


def just_step(scaler: Any, optimizer: Any) -> None:
    scaler.step(optimizer)


def unscale_clip_step(scaler: Any, optimizer: Any) -> None:
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(params_of(optimizer), 1.0)
    scaler.step(optimizer)


def run_scaled(optimizer: Any, finish: Finish, steps: int = 12) -> list[float]:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=4)
    scales = []
    for number in range(steps):
        optimizer.zero_grad()
        scaler.scale(loss_of(params_of(optimizer), number)).backward()
        finish(scaler, optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales[0] == 2.0**15, "the first step was to overflow"
    return scales


@each_torch_case
@pytest.mark.parametrize("finish", (just_step, unscale_clip_step))
def test_c10_under_gradscaler_as_torch_unfused(case: Case, finish: Finish) -> None:
    """Forced overflows at the first step and later; steps, scales and numbers as the for-loop."""
    for options in case.settings:
        for fused in ways_of(case):
            ours = case.ours(make_params(SHAPES[:3]), **fused, **options)
            theirs = case.theirs(make_params(SHAPES[:3]), foreach=False, **options)
            assert run_scaled(ours, finish) == run_scaled(theirs, finish)
            assert_close(ours, theirs, f"{options} {fused}")


@each_torch_fused_case
@pytest.mark.parametrize("finish", (just_step, unscale_clip_step))
def test_c10_under_gradscaler_as_torch_fused(case: Case, finish: Finish) -> None:
    # Without a count torch takes the memory of a first step that it skipped for its buffer: P5.
    steps_before = 0 if RULES[case.ours.rule].counts_steps else 1
    for options in case.settings:
        ours = case.ours(make_params(SHAPES[:3]), fused=True, **options)
        theirs = case.theirs(make_params(SHAPES[:3]), fused=True, **options)
        for optimizer in (ours, theirs):
            take_steps(optimizer, steps_before)
        assert run_scaled(ours, finish) == run_scaled(theirs, finish)
        assert_close(ours, theirs, options)


def assert_close(ours: Any, theirs: Any, about: object) -> None:
    for a, b in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=lambda m: f"{about}: {m}")
        for key, value in theirs.state[b].items():
            torch.testing.assert_close(ours.state[a][key], value, rtol=1e-4, atol=1e-6)
        assert ours.state[a].keys() == theirs.state[b].keys(), about


@each_case
def test_c10_a_growing_and_backing_off_scale_never_shows_in_the_numbers(case: Case) -> None:
    """200 steps with overflows: bit for bit those of the steps that were not skipped."""
    for options in settings_of(case):
        scaled = case.ours(make_params(SHAPES[:3]), **ways_of(case)[0], **options)
        plain = case.ours(make_params(SHAPES[:3]), **options)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        for number in range(200):
            overflow = number % 7 == 0
            set_grads(params_of(plain), number % 11)
            for p, q in zip(params_of(scaled), params_of(plain), strict=True):
                p.grad = q.grad * scaler.get_scale() if number else q.grad * 2.0**10
                if overflow:
                    p.grad.view(-1)[:1] = float("inf")
            if not number:
                scaler.scale(torch.zeros(()))  # makes the scale
            scaler.step(scaled)
            scaler.update()
            if not overflow:
                plain.step()
        assert_same(numbers(scaled), numbers(plain), options)


# ---- who scales: the property


@each_case
def test_without_fused_the_scaler_does_its_own_work(case: Case) -> None:
    assert case.ours(make_params(SHAPES))._step_supports_amp_scaling is False
    for way in ways_of(case):
        optimizer = case.ours(make_params(SHAPES), **way)
        assert optimizer._step_supports_amp_scaling is bool(way.get("fused"))


def by_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@each_case_with_fused
@pytest.mark.parametrize("here", (True, None))
@pytest.mark.parametrize("there", (True, None))
def test_loading_decides_who_scales(case: Case, here: bool | None, there: bool | None) -> None:
    source = case.ours(make_params(SHAPES[:3]), fused=there)
    take_steps(source, 1)
    optimizer = case.ours(copies(params_of(source)), fused=here)
    optimizer.load_state_dict(by_file(source.state_dict()))
    if "fused" not in source.param_groups[0]:  # neutral, and torch's class has no such option
        assert optimizer._step_supports_amp_scaling is bool(here)
        return
    assert optimizer._step_supports_amp_scaling is bool(there)
    assert run_scaled(optimizer, just_step) == run_scaled(source, just_step)
    assert_same(snapshot(optimizer), snapshot(source))


def survivors() -> Iterator[Any]:
    yield copy.deepcopy
    yield lambda optimizer: pickle.loads(pickle.dumps(optimizer))


@each_case_with_fused
@pytest.mark.parametrize("fused", (True, None))
def test_copies_keep_who_scales(case: Case, fused: bool | None) -> None:
    for copied in survivors():
        optimizer = case.ours(make_params(SHAPES[:3]), fused=fused)
        take_steps(optimizer, 1)
        other = copied(optimizer)
        assert other._step_supports_amp_scaling is bool(fused)
        assert run_scaled(other, just_step) == run_scaled(optimizer, just_step)
        assert_same(snapshot(other), snapshot(optimizer))


@each_case_with_fused
def test_a_group_that_asks_for_fused_is_enough(case: Case) -> None:
    first, second = make_params(((3,), (4,)))
    groups = [{"params": [first]}, {"params": [second], "fused": True}]
    optimizer = case.ours(groups)
    assert optimizer._step_supports_amp_scaling is True
    plain = case.ours(copies([first, second]))
    assert run_scaled(optimizer, just_step) == run_scaled(plain, just_step)
    for a, b in zip(params_of(optimizer), params_of(plain), strict=True):
        assert raw(a) == raw(b)


@each_case_with_fused
def test_c10_a_skipped_step_under_a_dispatch_mode_makes_no_state(case: Case) -> None:
    """A state that a skipped step leaves would make SGD's next momentum step not the first."""
    ends = []
    for mode in (Mode, contextlib.nullcontext):
        (param,) = params = make_params(((5,),))
        set_grads(params, 1)
        optimizer = case.ours(params, fused=True, **case.settings[1])
        states = {p: dict(state) for p, state in optimizer.state.items()}
        optimizer.found_inf = torch.tensor(1.0)
        with mode():
            optimizer.step()
        assert {p: dict(state) for p, state in optimizer.state.items()} == states
        del optimizer.found_inf
        optimizer.step()
        ends.append(raw(param))
    assert ends[0] == ends[1]

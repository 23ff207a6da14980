"""P1 to P14: where torch's fused CPU path, or its base class, is wrong, and ours is right."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import onepass
from onepass.rules import RULES
from tests.cases import CASES, Case
from tests.oracle import assert_steps_right
from tests.support import (
    TORCH_CASES,
    betas_for,
    each_case,
    each_torch_case,
    each_torch_fused_case,
    params_of,
    randn,
)
from tests.unchanged import Findings, refused

ADAMS = (onepass.Adam, onepass.AdamW)
ROUNDING = 3e-7  # what P1 grants three steps in float32

# What a fused kernel that walks raw memory gets wrong: (parameter, gradient) made from values.
LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "transposed parameter": (lambda x: transposed(x), lambda x: x.clone()),
    "transposed gradient": (lambda x: x.clone(), lambda x: transposed(x)),
    "channels last parameter": (lambda x: channels_last(x), lambda x: x.clone()),
    "channels last gradient": (lambda x: x.clone(), lambda x: channels_last(x)),
    "sliced parameter": (lambda x: sliced(x), lambda x: x.clone()),
    "sliced gradient": (lambda x: x.clone(), lambda x: sliced(x)),
    "expanded gradient": (lambda x: x.clone(), lambda x: x[:, :1].expand(x.shape)),
}


def transposed(x: Tensor) -> Tensor:
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def sliced(x: Tensor) -> Tensor:
    return torch.stack([x, torch.full_like(x, 7.0)], -1)[..., 0]


def in_double(case: Case, params: list[Tensor], steps: int, **options: Any) -> list[Tensor]:
    """Returns the parameters after steps of torch's for-loop in float64."""
    assert case.theirs is not None
    wide = [p.detach().double().requires_grad_() for p in params]
    for ours, theirs in zip(params, wide, strict=True):
        assert ours.grad is not None
        theirs.grad = ours.grad.double()
    twin = case.theirs(wide, foreach=False, **options)
    for _ in range(steps):
        twin.step()
    return [p.detach() for p in wide]


def one_param(values: Tensor | None = None, grad: Tensor | None = None) -> Tensor:
    param = (torch.ones(5) if values is None else values).requires_grad_()
    param.grad = torch.full_like(param, 0.5) if grad is None else grad
    return param


@each_torch_case
def test_p1_layouts_that_differ_give_the_numbers_of_equal_ones(case: Case) -> None:
    findings = Findings()
    for name, (lay_param, lay_grad) in LAYOUTS.items():
        for settings in case.settings:
            values = randn((2, 3, 4, 5), torch.float32, 1), randn((2, 3, 4, 5), torch.float32, 2)
            param = one_param(lay_param(values[0]), lay_grad(values[1]))
            options = {**settings, "lr": 0.1}
            want = in_double(case, [param], 3, **options)[0]
            optimizer = case.ours([param], **options)
            for _ in range(3):
                optimizer.step()
            with findings.case():
                error = (param.detach() - want).abs().max().item()
                limit = ROUNDING * max(1.0, want.abs().max().item())
                assert error <= limit, f"{name} {settings}: {error}"
    findings.report(at_least=7)


@each_torch_case
def test_p2_a_view_with_gaps_is_stepped_and_the_gaps_are_not(case: Case) -> None:
    memory, around = randn((4, 10), torch.float32, 1), randn((4, 10), torch.float32, 2)
    before = memory.clone()
    param = one_param(memory[:, ::2], around[:, ::2])
    want = in_double(case, [param], 3, lr=0.1)[0]
    optimizer = case.ours([param], lr=0.1)
    for _ in range(3):
        optimizer.step()
    assert torch.equal(memory[:, 1::2], before[:, 1::2])
    assert (param.detach() - want).abs().max() <= ROUNDING * want.abs().max()
    assert not torch.equal(memory[:, ::2], before[:, ::2])


@each_case
@pytest.mark.parametrize("columns", [4, 100_000])
def test_p3_an_expanded_parameter_is_refused(case: Case, columns: int) -> None:
    base = torch.ones(columns)
    param = one_param(base.expand(3, columns), torch.ones(3, columns))
    optimizer = case.ours([param])
    with refused(optimizer, "expanded", base):
        optimizer.step()
    with pytest.raises(RuntimeError, match=r"strides \[0, 1\].*share memory.*clone"):
        optimizer.step()


@each_case
@pytest.mark.sanitize
@pytest.mark.parametrize(("mine", "saved"), [(300_000, 4), (5, 2), (2, 5), (4, 300_000)])
def test_p4_a_loaded_state_of_another_size_is_refused(case: Case, mine: int, saved: int) -> None:
    source = case.ours([one_param(torch.ones(saved))], **case.settings[1])
    source.step()
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    optimizer = case.ours([one_param(torch.ones(mine))], **case.settings[1])
    with refused(optimizer, "size", errors=(ValueError,)):
        optimizer.load_state_dict(torch.load(file, weights_only=True))
    optimizer.step()
    state = optimizer.state[params_of(optimizer)[0]]
    name = RULES[case.ours.rule].states[0].name
    state[name] = torch.ones(saved)
    with refused(optimizer, "size"):
        optimizer.step()


@each_torch_fused_case
def test_p5_after_a_skipped_first_step_the_next_one_is_right(case: Case) -> None:
    param = one_param()
    want = in_double(case, [param], 1, lr=0.1)[0]
    optimizer = case.ours([param], lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def step(factor: float) -> None:
        param.grad = None
        scaler.scale((param * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()

    step(float("inf"))
    assert torch.equal(param.detach(), torch.ones(5))
    for state in optimizer.state.values():
        assert not any(value.any() for value in state.values())
    step(0.5)
    assert torch.allclose(param.detach().double(), want, rtol=0, atol=ROUNDING)


@each_case
def test_p6_a_step_is_seen_by_autograd(case: Case) -> None:
    param = one_param()
    optimizer = case.ours([param])
    for _ in range(2):  # with new states, and with old ones
        loss, version = (param * param).sum(), param._version
        optimizer.step()
        assert param._version > version
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@each_case
def test_p7_a_bad_state_behind_a_good_one_leaves_the_good_one_alone(case: Case) -> None:
    good, bad = one_param(), one_param()
    optimizer = case.ours([good, bad])
    optimizer.step()
    for name in (state.name for state in RULES[case.ours.rule].states):
        if name in optimizer.state[bad]:
            right = optimizer.state[bad][name]
            optimizer.state[bad][name] = torch.ones(2)
            with refused(optimizer, name):
                optimizer.step()
            optimizer.state[bad][name] = right
    assert_steps_right(case, optimizer, "with the right states again")


@pytest.mark.parametrize("case", [c for c in CASES if issubclass(c.ours, ADAMS)], ids=str)
def test_p8_float16_parameters_stay_finite(case: Case) -> None:
    for grad, moved in ((0.0, 0.0), (1e-4, 0.1), (6e-8, 0.086), (1.0, 0.1), (65504.0, 0.1)):
        values = torch.ones(67, dtype=torch.float16)
        param = one_param(values, torch.full_like(values, grad))
        optimizer = case.ours([param], lr=0.1, weight_decay=0.0)
        optimizer.step()
        assert param.detach() == pytest.approx(torch.full((67,), 1 - moved), abs=2e-3), grad
        for _ in range(50):
            optimizer.step()
        assert bool(param.isfinite().all()), grad


@pytest.mark.parametrize(
    "case", [c for c in TORCH_CASES if RULES[c.ours.rule].counts_steps], ids=str
)
def test_p9_a_float32_step_stays_at_2_to_the_24_as_torchs_and_the_numbers_stay_right(
    case: Case,
) -> None:
    assert case.theirs is not None
    for start in (2**24 - 2, 2**24 - 1, 2**24, 2**24 + 2):
        ours, theirs = one_param(), one_param()
        pair = case.ours([ours], lr=0.1), case.theirs([theirs], lr=0.1, foreach=False)
        for optimizer, param in zip(pair, (ours, theirs), strict=True):
            optimizer.step()
            optimizer.state[param]["step"].fill_(start)
            optimizer.step()
            optimizer.step()
        steps = pair[0].state[ours]["step"], pair[1].state[theirs]["step"]
        assert steps[0].dtype == steps[1].dtype == torch.float32
        assert torch.equal(*steps)
        assert torch.allclose(ours, theirs, rtol=0, atol=ROUNDING)


@each_case
def test_p9_corrections_are_right_at_any_count(case: Case) -> None:
    for kind in (torch.float32, torch.float64, torch.int64):
        for count in (0, 1, 10**3, 2**24 - 1, 2**24, 2**24 + 2, 10**9, 2**40):
            param = one_param()
            optimizer = case.ours([param], lr=0.1)
            optimizer.step()
            optimizer.state[param]["step"] = torch.tensor(count, dtype=kind)
            assert_steps_right(case, optimizer, f"{kind} {count}")


@each_case
def test_p10_loaded_state_is_never_that_of_the_source(case: Case) -> None:
    source, target = (case.ours([one_param()], **case.settings[1]) for _ in range(2))
    for _ in range(2):
        source.step()
    lr = torch.tensor(0.1)
    source.param_groups[0]["lr"] = lr
    target.load_state_dict(source.state_dict())
    assert target.param_groups[0]["lr"] is not lr
    theirs = source.state[params_of(source)[0]]
    before = copy.deepcopy(theirs)
    for _ in range(3):
        target.step()
    for name, value in before.items():
        assert torch.equal(theirs[name], value), name
        loaded = target.state[params_of(target)[0]][name]
        assert loaded.untyped_storage().data_ptr() != theirs[name].untyped_storage().data_ptr()
    assert theirs.get("step", 2) == 2


@each_case
def test_p11_wrong_options_that_are_loaded_or_set_are_refused(case: Case) -> None:
    wrong: list[dict[str, Any]] = [{"lr": -5.0}, {"lr": float("nan")}, {"lr": float("inf")}]
    wrong += [{"betas": betas_for(case, 2.0, 3.0)}, {"eps": -1.0}, {"weight_decay": float("nan")}]
    known = case.ours([one_param()]).defaults
    for options in wrong:
        if not options.keys() <= known.keys():
            continue
        with pytest.raises(ValueError, match="Invalid"):
            case.ours([one_param()], **options)
        optimizer = case.ours([one_param()])
        optimizer.step()
        bad = optimizer.state_dict()
        bad["param_groups"][0].update(options)
        with refused(optimizer, options, errors=(ValueError,)):
            optimizer.load_state_dict(bad)
        optimizer.param_groups[0].update(options)
        with refused(optimizer, options, errors=(ValueError,)):
            optimizer.step()


@each_case
def test_p12_float32_moments_of_a_16_bit_parameter_survive_a_reload(case: Case) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        first = one_param(randn((67,), dtype, 1), randn((67,), dtype, 2))
        optimizer = case.ours([first], lr=0.01, state_dtype=torch.float32)
        for _ in range(3):
            optimizer.step()
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        second = one_param(first.detach().clone(), first.grad)
        resumed = case.ours([second])
        resumed.load_state_dict(torch.load(file, weights_only=True))
        for name, value in optimizer.state[first].items():
            assert torch.equal(resumed.state[second][name], value), name
            assert resumed.state[second][name].dtype == torch.float32
        for _ in range(3):
            optimizer.step()
            resumed.step()
        assert torch.equal(first, second)


@each_case
def test_p14_a_first_step_inside_inference_mode_does_not_spoil_those_outside(case: Case) -> None:
    inside, outside = one_param(), one_param()
    first, second = (case.ours([param], **case.settings[1]) for param in (inside, outside))
    with torch.inference_mode():
        inside.grad = torch.full((5,), 0.5)
        first.step()
    second.step()
    inside.grad = torch.full((5,), 0.5)
    for _ in range(2):
        first.step()
        second.step()
    assert torch.equal(inside, outside)
    assert not any(value.is_inference() for value in first.state[inside].values())
    assert len(copy.deepcopy(first).state) == 1

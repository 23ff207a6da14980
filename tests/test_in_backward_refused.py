"""What onepass.in_backward refuses, before anything is written, and what errors in backward say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import onepass
from onepass._torch import accumulate_hooks
from tests.cases import Case
from tests.support import each_kind, make_params, params_of, raw, set_grads
from tests.threads import in_threads
from tests.unchanged import REFUSALS, assert_unchanged, everything, refused


def twice(opt: Any) -> None:
    opt.param_groups.append({**opt.param_groups[0], "params": [params_of(opt)[0]]})


def by_another(opt: Any) -> None:
    onepass.in_backward(onepass.SGD(params_of(opt)[-1:]))


AT_ONCE: dict[str, Callable[[Any], object]] = {
    "max_grad_norm": lambda o: o.param_groups[1].update(max_grad_norm=1.0),
    "skip_nonfinite": lambda o: o.param_groups[1].update(skip_nonfinite=True),
    "differentiable": lambda o: o.defaults.update(differentiable=True),
    "gradient scaler": lambda o: setattr(o, "found_inf", torch.zeros(())),
    "listed more than once": twice,
    "stepped inside backward.. by another optimizer": by_another,
    "steps inside backward.. already": onepass.in_backward,
    "'b' .parameter 0 of group 1. belongs to FSDP1": lambda o: setattr(
        params_of(o)[1], "_is_flat_param", True
    ),
    "'b' .parameter 0 of group 1. belongs to FSDP1 or DeepSpeed": lambda o: setattr(
        params_of(o)[1], "ds_id", 3
    ),
}


def named() -> list[dict[str, Any]]:
    params = make_params([(3,)] * 2)
    return [{"params": [(name, param)]} for name, param in zip("ab", params, strict=True)]


def hooks_of(optimizer: Any) -> list[Any]:
    return [accumulate_hooks(param) for param in params_of(optimizer)]


@each_kind
@pytest.mark.parametrize("words", AT_ONCE)
def test_what_can_be_seen_at_once_is_refused_at_once(case: Case, words: str) -> None:
    optimizer = case.ours(named())
    AT_ONCE[words](optimizer)
    before, hooks = everything(optimizer), hooks_of(optimizer)
    with pytest.raises(REFUSALS, match=words):
        onepass.in_backward(optimizer)
    assert_unchanged(before, everything(optimizer), words)
    assert hooks_of(optimizer) == hooks


def test_what_is_no_optimizer_of_onepass_or_no_ddp_is_refused() -> None:
    weight = torch.ones(3, requires_grad=True)
    for other in (torch.optim.LBFGS([weight]), torch.optim.AdamW([weight]), None, weight):
        with pytest.raises(TypeError, match=f"of onepass, got {type(other).__name__}"):
            onepass.in_backward(other)  # type: ignore[arg-type]
    model: Any = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="ddp must be a DistributedDataParallel, got Linear"):
        onepass.in_backward(onepass.AdamW(model.parameters()), ddp=model)
    lazy = onepass.AdamW([("w", torch.nn.parameter.UninitializedParameter()), ("v", weight)])
    with pytest.raises(ValueError, match=r"'w' .*is not initialized yet; run the model"):
        onepass.in_backward(lazy)
    assert not accumulate_hooks(weight)


def test_a_group_that_is_refused_is_not_added() -> None:
    optimizer = onepass.AdamW(named())
    onepass.in_backward(optimizer)
    (taken,), (free,) = make_params([(3,)]), make_params([(3,)])
    onepass.in_backward(onepass.SGD([taken]))
    for group in ({"params": [("t", taken)]}, {"params": [("f", free)], "max_grad_norm": 1.0}):
        with refused(optimizer, group):
            optimizer.add_param_group(group)
    assert not accumulate_hooks(free)


# ---- steps by hand


@each_kind
def test_a_step_by_hand_is_refused(case: Case) -> None:
    optimizer = case.ours(named())
    set_grads(params_of(optimizer), 1)
    with onepass.in_backward(optimizer):
        for closure in (None, lambda: pytest.fail("evaluated")):
            with refused(optimizer, closure, errors=(RuntimeError,)):
                optimizer.step(closure)
        with pytest.raises(RuntimeError, match=r"steps inside backward.*remove"):
            optimizer.step()
    optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_is_told_of(fused: bool) -> None:
    optimizer = onepass.AdamW(named(), fused=fused)
    weight, scaler = params_of(optimizer)[0], torch.amp.GradScaler("cpu", init_scale=4.0)
    onepass.in_backward(optimizer)
    scaler.scale(weight.sum()).backward()
    with pytest.raises((RuntimeError, AssertionError), match=r"inside backward|No inf checks"):
        scaler.step(optimizer)
    if fused:  # torch has left the scale where it was
        with pytest.raises(RuntimeError, match=r"'a' .*gradient scaler knows only after backward"):
            weight.sum().backward()


# ---- errors in backward


def spoil_state(optimizer: Any, param: Tensor) -> None:
    optimizer.state[param] = {key: torch.ones(2, 2) for key in optimizer.state[param]}


SPOILT: dict[str, Callable[[Any, Tensor], object]] = {
    "state": spoil_state,
    "lr": lambda o, p: o.param_groups[1].update(lr=float("nan")),
    "found_inf": lambda o, p: setattr(o, "found_inf", torch.zeros(())),
    "max_grad_norm": lambda o, p: o.param_groups[1].update(max_grad_norm=1.0),
    "twice": lambda o, p: o.param_groups.append({**o.param_groups[1]}),
    "capture": lambda o, p: None,
}


@each_kind
@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("in_thread", [False, True])
def test_an_error_reaches_the_caller_of_backward(
    case: Case, name: str, in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the parameter, whose bytes are as before, and training goes on after it."""
    optimizer = case.ours(named(), **case.settings[1])
    first, second = params_of(optimizer)
    stepping = onepass.in_backward(optimizer)
    (first + second).sum().backward()
    if name == "capture":
        monkeypatch.setattr("onepass.single.is_capturing", lambda: True)
    SPOILT[name](optimizer, second)
    before = raw(second)

    def backward() -> None:
        second.square().sum().backward()

    if in_thread:
        (error,) = in_threads([backward])
    else:
        with pytest.raises(REFUSALS) as caught:
            backward()
        error = caught.value
    assert isinstance(error, REFUSALS) and str(error).count("'b' (parameter 0 of group 1)") == 1
    assert raw(second) == before and second.grad is not None
    stepping.remove()


def test_gradients_that_are_not_finite_are_stepped() -> None:
    """Nobody asked to look: skip_nonfinite, which would, is refused."""
    optimizer = onepass.SGD(named(), lr=1.0)
    onepass.in_backward(optimizer)
    first, _ = params_of(optimizer)
    (first * float("inf")).sum().backward()
    assert first.isinf().all()


def test_a_graph_whose_weight_was_stepped_is_not_run_again() -> None:
    optimizer = onepass.SGD(named(), lr=1.0)
    stepping = onepass.in_backward(optimizer)
    first, _ = params_of(optimizer)
    loss = first.square().sum()
    with stepping.accumulating():
        loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()

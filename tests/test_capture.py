"""What a step refuses and warns of while a CUDA graph captures it; here without a GPU."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import onepass
from tests.cases import Case
from tests.support import SHAPES, each_case, make_params, set_grads, snapshot


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onepass.capture.is_capturing", lambda: True)
    monkeypatch.setattr("onepass.capture.is_captured", lambda param: True)


def stepped(case: Case, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """Returns an optimizer that has taken a step outside of the capture."""
    with monkeypatch.context() as outside:
        outside.setattr("onepass.capture.is_capturing", lambda: False)
        optimizer = case.ours(make_params(SHAPES), **options)
        set_grads(optimizer.param_groups[0]["params"], 1)
        optimizer.step()
    return optimizer


@each_case
def test_a_first_step_cannot_be_captured(case: Case, capturing: None) -> None:
    """A graph that made the state would start anew at every replay."""
    optimizer = case.ours(make_params(SHAPES), **case.settings[1])
    set_grads(optimizer.param_groups[0]["params"], 1)
    if optimizer.state:  # torch's Adagrad makes it in the constructor
        optimizer.state.clear()
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=r"has no state yet.*take a step before the capture"):
        optimizer.step()
    assert snapshot(optimizer) == before


@each_case
def test_numbers_that_freeze_are_named_once(
    case: Case, capturing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = stepped(case, monkeypatch)
    with pytest.warns(
        UserWarning, match="replays of this graph will not see changes of lr"
    ) as seen:
        optimizer.step()
    assert len(seen) == 1
    text = str(seen[0].message)
    assert ("betas" in text) == ("betas" in optimizer.param_groups[0])
    assert ("step" in text.split(":")[0]) == any("step" in s for s in optimizer.state.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


def test_a_rate_on_the_cpu_cannot_be_captured(
    capturing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(onepass.AdamW, torch.optim.AdamW, None, ({},))  # type: ignore[arg-type]
    optimizer = stepped(case, monkeypatch)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match="lr of parameter group 0 is a tensor on the CPU"):
        optimizer.step()
    assert snapshot(optimizer) == before


def test_a_parameter_that_the_graph_leaves_out_is_refused(
    capturing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = onepass.AdamW(make_params(SHAPES))
    set_grads(optimizer.param_groups[0]["params"], 1)
    monkeypatch.setattr("onepass.capture.is_captured", lambda param: param.is_cuda)
    with pytest.raises(RuntimeError, match="is on cpu, which this graph does not capture"):
        optimizer.step()
    assert not optimizer.state


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_a_compiled_step_does_not_ask_whether_it_is_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever CUDA is initialised; asking would break the graph that torch.compile makes."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    (param,) = make_params(((5,),))
    optimizer = onepass.SGD([param], lr=torch.tensor(0.1))
    param.grad = torch.ones(5)
    before = param.detach().clone()
    torch.compile(optimizer.step, fullgraph=True, backend="eager")()
    torch.testing.assert_close(param.detach(), before - 0.1)


@pytest.mark.parametrize("option", ["capturable", "fused"])
@each_case
def test_what_is_no_flag_is_refused(case: Case, option: str) -> None:
    with pytest.raises(ValueError, match=f"Invalid {option} value: 'yes'"):
        case.ours(make_params(SHAPES), **{option: "yes"})


@each_case
def test_fused_goes_with_neither_foreach_nor_differentiable(case: Case) -> None:
    """As in torch, for the classes that torch gives no fused path too."""
    optimizer = case.ours(make_params(SHAPES), fused=True)
    for option, words in (
        ("differentiable", "`fused` does not support `differentiable`"),
        ("foreach", "`fused` and `foreach` cannot be `True` together"),
    ):
        with pytest.raises(RuntimeError, match=words):
            optimizer.add_param_group({"params": make_params(((2,),)), option: True})

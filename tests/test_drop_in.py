"""What works with the class of torch.optim works with ours of the same name."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import onepass
from onepass.rules import RULES
from tests.cases import CASES, Case
from tests.oracle import all_states_on
from tests.support import (
    REAL,
    SHAPES,
    TORCH_CASES,
    assert_alike,
    assert_same,
    both,
    each_case,
    each_torch_case,
    each_torch_case_with_late_states,
    extra_keys,
    make_params,
    numbers,
    params_of,
    randn,
    raw,
    set_grads,
    step_both,
    take_steps,
    torch_before,
)


def takes(cls: Any, *options: str) -> bool:
    return {*options} <= inspect.signature(cls).parameters.keys()


# ---- construction


@each_torch_case
def test_the_signature_is_torchs_and_keyword_only_extras(case: Case) -> None:
    ours = inspect.signature(case.ours).parameters
    theirs = inspect.signature(case.theirs).parameters
    kinds = {name: (p.kind, p.default) for name, p in ours.items()}
    assert {name: kinds[name] for name in theirs} == {
        name: (p.kind, p.default) for name, p in theirs.items()
    }
    positional = [n for n, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [n for n, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    extras = ours.keys() - theirs.keys()
    assert extras == extra_keys(case) and "state_dtype" in extras
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in extras)


@each_torch_case
def test_it_is_a_torch_optimizer_of_the_same_name(case: Case) -> None:
    optimizer = case.ours(make_params(SHAPES))
    assert isinstance(optimizer, case.theirs)
    assert case.ours.__name__ == case.theirs.__name__
    assert getattr(onepass, case.ours.__name__) is case.ours
    assert optimizer.defaults == case.theirs(make_params(SHAPES)).defaults


@each_torch_case
def test_its_repr_starts_with_torchs_and_the_extras_in_use(case: Case) -> None:
    for options in case.settings:
        theirs = repr(case.theirs(make_params(SHAPES), **options))
        assert repr(case.ours(make_params(SHAPES), **options)).startswith(f"{theirs}\nParameters: ")
        ours = repr(case.ours(make_params(SHAPES), **options, state_dtype=torch.bfloat16))
        text, _ = ours.split("\nParameters: ")
        assert set(text.splitlines()) - set(theirs.splitlines()) == {"    state_dtype: bfloat16"}


@each_torch_case
def test_named_parameters_and_groups_of_them(case: Case) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).double()
    twin = copy.deepcopy(model)
    for named in (
        lambda m: m.named_parameters(),
        lambda m: [{"params": list(layer.named_parameters())} for layer in m],
    ):
        ours, theirs = case.ours(named(model)), case.theirs(named(twin))
        step_both(ours, theirs)
        names = [group["param_names"] for group in ours.param_groups]
        assert names == [group["param_names"] for group in theirs.param_groups]


@each_torch_case
def test_every_group_keeps_its_own_settings(case: Case) -> None:
    # torch's Adagrad starts the sums of all groups as its constructor is told, ours each group's.
    starts = {state.start_at for state in RULES[case.ours.rule].states} - {"lr"}
    same = {k: v for options in case.settings for k, v in options.items() if k in starts}

    def made(cls: Any) -> Any:
        params = make_params(SHAPES * len(case.settings), torch.float64)
        groups = [
            {"params": params[k :: len(case.settings)], **options}
            for k, options in enumerate(case.settings)
        ]
        return cls(groups, lr=0.01, **same)

    step_both(made(case.ours), made(case.theirs))


@each_torch_case_with_late_states
def test_added_groups_step_with_the_others(case: Case) -> None:
    ours, theirs = both(case)
    step_both(ours, theirs, 2)
    for optimizer in (ours, theirs):
        added = make_params(((4, 4), (3,)), torch.float64, seed=3)
        optimizer.add_param_group({"params": added, **case.settings[-1]})
        optimizer.add_param_group({"params": make_params(((2,),), torch.float64, seed=4)})
    step_both(ours, theirs, 3, first=2)


FLAGS = (
    {"foreach": True},
    {"foreach": False},
    {"capturable": True},
    {"foreach": True, "capturable": True},
    {"fused": False},
    {"fused": True},
)


@pytest.mark.parametrize(
    "case, options", [(c, f) for c in TORCH_CASES for f in FLAGS if takes(c.theirs, *f)], ids=str
)
def test_flags_of_torchs_implementations_change_no_bit(case: Case, options: Any) -> None:
    for setting in case.settings:
        ends = []
        for flags in (options, {}):
            optimizer = case.ours(make_params(SHAPES), **setting, **flags)
            take_steps(optimizer, 3)
            ends.append(numbers(optimizer))
        assert_same(ends[0], ends[1], setting)


@each_torch_case
def test_lr_may_be_a_tensor(case: Case) -> None:
    for lr in (torch.tensor(0.1).double(), torch.tensor([0.1]).double()):
        ours, theirs = both(case, lr=lr)
        step_both(ours, theirs)
        assert ours.param_groups[0]["lr"] is lr
        assert raw(lr) == raw(torch.tensor(0.1).double())


@pytest.mark.parametrize(
    "shape",
    [(), pytest.param((1,), marks=torch_before("2.10", "its betas may have no dimension"))],
)
@pytest.mark.parametrize(
    "case",
    [
        c
        for c in TORCH_CASES
        if "Tensor" in str(inspect.signature(c.theirs).parameters.get("betas"))
    ],
    ids=str,
)
def test_betas_may_be_tensors(case: Case, shape: tuple[int, ...]) -> None:
    betas = (torch.full(shape, 0.5).double(), torch.full(shape, 0.75).double())
    step_both(*both(case, betas=betas))


@each_case
def test_a_tensor_of_any_dtype_means_its_number(case: Case) -> None:
    """torch's for-loop goes on in the tensor's dtype; ours computes with the number in double."""
    for options in (*case.settings, *case.extras):
        for dtype in REAL:
            for shape in ((), (1,), (1, 1)):
                lr = torch.full(shape, 0.1, dtype=dtype)
                ends = []
                for given in (lr, float(lr)):
                    optimizer = case.ours(make_params(SHAPES), **{**options, "lr": given})
                    take_steps(optimizer, 3)
                    ends.append(numbers(optimizer))
                assert_same(ends[0], ends[1], f"{options} {lr}")


@each_torch_case
def test_an_lr_tensor_that_changes_in_place_is_seen(case: Case) -> None:
    lr = torch.tensor(0.1, dtype=torch.float64)
    ours, theirs = both(case, lr=lr)
    for number in range(3):
        step_both(ours, theirs, 1, number)
        lr.mul_(0.5)


# ---- hooks


@pytest.fixture
def torchs_step_is_wrapped() -> None:
    """Makes one of each of torch's classes, which wraps its step for hooks once and for all."""
    for case in CASES:
        if case.theirs is not None:
            case.theirs(make_params(((1,),)))


@pytest.mark.parametrize(
    "case, differentiable",
    [(c, d) for c in CASES for d in (False, True) if not d or takes(c.ours, "differentiable")],
    ids=str,
)
@pytest.mark.usefixtures("torchs_step_is_wrapped")
def test_hooks_fire_once(case: Case, differentiable: bool) -> None:
    fired: list[str] = []
    flag = {"differentiable": True} if differentiable else {}
    optimizer = case.ours(make_params(((3,),)), **flag)
    note = {
        name: (lambda *_, name=name: fired.append(name))
        for name in ("pre", "post", "global pre", "global post")
    }
    optimizer.register_step_pre_hook(note["pre"])
    optimizer.register_step_post_hook(note["post"])
    handles = [
        register_optimizer_step_pre_hook(note["global pre"]),
        register_optimizer_step_post_hook(note["global post"]),
    ]
    try:
        for count in range(1, 4):
            with torch.no_grad():
                set_grads(params_of(optimizer), count)
            if differentiable:
                params = params_of(optimizer)
                optimizer.param_groups[0]["params"] = [p.detach().clone() for p in params]
                set_grads(params_of(optimizer), count)
            optimizer.step()
            assert fired == ["global pre", "pre", "post", "global post"] * count
    finally:
        for handle in handles:
            handle.remove()


@each_case
def test_a_pre_hook_may_change_the_arguments(case: Case) -> None:
    optimizer = case.ours(make_params(((3,),)))
    set_grads(params_of(optimizer), 1)
    optimizer.register_step_pre_hook(lambda *_: ((optimizer, lambda: 42.0), {}))
    assert optimizer.step() == 42.0


@each_case
def test_no_post_hook_runs_after_a_rejected_step(case: Case) -> None:
    fired: list[str] = []
    optimizer = case.ours(make_params(((3,),)))
    optimizer.register_step_post_hook(lambda *_: fired.append("post"))
    set_grads(params_of(optimizer), 1)
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="Invalid learning rate"):
        optimizer.step()
    assert not fired


@each_torch_case
def test_state_dict_hooks_are_torchs(case: Case) -> None:
    seen = []
    for made in both(case, **all_states_on(case)):
        calls: list[str] = []

        def edit(_: Any, given: dict[str, Any], calls: list[str] = calls) -> dict[str, Any]:
            calls.append(f"load pre {sorted(given)} {len(given['state'])}")
            for state in given["state"].values():
                calls.append(str({k: type(v).__name__ for k, v in state.items()}))
            groups = [{**group, "lr": 0.5} for group in given["param_groups"]]
            return {**given, "param_groups": groups}

        made.register_state_dict_pre_hook(lambda _, calls=calls: calls.append("save pre"))
        made.register_state_dict_post_hook(lambda _, d, calls=calls: calls.append(f"{sorted(d)}"))
        made.register_load_state_dict_pre_hook(edit)
        made.register_load_state_dict_post_hook(lambda _, calls=calls: calls.append("load post"))
        take_steps(made, 1)
        made.load_state_dict(made.state_dict())
        assert made.param_groups[0]["lr"] == 0.5
        take_steps(made, 1)
        seen.append(calls)
    assert seen[0] == seen[1] and len(seen[0]) > 5


# ---- closures, autograd


@each_torch_case
def test_a_closure_runs_once_with_gradients_and_its_loss_is_returned(case: Case) -> None:
    losses = []
    for made in both(case):
        runs = []

        def closure(made: Any = made, runs: list[int] = runs) -> Tensor:
            assert torch.is_grad_enabled()
            runs.append(1)
            made.zero_grad()
            loss: Tensor = sum((p**2).sum() for p in params_of(made))  # type: ignore[assignment]
            loss.backward()
            return loss

        with torch.no_grad():
            losses.append([float(made.step(closure)) for _ in range(3)])
        assert len(runs) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert losses[0][2] < losses[0][0]


def second_order(cls: Any, steps: int) -> list[Tensor]:
    """Returns gradients through the steps; none where the class writes over what they need."""
    start = randn((4,), torch.float64, 1).requires_grad_()
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    param = start.clone()
    optimizer = cls([param], lr=0.1, differentiable=True)
    try:
        for _ in range(steps):
            (param.grad,) = torch.autograd.grad(
                (scale * param.clone() ** 3).sum(), param, create_graph=True
            )
            optimizer.step()
        assert param.requires_grad and not param.is_leaf
        return list(torch.autograd.grad(param.sum(), (start, scale)))
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return []


@each_torch_case
def test_differentiable_steps_have_second_order_gradients_as_torchs(case: Case) -> None:
    for steps in (1, 2):
        theirs, ours = second_order(case.theirs, steps), second_order(case.ours, steps)
        assert len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))
        # torch's Adamax and Rprop have none through more than one step.
        assert any(value.any() for value in ours) or steps > 1


@each_case
def test_a_step_is_invisible_to_autograd(case: Case) -> None:
    optimizer = case.ours(make_params(((3,),)))
    set_grads(params_of(optimizer), 1)
    assert torch.is_grad_enabled()
    optimizer.step()
    assert torch.is_grad_enabled()
    (param,) = params_of(optimizer)
    assert param.is_leaf and param.requires_grad and param.grad_fn is None
    assert not any(value.requires_grad for value in optimizer.state[param].values())


@each_torch_case
@pytest.mark.parametrize("set_to_none", (True, False))
def test_zero_grad(case: Case, set_to_none: bool) -> None:
    ours, theirs = both(case)
    for optimizer in (ours, theirs):
        take_steps(optimizer, 1)
        kept = [param.grad for param in params_of(optimizer)]
        optimizer.zero_grad(set_to_none=set_to_none)
        for param, grad in zip(params_of(optimizer), kept, strict=True):
            assert param.grad is (None if set_to_none else grad)
        optimizer.step()
    assert_alike(ours, theirs)


# ---- the default dtype


@each_torch_case
@pytest.mark.parametrize("default", REAL, ids=str)
def test_the_default_dtype_changes_no_bit(case: Case, default: torch.dtype) -> None:
    for options in case.settings:
        ends = []
        for dtype in (torch.float32, default):
            torch.set_default_dtype(dtype)
            optimizer = case.ours(make_params(SHAPES), **options)
            take_steps(optimizer, 3)
            ends.append([raw(param) for param in params_of(optimizer)])
        assert ends[0] == ends[1], options
    torch.set_default_dtype(torch.float32)

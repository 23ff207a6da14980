"""onepass.in_backward: parameters are stepped in backward, with the bits of the ordinary loop."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler
from torch.utils.checkpoint import checkpoint

import onepass
from tests.backward_models import Model, groups_of, loss_of, train
from tests.cases import CASES, Case
from tests.support import (
    assert_same,
    each_case,
    each_kind,
    each_sparse_case,
    make_params,
    params_of,
    randn,
    raw,
    snapshot,
)

SGD, ADAMW = (next(case for case in CASES if str(case) == name) for name in ("SGD", "AdamW"))


def pair(case: Case, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """Returns a model and its optimizer twice, the second with a handle."""
    ordinary, ours = Model(dtype), Model(dtype)
    whole, single = (case.ours(groups_of(model), **options) for model in (ordinary, ours))
    return (ordinary, whole, None), (ours, single, onepass.in_backward(single))


def assert_alike(loops: Any, about: object = "") -> None:
    (_, whole, _), (model, single, _) = loops
    assert all(param.grad is None for param in model.parameters())
    assert_same(snapshot(single), snapshot(whole), about)


# ---- the same bits


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_losses_and_states_are_those_of_the_ordinary_loop(case: Case, dtype: torch.dtype) -> None:
    for options in (*case.settings, *case.extras):
        loops = pair(case, dtype, **options)
        before = raw(loops[1][0].words.weight)
        losses = [train(*loop, range(4)) for loop in loops]
        assert losses[0] == losses[1], options
        assert_alike(loops, options)
        assert raw(loops[1][0].words.weight) != before


@pytest.mark.parametrize(
    "options",
    [
        {"state_dtype": torch.int8},
        {"state_dtype": torch.bfloat16, "state_rounding": "stochastic"},
        {"stochastic_rounding": True},
        {"stochastic_rounding": True, "state_dtype": torch.int8},
        {"decouple_lr": True, "cautious": True},
    ],
    ids=str,
)
def test_options_of_a_step_hold_inside_backward(options: dict[str, Any]) -> None:
    loops = [
        (model, optimizer, None if k == 0 else onepass.in_backward(optimizer))
        for k in range(2)
        for model in [Model(torch.bfloat16)]
        for optimizer in [onepass.AdamW(groups_of(model), lr=0.01, **options)]
    ]
    assert train(*loops[0], range(5)) == train(*loops[1], range(5))
    assert_alike(loops)


@each_kind
def test_micro_batches_are_added_up_and_stepped_once(case: Case) -> None:
    """With the last one; a parameter that only earlier ones reach is stepped too."""
    loops = pair(case)
    assert train(*loops[0], range(3), 3) == train(*loops[1], range(3), 3)
    assert_alike(loops)
    model, optimizer, stepping = loops[1]
    before = snapshot(optimizer)
    with stepping.accumulating(), stepping.accumulating():
        loss_of(model, 1).backward()
    grad = model.words.weight.grad
    assert grad is not None
    without_grads = [{k: v for k, v in seen.items() if not k.startswith("grad")}
                     for seen in (before, snapshot(optimizer))]  # fmt: skip
    assert without_grads[0] == without_grads[1]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_activations_are_computed_from_weights_before_their_step(
    reentrant: bool,
) -> None:
    models = [Model(reentrant=reentrant if k else None) for k in range(2)]
    for model in models:
        model.words.weight.requires_grad_()
    whole, single = (onepass.AdamW(groups_of(model), lr=0.03) for model in models)
    with onepass.in_backward(single) as stepping:
        for micro_batches in (1, 3):
            want = train(models[0], whole, None, range(4), micro_batches)
            assert train(models[1], single, stepping, range(4), micro_batches) == want
    assert_same(snapshot(single), snapshot(whole))


def test_kept_gradients_wait_for_the_end_of_the_outermost_backward() -> None:
    """A reentrant checkpoint is a backward inside of backward: more may come after it."""
    models = [torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(3))) for _ in "12"]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [onepass.AdamW(model.parameters(), lr=0.1) for model in models]
    stepping = onepass.in_backward(optimizers[1])

    def backward(model: Any, number: int) -> None:
        first, second, third = model
        inner = checkpoint(second, first(randn((2, 3), torch.float32, number)), use_reentrant=True)
        third(inner).square().sum().backward()

    for number in range(0, 6, 2):
        for model, keeping in zip(
            models, (contextlib.nullcontext(), stepping.accumulating()), strict=True
        ):
            with keeping:
                backward(model, number)
            backward(model, number + 1)
        optimizers[0].step()
        optimizers[0].zero_grad()
        assert_same(snapshot(optimizers[1]), snapshot(optimizers[0]), number)


@each_sparse_case
def test_sparse_gradients_are_stepped(case: Case) -> None:
    tables = [torch.nn.Embedding(9, 4, sparse=True) for _ in "12"]
    tables[1].load_state_dict(tables[0].state_dict())
    options = {"weight_decay": 0.1} if case.ours is onepass.AdamW else {}
    whole, single = (case.ours(table.parameters(), **options) for table in tables)
    stepping = onepass.in_backward(single)
    for number in range(4):
        for table in tables:
            with stepping.accumulating() if table is tables[1] else contextlib.nullcontext():
                table(torch.tensor([number, 3])).square().sum().backward()
            table(torch.tensor([7, 7])).square().sum().backward()
        whole.step()
        whole.zero_grad()
        assert_same(snapshot(single), snapshot(whole), number)
    for optimizer in (whole, single):
        optimizer.catch_up()
    assert_same(snapshot(single), snapshot(whole))


@each_kind
def test_schedulers_drive_it_and_do_not_warn(case: Case) -> None:
    loops = pair(case)
    schedulers = [lr_scheduler.StepLR(optimizer, 1, 0.5) for _, optimizer, _ in loops]
    for number in range(3):
        for loop, scheduler in zip(loops, schedulers, strict=True):
            train(*loop, range(number, number + 1))
            scheduler.step()
    assert_alike(loops)
    assert params_of(loops[1][1]) and loops[1][1].param_groups[1]["lr"] == 0.03 / 8


def test_averages_of_weights_are_taken_after_backward() -> None:
    loops = pair(ADAMW)
    averages = [onepass.ema.EMA(model, beta=0.9) for model, _, _ in loops]
    for number in range(3):
        for loop, average in zip(loops, averages, strict=True):
            train(*loop, range(number, number + 1))
            average.update()
    for a, b in zip(*(average.state_dict().values() for average in averages), strict=True):
        assert raw(torch.as_tensor(a)) == raw(torch.as_tensor(b))


@each_kind
@pytest.mark.parametrize("options", [{}, {"state_dtype": torch.bfloat16}], ids=str)
def test_training_goes_on_from_a_checkpoint(case: Case, options: dict[str, Any]) -> None:
    """Of the same optimizer, while it steps inside backward, and in another one."""
    loops = pair(case, **options)
    model, optimizer, _ = loops[1]
    train(*loops[1], range(2))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    want = train(*loops[1], range(2, 5))
    file.seek(0)
    weights, states = torch.load(file, weights_only=True)
    model.load_state_dict(weights)
    optimizer.load_state_dict(states)
    assert train(*loops[1], range(2, 5)) == want
    other = Model()
    other.load_state_dict(weights)
    again = case.ours(groups_of(other), **options)
    again.load_state_dict(states)
    with onepass.in_backward(again) as stepping:
        assert train(other, again, stepping, range(2, 5)) == want
    assert_same(snapshot(again), snapshot(optimizer))


@pytest.mark.compile
def test_a_compiled_model_is_stepped() -> None:
    loops = pair(ADAMW)
    (model, whole, _), (other, single, stepping) = loops
    want = train(model, whole, None, range(3))
    compiled = torch.compile(other, backend="aot_eager")
    assert train(compiled, single, stepping, range(3)) == want
    assert_alike(loops)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
def test_gradients_that_can_be_differentiated_are_stepped() -> None:
    (ordinary,), (ours,) = make_params([(3,)]), make_params([(3,)])
    whole, single = onepass.AdamW([ordinary]), onepass.AdamW([ours])
    onepass.in_backward(single)
    for param in (ordinary, ours):
        param.pow(3).sum().backward(create_graph=True)
    whole.step()
    assert ours.grad is None and raw(ours) == raw(ordinary)


# ---- memory


def test_gradients_of_one_layer_are_in_memory_at_a_time() -> None:
    layers = [torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(12)]
    model = torch.nn.Sequential(*layers)
    seen: list[int] = []

    def count(_: Tensor) -> None:
        grads = (param.grad for param in model.parameters())
        seen.append(sum(grad.nbytes for grad in grads if grad is not None))

    for param in model.parameters():
        param.register_post_accumulate_grad_hook(count)
    optimizer = onepass.AdamW(model.parameters())

    def peak() -> int:
        seen.clear()
        model(torch.ones(2, 4, 16)).square().sum().backward()
        return max(seen)

    a_layer = sum(param.nbytes for param in layers[0].parameters())
    assert peak() == 12 * a_layer
    optimizer.zero_grad()
    with onepass.in_backward(optimizer):
        assert peak() <= a_layer
        assert len(seen) == len(list(model.parameters()))
    assert peak() == 12 * a_layer


# ---- what changes while it holds


@each_kind
def test_parameters_that_are_unfrozen_or_added_later_are_stepped(case: Case) -> None:
    loops = pair(case)
    for model, optimizer, _ in loops:
        model.frozen.requires_grad_()
        model.extra = torch.nn.Parameter(torch.ones(6, dtype=model.words.weight.dtype))
        optimizer.add_param_group({"params": [model.extra], "lr": 0.1})
        model.rare.register_forward_hook(lambda _, __, out, model=model: out * model.extra)
    assert train(*loops[0], range(4)) == train(*loops[1], range(4))
    assert_alike(loops)
    model, optimizer, stepping = loops[1]
    assert raw(model.extra) != raw(torch.ones(6))
    for whose, other, _ in loops:
        whose.blocks.requires_grad_(False)
        del other.param_groups[0]["params"][0]  # the tied weight is left alone from here on
    before = raw(model.words.weight)
    loss_of(model, 1).backward()
    assert model.words.weight.grad is not None and raw(model.words.weight) == before
    stepping.remove()
    assert not any(getattr(p, "_post_accumulate_grad_hooks", None) for p in model.parameters())


def test_frozen_parameters_of_any_kind_are_left_alone() -> None:
    codes = torch.nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    with torch.inference_mode():
        inferred = torch.ones(3)
    weight = torch.ones(3, requires_grad=True)
    optimizer = onepass.SGD([codes, inferred, weight], lr=0.5)
    with onepass.in_backward(optimizer):
        weight.sum().backward()
    assert weight.tolist() == [0.5] * 3
    assert not codes.requires_grad and not inferred.requires_grad


def test_copies_step_by_themselves() -> None:
    loops = pair(ADAMW)
    model, optimizer, _ = loops[1]
    other, again = copy.deepcopy((model, optimizer))
    train(other, again, None, range(2))
    train(*loops[0], range(2))
    assert_same(snapshot(again), snapshot(loops[0][1]))


def test_it_lives_as_long_as_the_optimizer_or_the_handle() -> None:
    """Then all is freed; a parameter that lives on tells of it."""
    weight = torch.ones(3, requires_grad=True)
    optimizer = onepass.SGD([weight], lr=0.5)
    onepass.in_backward(optimizer)
    gc.collect()
    weight.sum().backward()
    assert weight.tolist() == [0.5] * 3
    stepping, alive = optimizer.__dict__["_in_backward"], weakref.ref(optimizer)
    del optimizer
    gc.collect()
    weight.sum().backward()
    assert weight.tolist() == [0.0] * 3
    del stepping
    gc.collect()
    assert alive() is None
    with pytest.warns(UserWarning, match=r"is gone, so that the gradient is kept; hold on"):
        weight.sum().backward()
    assert weight.grad is not None and weight.tolist() == [0.0] * 3


def test_parameters_without_a_gradient_rest() -> None:
    """Autograd calls hooks even where a function gives none."""

    class FirstAlone(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
            return first.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
            return grad, None

    first, second = make_params([(3,)] * 2)
    optimizer = onepass.AdamW([first, second])
    onepass.in_backward(optimizer)
    FirstAlone.apply(first, second).sum().backward()
    assert list(optimizer.state) == [first]


@each_kind
def test_it_ends_and_can_begin_again(case: Case) -> None:
    loops = pair(case)
    model, optimizer, stepping = loops[1]
    train(*loops[0], range(6))
    train(*loops[1], range(2))
    stepping.remove()
    stepping.remove()
    with pytest.raises(RuntimeError, match="has ended"), stepping:
        pass
    train(model, optimizer, None, range(2, 4))
    with pytest.raises(KeyError, match="of the loop"), onepass.in_backward(optimizer) as stepping:
        train(model, optimizer, stepping, range(4, 6))
        raise KeyError("of the loop")
    assert_alike(loops)
    loss_of(model, 1).backward()
    assert model.words.weight.grad is not None


def test_hooks_of_earlier_registration_may_clip_each_gradient() -> None:
    def clip(param: Tensor) -> None:
        torch.nn.utils.clip_grad_norm_([param], 0.01)

    loops = pair(SGD, lr=0.1)
    loops[1][2].remove()
    for model, _, _ in loops:
        for param in model.parameters():
            if param.requires_grad:
                param.register_post_accumulate_grad_hook(clip)
    model, optimizer, _ = loops[1]
    with onepass.in_backward(optimizer) as stepping:
        assert train(*loops[0], range(3)) == train(model, optimizer, stepping, range(3))
    assert_alike(loops)


def test_zero_grad_is_harmless_and_hooks_of_step_do_not_run() -> None:
    loops = pair(ADAMW)
    optimizer = loops[1][1]
    optimizer.register_step_post_hook(lambda *_: pytest.fail("a hook ran"))
    for number in range(3):
        optimizer.zero_grad()
        for loop in loops:
            train(*loop, range(number, number + 1))
        optimizer.zero_grad(set_to_none=False)
    assert_alike(loops)

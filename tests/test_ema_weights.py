"""The average of a model's weights as an object: one call, saved, swapped, all or nothing."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import onepass
from onepass import ema
from onepass.ema import EMA
from tests.averaged import Tied, after, shown, theirs
from tests.layouts import same_bits
from tests.support import raw


def events_of(call: Callable[[], Any]) -> list[str]:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        call()
    return [event.name for event in profile.events()]


def test_an_update_is_one_native_call_and_nothing_else_touches_the_weights() -> None:
    average = after(2, Tied(), beta=0.9, bias_correction=True)
    events = events_of(average.update)
    assert [name for name in events if "onepass" in name] == ["onepass::ema_", "onepass::ema"]
    assert not [name for name in events if "copy" in name or "lerp" in name or "clone" in name]


def test_tied_weights_are_averaged_once() -> None:
    model = Tied()
    average = after(3, model, beta=0.5)
    assert average.averages["first.weight"] is average.averages["second.weight"]
    assert average.state_bytes() == sum(4 * p.numel() for p in model.parameters())
    want = torch.zeros(5, 6)
    model.train_on(0)
    for step, seed in enumerate(range(3), start=1):
        model.train_on(seed)
        ema.update_(want, model.first.weight, 0.5, 1 if step == 1 else None)
    assert same_bits(average.averages["first.weight"], want)


def test_tensors_pairs_and_dicts_can_be_averaged() -> None:
    tensors = [torch.zeros(2), torch.zeros((), dtype=torch.float64)]
    for params, names in (
        (iter(tensors), ["0", "1"]),
        (zip("ab", tensors, strict=True), ["a", "b"]),
        (dict(zip("ab", tensors, strict=True)), ["a", "b"]),
    ):
        for tensor in tensors:
            tensor.zero_()
        average = EMA(params, beta=0.75)
        for value in (0.0, 1.0):
            for tensor in tensors:
                tensor.fill_(value)
            average.update()
        assert list(average.averages) == names
        assert all((average.averages[n] == 0.25).all() for n in names)
    for wrong, error in ((torch.ones(2), TypeError), ([1.0], TypeError), ([None], TypeError)):
        with pytest.raises(error, match="params must"):
            EMA(wrong)
    with pytest.raises(ValueError, match="'a' twice"):
        EMA([("a", tensors[0]), ("a", tensors[1])])


def test_beta_may_change_between_updates_and_is_checked_in_each() -> None:
    model = Tied()
    average = after(2, model, beta=0.9)
    before = shown(average, model)
    average.beta = 1.5
    with pytest.raises(ValueError, match=r"Invalid beta value: 1\.5"):
        average.update()
    assert shown(average, model) == before
    average.beta = 0.0
    average.update()
    assert same_bits(average.averages["conv.weight"], model.conv.weight.detach())


def test_another_module_with_the_same_tensors_can_be_averaged_and_written() -> None:
    model = Tied()
    ours, twin = EMA(model, 0.9), copy.deepcopy(model)
    twin.train_on(4)
    ours.update_parameters(twin)
    assert same_bits(ours.averages["sliced"], twin.sliced.detach())
    assert not same_bits(model.sliced, twin.sliced)
    twin.train_on(5)
    ours.copy_to(twin)
    assert same_bits(ours.averages["sliced"], twin.sliced.detach())
    ours.copy_to()
    assert same_bits(ours.averages["sliced"], model.sliced.detach())


def test_weights_that_were_replaced_are_found() -> None:
    model = Tied()
    average = after(2, model, beta=0.0)
    model.load_state_dict({k: v.clone() + 1 for k, v in model.state_dict().items()}, assign=True)
    model.second.weight = model.first.weight
    average.update()
    assert same_bits(average.averages["conv.weight"], model.conv.weight.detach())
    model.half()
    average.update()
    assert same_bits(average.averages["conv.weight"], model.conv.weight.detach().float())


def test_updates_need_no_gradients_and_leave_none() -> None:
    model = Tied()
    average = EMA(model)
    with torch.inference_mode():
        average.update()
    average.update()
    assert not any(t.requires_grad or t.is_inference() for t in average.averages.values())
    assert all(p.grad is None and p.requires_grad for p in model.conv.parameters())


# ---- what is refused


def freed(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(0)


def frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


# What may happen to a model, what must be said of it.
Spoil = Callable[[Any], Any]
SPOILT: dict[str, tuple[Spoil, str]] = {
    "shape": (lambda m: setattr(m, "frozen", frozen(torch.zeros(3))), "'frozen'.*has shape"),
    "sparse": (
        lambda m: setattr(m.other, "weight", frozen(torch.eye(2).to_sparse())),
        "'other.weight' has layout torch.sparse",
    ),
    "freed": (lambda m: freed(m.other.weight), "'other.weight'.*freed or resized"),
    "float8": (
        lambda m: setattr(m.other, "bias", frozen(torch.zeros(2).to(torch.float8_e4m3fn))),
        "'other.bias'.*has dtype Float8",
    ),
    "complex": (
        lambda m: setattr(m.other, "bias", frozen(torch.zeros(2, dtype=torch.complex64))),
        "'other.bias'.*must be real or both complex",
    ),
    "counts": (
        lambda m: setattr(m.norm, "num_batches_tracked", torch.tensor(3.0)),
        "'norm.num_batches_tracked' has dtype",
    ),
    "freed counts": (
        lambda m: freed(m.norm.num_batches_tracked),
        "'norm.num_batches_tracked' was freed",
    ),
    "gone": (lambda m: delattr(m.other, "bias"), "not those that are averaged.*'other.bias'"),
    "new": (
        lambda m: setattr(m, "more", frozen(torch.zeros(1))),
        "not those that are averaged.*'more'",
    ),
    "untied": (
        lambda m: setattr(m.second, "weight", frozen(m.first.weight.detach().clone())),
        "tied or ordered otherwise.*'second.weight'",
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("updates", [0, 3])
def test_a_model_that_does_not_fit_is_named_and_nothing_is_written(kind: str, updates: int) -> None:
    model: Any = Tied()
    model.other = nn.Linear(2, 2)
    change, words = SPOILT[kind]
    average = after(updates, model, use_buffers=True)
    model.train_on(9)
    change(model)

    def bytes_now() -> list[Any]:
        tensors = [*model.parameters(), *model.buffers()]
        whole = [
            raw(t.view(torch.uint8) if t.itemsize == 1 else t)
            for t in tensors
            if not t.is_sparse and t.untyped_storage().nbytes()
        ]
        return [average.n_averaged, *map(raw, average.averages.values()), *whole]

    before = bytes_now()
    for call in (average.update, average.copy_to, lambda: average.swapped().__enter__()):
        with pytest.raises((RuntimeError, ValueError), match=words):
            call()
        assert bytes_now() == before
    assert not average._is_swapped


def test_what_cannot_be_averaged_is_refused_from_the_start() -> None:
    for tensor, words in (
        (torch.eye(2).to_sparse(), "'bad' has layout torch.sparse"),
        (torch.zeros(2).to(torch.float8_e4m3fn), "'bad'.*has dtype Float8"),
    ):
        with pytest.raises(RuntimeError, match=words):
            EMA([("good", torch.ones(2)), ("bad", tensor)])


def test_the_function_refuses_what_does_not_fit_and_writes_nothing() -> None:
    memory = torch.zeros(6)
    for averages, values, words in (
        ([memory, torch.zeros(2)], [torch.ones(6), torch.ones(3)], r"averages\[1\] has shape \[3"),
        ([memory], [], "list 1 has 0 tensors, but averages has 1"),
        ([memory[:4]], [memory[2:]], r"averages\[0\] shares memory"),
        ([memory, torch.zeros(1).expand(6)], [torch.ones(6)] * 2, r"averages\[1\].*share memory"),
        ([memory], [torch.ones(6).to_sparse()], r"the value of averages\[0\] has layout"),
        (
            [memory],
            [torch.ones(6, dtype=torch.int64)],
            r"the value of averages\[0\] has dtype Long",
        ),
    ):
        with pytest.raises(RuntimeError, match=words):
            ema.update_(averages, values, 0.5)
        assert not memory.any() and memory._version == 0


# ---- copies and checkpoints


def test_copies_and_pickles_take_the_model_along_and_go_on_alike() -> None:
    model = Tied()
    average = after(3, model, beta=0.9, bias_correction=True, use_buffers=True)
    for made in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        other_model, other = made((model, average))
        assert shown(other, other_model) == shown(average, model)
        other_model.train_on(8)
        other.update()
        assert not same_bits(other.averages["sliced"], average.averages["sliced"])
        going_on = copy.deepcopy((model, average))
        going_on[0].train_on(8)
        going_on[1].update()
        assert shown(going_on[1], going_on[0]) == shown(other, other_model)
        assert other.averages["first.weight"] is other.averages["second.weight"]


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("dtype", [None, torch.float16], ids=str)
@pytest.mark.parametrize("corrected", [False, True])
def test_a_checkpoint_goes_on_as_if_never_saved(corrected: bool, dtype: Any) -> None:
    options: dict[str, Any] = dict(bias_correction=corrected, dtype=dtype, use_buffers=True)
    model = Tied()
    average = after(4, model, **options)
    fresh = EMA(copy.deepcopy(model), **options)
    state = saved_and_loaded(average.state_dict())
    fresh.load_state_dict(state)
    for tensor in state.values():
        tensor.zero_()
    for seed in (5, 6):
        for one in (average, fresh):
            one._source.train_on(seed)
            one.update()
    assert shown(fresh, fresh._source) == shown(average, model)
    assert fresh.averages["conv.weight"].stride() == model.conv.weight.stride()
    assert fresh.averages["first.weight"] is fresh.averages["second.weight"]


def test_checkpoints_are_those_of_averaged_model_both_ways() -> None:
    model = Tied()
    ours, want = EMA(model, 0.9, use_buffers=True), theirs(model, 0.9, use_buffers=True)
    for seed in range(3):
        model.train_on(seed)
        want.update_parameters(model)
    ours.load_state_dict(saved_and_loaded(want.state_dict()))
    assert ours.n_averaged == 3
    back = theirs(Tied(), 0.9, use_buffers=True)
    back.load_state_dict(saved_and_loaded(ours.state_dict()))
    assert back.state_dict().keys() == want.state_dict().keys()
    assert all(same_bits(back.state_dict()[k], v) for k, v in want.state_dict().items() if v.dim())
    assert back.n_averaged == 3 and back.n_averaged.dtype == want.n_averaged.dtype
    EMA(model).load_state_dict(want.state_dict())  # whose buffers are passed over


def hostile(state: dict[str, Any]) -> dict[str, Any]:
    """Returns state dicts that do not fit, by what is wrong."""
    weight, counts = "module.conv.weight", "module.norm.num_batches_tracked"
    freed = torch.ones(4, 3, 2, 2)
    freed.untyped_storage().resize_(0)
    changes: list[tuple[str, Any]] = [
        *((weight, x) for x in (None, 1.0, torch.ones(3), torch.ones(4, 3, 2, 2).int(), freed)),
        (weight, torch.ones(4, 3, 2, 2, dtype=torch.complex64)),
        (weight, torch.ones(4, 3, 2, 2, device="meta")),
        *((counts, x) for x in (None, torch.tensor(1.0), torch.tensor([1, 2]))),
        *(("n_averaged", x) for x in (None, -1, 1.5, float("nan"), "3", torch.tensor(-1))),
        ("module.what", torch.ones(1)), ("epoch", 3), (7, 7),
    ]  # fmt: skip
    bad = {f"{key} {k}": {**state, key: value} for k, (key, value) in enumerate(changes)}
    for key in ("n_averaged", weight, "module.second.weight"):
        bad[f"no {key}"] = {k: v for k, v in state.items() if k != key}
    return {**bad, "none": None, "list": [state], "empty": {}}


def test_a_state_dict_that_does_not_fit_changes_nothing() -> None:
    model = Tied()
    average = after(2, model, use_buffers=True)
    other = after(5, Tied(), use_buffers=True).state_dict()
    before = shown(average, model)
    for name, state in hostile(other).items():
        with pytest.raises((ValueError, RuntimeError)):
            average.load_state_dict(state)
        assert shown(average, model) == before, name
    average.load_state_dict(other)
    assert shown(average, model) != before


# ---- where torch's dispatcher is needed


def test_the_op_passes_opcheck_and_has_its_published_schema() -> None:
    op = torch.ops.onepass.ema_.default
    assert str(op._schema) == (
        "onepass::ema_(Tensor(a!)[] averages, Tensor[] values, *, Tensor beta, Tensor? step=None)"
        " -> ()"
    )
    beta = torch.tensor(0.9)
    for averages in ([], [torch.zeros(3), torch.zeros(2, 2).t()], [torch.zeros(3).bfloat16()]):
        values = [torch.ones_like(t, dtype=torch.float32) for t in averages]
        for step in (None, torch.tensor(1), torch.tensor(3.0)):
            torch.library.opcheck(op, (averages, values), {"beta": beta, "step": step})
    with pytest.raises(RuntimeError, match="but others of this call are on meta"):
        op([torch.zeros(3, device="meta")], [torch.zeros(3)], beta=beta)


def test_it_is_there_after_a_plain_import() -> None:
    assert onepass.ema.EMA is EMA and "ema" in onepass.__all__
    assert set(ema.__all__) == {
        "EMA", "beta_for_window", "bias_corrected", "update_", "weight", "window",
    }  # fmt: skip

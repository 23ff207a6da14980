"""Checkpoints of other libraries, written by hand: `convert_state_dict` reads or refuses them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

import onepass
from onepass import convert_state_dict
from onepass.foreign_libraries import SOURCES
from tests.foreign import BNB_CODES, FLASH_CODES, MOMENTS, SAMPLES, SHAPE, Sample, coded
from tests.support import raw, take_steps

each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=str)


def sample_of(name: str) -> Sample:
    return next(sample for sample in SAMPLES if str(sample) == name)


def converted(sample: Sample, saved: dict[str, Any] | None = None) -> dict[str, Any]:
    return convert_state_dict(saved or sample.saved, sample.source, sample.algorithm)


def optimizer_of(sample: Sample, **options: Any) -> Any:
    param = torch.ones(SHAPE, requires_grad=True)
    return getattr(onepass, sample.algorithm)([param], **options)


def refused(sample: Sample, text: str, saved: dict[str, Any] | None = None, **own: Any) -> None:
    saved = saved or sample.saved
    state = saved["state"][4]
    for key, value in own.items():
        state[key] = value
        if value is ...:
            del state[key]
    with pytest.raises(ValueError, match=text):
        converted(sample, saved)


@each_sample
def test_states_are_what_they_stand_for_bit_for_bit(sample: Sample) -> None:
    (state,) = converted(sample)["state"].values()
    assert state.keys() == sample.wanted.keys()
    for name, value in sample.wanted.items():
        assert state[name].dtype == torch.float32 and state[name].shape == value.shape
        assert raw(state[name]) == raw(value), name


@each_sample
def test_groups_hold_all_options_of_our_class(sample: Sample) -> None:
    (group,) = converted(sample)["param_groups"]
    assert {"lr": 0.02, **sample.held}.items() <= group.items()
    beside = {"params", "initial_lr", "reference_lr"}
    assert group.keys() - beside - sample.held.keys() == (
        optimizer_of(sample).defaults.keys() - sample.held.keys()
    )


def frozen(value: Any) -> Any:
    """Returns a nested value with bytes in place of tensors."""
    if isinstance(value, dict):
        return {key: frozen(one) for key, one in value.items()}
    if isinstance(value, Tensor):
        return value.dtype, value.shape, raw(value.as_subclass(Tensor))
    return value


@each_sample
def test_a_checkpoint_is_not_changed_and_is_shared_where_it_fits(sample: Sample) -> None:
    saved = sample.saved
    before = frozen(saved)
    state = converted(sample, saved)["state"][4]
    assert frozen(saved) == before
    shared = {
        name
        for name in state.keys() & sample.own.keys() - {"step"}
        if type(sample.own[name]) is Tensor
    }
    for name in shared:
        fits = raw(state[name]) == raw(sample.own[name])
        assert (state[name].data_ptr() == sample.own[name].data_ptr()) == fits


DTYPES = (torch.float32, torch.bfloat16, torch.int8)


@pytest.mark.parametrize(
    ("sample", "dtype"),
    [
        pytest.param(sample, dtype, id=f"{sample}-{dtype}")
        for sample in SAMPLES
        for dtype in DTYPES
        if (sample.algorithm, dtype) != ("SGD", torch.int8)  # which is refused
    ],
)
def test_it_loads_with_states_of_any_dtype_and_steps(sample: Sample, dtype: torch.dtype) -> None:
    optimizer = optimizer_of(sample, state_dtype=dtype)
    optimizer.load_state_dict(converted(sample))
    (state,) = optimizer.state.values()
    for name, value in sample.wanted.items():
        if value.shape == SHAPE and dtype != torch.int8:
            assert raw(state[name]) == raw(value.to(dtype)), name
        elif value.shape == SHAPE:
            assert state[name].dtype in (torch.int8, torch.uint8)
    take_steps(optimizer, 1)
    assert "step" not in state or int(state["step"]) == int(sample.wanted["step"]) + 1


@pytest.mark.parametrize("name", ("AdamW", "SGD", "RMSprop", "Adagrad", "RAdam"))
def test_torchs_class_loads_it_too(name: str) -> None:
    sample = next(one for one in SAMPLES if one.algorithm == name)
    param = torch.ones(SHAPE, requires_grad=True)
    theirs = getattr(torch.optim, name)([param])
    theirs.load_state_dict(converted(sample))
    param.grad = torch.ones(SHAPE)
    theirs.step()
    (state,) = theirs.state.values()
    assert state.keys() >= sample.wanted.keys()


def test_every_source_has_a_sample_and_says_its_name() -> None:
    assert {sample.source for sample in SAMPLES} == SOURCES.keys()
    for sample in SAMPLES:
        spelt = sample.source.replace("_", "-").title()
        assert convert_state_dict(sample.saved, spelt, sample.algorithm.lower()).keys()
    for source in SOURCES.values():
        assert all(hasattr(onepass, name) for name in source.states)


def test_a_class_names_itself_and_options_fill_what_the_checkpoint_does_not_hold() -> None:
    sample = sample_of("deepspeed-Adam")
    moved = convert_state_dict(
        sample.saved, "deepspeed", onepass.Adam, decoupled_weight_decay=True, lr=7.0
    )
    (group,) = moved["param_groups"]
    assert group["decoupled_weight_decay"] is True and group["lr"] == 0.02


def test_names_other_entries_and_empty_states_are_kept() -> None:
    sample = sample_of("apex-AdamW")
    saved = sample.saved | {"epoch": 5}
    saved["param_groups"][0] |= {"params": [4, 6], "param_names": ["a", "b"]}
    saved["state"][6] = {}
    moved = converted(sample, saved)
    assert moved["epoch"] == 5 and moved["state"][6] == {}
    assert moved["param_groups"][0]["param_names"] == ["a", "b"]


def test_blocks_of_2048_of_older_versions_are_told_by_the_number_of_scales() -> None:
    codes = torch.arange(2304, dtype=torch.int32).to(torch.uint8)
    state = {"step": 1, "state1": codes, "qmap1": torch.arange(256.0)}
    group = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.0, "params": [0]}
    for count, size in ((9, 256), (2, 2048)):
        scales = torch.arange(1.0, count + 1)
        saved = {"state": {0: state | {"absmax1": scales}}, "param_groups": [group]}
        moved = convert_state_dict(saved, "bitsandbytes", "Lion")["state"][0]["exp_avg"]
        wanted = codes.float() * scales.repeat_interleave(size)[:2304]
        assert raw(moved) == raw(wanted)


def test_one_parameter_of_deepspeed_counts_steps_for_its_group() -> None:
    sample = sample_of("deepspeed-Adam")
    state = {k: {"step": count, **MOMENTS} for k, count in enumerate((0, 5, 2, 3))}
    groups = [{**sample.saved["param_groups"][0], "params": [k, k + 1]} for k in (0, 2)]
    moved = converted(sample, {"state": state, "param_groups": groups})
    assert [float(own["step"]) for own in moved["state"].values()] == [5.0, 5.0, 2.0, 3.0]


# ---- what is refused


def test_an_unknown_source_or_class_is_refused_with_what_there_is() -> None:
    saved = sample_of("apex-AdamW").saved
    with pytest.raises(ValueError, match="no source 'bitsnbytes'; did you mean bitsandbytes"):
        convert_state_dict(saved, "bitsnbytes", "AdamW")
    with pytest.raises(ValueError, match="a state dict of torch loads as it is"):
        convert_state_dict(saved, "torch", "AdamW")
    with pytest.raises(ValueError, match="no optimizer 'AdemaMix'"):
        convert_state_dict(saved, "bitsandbytes", "AdemaMix")
    with pytest.raises(ValueError, match=r"no state of apex is known that onepass\.NovoGrad could"):
        convert_state_dict(saved, "apex", "NovoGrad")
    with pytest.raises(TypeError, match="momentum"):
        convert_state_dict(saved, "apex", "AdamW", momentum=0.9)


@pytest.mark.parametrize(
    "saved", (None, "path.pt", {}, {"state": {}}, {"state": [], "param_groups": []})
)
def test_what_is_no_state_dict_is_refused(saved: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a (dict|list)"):
        convert_state_dict(saved, "apex", "AdamW")


@each_sample
def test_a_state_without_one_of_its_keys_or_with_another_is_refused(sample: Sample) -> None:
    where = r"parameter 0 of group 0"
    if sample.algorithm != "SGD" or sample.source == "bitsandbytes":
        saved = sample.saved
        saved["state"][4] = {"step": 3}
        refused(sample, rf"{where} is not what {sample.source} saves .* lacks ", saved)
    refused(sample, rf"{where} is not what {sample.source} .* has 'other'", other=torch.zeros(1))
    saved = sample.saved
    saved["state"][4] = torch.zeros(3)
    with pytest.raises(ValueError, match=rf"{where} is not what {sample.source} .* is tensor"):
        converted(sample, saved)


@each_sample
def test_states_of_other_shapes_and_dtypes_are_refused(sample: Sample) -> None:
    if len(sample.wanted.keys() - {"step"}) > 1 and "state1" not in str(sample.own):
        key = "exp_avg_sq" if sample.algorithm != "NovoGrad" else "grads_ema"
        names = [name for name in sample.own if name.split("::")[0] == key]
        own = dict.fromkeys(names, ...) | {key: torch.zeros(7)}
        refused(sample, rf"'{key}' of parameter 0 of group 0 has shape \[7\], but", **own)
    for key, value in sample.own.items():
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        unread = {"step", *SOURCES[sample.source].dropped} - {
            *SOURCES[sample.source].states[sample.algorithm]
        }
        if is_float and key not in unread:
            refused(sample, f"'{key}' of .* must be a .*tensor of", **{key: value.long()})


@pytest.mark.parametrize("count", (-1, 0.5, float("nan"), "many", torch.zeros(2), torch.tensor(-3)))
def test_a_count_that_is_none_is_refused(count: Any) -> None:
    for name in ("bitsandbytes-AdamW", "torchao-AdamW"):
        refused(sample_of(name), "step.* of parameter 0 of group 0", step=count)


def test_a_missing_count_is_refused_where_steps_depend_on_it() -> None:
    sample = sample_of("apex-AdamW")
    saved = sample.saved
    del saved["param_groups"][0]["step"]
    with pytest.raises(ValueError, match="lacks 'step', and so does its group"):
        converted(sample, saved)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    (
        ("state1", BNB_CODES["state1"].to(torch.int8), "must be a plain tensor of torch.uint8"),
        ("qmap1", torch.zeros(16), "has 16 elements, but must have 256"),
        ("qmap2", None, "must be a plain tensor of torch.float32, got None"),
        ("absmax1", torch.zeros(3), "has 3 elements, but 320 codes have 2 blocks of 256"),
        ("absmax2", torch.zeros(2, dtype=torch.float16), "must be a plain tensor of torch.float32"),
        (
            "state2",
            BNB_CODES["state2"].view(4, 80),
            r"has shape \[4, 80\], but must have shape \[5, 64\]",
        ),
        ("max1", torch.zeros(1), "has 'max1'"),
    ),
)
def test_codes_of_bitsandbytes_that_do_not_fit_are_refused(key: str, value: Any, text: str) -> None:
    sample = sample_of("bitsandbytes-AdamW")
    saved = sample.saved
    saved["state"][4] = {"step": 3, "__bnb_optimizer_quant_state__": {**BNB_CODES, key: value}}
    refused(sample, text, saved)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    (
        ("exp_avg::quantized", FLASH_CODES["exp_avg_sq::quantized"], "tensor of torch.int8, got"),
        ("exp_avg_sq::quantized", torch.zeros(SHAPE), "tensor of torch.uint8, got a Tensor of"),
        ("exp_avg::scales", torch.zeros(11).half(), "has 11 elements, but must have 10"),
        ("exp_avg::scales", torch.zeros(10), "of torch.float16 or torch.bfloat16, got"),
        ("exp_avg_sq::scales", ..., "of torch.float16 or torch.bfloat16, got None"),
        (
            "exp_avg::quantized",
            torch.zeros(64, 5, dtype=torch.int8).t(),
            "'exp_avg::quantized' of parameter 0 of group 0 must be contiguous",
        ),
    ),
)
def test_codes_of_flashoptim_that_do_not_fit_are_refused(key: str, value: Any, text: str) -> None:
    refused(sample_of("flashoptim-AdamW"), text, **{key: value})


def test_a_state_of_torchao_that_cannot_decode_itself_is_refused() -> None:
    broken = coded()
    broken.scale = torch.ones(7)
    refused(sample_of("torchao-AdamW"), "'exp_avg' of .* cannot be decoded", exp_avg=broken)


def test_a_group_that_does_not_fit_is_refused() -> None:
    sample = sample_of("apex-AdamW")
    for key, value, text in (
        ("bias_correction", False, r"group 0 has bias_correction=False, but onepass\.AdamW"),
        ("lr", -1.0, "parameter group 0: Invalid learning rate"),
        ("betas", (0.9, 1.5), "parameter group 0: Invalid beta parameter at index 1"),
        ("lr", "fast", "parameter group 0: lr must be a number"),
        ("params", [5], "a state for 4, which is in no group"),
        ("params", 4, "must be a dict with a list of 'params'"),
    ):
        saved = sample.saved
        saved["param_groups"][0][key] = value
        with pytest.raises((TypeError, ValueError), match=text):
            converted(sample, saved)
    sample = sample_of("optimi-AdamW")
    saved = sample.saved
    saved["param_groups"][0]["step"] = torch.tensor(0)
    with pytest.raises(ValueError, match="has moments but counts no steps"):
        converted(sample, saved)
    saved = sample.saved
    del saved["param_groups"][0]["beta2"]
    with pytest.raises(ValueError, match=r"group 0: betas must be 2 numbers"):
        converted(sample, saved)


def test_a_state_on_meta_is_refused() -> None:
    empty = torch.empty(SHAPE, device="meta")
    refused(sample_of("apex-AdamW"), "is on meta and holds no numbers", exp_avg=empty)


def test_a_sparse_state_is_refused() -> None:
    sparse = torch.ones(SHAPE).to_sparse()
    refused(sample_of("apex-AdamW"), "must be a dense tensor of floats", exp_avg=sparse)


@each_sample
def test_a_group_without_an_option_that_the_source_saves_is_refused(sample: Sample) -> None:
    """Its default would be another step; a keyword stands in."""
    for key in sample.group.keys() & {"lr", "betas", "eps", "weight_decay", "momentum"}:
        saved = sample.saved
        del saved["param_groups"][0][key]
        name = {"SGD": "momentum", "RMSprop": "alpha"}.get(sample.algorithm, key)
        wanted = name if key == "betas" else key
        if wanted in inspect.signature(getattr(onepass, sample.algorithm)).parameters:
            with pytest.raises(ValueError, match=f"parameter group 0 lacks the {wanted} that"):
                converted(sample, saved)
            value = sample.held[wanted]
            moved = convert_state_dict(saved, sample.source, sample.algorithm, **{wanted: value})
            assert moved["param_groups"][0][wanted] == value

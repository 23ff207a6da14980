"""docs/migration.md on checkpoints: with a converted one training goes on as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import onepass
from tests.flash_checkpoints import OPTIONS, flashoptim
from tests.migration import PEER, TABLES, Table, each_peer, marked
from tests.migration_walks import STEPS, Walk, assert_alike, base_of, shapes_of
from tests.support import (
    after_three_steps,
    copies,
    make_params,
    params_of,
    raw,
    run_python,
    snapshot,
)

pytestmark = pytest.mark.usefixtures("without_compiler")

MOVED = [table for table in TABLES if not table.needs_gpu and table.package != "torch"]
LEFT_OUT = {"pytorch_optimizer.LaProp-LaProp", "pytorch_optimizer.LARS-LARS"}
# Options that stand in no group of theirs: they must be said.
SAID = ("decoupled_weight_decay", "maximize", "state_dtype")


def moved(table: Table, saved: dict[str, Any], **options: Any) -> dict[str, Any]:
    return onepass.convert_state_dict(saved, table.package, table.ours, **options)


def assert_goes_on(table: Table, old: Walk, new: Any, constant: bool = False) -> None:
    assert_alike(Walk(new, constant).go(7, STEPS), old.go(7, STEPS))


@pytest.mark.parametrize("table", [marked(table) for table in MOVED if str(table) not in LEFT_OUT])
def test_training_goes_on_from_a_converted_checkpoint(table: Table) -> None:
    """Into an optimizer of the class's defaults, after seven steps and a change of the rate."""
    options, constant = base_of(table), table.holds_at_constant_lr
    old = Walk(table.their_class(make_params(shapes_of(table)), **options), constant).go(0, 7)
    said = {key: value for key, value in table.translated(options).items() if key in SAID}
    new = table.our_class(copies(old.params))
    new.load_state_dict(moved(table, old.optimizer.state_dict(), **said))
    assert_goes_on(table, old, new, constant)


@pytest.mark.parametrize("table", [marked(table) for table in MOVED if str(table) in LEFT_OUT])
def test_two_that_have_the_rate_inside_of_other_numbers_are_refused(table: Table) -> None:
    old = Walk(table.their_class(make_params(shapes_of(table)), **base_of(table))).go(0, 2)
    with pytest.raises(ValueError, match="no state of pytorch_optimizer is known"):
        moved(table, old.optimizer.state_dict())


@pytest.mark.parametrize("table", [t for t in TABLES if t.package == "torch"], ids=str)
def test_a_state_dict_of_torch_loads_as_it_is(table: Table) -> None:
    options = base_of(table)
    old = Walk(table.their_class(make_params(shapes_of(table)), **options)).go(0, 7)
    new = table.our_class(copies(old.params))
    new.load_state_dict(old.optimizer.state_dict())
    assert_goes_on(table, old, new)


@pytest.mark.parametrize("name", ("Adam", "Adagrad", "LAMB"))
def test_a_checkpoint_that_counts_steps_by_group_is_moved(name: str) -> None:
    """Apex needs a device: here our own checkpoint is written as its source says."""
    old = after_three_steps(getattr(onepass, name), {}, torch.float32)
    saved = old.state_dict()
    saved["state"] = {
        n: {key: value for key, value in own.items() if key != "step"}
        for n, own in saved["state"].items()
    }
    for group in saved["param_groups"]:
        group["step"] = 3
    params = copies(params_of(old))
    new = getattr(onepass, name)([{"params": params[:3]}, {"params": params[3:]}])
    new.load_state_dict(onepass.convert_state_dict(saved, "apex", name))
    assert snapshot(new) == snapshot(old)


# ---- states of few bits


def trained(cls: Any, **options: Any) -> Any:
    """Returns an optimizer after steps with a parameter of many blocks, and one of few elements."""
    return Walk(cls(make_params(((96, 70), (33,), (4096,))), **options)).go(0, 7).optimizer


def assert_decoded(saved: dict[str, Any], state: dict[int, dict[str, Tensor]], name: str) -> None:
    """The converted states are the library's own numbers, and an optimizer has them after load."""
    (group,) = saved["param_groups"]
    for dtype in (torch.float32, torch.bfloat16):
        params = make_params(tuple(next(iter(own.values())).shape for own in state.values()))
        optimizer = getattr(onepass, name)(params, state_dtype=dtype)
        optimizer.load_state_dict(saved)
        for key, param in zip(group["params"], params, strict=True):
            for one, wanted in state[key].items():
                assert raw(optimizer.state[param][one]) == raw(wanted.to(dtype)), one


@each_peer(
    "bitsandbytes.optim.Adam",
    "bitsandbytes.optim.AdamW",
    "bitsandbytes.optim.Lion",
    "bitsandbytes.optim.SGD",
    "bitsandbytes.optim.Adagrad",
    "bitsandbytes.optim.RMSprop",
)
def test_states_of_bitsandbytes_are_those_that_it_decodes(table: Table) -> None:
    cls = next(cls for cls in table.their_classes if cls.__name__.endswith("8bit"))
    from bitsandbytes.functional import dequantize_blockwise

    old = trained(cls, lr=0.02, **({"momentum": 0.8} if table.ours == "SGD" else {}))
    names = [one for one in ("state1", "state2") if one in old.state[params_of(old)[0]]]
    saved = moved(table, old.state_dict())
    decoded: dict[int, dict[str, Tensor]] = {}
    for number, own in enumerate(old.state[param] for param in params_of(old)):
        ours = [key for key in saved["state"][number] if key != "step"]
        decoded[number] = {}
        for k, (theirs, name) in enumerate(zip(names, ours, strict=True), 1):
            value = own[theirs]
            if f"absmax{k}" in own:
                value = dequantize_blockwise(
                    value, absmax=own[f"absmax{k}"], code=own[f"qmap{k}"], blocksize=256
                )
            decoded[number][name] = value
    assert {own["state1"].dtype for own in old.state.values()} == {torch.uint8, torch.float32}
    assert_decoded(saved, decoded, table.ours)


@each_peer("torchao.optim.Adam8bit", "torchao.optim.AdamW8bit")
def test_states_of_torchao_are_those_that_it_decodes(table: Table) -> None:
    for cls in table.their_classes:
        old = trained(cls, lr=0.02)
        saved = moved(table, old.state_dict())
        decoded = {
            number: {key: value.dequantize() for key, value in own.items() if key != "step"}
            for number, own in old.state_dict()["state"].items()
        }
        kinds = {type(own["exp_avg"]) for own in old.state.values()}
        assert (kinds == {Tensor}) == (cls.__name__ == "_AdamW")
        assert_decoded(saved, decoded, table.ours)


@each_peer("bitsandbytes.optim.AdamW", "torchao.optim.AdamW8bit")
def test_moments_of_few_bits_are_near_those_of_float32(table: Table) -> None:
    """A block's largest moment is exact, and none is off by more than a few percent of it."""
    (theirs,) = (cls for cls in table.their_classes if cls.__name__ == "AdamW8bit")
    old, exact = (Walk(cls(make_params(((64, 64),)))).go(0, 7) for cls in (theirs, onepass.AdamW))
    new = onepass.AdamW(copies(old.params), state_dtype=torch.int8)
    new.load_state_dict(moved(table, old.optimizer.state_dict()))
    (moments,) = onepass.to_float32_state_dict(new)["state"].values()
    (wanted,) = exact.optimizer.state.values()
    assert int(moments["step"]) == 7
    for name in ("exp_avg", "exp_avg_sq"):
        error = (moments[name] - wanted[name]).abs().max() / wanted[name].abs().max()
        assert 0.0 < float(error) < 0.05


each_flash = pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[*PEER, pytest.mark.xdist_group("flashoptim")]) for one in OPTIONS],
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Checkpoints with states that FlashOptim has packed, by another process: see there."""
    flashoptim()
    path = tmp_path_factory.mktemp("flashoptim") / "checkpoints.pt"
    run_python(["-m", "tests.flash_checkpoints", path], TRITON_INTERPRET="1")
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


@each_flash
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_states_of_flashoptim_are_those_that_it_decodes(
    packed: dict[str, dict[str, Any]], name: str, dtype: str
) -> None:
    theirs, unpacked = packed[f"{name}-{dtype}"].values()
    kinds = {value.dtype for value in theirs["state"][0].values()} - {torch.int64}
    scales = torch.float16 if dtype == "float32" else torch.bfloat16
    assert kinds - {torch.uint8} == {torch.int8, scales}
    assert_decoded(onepass.convert_state_dict(theirs, "flashoptim", name), unpacked, name)

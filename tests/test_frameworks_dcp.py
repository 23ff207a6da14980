"""torch.distributed.checkpoint: model and optimizer saved to files go on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from tests.cases import Case
from tests.frameworks import FRAMEWORK, classifier, plain_loop
from tests.oracle import all_states_on
from tests.support import assert_same, each_kind, each_torch_case, numbers, snapshot

pytestmark = FRAMEWORK
EPOCHS = 1


def learner(case: Case, options: dict[str, Any]) -> tuple[Any, Any]:
    model = classifier()
    return model, case.ours(model.parameters(), **options)


def saved_states(model: Any, optimizer: Any, how: StateDictOptions) -> dict[str, Any]:
    states = get_state_dict(model, optimizer, options=how)
    return dict(zip(("model", "optimizer"), states, strict=True))


def load(
    learned: tuple[Any, Any], how: StateDictOptions, folder: Path, planner: Any = None
) -> None:
    states = saved_states(*learned, how)
    dcp.load(states, checkpoint_id=folder, planner=planner, no_dist=True)
    set_state_dict(
        *learned,
        model_state_dict=states["model"],
        optim_state_dict=states["optimizer"],
        options=how,
    )


@each_kind
@pytest.mark.parametrize("flat", (False, True))
def test_files_go_on_bit_for_bit(case: Case, flat: bool, tmp_path: Path) -> None:
    """In one process without a process group, into an optimizer that has not stepped yet."""
    how = StateDictOptions(flatten_optimizer_state_dict=flat)
    eight_bits = ({"state_dtype": torch.int8},) if str(case) != "SGD" else ()
    for k, options in enumerate((*case.settings, *case.extras, *eight_bits)):
        whole = learner(case, options)
        plain_loop(*whole, EPOCHS)
        dcp.save(saved_states(*whole, how), checkpoint_id=tmp_path / str(k), no_dist=True)
        plain_loop(*whole, EPOCHS)

        other = learner(case, options)
        with torch.no_grad():
            for param in other[0].parameters():
                param.fill_(0.5)
        load(other, how, tmp_path / str(k))
        plain_loop(*other, EPOCHS)
        assert_same(numbers(other[1]), numbers(whole[1]), options)
        assert snapshot(other[1]) == snapshot(whole[1])


def torchs_learner(case: Case, options: dict[str, Any]) -> tuple[Any, Any]:
    model = classifier()
    return model, case.theirs(model.parameters(), **options)


@each_torch_case
@pytest.mark.parametrize("flat", (False, True))
def test_files_of_torchs_classes_load_and_go_on(case: Case, flat: bool, tmp_path: Path) -> None:
    """As they do through load_state_dict, bit for bit; and files of ours load into torch's."""
    how = StateDictOptions(flatten_optimizer_state_dict=flat)
    for k, options in enumerate(case.settings):
        theirs, ours, twin = (
            torchs_learner(case, options), learner(case, options), learner(case, options),
        )  # fmt: skip
        plain_loop(*theirs, EPOCHS)
        dcp.save(saved_states(*theirs, how), checkpoint_id=tmp_path / f"{k}", no_dist=True)
        load(ours, how, tmp_path / f"{k}")
        twin[0].load_state_dict(theirs[0].state_dict())
        twin[1].load_state_dict(theirs[1].state_dict())
        for one in (ours, twin):
            plain_loop(*one, EPOCHS)
        assert_same(numbers(ours[1]), numbers(twin[1]), options)

        dcp.save(saved_states(*ours, how), checkpoint_id=tmp_path / f"{k} back", no_dist=True)
        load(theirs, how, tmp_path / f"{k} back")
        plain_loop(*theirs, EPOCHS)


@each_kind
@pytest.mark.parametrize("how", ("full_state_dict", "cpu_offload", "flatten_optimizer_state_dict"))
def test_every_kind_of_state_dict_holds_a_state_dtype(case: Case, how: str) -> None:
    # Of an optimizer without any state torch makes no full state dict.
    given = {**all_states_on(case), "state_dtype": torch.bfloat16}
    learned, other = learner(case, given), learner(case, given)
    plain_loop(*learned, EPOCHS)
    options = StateDictOptions(**{how: True})
    states = saved_states(*learned, options)
    set_state_dict(
        *other,
        model_state_dict=states["model"],
        optim_state_dict=states["optimizer"],
        options=options,
    )
    assert_same(numbers(other[1]), numbers(learned[1]))
    assert other[1].param_groups[0]["state_dtype"] == "bfloat16"


@each_torch_case
def test_an_option_that_torchs_files_lack_is_the_constructors_where_that_is_allowed(
    case: Case, tmp_path: Path
) -> None:
    how = StateDictOptions()
    theirs, ours = torchs_learner(case, {}), learner(case, {"state_dtype": torch.float64})
    plain_loop(*theirs, EPOCHS)
    dcp.save(saved_states(*theirs, how), checkpoint_id=tmp_path, no_dist=True)
    with pytest.raises(CheckpointException, match=r"Missing key.*state_dtype"):
        load(ours, how, tmp_path)
    load(ours, how, tmp_path, DefaultLoadPlanner(allow_partial_load=True))
    plain_loop(*ours, EPOCHS)
    assert ours[1].param_groups[0]["state_dtype"] == "float64"

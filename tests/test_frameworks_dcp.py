"""torch.distributed.checkpoint: model and optimizer saved to files go on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from tests.cases import Case
from tests.frameworks import FRAMEWORK, classifier, plain_loop
from tests.support import assert_same, each_case, numbers, snapshot

pytestmark = FRAMEWORK
EPOCHS = 1


def learner(case: Case, options: dict[str, Any]) -> tuple[Any, Any]:
    model = classifier()
    return model, case.ours(model.parameters(), **options)


def saved_states(model: Any, optimizer: Any, how: StateDictOptions) -> dict[str, Any]:
    states = get_state_dict(model, optimizer, options=how)
    return dict(zip(("model", "optimizer"), states, strict=True))


@each_case
@pytest.mark.parametrize("flat", (False, True))
def test_files_go_on_bit_for_bit(case: Case, flat: bool, tmp_path: Path) -> None:
    """In one process without a process group, into an optimizer that has not stepped yet."""
    how = StateDictOptions(flatten_optimizer_state_dict=flat)
    for k, options in enumerate((*case.settings, *case.extras)):
        whole = learner(case, options)
        plain_loop(*whole, EPOCHS)
        dcp.save(saved_states(*whole, how), checkpoint_id=tmp_path / str(k), no_dist=True)
        plain_loop(*whole, EPOCHS)

        other = learner(case, options)
        with torch.no_grad():
            for param in other[0].parameters():
                param.fill_(0.5)
        states = saved_states(*other, how)
        dcp.load(states, checkpoint_id=tmp_path / str(k), no_dist=True)
        set_state_dict(
            *other,
            model_state_dict=states["model"],
            optim_state_dict=states["optimizer"],
            options=how,
        )
        plain_loop(*other, EPOCHS)
        assert_same(numbers(other[1]), numbers(whole[1]), options)
        assert snapshot(other[1]) == snapshot(whole[1])

"""DTensors and FSDP with two processes: collectives, shards that differ, bytes of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests import sharded
from tests.ranks import on_ranks

PLACEMENTS = (
    sharded.gradients_of_any_placement,
    sharded.states_of_any_placement,
    sharded.states_of_eight_bits,
    sharded.scaled_gradients_of_another_placement,
    sharded.refusals_before_collectives,
    sharded.late_gradients,
)
FSDP = (
    sharded.bytes_of_this_process,
    sharded.eight_bits_under_fsdp,
    sharded.flat_shards_of_fsdp,
)


@pytest.mark.parametrize("promises", (PLACEMENTS, FSDP), ids=("placements", "FSDP"))
def test_two_ranks_hold(promises: Sequence[Callable[[], None]], tmp_path: Path) -> None:
    """One pair of processes for many promises: each takes seconds to start."""
    on_ranks(promises, tmp_path)

"""onepass.in_backward with several processes, under DDP and FSDP2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests import backward_ranks
from tests.ranks import on_ranks

DDP = (
    backward_ranks.every_class_under_ddp,
    backward_ranks.every_mode_of_ddp,
    backward_ranks.a_backward_alone_within_accumulating_is_averaged_and_kept,
    backward_ranks.batches_that_end_earlier_on_one_rank,
    backward_ranks.reentrant_checkpoints_under_ddp,
    backward_ranks.several_optimizers_share_a_ddp,
    backward_ranks.another_ddp_than_that_of_the_parameters_is_refused,
    backward_ranks.errors_under_ddp_name_the_parameter,
)
FSDP = (
    backward_ranks.every_class_under_fsdp,
    backward_ranks.accumulation_before_the_reduction,
    backward_ranks.parts_of_what_is_summed_are_refused_at_once,
    backward_ranks.flat_parameters_are_refused_at_once,
)
# Of three, whose inverse is not exact, the averages have more than one way to be rounded.
THREE = (backward_ranks.every_class_under_ddp, backward_ranks.every_mode_of_ddp)


@pytest.mark.parametrize(
    ("promises", "count"), [(DDP, 2), (THREE, 3), (FSDP, 2)], ids=["DDP", "DDP of three", "FSDP"]
)
def test_ranks_hold(promises: Sequence[Callable[[], None]], count: int, tmp_path: Path) -> None:
    on_ranks(promises, tmp_path, count)

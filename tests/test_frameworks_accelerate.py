"""An accelerate loop: the class is swapped, nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tests.cases import Case
from tests.frameworks import (
    FRAMEWORK,
    SAVED_AT,
    gpt2,
    options_of,
    texts,
    weights_of,
)
from tests.support import each_kind, each_torch_case

pytestmark = [*FRAMEWORK, pytest.mark.usefixtures("offline_hub")]


def prepared(cls: Any, precision: str) -> tuple[Any, ...]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    model = gpt2()
    optimizer = cls(model.parameters(), **options_of(cls))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 6)
    batches = DataLoader(texts(), batch_size=16)  # type: ignore[arg-type]
    return accelerator, *accelerator.prepare(model, optimizer, batches, schedule)


def run(made: tuple[Any, ...], first: int = 0, save_to: Path | None = None) -> list[float]:
    """Trains from batch `first` on to the last; saves after SAVED_AT batches, if anywhere."""
    accelerator, model, optimizer, batches, schedule = made
    losses = []
    for number, batch in enumerate(batches):
        if number < first:
            continue
        optimizer.zero_grad()
        loss = model(**batch).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        assert not optimizer.step_was_skipped
        losses.append(float(loss.detach()))
        if save_to is not None and number + 1 == SAVED_AT:
            accelerator.save_state(str(save_to))
    return losses


@each_torch_case
@pytest.mark.parametrize("precision", ("no", "bf16"))
def test_an_accelerate_loop_learns_as_with_torchs_class(case: Case, precision: str) -> None:
    ours, theirs = (run(prepared(cls, precision)) for cls in (case.ours, case.theirs))
    assert len(ours) == 16 and ours[-1] < ours[0]
    assert ours == pytest.approx(theirs, rel=2e-4 if precision == "no" else 2e-2)


@each_kind
def test_an_accelerate_loop_resumes_bit_for_bit(case: Case, tmp_path: Path) -> None:
    whole = prepared(case.ours, "no")
    losses = run(whole, save_to=tmp_path)
    resumed = prepared(case.ours, "no")
    resumed[0].load_state(str(tmp_path))
    assert run(resumed, first=SAVED_AT) == losses[SAVED_AT:]
    assert weights_of(resumed[1]) == weights_of(whole[1]) != weights_of(gpt2())

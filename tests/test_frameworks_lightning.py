"""Lightning's Trainer: its loop, clipping, schedules and checkpoints do what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cases import Case
from tests.frameworks import (
    FRAMEWORK,
    STEPS,
    batches,
    classifier,
    mean,
    plain_loop,
    warm_up,
    weights_of,
)
from tests.support import each_kind, each_torch_case

pytestmark = FRAMEWORK
EPOCHS, CLIP = STEPS // len(batches()), 0.01


def module(cls: Any) -> Any:
    """Returns the classifier of points as Lightning wants it, with a schedule that it steps."""
    from lightning.pytorch import LightningModule

    class Learner(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = classifier()
            self.losses: list[float] = []

        def training_step(self, batch: Any, _: int) -> Any:
            loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.losses.append(float(loss.detach()))
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = cls(self.parameters())
            schedule = {"scheduler": warm_up(optimizer), "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    return Learner()


def fitted(
    cls: Any, directory: Path, precision: Any = "32-true", resume_from: Path | None = None
) -> Any:
    """Returns a module after EPOCHS, each of which leaves a checkpoint."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    learner = module(cls)
    Trainer(
        accelerator="cpu", devices=1, precision=precision, max_epochs=EPOCHS, logger=False,
        gradient_clip_val=CLIP, default_root_dir=directory, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[ModelCheckpoint(directory, save_top_k=-1)],
    ).fit(learner, batches(), ckpt_path=resume_from, weights_only=True)  # fmt: skip
    return learner


@each_kind
def test_a_trainer_takes_the_steps_of_a_plain_loop(case: Case, tmp_path: Path) -> None:
    """So the closure, the clipping and the schedule reach the step as without Lightning."""
    learner = fitted(case.ours, tmp_path)
    assert type(learner.optimizers().optimizer) is case.ours
    plain = classifier()
    optimizer = case.ours(plain.parameters())
    losses = plain_loop(plain, optimizer, EPOCHS, warm_up(optimizer), CLIP)
    assert learner.losses == losses
    assert weights_of(learner.net) == weights_of(plain)
    epoch = len(losses) // EPOCHS
    assert mean(losses[-epoch:]) < mean(losses[:epoch])


@each_kind
def test_a_resumed_trainer_goes_on_bit_for_bit(case: Case, tmp_path: Path) -> None:
    whole = fitted(case.ours, tmp_path)
    middle = STEPS // 2
    (saved,) = tmp_path.glob(f"*step={middle}.ckpt")
    resumed = fitted(case.ours, tmp_path / "resumed", resume_from=saved)
    assert resumed.losses == whole.losses[middle:]
    assert weights_of(resumed) == weights_of(whole)


@each_torch_case
@pytest.mark.parametrize("precision", ("32-true", "bf16-mixed"))
def test_a_trainer_learns_as_with_torchs_class(case: Case, precision: str, tmp_path: Path) -> None:
    ours, theirs = (
        fitted(cls, tmp_path / name, precision).losses
        for name, cls in (("ours", case.ours), ("theirs", case.theirs))
    )
    assert len(ours) == STEPS
    assert ours == pytest.approx(theirs, rel=2e-4 if precision == "32-true" else 2e-2)

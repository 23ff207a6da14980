"""transformers.Trainer: the class is swapped, nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import onepass
from tests.cases import Case
from tests.frameworks import (
    FRAMEWORK,
    SAVED_AT,
    STEPS,
    gpt2,
    options_of,
    texts,
    weights_of,
)
from tests.support import each_kind, each_torch_case

pytestmark = [*FRAMEWORK, pytest.mark.usefixtures("offline_hub")]


def trainer(cls: Any, directory: Path) -> Any:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(directory), max_steps=STEPS, save_steps=SAVED_AT, logging_steps=1,
        per_device_train_batch_size=16, warmup_steps=4, report_to=[], use_cpu=True, seed=0,
        disable_tqdm=True, dataloader_pin_memory=False, max_grad_norm=1.0,
    )  # fmt: skip
    return Trainer(
        gpt2(), arguments, train_dataset=texts(), optimizer_cls_and_kwargs=(cls, options_of(cls))
    )


def losses_of(made: Any) -> list[float]:
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


@each_torch_case
def test_a_trainer_learns_as_with_torchs_class(case: Case, tmp_path: Path) -> None:
    losses = []
    for cls in (case.ours, case.theirs):
        made = trainer(cls, tmp_path / f"{cls.__module__}")
        made.train()
        inner = getattr(made.optimizer, "optimizer", made.optimizer)
        assert type(inner) is cls and len(inner.param_groups) == 2
        losses.append(losses_of(made))
    assert len(losses[0]) == STEPS
    if issubclass(case.ours, (onepass.Adam, onepass.AdamW)):  # for whom the rate was chosen
        assert losses[0][-1] < 0.85 * losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=2e-4)


@each_kind
def test_a_trainer_resumes_bit_for_bit(case: Case, tmp_path: Path) -> None:
    whole = trainer(case.ours, tmp_path)
    whole.train()
    resumed = trainer(case.ours, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{SAVED_AT}"))
    assert weights_of(resumed.model) == weights_of(whole.model) != weights_of(gpt2())
    assert losses_of(resumed) == losses_of(whole)
    file = tmp_path / f"checkpoint-{STEPS}" / "optimizer.pt"
    saved = torch.load(file, weights_only=True)
    other = (case.theirs or case.ours)(gpt2().parameters())
    keys = {key for state in saved["state"].values() for key in state}
    assert keys == expected_keys(case)
    assert len(saved["state"]) == (len(list(gpt2().parameters())) if keys else 0)
    assert saved["param_groups"][0].keys() >= other.param_groups[0].keys() - {"params"}


def expected_keys(case: Case) -> set[str]:
    param = torch.ones(2, requires_grad=True)
    optimizer: Any = (case.theirs or case.ours)([param])
    param.grad = torch.ones(2)
    optimizer.step()
    return set(optimizer.state[param])

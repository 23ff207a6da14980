"""transformers.Trainer and an accelerate loop: the class is swapped, nothing else changes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import onepass
from tests.cases import Case
from tests.support import each_torch_case, raw, seeded

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the frameworks' warnings are their own
]
STEPS, SAVED_AT = 24, 12
OPTIONS = {"lr": 2e-3, "weight_decay": 0.01}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def gpt2() -> Any:
    """Returns a two-layer GPT-2 of random weights, the same at every call."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    dropout = {name: 0.0 for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=64, n_positions=16,
        bos_token_id=0, eos_token_id=0, **dropout,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def texts() -> list[dict[str, Tensor]]:
    """Returns sequences that count up from a random start, which a model can learn."""
    starts = torch.randint(0, 64, (256,), generator=seeded(1))
    rows = [(start + torch.arange(16)) % 64 for start in starts]
    return [{"input_ids": row, "labels": row} for row in rows]


def weights_of(model: Any) -> dict[str, bytes]:
    return {name: raw(value) for name, value in model.state_dict().items()}


# ---- transformers


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


def options_of(cls: Any) -> dict[str, Any]:
    """Returns those of OPTIONS that a class knows."""
    known = inspect.signature(cls).parameters
    return {key: value for key, value in OPTIONS.items() if key in known}


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


@each_torch_case
def test_a_trainer_resumes_bit_for_bit(case: Case, tmp_path: Path) -> None:
    whole = trainer(case.ours, tmp_path)
    whole.train()
    resumed = trainer(case.ours, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{SAVED_AT}"))
    assert weights_of(resumed.model) == weights_of(whole.model)
    assert losses_of(resumed) == losses_of(whole)
    file = tmp_path / f"checkpoint-{STEPS}" / "optimizer.pt"
    saved = torch.load(file, weights_only=True)
    other = case.theirs(gpt2().parameters())
    keys = {key for state in saved["state"].values() for key in state}
    assert keys == expected_keys(case)
    assert len(saved["state"]) == (len(list(gpt2().parameters())) if keys else 0)
    assert saved["param_groups"][0].keys() >= other.param_groups[0].keys() - {"params"}


def expected_keys(case: Case) -> set[str]:
    param = torch.ones(2, requires_grad=True)
    optimizer = case.theirs([param])  # type: ignore[misc]
    param.grad = torch.ones(2)
    optimizer.step()
    return set(optimizer.state[param])


# ---- accelerate


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


@each_torch_case
def test_an_accelerate_loop_resumes_bit_for_bit(case: Case, tmp_path: Path) -> None:
    whole = prepared(case.ours, "no")
    losses = run(whole, save_to=tmp_path)
    resumed = prepared(case.ours, "no")
    resumed[0].load_state(str(tmp_path))
    assert run(resumed, first=SAVED_AT) == losses[SAVED_AT:]
    assert weights_of(resumed[1]) == weights_of(whole[1])

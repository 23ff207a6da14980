"""skorch: the class as `optimizer`, its options as `optimizer__...`, parameters and state saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cases import Case
from tests.frameworks import BATCH, FRAMEWORK, classifier, plain_loop, points, weights_of
from tests.support import each_kind, each_torch_case

pytestmark = FRAMEWORK
EPOCHS, LR = 3, 0.01


def net(cls: Any, **options: Any) -> Any:
    """Returns scikit-learn's view of the classifier of points, before any training."""
    from skorch import NeuralNetClassifier

    return NeuralNetClassifier(
        classifier, criterion=torch.nn.CrossEntropyLoss, optimizer=cls, optimizer__lr=LR,
        max_epochs=EPOCHS, batch_size=BATCH, train_split=None, verbose=0, device="cpu", **options,
    )  # fmt: skip


def data() -> tuple[Any, Any]:
    x, y = points()
    return x.numpy(), y.numpy()


def losses_of(made: Any) -> list[float]:
    return list(made.history[:, "train_loss"])


def plain(cls: Any, groups: Any, epochs: int) -> dict[str, bytes]:
    """Returns the weights that a loop without skorch comes to."""
    model = classifier()
    plain_loop(model, cls(groups(model), lr=LR), epochs)
    return weights_of(model)


@each_kind
def test_fit_and_partial_fit_take_the_steps_of_a_plain_loop(case: Case) -> None:
    made = net(case.ours).fit(*data())
    assert type(made.optimizer_) is case.ours
    losses = losses_of(made)
    assert len(losses) == EPOCHS and losses[-1] < losses[0]
    assert weights_of(made.module_) == plain(case.ours, lambda m: m.parameters(), EPOCHS)
    made.partial_fit(*data())
    assert weights_of(made.module_) == plain(case.ours, lambda m: m.parameters(), 2 * EPOCHS)
    assert made.fit(*data()).history[-1, "epoch"] == EPOCHS  # fit begins anew
    assert losses_of(made) == losses


@each_kind
def test_saved_parameters_and_state_go_on_bit_for_bit(case: Case, tmp_path: Path) -> None:
    names = ("params", "optimizer", "history")
    files = {f"f_{name}": str(tmp_path / name) for name in names}
    whole = net(case.ours).fit(*data())
    whole.save_params(**files)
    whole.partial_fit(*data())
    other = net(case.ours).initialize()
    other.load_params(**files)
    other.partial_fit(*data())
    assert losses_of(other) == losses_of(whole)
    assert weights_of(other.module_) == weights_of(whole.module_)


@each_kind
def test_groups_by_name_have_options_of_their_own(case: Case) -> None:
    made = net(case.ours, optimizer__param_groups=[("2.*", {"lr": 3 * LR})]).fit(*data())
    assert [group["lr"] for group in made.optimizer_.param_groups] == [3 * LR, LR]
    want = plain(
        case.ours,
        lambda m: [{"params": m[2].parameters(), "lr": 3 * LR}, {"params": m[0].parameters()}],
        EPOCHS,
    )
    assert weights_of(made.module_) == want
    assert want != plain(case.ours, lambda m: m.parameters(), EPOCHS)


@each_torch_case
def test_fit_learns_as_with_torchs_class(case: Case) -> None:
    ours, theirs = (losses_of(net(cls).fit(*data())) for cls in (case.ours, case.theirs))
    assert ours == pytest.approx(theirs, rel=2e-4)

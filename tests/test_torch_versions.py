"""What differs between the versions of torch is one thing here, and stands in one place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import onepass
from tests.cases import Case
from tests.support import each_case

ROOT = Path(__file__).parents[1]
SEAMS = {
    ROOT / "csrc/tensor/torch_compat.h",
    ROOT / "csrc/tensor/python_compat.h",
    ROOT / "python/onepass/_torch.py",
}
PRIVATE = re.compile(
    r"autograd_meta|AutogradMeta|version_counter|any_modes_set|tls_local_dispatch_key_set|"
    r"native_handle|autograd_dispatch_keyset|autocast_dispatch_keyset|torch/csrc/autograd|"
    r"\btorch\._[a-z]|_graph_capture_health_check|profile_hook_step|_get_scalar_dtype|"
    r"_optimizer_step_|_global_optimizer_"
)


def test_private_names_of_torch_stand_behind_the_seams() -> None:
    sources = [*(ROOT / "csrc").rglob("*.*"), *(ROOT / "python/onepass").rglob("*.py")]
    named = {path for path in sources if PRIVATE.search(path.read_text())}
    assert named == SEAMS


def test_a_set_of_parameters_is_warned_of_once_where_it_is_given() -> None:
    params = {torch.ones(2, requires_grad=True)}
    with pytest.warns(FutureWarning, match="ordered collections.*use a list") as seen:
        onepass.AdamW(params)
    assert [warning.filename for warning in seen] == [__file__]


@each_case
def test_every_class_takes_a_set(case: Case) -> None:
    params = {torch.ones(2, requires_grad=True), torch.zeros(3, requires_grad=True)}
    with pytest.warns(FutureWarning, match="ordered collections"):
        optimizer = case.ours(params)
    assert set(optimizer.param_groups[0]["params"]) == params


@pytest.mark.parametrize("name", ["lambd", "alpha"])
def test_asgd_refuses_a_negative_number(name: str) -> None:
    param = torch.ones(2, requires_grad=True)
    options: dict[str, Any] = {name: -1.0}
    with pytest.raises(ValueError, match=f"^Invalid {name} value: -1.0"):
        onepass.ASGD([param], **options)


def test_a_parameter_added_to_a_differentiable_adagrad_gets_a_state() -> None:
    start = torch.ones(2, requires_grad=True)
    optimizer = onepass.Adagrad([torch.ones(1)], lr=0.1, differentiable=True)
    added = start.clone()
    optimizer.add_param_group({"params": [added], "initial_accumulator_value": 4.0})
    added.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(optimizer.state[added]["sum"], torch.full((2,), 5.0))
    assert torch.autograd.grad(added.sum(), start)[0].tolist() == [1.0, 1.0]

"""C3: a refused call changes no byte, moves no counter, adds no state, runs no post-hook."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from onepass.rules import RULES
from tests.bad_inputs import SHAPE, Bad, Mode, make, op_arguments, out_of_range, rows
from tests.cases import Case
from tests.oracle import assert_steps_right, op_of
from tests.support import each_kind, params_of
from tests.unchanged import REFUSALS, Findings, facts, refused


def refuse_step(case: Case, bad: Bad, place: int, *, stepped: bool) -> None:
    optimizer = make(case, stepped=stepped)
    bad.spoil(optimizer, params_of(optimizer)[place])
    called: list[str] = []
    optimizer.register_step_post_hook(lambda *_: called.append("post"))
    about = f"{bad} at {place}, {'stepped' if stepped else 'fresh'}"
    with refused(optimizer, about):
        optimizer.step()
    assert not called, f"{about}: post-hooks ran"


@each_kind
@pytest.mark.sanitize
def test_c3_a_refused_step_changes_nothing(case: Case) -> None:
    findings = Findings()
    for bad in rows(case):
        for place in range(3):
            for stepped in (True,) if bad.of_state else (False, True):
                with findings.case():
                    refuse_step(case, bad, place, stepped=stepped)
    findings.report(at_least=250)


@each_kind
def test_c3_a_step_that_was_refused_can_be_taken_once_the_cause_is_gone(case: Case) -> None:
    for bad in rows(case):
        if bad.of_state:
            continue
        optimizer, spoiled = make(case, stepped=True), make(case, stepped=True)
        last = params_of(spoiled)[2]
        bad.spoil(spoiled, last)
        with pytest.raises(REFUSALS):
            spoiled.step()
        spoiled.param_groups[1].update({**optimizer.param_groups[1], "params": []})
        spoiled.step()
        optimizer.step()
        for ours, theirs in zip(params_of(spoiled), params_of(optimizer), strict=False):
            assert torch.equal(ours, theirs), f"{bad}"


@each_kind
@pytest.mark.parametrize("stepped", [False, True], ids=["fresh", "stepped"])
def test_c3_holds_under_a_dispatch_mode(case: Case, stepped: bool) -> None:
    wanted = ("another size", "sparse gradient", "int32 gradient", "expanded", "lr nan", "no lr")
    findings = Findings()
    for bad in rows(case):
        if not bad.what.endswith(wanted) or bad.of_state:
            continue
        optimizer = make(case, stepped=stepped)
        bad.spoil(optimizer, params_of(optimizer)[2])
        with findings.case(), refused(optimizer, bad), Mode():
            optimizer.step()
    findings.report(at_least=len(wanted))


@each_kind
def test_c3_a_parameter_that_is_listed_twice_gets_no_state_from_a_refused_step(case: Case) -> None:
    twice, bad = (torch.ones(SHAPE, requires_grad=True) for _ in range(2))
    twice.grad, bad.grad = torch.ones(SHAPE), out_of_range()
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = case.ours([twice, twice, bad])
    optimizer.state.clear()  # some constructors make it
    with refused(optimizer, "twice"):
        optimizer.step()
    assert twice not in optimizer.state


@each_kind
def test_c3_errors_in_the_users_own_functions_change_nothing(case: Case) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the user's own")

    for stepped in (False, True):
        optimizer = make(case, stepped=stepped)
        with refused(optimizer, "closure"):
            optimizer.step(fail)
        hook = optimizer.register_step_pre_hook(fail)
        with refused(optimizer, "pre-hook"):
            optimizer.step()
        hook.remove()
        optimizer.step()


@each_kind
def test_c3_an_error_while_a_state_is_made_leaves_no_state(case: Case) -> None:
    made = 0
    optimizer = make(case, stepped=False)
    optimizer.state.clear()  # some constructors make it
    original = optimizer._new_state

    def out_of_memory(param: Tensor, group: dict[str, Any]) -> Any:
        nonlocal made
        made += 1
        if made == 3:
            raise RuntimeError("out of memory")
        return original(param, group)

    optimizer._new_state = out_of_memory
    with refused(optimizer, "new state"):
        optimizer.step()
    optimizer.step()
    assert len(optimizer.state) == 3


@each_kind
def test_c3_a_refused_group_is_not_added(case: Case) -> None:
    used = torch.ones(3, requires_grad=True)
    group = case.ours([used]).param_groups[0]
    keys = [hyper.key for hyper in RULES[case.ours.rule].hypers]
    keys = [key for key in keys if not isinstance(group.get(key), bool)]
    bad_groups: list[Callable[[Any], Any]] = [
        *(lambda o, k=key: {"params": [used], k: float("nan")} for key in keys),
        *(lambda o, k=key: {"params": [used], k: "small"} for key in keys),
        lambda o: {"params": [used], "lr": torch.ones(2)},
        lambda o: {"params": [used], "lr": -1.0},
        lambda o: {"params": [used], "state_dtype": "float31"},
        lambda o: {"params": [used], "state_dtype": torch.int16},
        lambda o: {"params": [used, params_of(o)[0]]},
        lambda o: {"params": [used * 2]},
        lambda o: {"params": [("name", used)]},
        lambda o: {"params": {used}},
    ]
    for bad in bad_groups:
        for stepped in (False, True):
            optimizer = make(case, stepped=stepped)
            with refused(optimizer, bad, used):
                optimizer.add_param_group(bad(optimizer))
            optimizer.step()


# ---- the torch op


def bad_operands() -> list[Tensor]:
    """Returns tensors that cannot stand in for a parameter, a gradient or a state."""
    freed = torch.zeros(SHAPE)
    freed.untyped_storage().resize_(0)
    return [
        torch.zeros(5),
        torch.zeros(4, 3),
        torch.zeros(SHAPE, dtype=torch.int32),
        torch.zeros(SHAPE, dtype=torch.complex64),
        torch.zeros(SHAPE, device="meta"),
        torch.zeros(SHAPE).to_sparse(),
        freed,
    ]


@each_kind
@pytest.mark.sanitize
def test_c3_a_refused_op_changes_nothing(case: Case) -> None:
    op = op_of(case)
    count = len(op_arguments(case)["lists"])
    findings = Findings()
    for which, place, kind in itertools.product(range(count), range(3), range(7)):
        arguments = op_arguments(case)
        of_steps = which == count - 1
        bad = torch.tensor(float("nan")) if of_steps and kind == 0 else bad_operands()[kind]
        arguments["lists"][which][place] = bad
        tensors = [tensor for part in arguments["lists"] for tensor in part]
        before = facts(tensors)
        about = f"list {which}, place {place}: {bad.dtype} {tuple(bad.shape)} on {bad.device}"
        with findings.case():
            assert not accepts(op, arguments), f"accepted: {about}"
            assert facts(tensors) == before, f"changed although refused: {about}"
    findings.report(at_least=80)


def accepts(op: Any, arguments: dict[str, Any]) -> bool:
    try:
        op(*arguments["lists"], **arguments["options"])
    except REFUSALS:
        return False
    return True


@each_kind
def test_a_step_after_all_that_is_right(case: Case) -> None:
    optimizer = make(case, stepped=True)
    optimizer.param_groups[1]["lr"] = float("nan")
    with refused(optimizer, "lr"):
        optimizer.step()
    optimizer.param_groups[1]["lr"] = 0.2
    assert_steps_right(case, optimizer, "after a refusal")

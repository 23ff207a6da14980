"""C5: a state dict from anywhere is loaded right or refused, and then nothing has changed."""

from __future__ import annotations

import copy
import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import onepass
from onepass.rules import RULES
from tests import mutants
from tests.cases import CASES, Case
from tests.oracle import all_states_on, assert_steps_right, expected, operands_of
from tests.support import (
    assert_same,
    each_kind,
    params_of,
    randn,
    run_python,
    set_grads,
    snapshot,
)
from tests.unchanged import REFUSALS, Findings, refused

DTYPES = (torch.float32, torch.bfloat16, torch.complex64)


def make(case: Case, dtype: torch.dtype = torch.float32, steps: int = 2, **options: Any) -> Any:
    shapes = ((3, 4), (5, 2))
    params = [randn(shape, dtype, k).requires_grad_() for k, shape in enumerate(shapes)]
    optimizer = case.ours(params, **{**all_states_on(case), "lr": 0.01, **options})
    set_grads(params, 5)
    for _ in range(steps):
        optimizer.step()
    return optimizer


def loads(optimizer: Any, mutant: Any, about: str, errors: tuple[type[Exception], ...]) -> bool:
    """Loads; when that is refused nothing may have changed, and no post-hook ran."""
    called: list[str] = []
    hook = optimizer.register_load_state_dict_post_hook(lambda _: called.append("post"))
    accepted = False
    try:
        with refused(optimizer, about, errors=errors):
            optimizer.load_state_dict(mutant)
            accepted = True
    except AssertionError as error:
        if not accepted or "accepted" not in str(error):
            raise
    hook.remove()
    assert accepted or not called, f"{about}: post-hooks ran"
    return accepted


def assert_loaded(case: Case, optimizer: Any, mutant: Any, about: str) -> None:
    """Compares what was loaded with the mutant's own numbers."""
    numbers = dict(enumerate(params_of(optimizer)))
    ids = [number for group in mutant["param_groups"] for number in group["params"]]
    rule = RULES[case.ours.rule]
    names, scalars = ({one.name for one in part} for part in (rule.states, rule.numbers))
    for place, number in enumerate(ids):
        given = mutant["state"].get(number, {})
        if not rule.counts_steps:  # as torch keeps a state that it has not made yet
            given = {k: v for k, v in given.items() if v is not None or k not in names}
        loaded = optimizer.state.get(numbers[place], {})
        assert given.keys() == loaded.keys(), f"{about}: other keys"
        for key in names & given.keys():
            want = given[key].detach().to(loaded[key].dtype)
            assert torch.equal(loaded[key], want), f"{about}: {key} has other numbers"
            assert loaded[key].dtype in (numbers[place].dtype, torch.float32), f"{about}: {key}"
        for key in (scalars | {"step"}) & given.keys():
            want = torch.as_tensor(given[key]).detach()
            got = torch.as_tensor(loaded[key]).detach()
            assert float(got) == float(want), f"{about}: {key}"


def is_within_the_oracle(case: Case, optimizer: Any) -> bool:
    """Whether the oracle knows the next step: one of states that are all there and give numbers."""
    rule = RULES[case.ours.rule]
    for group in optimizer.param_groups:
        names = {state.name for state in rule.states_in(group)}
        for state in filter(None, map(optimizer.state.get, group["params"])):
            wide = any(state[number.name].dtype != torch.float32 for number in rule.numbers)
            if wide or not state.keys() >= names:
                return False
    with np.errstate(invalid="ignore"):
        steps = [expected(case, *found) for found in operands_of(case, optimizer)]
    return all(np.isfinite(step.param).all() for step in steps)


def try_mutant(
    case: Case, mutation: mutants.Mutation, make_it: Any, errors: tuple[type[Exception], ...]
) -> bool:
    """Loads one mutant and takes a step. Returns whether it was accepted."""
    optimizer, good = make_it
    about, mutant = mutation[0], mutants.apply(mutation, good)
    if not loads(optimizer, mutant, about, errors):
        return False
    assert_loaded(case, optimizer, mutant, about)
    if "huge numbers" in about or not is_within_the_oracle(case, optimizer):
        optimizer.step()
        return True
    try:
        assert_steps_right(case, optimizer, about, slack=4)
    except errors as error:
        raise AssertionError(f"{about}: loaded, but then {type(error)}: {error}") from error
    return True


@each_kind
@pytest.mark.sanitize
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_c5_a_wrong_entry_is_refused_or_right(case: Case, dtype: torch.dtype) -> None:
    findings, accepted = Findings(), 0
    good = make(case, dtype).state_dict()
    target = make(case, dtype)
    valid = copy.deepcopy([target.state_dict(), params_of(target)])
    params = [0, 1] if dtype is torch.float32 else [1]
    for mutation in mutants.entry_mutations(good, params):
        with findings.case():
            if try_mutant(case, mutation, (target, good), (ValueError, RuntimeError)):
                accepted += 1
                target.load_state_dict(valid[0])
                for param, before in zip(params_of(target), valid[1], strict=True):
                    param.data.copy_(before)
    findings.report(at_least=80 if dtype is torch.float32 else 40)
    assert accepted >= 10


@each_kind
@pytest.mark.sanitize
def test_c5_wrong_containers_and_options_are_refused_or_right(case: Case) -> None:
    findings, accepted = Findings(), 0
    good = make(case).state_dict()
    for mutation in itertools.chain(
        mutants.state_mutations(), mutants.group_mutations(good), mutants.whole_mutations()
    ):
        with findings.case():
            made = (make(case, steps=1), good)
            accepted += try_mutant(case, mutation, made, REFUSALS)
    findings.report(at_least=200)
    assert accepted >= 20


@each_kind
def test_c5_a_mutant_that_came_through_a_file_is_refused_or_right(case: Case) -> None:
    findings, good = Findings(), make(case).state_dict()
    for mutation in mutants.entry_mutations(good, [0]):
        file = io.BytesIO()
        try:
            torch.save(mutants.apply(mutation, good), file)
            file.seek(0)
            mutant = torch.load(file, weights_only=True)
        except Exception:  # not what a file can hold
            continue
        through = (mutation[0], lambda _, m=mutant: m)
        with findings.case():
            try_mutant(case, through, (make(case, steps=1), good), (ValueError, RuntimeError))
    findings.report(at_least=25)


@each_kind
def test_c5_a_fresh_optimizer_stays_fresh_when_loading_is_refused(case: Case) -> None:
    findings, good = Findings(), make(case).state_dict()
    for mutation in mutants.entry_mutations(good, [1]):
        optimizer = make(case, steps=0)
        before = snapshot(optimizer)
        with findings.case():
            errors = (ValueError, RuntimeError)
            if not loads(optimizer, mutants.apply(mutation, good), mutation[0], errors):
                assert_same(snapshot(optimizer), before)
                optimizer.step()
    findings.report(at_least=40)


FREED = """
import copy, torch
from tests.cases import CASES
from tests.test_loading_hostile import make
for case in CASES:
    good = make(case).state_dict()
    for key in good["state"][0]:
        for size in (0, 1, 3):
            optimizer, mutant = make(case), copy.deepcopy(good)
            mutant["state"][0][key].untyped_storage().resize_(size)
            before = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
            print("loading", case, key, "with", size, "bytes", flush=True)
            try:
                optimizer.load_state_dict(mutant)
            except (ValueError, RuntimeError):
                pass
            else:
                raise SystemExit("accepted")
            assert all(map(torch.equal, before, optimizer.param_groups[0]["params"]))
            optimizer.step()
"""


def test_c5_a_tensor_without_its_memory_is_refused() -> None:
    """In a process of its own, which a read out of bounds may end."""
    rules = [RULES[case.ours.rule] for case in CASES]
    tensors = sum(len(r.states) + len(r.numbers) + r.counts_steps for r in rules)
    assert run_python(["-c", FREED]).count("loading") == 3 * tensors


@each_kind
def test_c5_loaded_tensors_are_never_those_of_the_state_dict(case: Case) -> None:
    good = make(case).state_dict()
    good["state"][0]["note"] = torch.ones(2)
    good["state"][0]["notes"] = [torch.ones(2)]
    good["state"]["global"] = {"note": torch.ones(2)}
    optimizer = make(case, steps=0)
    optimizer.load_state_dict(good)
    addresses = {tensor.untyped_storage().data_ptr() for tensor in tensors_in(good["state"])}
    loaded = tensors_in(dict(optimizer.state))
    assert len(loaded) == len(tensors_in(good["state"]))
    assert not [t for t in loaded if t.untyped_storage().data_ptr() in addresses]


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    return [t for item in value for t in tensors_in(item)] if isinstance(value, list) else []


@pytest.mark.parametrize("step", [float("nan"), float("inf"), -1.0, 0.5, 2.0**60])
def test_c5_a_count_that_is_none_is_refused_when_it_is_loaded(step: float) -> None:
    """On a GPU nobody would look at it again."""
    optimizer = onepass.AdamW([torch.ones(3, requires_grad=True)], capturable=True)
    state = {"step": torch.tensor(step), "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    saved = {**optimizer.state_dict(), "state": {0: state}}
    with pytest.raises(ValueError, match="step of parameter 0 of group 0 is "):
        optimizer.load_state_dict(saved)
    assert not optimizer.state

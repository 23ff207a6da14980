"""Checkpoints: what is saved goes on bit for bit, in any process, in torch's classes too."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from onepass.rules import RULES
from tests.cases import CASES, Case
from tests.support import (
    COMPLEX,
    EXTRA_KEYS,
    REAL,
    SHAPES,
    SOMETIMES_EXTRA_KEYS,
    TORCH_CASES,
    after_three_steps,
    assert_same,
    assert_steps_like_double,
    each_case,
    each_torch_case,
    each_torch_case_with_late_states,
    groups_of,
    make_params,
    numbers,
    params_of,
    randn,
    run_python,
    set_grads,
    snapshot,
    state_dtypes,
    take_steps,
)


def warm_up(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=8)


def train(optimizer: Any, schedule: Any, first: int, count: int) -> None:
    """Takes steps; the last parameter has no gradient until step 4, others now and then."""
    for number in range(first, first + count):
        params = params_of(optimizer)
        set_grads(params, number)
        params[number % 3].grad = None
        if number < 4:
            params[-1].grad = None
        optimizer.step()
        schedule.step()


def saved_by_file(value: Any, file: Path) -> Any:
    torch.save(value, file)
    return torch.load(file, weights_only=True)


# ---- C6: resume is bit-exact


def resumable_runs() -> Iterator[tuple[str, Case, dict[str, Any], torch.dtype]]:
    """Yields every setting, and every dtype with dtypes of states: a fourth of the product."""
    number = 0
    for case in CASES:
        for dtype in (*REAL, *COMPLEX):
            for state_dtype in state_dtypes(dtype):
                number += 1
                for k, options in enumerate((*case.settings, *case.extras)):
                    if (k + number) % 4 == 0:
                        key = f"{case} {k} {dtype} {state_dtype}"
                        yield key, case, {**options, "state_dtype": state_dtype}, dtype


def resume(source: str, target: str) -> None:
    """Goes on from a file, in optimizers made with default options: the file holds the others."""
    saved = torch.load(source, weights_only=True)
    went_on = {}
    for key, case, _, _ in resumable_runs():
        params = [param.requires_grad_() for param in saved[key]["params"]]
        optimizer = case.ours(groups_of(params))
        schedule = warm_up(optimizer)
        optimizer.load_state_dict(saved[key]["optimizer"])
        schedule.load_state_dict(saved[key]["schedule"])
        train(optimizer, schedule, first=3, count=4)
        went_on[key] = snapshot(optimizer)
    Path(target).write_bytes(pickle.dumps(went_on))


def test_c6_resuming_in_another_process_is_bit_exact(tmp_path: Path) -> None:
    saved, uninterrupted = {}, {}
    for key, case, options, dtype in resumable_runs():
        optimizer = case.ours(groups_of(make_params(SHAPES, dtype)), **options)
        schedule = warm_up(optimizer)
        train(optimizer, schedule, first=0, count=3)
        saved[key] = {
            "params": [param.detach().clone() for param in params_of(optimizer)],
            "optimizer": copy.deepcopy(optimizer.state_dict()),
            "schedule": schedule.state_dict(),
        }
        train(optimizer, schedule, first=3, count=4)
        uninterrupted[key] = snapshot(optimizer)
    source, target = tmp_path / "saved.pt", tmp_path / "went_on.pickle"
    torch.save(saved, source)
    program = "import sys; from tests.test_checkpoints import resume; resume(*sys.argv[1:])"
    run_python(["-c", program, source, target])
    went_on = pickle.loads(target.read_bytes())
    for key, want in uninterrupted.items():
        assert_same(went_on[key], want, key)
    assert len(uninterrupted) >= 200


# ---- C7: torch's checkpoints and ours


def dtypes_for_torch() -> tuple[torch.dtype, ...]:
    return (*REAL, *COMPLEX)


def as_saved(optimizer: Any, case: Case, steps: int = 0) -> dict[str, Any]:
    params = params_of(optimizer)
    assert case.theirs is not None
    return {
        "class": case.theirs.__name__,
        "params": [[p.detach() for p in group["params"]] for group in optimizer.param_groups],
        "optimizer": optimizer.state_dict(),
        "grads": [[randn(p.shape, p.dtype, 99 + n + k) for k, p in enumerate(params)]
                  for n in range(steps)],
    }  # fmt: skip


def loaded(cls: Any, saved: dict[str, Any]) -> Any:
    """Returns a new optimizer of default options that goes on from what was saved."""
    groups = [{"params": [p.detach().clone().requires_grad_() for p in params]}
              for params in saved["params"]]  # fmt: skip
    optimizer = cls(groups)
    optimizer.load_state_dict(saved["optimizer"])
    return optimizer


def assert_goes_on(case: Case, optimizer: Any, about: object) -> None:
    for number in range(3):
        set_grads(params_of(optimizer), 40 + number)
        assert_steps_like_double(case, optimizer, about)


def exchanged_runs() -> Iterator[tuple[str, Case, dict[str, Any], torch.dtype]]:
    for case in TORCH_CASES:
        for dtype in dtypes_for_torch():
            for k, options in enumerate(case.settings):
                yield f"{case} {k} {dtype}", case, options, dtype


def test_c7_torch_checkpoints_go_on_in_ours(tmp_path: Path) -> None:
    written = {
        key: as_saved(after_three_steps(case.theirs, options, dtype), case)
        for key, case, options, dtype in exchanged_runs()
    }
    read = saved_by_file(written, tmp_path / "torch.pt")
    count = 0
    for key, case, _, _ in exchanged_runs():
        optimizer = loaded(case.ours, read[key])
        assert_loaded_as_saved(case, optimizer, read[key]["optimizer"], key)
        assert_goes_on(case, optimizer, key)
        count += 1
    assert count >= 60


def assert_loaded_as_saved(
    case: Case, optimizer: Any, saved: dict[str, Any], about: object
) -> None:
    """Compares keys, dtypes, bytes; only float16 moments are widened, which changes no number."""
    now = optimizer.state_dict()
    for index, state in saved["state"].items():
        assert list(now["state"][index]) == list(state), about
        for name, value in state.items():
            got = now["state"][index][name]
            wide = torch.float32 if value.dtype == torch.float16 else value.dtype
            assert got.dtype == wide and torch.equal(got, value.to(wide)), f"{about} {name}"
    for got, want in zip(now["param_groups"], saved["param_groups"], strict=True):
        assert {key: got[key] for key in want} == want, about
        assert got.keys() == want.keys(), about


def test_c7_our_checkpoints_go_on_in_a_process_without_onepass_and_come_back(
    tmp_path: Path,
) -> None:
    ours = {
        key: as_saved(after_three_steps(case.ours, options, dtype), case, steps=2)
        for key, case, options, dtype in exchanged_runs()
    }
    source, target = tmp_path / "ours.pt", tmp_path / "torch.pt"
    torch.save(ours, source)
    run_python([Path(__file__).with_name("torch_only.py"), source, target])
    returned = torch.load(target, weights_only=True)
    count = 0
    for key, case, options, dtype in exchanged_runs():
        # torch's loading casts numbers of 0 dimensions, but for the step, to the parameter's dtype.
        torchs_own = after_three_steps(case.theirs, options, dtype)
        torchs_own.load_state_dict(torchs_own.state_dict())
        take_steps(torchs_own, 2)
        assert_same_kind(returned[key]["optimizer"], torchs_own.state_dict(), key)
        assert_goes_on(case, loaded(case.ours, returned[key]), key)
        count += 1
    assert count >= 60


def kinds(state_dict: dict[str, Any]) -> list[Any]:
    """Returns keys, dtypes and shapes of all states, and the keys of all groups."""
    states = {
        index: {name: (value.dtype, value.shape) for name, value in state.items()}
        for index, state in state_dict["state"].items()
    }
    return [
        states,
        [group.keys() - EXTRA_KEYS - SOMETIMES_EXTRA_KEYS for group in state_dict["param_groups"]],
    ]


def assert_same_kind(got: dict[str, Any], want: dict[str, Any], about: object) -> None:
    assert kinds(got) == kinds(want), about


@each_torch_case
def test_c7_our_state_dict_has_torchs_keys_dtypes_and_shapes(case: Case) -> None:
    count = 0
    for dtype in (d for d in dtypes_for_torch() if d != torch.float16):
        for options in case.settings:
            ours = after_three_steps(case.ours, options, dtype).state_dict()
            theirs = after_three_steps(case.theirs, options, dtype).state_dict()
            assert_same_kind(ours, theirs, f"{dtype} {options}")
            count += 1
    assert count >= 15


@each_torch_case
def test_c7_options_that_torch_does_not_know_survive_its_class(case: Case, tmp_path: Path) -> None:
    count = 0
    shared = {"step", *(number.name for number in RULES[case.ours.rule].numbers)}
    for options in (*case.settings[:3], *case.extras):
        for state_dtype in (None, *REAL):
            for dtype in REAL:
                given = {**options, "state_dtype": state_dtype}
                ours = after_three_steps(case.ours, given, dtype)
                theirs = loaded(case.theirs, saved_by_file(as_saved(ours, case), tmp_path / "a"))
                take_steps(theirs, 1)
                back = loaded(case.ours, saved_by_file(as_saved(theirs, case), tmp_path / "b"))
                about = f"{given} {dtype}"
                for got, want in zip(back.param_groups, ours.param_groups, strict=True):
                    assert {k: v for k, v in got.items() if k != "params"} == {
                        k: v for k, v in want.items() if k != "params"
                    }, about
                wide = torch.float32 if dtype == torch.float16 else dtype
                for state in back.state.values():
                    shared_dtypes = {v.dtype for name, v in state.items() if name in shared}
                    assert shared_dtypes <= {torch.float32, torch.float64}, about
                    moments = {v.dtype for name, v in state.items() if name not in shared}
                    assert moments <= {state_dtype or wide}, about
                take_steps(back, 1)
                count += 1
    assert count >= 60


# ---- checkpoints of older versions of torch


def without(key: str) -> Any:
    def change(state_dict: dict[str, Any]) -> None:
        for group in state_dict["param_groups"]:
            group.pop(key, None)

    return change


def with_step(convert: Any) -> Any:
    def change(state_dict: dict[str, Any]) -> None:
        for state in state_dict["state"].values():
            if "step" in state:
                state["step"] = convert(float(state["step"]))

    return change


def with_lists(state_dict: dict[str, Any]) -> None:
    for group in state_dict["param_groups"]:
        group.update({k: list(v) for k, v in group.items() if isinstance(v, tuple)})


def only_the_first_state(state_dict: dict[str, Any]) -> None:
    for index in list(state_dict["state"])[1:]:
        del state_dict["state"][index]


def newer_options(case: Case) -> list[str]:
    """Returns the options that torch's class loads without: older versions did not have them."""
    optimizer = case.theirs(make_params(SHAPES))
    found = []
    for key in optimizer.defaults:
        old = optimizer.state_dict()
        without(key)(old)
        optimizer.load_state_dict(old)
        if key in optimizer.param_groups[0]:
            found.append(key)
        optimizer = case.theirs(make_params(SHAPES))
    return found


def old_shapes(case: Case) -> dict[str, Any]:
    newer, rule = newer_options(case), RULES[case.ours.rule]

    def without_all(state_dict: dict[str, Any]) -> None:
        for key in newer:
            without(key)(state_dict)

    def with_float_numbers(state_dict: dict[str, Any]) -> None:
        for state in state_dict["state"].values():
            state.update({number.name: float(state[number.name]) for number in rule.numbers})

    def with_states_not_made_yet(state_dict: dict[str, Any]) -> None:
        for index in range(len(SHAPES)):
            state_dict["state"][index] = dict.fromkeys(state.name for state in rule.states)

    shapes = {
        **{f"no {key}": without(key) for key in newer},
        "no newer key": without_all,
        "int step": with_step(int),
        "float step": with_step(float),
        "float64 step": with_step(lambda n: torch.tensor(n, dtype=torch.float64)),
        "int64 step": with_step(lambda n: torch.tensor(int(n))),
        "1-element step": with_step(lambda n: torch.tensor([n])),
        "float numbers": with_float_numbers,
        "lists": with_lists,
    }
    if not rule.counts_steps:
        shapes["states not made yet"] = with_states_not_made_yet
    return shapes


def check_old_shapes(case: Case, shapes: dict[str, Any], tmp_path: Path) -> int:
    """Loads torch's checkpoints of these shapes in both classes; returns how many there were."""
    count = 0
    for name, change in shapes.items():
        for options in case.settings:
            written = after_three_steps(case.theirs, options, torch.float32)
            saved = as_saved(written, case)
            saved["optimizer"] = copy.deepcopy(saved["optimizer"])
            change(saved["optimizer"])
            read = saved_by_file(saved, tmp_path / "old.pt")
            about = f"{name} {options}"
            theirs, ours = loaded(case.theirs, read), loaded(case.ours, read)
            assert_same(numbers(ours), numbers(theirs), about)
            assert_goes_on(case, ours, about)
            count += 1
    return count


@each_torch_case
def test_c7_old_torch_checkpoints_load_and_go_on(case: Case, tmp_path: Path) -> None:
    assert check_old_shapes(case, old_shapes(case), tmp_path) >= 36


@each_torch_case_with_late_states
def test_c7_torch_checkpoints_without_states_load_and_go_on(case: Case, tmp_path: Path) -> None:
    shapes = {
        "no state": lambda state_dict: state_dict["state"].clear(),
        "one state": only_the_first_state,
    }
    assert check_old_shapes(case, shapes, tmp_path) >= 4


@each_case
def test_c7_saved_by_name_loads_by_position_and_keeps_names(case: Case) -> None:
    params = make_params(SHAPES)
    named = case.ours([(f"layer.{k}", param) for k, param in enumerate(params)])
    take_steps(named, 2)
    other = case.ours(make_params(SHAPES, seed=2))
    other.load_state_dict(named.state_dict())
    assert other.param_groups[0]["param_names"] == [f"layer.{k}" for k in range(len(SHAPES))]
    take_steps(other, 1)

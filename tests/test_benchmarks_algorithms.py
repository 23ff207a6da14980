"""The benchmark of all algorithms: everyone who has one takes part, and moves the same bytes."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import _default_to_fused_or_foreach
from typer.testing import CliRunner

from benchmarks import agreement, algorithms, contestants, measuring
from benchmarks.__main__ import app
from benchmarks.contestants import BASELINE, COMPILED, FOR_LOOP, OPTIMIZERS, OURS, SWEEP
from benchmarks.timing import Settings
from benchmarks.workloads import Workload, one_tensor
from onepass import _C
from onepass.rules import RULES
from tests.cases import CASES, Case
from tests.support import each_case

QUICK = Settings(rounds=2, least_seconds=1e-5, cache_bytes=64)
ELEMENTS = 8


def workload(name: str, elements: int = ELEMENTS, dtype: str = "float32") -> Workload:
    return Workload(name, one_tensor(elements), dtype=dtype)


def rivals(case: Case, dtype: str = "float32") -> set[str]:
    """Returns the paths of torch that have the algorithm."""
    if case.theirs is None:
        return set()
    has_fused = "fused" in inspect.signature(case.theirs).parameters
    right = (BASELINE, str(case), dtype) not in contestants.DEFECTS
    return {FOR_LOOP, "torch foreach"} | ({BASELINE} if has_fused and right else set())


def test_every_class_is_there() -> None:
    assert set(algorithms.names()) == {str(case) for case in CASES}


@each_case
def test_everyone_who_has_an_algorithm_takes_part(case: Case) -> None:
    measured = algorithms.measure(workload(str(case)), OPTIMIZERS, QUICK)
    assert set(measured["warm"]) == set(measured["cold"]) == {OURS, SWEEP} | rivals(case)
    assert set(measured["absent"]) == {row.name for row in OPTIMIZERS} - {OURS} - rivals(case)
    assert set(measured["onepass_over"]) == {SWEEP} | rivals(case)


@each_case
def test_bytes_are_those_of_the_states_that_the_algorithm_keeps(case: Case) -> None:
    measured = algorithms.measure(workload(str(case)), OPTIMIZERS, QUICK)
    params = contestants.make_groups(one_tensor(ELEMENTS))
    optimizer = case.ours(params, **contestants.HYPERS.get(str(case), {}))
    states = len(list(RULES[case.ours.rule].states_in(optimizer.param_groups[0])))
    for row in measured["warm"].values():
        moved = row["bytes_per_second"] * row["seconds"]["median"]
        assert moved == pytest.approx((3 + 2 * states) * 4 * ELEMENTS)


@each_case
def test_a_contestant_that_stands_still_is_seen(case: Case) -> None:
    """So the settings move parameters by more than the comparison lets pass."""
    params, start = (contestants.make_groups(one_tensor(ELEMENTS)) for _ in range(2))
    optimizer = case.ours(params, **contestants.HYPERS.get(str(case), {}))
    for _ in range(contestants.COMPARED):
        optimizer.step()
    with pytest.raises(AssertionError, match="idle"):
        agreement.check_same("idle", params, start)


@each_case
def test_everyone_takes_part_in_16_bits_too(case: Case) -> None:
    """Beside who stands still, and paths of torch that are known for computing something else."""
    work = workload(str(case), 1 << 12, "bfloat16")
    measured = algorithms.measure(work, OPTIMIZERS, QUICK)
    assert set(measured["warm"]) == {OURS, SWEEP} | rivals(case, "bfloat16")
    assert not measured["promises"]
    start, moved, wrong = (
        contestants.make_groups(work.groups, dtype=torch.bfloat16) for _ in range(3)
    )
    hypers = {"lr": 1e-3, **contestants.HYPERS.get(str(case), {})}
    for params, lr in ((moved, hypers["lr"]), (wrong, 2 * hypers["lr"])):
        optimizer = case.ours(params, **{**hypers, "lr": lr})
        for _ in range(contestants.COMPARED):
            optimizer.step()
    with pytest.raises(AssertionError, match="wrong: its move differs"):
        agreement.check_same_move("wrong", wrong, moved, start)


@pytest.mark.skipif(not contestants.DEFECTS, reason="this torch has none that is known")
def test_a_defect_of_torch_is_one() -> None:
    """Else the path belongs into the benchmark again."""
    for (name, algorithm, dtype), reason in contestants.DEFECTS.items():
        work = workload(algorithm, 1 << 12, dtype)
        (theirs,) = (row for row in OPTIMIZERS if row.name == name)
        assert contestants.line_up([theirs], algorithm, work).absent == {name: reason}
        ours, start, wrong = (
            contestants.make_groups(work.groups, dtype=work.torch_dtype) for _ in range(3)
        )
        for optimizer in (OPTIMIZERS[0].make(algorithm, ours), theirs.make(algorithm, wrong)):
            optimizer.step()
        with pytest.raises(AssertionError, match="its move differs"):
            agreement.check_same_move(name, wrong, ours, start)


@pytest.mark.slow
@pytest.mark.compile
@pytest.mark.filterwarnings("default")  # torch's own, where it loads its compiler
@pytest.mark.parametrize("name", ("SGD", "RAdam"))
def test_torchs_compiled_step_takes_part_and_says_how_long_that_took(name: str) -> None:
    measured = algorithms.measure(workload(name), (*OPTIMIZERS, contestants.COMPILING), QUICK)
    assert COMPILED in measured["warm"] and COMPILED not in measured["absent"]
    assert measured["compile_seconds"][COMPILED] > 0


def test_a_step_that_torch_cannot_compile_is_absent_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(step: object) -> object:
        def run() -> None:
            raise RuntimeError("no C++ compiler\nand so on")

        return run

    monkeypatch.setattr(torch, "compile", fails)
    lineup = contestants.line_up((*OPTIMIZERS[:1], contestants.COMPILING), "SGD", workload("SGD"))
    assert lineup.absent == {COMPILED: "torch.compile: RuntimeError: no C++ compiler"}
    assert COMPILED not in lineup.compile_seconds


def test_promises_are_those_made() -> None:
    slow = {FOR_LOOP: 5.0, COMPILED: 0.97}
    promised = {name: slow for name in ("RMSprop", "Adadelta", "Adamax", "NAdam", "RAdam")}
    promised |= {name: {BASELINE: 0.97} for name in ("SGD", "Adagrad")}
    assert promised == algorithms.PROMISES
    assert pytest.approx(1 / 1.1) == algorithms.NEAR_THE_BYTES


def test_a_verdict_says_which_promises_are_kept() -> None:
    times = {OURS: [1.0, 1.0], "slow": [3.0, 3.0], "fast": [0.5, 0.5]}
    verdict = measuring.verdict(times, {"slow": 3.0, "fast": 0.97, "nobody": 1.0})
    assert {rival: kept["met"] for rival, kept in verdict["promises"].items()} == {
        "slow": True,
        "fast": False,
        "nobody": None,
    }
    assert verdict["onepass_over"]["slow"]["median"] == 3.0
    assert OURS not in verdict["onepass_over"]


def test_torchs_own_choice_on_the_cpu_is_the_for_loop() -> None:
    """As the benchmark says: who passes neither `foreach` nor `fused` gets neither."""
    param = torch.ones(2, requires_grad=True)
    assert _default_to_fused_or_foreach([param], False, use_fused=False) == (False, False)


def test_command_writes_json_and_plot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(algorithms, "CONTESTANTS", OPTIMIZERS)
    arguments = ["--algorithm", "RMSprop", "--algorithm", "Lion", "--elements", "64"]
    line = ["algorithms", *arguments, "--rounds", "9", "--folder", str(tmp_path)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert "torch fused: torch.optim.RMSprop has no option 'fused'" in done.output
    (written,) = tmp_path.glob("algorithms-*.json")
    assert written.with_suffix(".png").stat().st_size > 0
    result = json.loads(written.read_text())
    assert [work["name"] for work in result["workloads"]] == ["RMSprop", "Lion"]
    assert {work["elements"] for work in result["workloads"]} == {64}
    assert set(result["workloads"][0]["promises"]) == {FOR_LOOP, COMPILED, SWEEP}


def test_command_refuses_unknown_names() -> None:
    done = CliRunner().invoke(app, ["algorithms", "--algorithm", "none such"])
    assert done.exit_code == 2
    assert "choose from" in done.output


# ---- the sweep that computes nothing


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32)


@pytest.mark.parametrize("states", range(5))
@pytest.mark.parametrize("size", (0, 1, 37, 100_003))
def test_the_bare_sweep_reads_and_writes_everything_once(states: int, size: int) -> None:
    torch.set_num_threads(2)
    before = [torch.randn(size) for _ in range(2 + states)]
    param, grad, *rest = [tensor.clone() for tensor in before]
    _C.sweep_without_arithmetic(param, grad, rest)
    assert torch.equal(grad, before[1])
    for had, has in zip([before[0], *before[2:]], [param, *rest], strict=True):
        assert torch.equal(bits(has), bits(had) ^ bits(grad))


@pytest.mark.parametrize(
    "states",
    [
        [torch.zeros(8)] * 5,
        [torch.zeros(7)],
        [torch.zeros(8, dtype=torch.float64)],
        [torch.zeros(16)[::2]],
    ],
    ids=["too many", "short", "float64", "strided"],
)
def test_the_bare_sweep_refuses_what_it_cannot_sweep(states: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"states|tensors"):
        _C.sweep_without_arithmetic(torch.zeros(8), torch.zeros(8), states)

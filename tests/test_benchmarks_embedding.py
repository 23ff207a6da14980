"""The benchmark of sparse gradients: who takes part, along which gradients, and what is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import contestants, embedding, machine
from benchmarks.__main__ import app
from benchmarks.contestants import OURS
from benchmarks.embedding import ALGORITHMS, INDICES, TORCH, TOUCHED, lane
from benchmarks.timing import Settings
from benchmarks.workloads import Workload

QUICK = Settings(rounds=2, least_seconds=1e-5, cache_bytes=64)
SIZES = (2000, 3000)
ALONE = {"AdamW", "SGD with momentum"}

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's Adagrad
each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def workload(name: str, sizes: tuple[int, ...] = SIZES) -> Workload:
    return Workload(name, (tuple((rows, embedding.WIDTH) for rows in sizes),))


def who(name: str) -> set[str]:
    return {OURS} if name in ALONE else {OURS, TORCH}


@each_algorithm
def test_everyone_who_computes_the_same_takes_part_on_every_table(name: str) -> None:
    measured = embedding.measure(workload(name), QUICK)
    expected = {lane(one, rows) for one in who(name) for rows in SIZES}
    assert set(measured["warm"]) == set(measured["cold"]) == expected
    assert set(measured["absent"]) == {OURS, TORCH} - who(name)
    assert set(measured["growth"]) == {lane(one, SIZES[-1]) for one in who(name)}
    assert set(measured["promises"]) == {lane(OURS, SIZES[-1])}
    assert set(measured["onepass_over"]) == {lane(TORCH, r) for r in SIZES if TORCH in who(name)}


@each_algorithm
def test_the_states_that_memory_is_counted_for_are_those_kept(name: str) -> None:
    entry = ALGORITHMS[name]
    for make in embedding.find_classes(entry, {}).values():
        optimizer = make([table := embedding.make_table(SIZES[0])])
        table.grad = embedding.make_gradients(SIZES[0])[0]
        optimizer.step()
        assert contestants.count_states(optimizer) == entry.states


@each_algorithm
def test_a_contestant_that_stands_still_is_seen(name: str) -> None:
    """So every algorithm moves a row by more than the comparison lets pass."""

    class Idle(torch.optim.Optimizer):
        def __init__(self, params: list[torch.Tensor]) -> None:
            super().__init__(params, {})

        def step(self, closure: object = None) -> None:
            pass

    classes = {**embedding.find_classes(ALGORITHMS[name], {}), "idle": Idle}
    with pytest.raises(AssertionError, match="idle"):
        list(embedding.same_steps(classes, SIZES[0]))


@pytest.mark.parametrize("rows", SIZES)
def test_gradients_are_those_that_an_embedding_makes(rows: int) -> None:
    made = embedding.make_gradients(rows)
    words = torch.nn.Embedding(rows, embedding.WIDTH, sparse=True)
    words(made[0]._indices()[0]).sum().backward()
    real = words.weight.grad
    assert real is not None
    for grad in made:
        assert (grad.layout, grad.dtype, grad.shape) == (real.layout, real.dtype, real.shape)
        assert not grad.is_coalesced() and not real.is_coalesced()
        assert grad._values().shape == real._values().shape == (INDICES, embedding.WIDTH)
        assert grad._indices().shape == real._indices().shape == (1, INDICES)
        assert len(grad._indices().unique()) == TOUCHED
    assert len({tuple(grad._indices()[0].tolist()) for grad in made}) == embedding.GRADIENTS


def test_steps_take_the_gradients_in_turn() -> None:
    table, seen = torch.nn.Parameter(torch.ones(3)), []

    class Watching(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            seen.append(table.grad)

    gradients = [torch.zeros(3), torch.ones(3)]
    step = embedding.take_in_turn(Watching([table]), table, gradients)
    for _ in range(4):
        step()
    assert [one is gradients[k % 2] for k, one in enumerate(seen)] == [True] * 4


def test_growth_is_paired_round_by_round_and_judged_with_warm_caches() -> None:
    small, large, theirs = lane(OURS, 10), lane(OURS, 20), lane(TORCH, 20)
    warm = {
        small: [1.0, 2.0, 1.0],
        large: [1.2, 2.4, 1.2],
        lane(TORCH, 10): [0.8, 1.6, 0.8],
        theirs: [2.4, 4.8, 2.4],
    }
    cold = {**warm, large: [3.0, 6.0, 3.0]}
    said = embedding.verdict(
        {
            kind: {name: {"rounds": rounds} for name, rounds in times.items()}
            for kind, times in (("warm", warm), ("cold", cold))
        },
        (10, 20),
    )
    assert said["growth"][large]["warm"]["median"] == pytest.approx(1.2)
    assert said["growth"][large]["cold"]["median"] == pytest.approx(3.0)
    assert said["growth"][theirs]["warm"]["median"] == pytest.approx(3.0)
    assert said["promises"] == {large: {"at_most": 1.25, "met": True}}
    assert said["onepass_over"][theirs]["median"] == pytest.approx(2.0)


def test_tables_that_memory_has_no_room_for_are_skipped_with_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = 2 * 4 * embedding.WIDTH * 3
    for free, left in ((SIZES[0] * needed, 1), (SIZES[0] * needed - 1, 0)):
        monkeypatch.setattr(machine, "available_bytes", lambda free=free: free)
        measured = embedding.measure(workload("Adam"), QUICK)
        assert len(measured["warm"]) == 2 * left
        assert {name for name in measured["absent"] if name.endswith("rows")} == {
            f"{rows:,} rows" for rows in SIZES[left:]
        }
        assert all("GB needed" in reason for reason in measured["absent"].values())
        assert measured["growth"] == measured["promises"] == {}


def test_default_tables_fit_the_memory_that_is_allowed() -> None:
    most = max((1 + row.states) * (1 if row.alone else 2) for row in ALGORITHMS.values())
    assert embedding.ROWS == (200_000, 2_000_000)
    assert 4 * embedding.WIDTH * sum(embedding.ROWS) * most < embedding.MEMORY <= 10e9


def test_command_writes_json_and_plot(tmp_path: Path) -> None:
    tables = ["--rows", "3000", "--rows", "2000"]
    arguments = ["--algorithm", "AdamW", "--algorithm", "Adam", *tables, "--rounds", "9"]
    done = CliRunner().invoke(app, ["embedding", *arguments, "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "torch.optim.AdamW takes no sparse gradients" in done.output
    assert "1.25 x" in done.output
    (written,) = tmp_path.glob("embedding-*.json")
    assert written.with_suffix(".png").stat().st_size > 0
    result = json.loads(written.read_text())
    assert [work["name"] for work in result["workloads"]] == ["Adam", "AdamW"]
    assert {work["touched_rows"] for work in result["workloads"]} == {TOUCHED}


@pytest.mark.parametrize("wrong", (["--algorithm", "Lion"], ["--rows", "10"]))
def test_command_refuses_what_it_has_no_gradients_for(wrong: list[str]) -> None:
    assert CliRunner().invoke(app, ["embedding", *wrong]).exit_code == 2

"""`python -m onepass bench` measures what it names; no test judges a time."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from onepass import __main__ as command
from onepass import bench, model_shapes

QUICK = ["bench", "--shape", "8x4,3", "--steps", "3"]
HEAD = "one step        median   middle half            beside onepass"


def rows(out: str) -> list[str]:
    """Returns who was measured."""
    return [line[:14].strip() for line in out.split(HEAD + "\n")[1].splitlines()[:-1]]


@pytest.mark.parametrize(
    ("optimizer", "measured"),
    [
        ("AdamW", ["onepass", "torch fused", "torch foreach", "torch default"]),
        ("rmsprop", ["onepass", "torch foreach", "torch default"]),
        ("Lion", ["onepass", "torch.optim ha"]),
    ],
)
def test_all_that_torch_has_are_measured(
    optimizer: str, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    noise = torch.get_rng_state()
    assert command.main([*QUICK, "--optimizer", optimizer, "--dtype", "bfloat16"]) == 0
    out = capsys.readouterr().out
    assert rows(out) == measured
    first, second, empty, *_ = out.splitlines()
    assert first.endswith(" on 8x4,3: 2 tensors, 35 numbers of bfloat16")
    assert f"torch {torch.__version__}, onepass " in second and " cores, " in second
    assert empty == ""
    assert out.splitlines()[-1].startswith("3 rounds in turns")
    assert torch.equal(noise, torch.get_rng_state())


def test_threads_are_those_that_are_asked_for_and_then_as_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = torch.get_num_threads()
    assert command.main([*QUICK, "--threads", "3"]) == 0
    assert ", 3 threads; " in capsys.readouterr().out
    assert torch.get_num_threads() == before


def test_the_shapes_are_those_of_the_models() -> None:
    """The tensors and elements of the published models."""
    found = {}
    for name in ("gpt2", "resnet50"):
        shapes = model_shapes.shapes_of(name)
        found[name] = (len(shapes), sum(map(math.prod, shapes)))
    assert found == {"gpt2": (148, 124_439_808), "resnet50": (161, 25_557_032)}
    assert model_shapes.shapes_of("2x3,4") == ((2, 3), (4,))


def test_rounds_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(bench._rounds(4)) == [0, 1, 2, 3]
    clock = iter(range(1000))
    monkeypatch.setattr(bench, "perf_counter", lambda: 4.0 * next(clock))
    assert list(bench._rounds(None)) == [0, 1]
    monkeypatch.setattr(bench, "perf_counter", lambda: 0.0)
    assert len(list(bench._rounds(None))) == 101


def test_without_rich_a_line_says_that_it_measures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert command.main(QUICK) == 0
    assert capsys.readouterr().err == "measuring for about ten seconds\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.234, "1.23 s"), (0.0456, "45.6 ms"), (1e-6, "1.00 us"), (0, "0.00 us")]
)
def test_times_have_three_digits(seconds: float, text: str) -> None:
    assert bench._time(seconds) == text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["docter"], "did you mean doctor?"),
        (["bench", "--optimiser", "Lion"], "there is no --optimiser here; did you mean --opt"),
        (["bench", "--optimizer", "adamv"], "did you mean Adam or AdamW"),
        (["bench", "--shape", "resnet"], "got resnet; did you mean resnet50?"),
        (["bench", "--shape", "3x0"], "or a list such as 1000x1000,1000, got 3x0"),
        (["bench", "--dtype", "flaot32"], "got flaot32; did you mean float32"),
        (["bench", "--steps", "1"], "--steps must be 2 or more, got 1"),
        (["bench", "--steps", "x"], "invalid int value: 'x'"),
        (["bench", "--threads", "0"], "--threads must be 1 or more, got 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(wrong)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m onepass") and said in line


def test_what_does_not_fit_into_memory_is_not_begun(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "free_bytes", lambda: 10**9)
    with pytest.raises(SystemExit):
        command.main(["bench", "--shape", "gpt2"])
    assert "--shape needs 7.0 GB for all that are compared, and 1.0 GB" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["info", "doctor", "bench", "bytes"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([name, "--help"])
    assert ended.value.code == 0
    assert command._COMMANDS[name][:40] in " ".join(capsys.readouterr().out.split())

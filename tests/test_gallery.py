"""The pictures are drawn from real runs, are the same every time, and show what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from onepass import gallery
from onepass.gallery import SCENES

ROOT = Path(__file__).parents[1]


def paths(name: str) -> list[Tensor]:
    return [gallery.walk(SCENES[name], walker) for walker in SCENES[name].walkers]


def turns(path: Tensor) -> int:
    """Returns how often the path crosses the floor of the valley by more than a hair."""
    y = path[:, 1]
    return int(((y[1:] * y[:-1] < 0) & (abs(y[1:]) > 1e-3)).sum())


def test_six_pictures_are_written_and_those_of_the_docs_are_of_these_scenes(tmp_path, capsys):
    assert gallery.main([str(tmp_path)]) == 0
    names = {f"{name}.png" for name in SCENES}
    assert {path.name for path in tmp_path.iterdir()} == names and len(names) == 6
    assert {path.name for path in (ROOT / "docs" / "gallery").iterdir()} == names
    assert len(capsys.readouterr().out.splitlines()) == 6
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    gallery.main([str(tmp_path)])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_sgd_zigzags_where_momentum_is_smooth():
    sgd, momentum = paths("momentum_vs_sgd")
    assert turns(sgd) > 10 > 4 > turns(momentum)


@pytest.mark.parametrize(
    ("name", "behind"), [("momentum_badcase_scale", 3.0), ("adam_vs_scale", 2.0),
                         ("rmsprop_vs_sgd", 3.0)],
)  # fmt: skip
def test_one_arrives_where_the_other_crawls(name, behind):
    slow, fast = paths(name)
    assert slow[-1, 0] < -behind
    assert fast[-1].norm() < 0.5


@pytest.mark.parametrize("name", ["rmsprop_badcase_noise", "adam_vs_noise"])
def test_one_jitters_at_the_goal_where_the_other_is_calm(name):
    jittering, calm = map(gallery.root_mean_square_step, paths(name))
    assert jittering > 3 * calm

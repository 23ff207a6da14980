"""The examples run, show what they say, and refuse or replace nothing without a word."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import gallery
import images
import perceptron

ROOT = Path(__file__).parents[1]
PNG = b"\x89PNG\r\n"


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), compresslevel=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny set that can be learned: images of class k are brightest in row k."""
    made = tmp_path / "images"
    made.mkdir()
    for part, count in (("train", 200), ("t10k", 50)):
        labels = np.arange(count) % 10
        pixels = np.random.default_rng(0).integers(0, 60, (count, 12, 12))
        pixels[np.arange(count), labels] = 255
        (made / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(pixels))
        (made / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    return made


def test_the_perceptron_prints_the_runs_and_draws_them(folder: Path, tmp_path: Path) -> None:
    options = ["--data", folder, "--epochs", "2", "--output", tmp_path / "new/demo"]
    command = [sys.executable, ROOT / "examples/perceptron.py", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{folder}: 200 + 50 images\nepoch 1/2, mean loss: torch.optim.Adam " in done.stdout
    assert "epoch 2/2" in done.stdout and "apart, first" in done.stdout
    assert (tmp_path / "new/demo/loss.png").read_bytes().startswith(PNG)


def test_both_optimizers_give_the_same_numbers() -> None:
    digits = images.digits()
    torch_run, our_run, _ = perceptron.train(digits, epochs=9)
    assert len(our_run.losses) > perceptron.EARLY
    assert perceptron.differences(our_run, torch_run)[perceptron.EARLY] <= 1e-5
    assert our_run.accuracy(*digits.test) > 0.9


@pytest.mark.parametrize(("name", "words"), [("absent", "does not exist"), ("", "No such file")])
def test_a_wrong_folder_is_refused(tmp_path: Path, name: str, words: str) -> None:
    app = typer.Typer()
    app.command()(perceptron.main)
    options = ["--data", tmp_path / name, "--output", tmp_path / "demo"]
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, list(map(str, options)))
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr and "--data" in done.stderr
    assert not (tmp_path / "demo").exists()


SOUND = idx(np.zeros((200, 12, 12)))
WRONG = {
    "no gzip": ("train-images-idx3", b"<html>", "Not a gzipped file"),
    "cut off": ("train-images-idx3", SOUND[:-12], "end-of-stream"),
    "no header": ("train-images-idx3", gzip.compress(b"abc"), "unpack_from"),
    "labels": ("train-images-idx3", idx(np.zeros(200)), "magic number 0x00000801"),
    "too short": ("train-images-idx3", gzip.compress(gzip.decompress(SOUND)[:-1]), "reshape"),
    "too few": ("train-labels-idx1", idx(np.zeros(199)), "12, 12. for 199 labels"),
    "another size": ("t10k-images-idx3", idx(np.zeros((50, 8, 8))), "differ in size or classes"),
    "another class": ("t10k-labels-idx1", idx(np.full(50, 11)), "differ in size or classes"),
}


@pytest.mark.parametrize(("file", "content", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused(folder: Path, file: str, content: bytes, words: str) -> None:
    (folder / f"{file}-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=f"{folder}.*{words}"):
        images.load(folder)


@pytest.mark.parametrize("works", [True, False])
def test_fashion_mnist_comes_from_apt_or_the_digits_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, works: bool
) -> None:
    """With an apt-get and a dpkg-deb that only pretend."""
    monkeypatch.setattr(images, "INSTALLED", Path("/share/images"))
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache" / "images")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    unpack = f"mkdir share && cp -r {folder} share"
    for name, script in (("apt-get", f"touch x.deb; {str(works).lower()}"), ("dpkg-deb", unpack)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    assert images.load(None).name == ("Fashion-MNIST" if works else "scikit-learn's digits")
    assert ("NOT Fashion-MNIST" in capsys.readouterr().out) is not works
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["images"] * works


def test_the_gallery_draws_the_pictures_of_the_docs(tmp_path: Path) -> None:
    gallery.main(tmp_path)
    shown = {path.name for path in (ROOT / "docs/gallery").iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == shown and len(shown) == 6
    assert all(path.read_bytes().startswith(PNG) for path in tmp_path.iterdir())


def test_the_paths_are_as_their_titles_say() -> None:
    for name, scene in gallery.SCENES.items():
        one, other = (gallery.walk(scene, make) for _, make in scene.walkers)
        if scene.noise:  # one jitters at the goal, the other is calm
            assert gallery.root_mean_square_step(one) > 3 * gallery.root_mean_square_step(other)
        elif name != "momentum_vs_sgd":  # one crawls, the other arrives
            assert one[-1, 0] < -2 and other[-1].norm() < 0.5
        else:
            sgd, momentum = one[:, 1], other[:, 1]
    assert (sgd[1:] * sgd[:-1] < 0).sum() > 10 > 4 > (momentum[1:] * momentum[:-1] < -1e-6).sum()

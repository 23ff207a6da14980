"""The demo: reading IDX files, getting the data, one epoch beside torch, the command line."""

import gzip
import io
import math
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from rich.console import Console

from onepass.demo import data, debian, plot, report, session
from onepass.demo.__main__ import main
from onepass.demo.idx import DataError, read_idx
from onepass.demo.training import Settings, train

TRAIN_IMAGES, TRAIN_LABELS = data.IMAGE_FILES["train"], data.LABEL_FILES["train"]
TEST_IMAGES = data.IMAGE_FILES["test"]
PNG = b"\x89PNG\r\n"


def idx(array: np.ndarray, magic: int | None = None, shape: tuple[int, ...] | None = None) -> bytes:
    """The bytes of an IDX file before compression, with a wrong header if one is given."""
    shape = array.shape if shape is None else shape
    magic = 0x0800 + len(shape) if magic is None else magic
    return struct.pack(f">{len(shape) + 1}I", magic, *shape) + array.astype(np.uint8).tobytes()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content, compresslevel=1))
    return path


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Other tests run beside these: waiting for a second thread takes up to ten times longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny set of 28x28 images that can be learned: class k has its 20 brightest pixels at k."""
    made = tmp_path / "images"
    made.mkdir()
    random = np.random.default_rng(0)
    for part, count in (("train", 200), ("test", 50)):
        labels = np.arange(count) % data.CLASSES
        pixels = random.integers(0, 60, (count, 28 * 28))
        for row, label in zip(pixels, labels, strict=True):
            row[20 * label : 20 * label + 20] = 255
        write(made / data.IMAGE_FILES[part], idx(pixels.reshape(count, 28, 28)))
        write(made / data.LABEL_FILES[part], idx(labels))
    return made


# --- IDX files


def test_idx_round_trip(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    read = read_idx(write(tmp_path / "x.gz", idx(pixels)), 3)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pixels)
    np.testing.assert_array_equal(
        read_idx(write(tmp_path / "y.gz", idx(np.arange(5))), 1), range(5)
    )


SOUND = gzip.compress(idx(np.zeros((2, 3, 4))))
MALFORMED = {
    "not gzip": (b"<html>not found</html>", r"not a sound gzip file"),
    "truncated gzip": (SOUND[:-12], r"gzip file is truncated"),
    "flipped bits": (
        SOUND[:12] + bytes(b ^ 255 for b in SOUND[12:20]) + SOUND[20:],
        r"not a sound",
    ),
    "wrong check sum": (SOUND[:-8] + bytes(4) + SOUND[-4:], r"not a sound gzip file \(CRC"),
    "empty file": (b"", r"0 bytes unpacked, expected an IDX header of 16 bytes"),
    "no header": (gzip.compress(b"abc"), r"3 bytes unpacked, expected .* 16 bytes"),
    "labels": (
        gzip.compress(idx(np.zeros(99))),
        r"magic number 0x00000801, expected 0x00000803 \(unsigned bytes in 3 dimensions\)",
    ),
    "floats": (gzip.compress(idx(np.zeros((2, 3, 4)), magic=0x0D03)), r"magic number 0x00000d03"),
    "too short": (
        gzip.compress(idx(np.zeros((2, 3, 3)), shape=(2, 3, 4))),
        r"18 bytes after the header, expected 24 \(2 x 3 x 4\)",
    ),
    "too long": (gzip.compress(idx(np.zeros((2, 3, 4))) + b"!"), r"25 bytes .* expected 24"),
    "absurd sizes": (
        gzip.compress(idx(np.zeros(8), magic=0x0803, shape=(2**32 - 1,) * 3)),
        r"8 bytes after the header, expected 792281624",
    ),
}


@pytest.mark.parametrize(("content", "message"), MALFORMED.values(), ids=MALFORMED)
def test_idx_malformed(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / TRAIN_IMAGES
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_idx_unreadable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.gz: cannot be read \(No such file"):
        read_idx(tmp_path / "absent.gz", 3)
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        read_idx(tmp_path, 3)


# --- folders


def test_folder(folder: Path) -> None:
    loaded = data.choose(folder, pytest.fail)
    assert str(loaded) == f"{folder}: 200 + 50 images"
    assert loaded.train.images.shape == (200, 784)
    assert loaded.train.images.dtype == torch.float32
    assert loaded.train.images.max() == 1
    assert loaded.train.labels.dtype == torch.int64
    assert loaded.test.labels.tolist() == [k % 10 for k in range(50)]


def test_folder_missing(folder: Path) -> None:
    (folder / TEST_IMAGES).unlink()
    (folder / TRAIN_LABELS).unlink()
    with pytest.raises(DataError, match=f"lacks {TEST_IMAGES}, {TRAIN_LABELS}; expected the four"):
        data.load_folder(folder, "x")
    with pytest.raises(DataError, match="no such folder"):
        data.load_folder(folder / "absent", "x")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (TRAIN_LABELS, np.zeros(199), "199 labels, expected 200, one for each image in train-im"),
        (TRAIN_LABELS, np.full(200, 10), "label 10, expected 0 to 9"),
        (TRAIN_IMAGES, np.zeros((0, 28, 28)), r"holds no pixels \(sizes \(0, 28, 28\)\)"),
        (TRAIN_IMAGES, np.zeros((200, 0, 28)), r"holds no pixels"),
        (TEST_IMAGES, np.zeros((50, 8, 8)), "images of 64 pixels, expected 784 as in train-images"),
    ],
)
def test_folder_does_not_fit(folder: Path, file: str, content: np.ndarray, message: str) -> None:
    write(folder / file, idx(content))
    with pytest.raises(DataError, match=message) as caught:
        data.load_folder(folder, "x")
    assert file in str(caught.value)


# --- the training


def test_first_losses_agree_with_torch(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One epoch on Fashion-MNIST; digits only where apt itself cannot get the package."""
    said: list[str] = []
    dataset = data.choose(None, said.append)
    if dataset.name != "Fashion-MNIST":
        command = ["sh", "-c", f"apt-get download {debian.PACKAGE}"]
        download = subprocess.run(command, cwd=tmp_path)
        assert download.returncode != 0, f"apt works, but the demo did not use it: {said}"
        with capsys.disabled():
            print("\ntest_demo:", *said, sep="\n", file=sys.stderr)
    batches = math.ceil(len(dataset.train.labels) / Settings.batch)
    epochs = math.ceil(report.EARLY_STEPS / batches)
    pair = {name: session.FACTORIES[name] for name in (session.TORCH, session.OURS)}
    torch_run, our_run = train(pair, dataset, Settings(epochs=epochs), lambda run: None)
    assert torch_run.optimizer.param_groups[0]["foreach"] is False
    assert len(torch_run.losses) == len(our_run.losses) == epochs * batches
    assert report.difference(our_run, torch_run, report.EARLY_STEPS) <= 1e-5
    assert our_run.evaluate(dataset.test)[1] > 0.75


def test_runs_are_alike(folder: Path) -> None:
    dataset = data.load_folder(folder, "x")
    state = torch.get_rng_state()
    torch_adam = session.FACTORIES[session.TORCH]
    turns: list[tuple[str, int]] = []
    one, two = train(
        {"one": torch_adam, "two": torch_adam},
        dataset,
        Settings(epochs=3),
        lambda run: turns.append((run.name, len(run.losses))),
    )
    assert one.losses == two.losses
    assert len(one.losses) == len(one.step_seconds) == 3 * 4
    assert turns == [(name, steps) for steps in (4, 8, 12) for name in ("one", "two")]
    assert 0 < sum(one.step_seconds) < one.seconds
    assert torch.equal(torch.get_rng_state(), state)
    assert report.difference(one, two) == 0


def test_difference_looks_at_all_steps() -> None:
    runs = [SimpleNamespace(losses=losses) for losses in ([1.0, 2.0, 3.0], [1.0, 2.5, 1.0])]
    assert [report.difference(*runs, steps) for steps in (1, 2, None)] == [0, 0.5, 2]


# --- the command line


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onepass.demo", *arguments], capture_output=True, text=True
    )


def test_command_line(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "demo"
    done = run("--data", str(folder), "--epochs", "3", "--output", str(output))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii() and "\x1b" not in done.stdout
    assert f"{folder}: 200 + 50 images\n784-128-10 perceptron" in done.stdout
    assert done.stdout.count("mean loss: torch.optim.Adam") == 3
    for row in ("torch.optim.Adam |", "onepass.Adam     |", "torch foreach (yardstick)"):
        assert f"| {row}" in done.stdout
    assert "all 12 steps" in done.stdout
    assert "for-loop (foreach=False)" in done.stdout
    assert "Adam with lr 1e-3, on 1 thread\n" in done.stdout
    assert (output / session.PICTURE).read_bytes().startswith(PNG)


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert session._choose_threads() == torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert session._choose_threads() == torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs: must be a whole number, 1 or more, got '0'"),
        (["--epochs", "-3"], "got '-3'"),
        (["--epochs", "two"], "got 'two'"),
        (["--data", ""], "--data: no such folder: ''"),
        (["--data", "/absent"], "--data: no such folder: '/absent'"),
        (["--data", __file__], "no such folder"),
        (["--output", f"{__file__}/x"], "--output: no folder '"),
        (["--output", "/dev/null/x"], "--output: no folder '"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert said.out == ""
    assert said.err.startswith("onepass.demo: ") and said.err.count("\n") == 1
    assert message in said.err
    assert not Path("demo").exists()


def test_bad_data_is_one_line(folder: Path, tmp_path: Path) -> None:
    (folder / TRAIN_IMAGES).write_bytes(SOUND[:-12])
    done = run("--data", str(folder), "--output", str(tmp_path / "x"))
    assert (done.returncode, done.stdout) == (2, "")
    expected = f"{folder / TRAIN_IMAGES}: gzip file is truncated, expected a complete one\n"
    assert done.stderr == f"onepass.demo: {expected}"


def test_output_must_be_writable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(SystemExit, match="2"):
        main(["--output", str(tmp_path)])
    assert "is not writable" in capsys.readouterr().err


def test_extras_are_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(SystemExit, match="2"):
        main(["--output", str(tmp_path / "x")])
    assert capsys.readouterr().err == "onepass.demo: no rich: pip install 'onepass[demo]'\n"


def test_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "choose", interrupt)
    with pytest.raises(SystemExit, match="130"):
        main(["--output", str(tmp_path / "x")])
    assert capsys.readouterr().err == "\nonepass.demo: interrupted\n"


def test_terminal_gets_a_bar(folder: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, markup=False)
    session.demonstrate(console, folder, 2, tmp_path)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "epoch 2/2, loss" in shown and f"{8 * len(session.FACTORIES)}/32 steps," in shown
    assert "mean loss:" not in shown
    assert "╭" in shown


# --- the picture


def test_picture_of_equal_curves(folder: Path, tmp_path: Path) -> None:
    """One epoch, all four alike: no difference to draw, no warning, still a picture."""
    torch_adam = session.FACTORIES[session.TORCH]
    dataset = data.load_folder(folder, "x")
    settings = Settings(epochs=1)
    runs = train(dict.fromkeys("abcd", torch_adam), dataset, settings, lambda run: None)
    plot.draw(runs[0], runs[1], runs[2:], 1, tmp_path / "x.png")
    assert imread(tmp_path / "x.png").shape == (675, 1650, 4)


def test_curves_differ_in_grey() -> None:
    def grey(style: dict[str, str]) -> float:
        return float(np.dot(to_rgb(style["color"]), (0.299, 0.587, 0.114)))

    assert all(grey(style) - grey(plot._OURS) > 0.4 for style in (plot._TORCH, *plot._PEERS))

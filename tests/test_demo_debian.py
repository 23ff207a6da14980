"""How the demo gets Debian's package of images, with commands that only pretend."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from onepass.demo import data, debian
from onepass.demo.idx import DataError

WriteCommand = Callable[[str, str], None]
TRAIN_IMAGES = data.IMAGE_FILES["train"]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteCommand:
    """Writes commands; only these are found, nobody is root, and the cache is new and empty."""
    commands = tmp_path / "bin"
    commands.mkdir()

    def write_command(name: str, script: str) -> None:
        (commands / name).write_text(f"#!/bin/sh\necho {name} $* >> {tmp_path}/log\n{script}\n")
        (commands / name).chmod(0o755)

    mkdir, touch = (
        subprocess.run(
            ["sh", "-c", f"command -v {tool}"], capture_output=True, text=True
        ).stdout.strip()
        for tool in ("mkdir", "touch")
    )
    where = '"$3/usr/share/datasets/fashion-mnist"'
    write_command("dpkg", "exit 1")
    write_command("dpkg-deb", f"{mkdir} -p {where} && {touch} {where}/{TRAIN_IMAGES}")
    write_command("apt-get", f"case $* in *download*) {touch} x.deb;; esac")
    monkeypatch.setenv("PATH", str(commands))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    return write_command


def test_debian_installed(fake: WriteCommand, tmp_path: Path) -> None:
    assert debian.find() is None
    (tmp_path / TRAIN_IMAGES).touch()
    fake("dpkg", f"echo /.; echo {tmp_path / TRAIN_IMAGES}")
    assert debian.find() == tmp_path


def test_debian_unpacked(fake: WriteCommand, tmp_path: Path) -> None:
    folder = debian.obtain()
    assert folder == debian.find() == tmp_path / "venv/share/onepass/dataset-fashion-mnist"
    assert [p.name for p in folder.parent.iterdir()] == [folder.name], "nothing is left behind"
    assert "install" not in (tmp_path / "log").read_text()
    # Another process was faster: what it unpacked is used.
    assert debian.obtain() == folder


@pytest.mark.parametrize("prefix", [sys.base_prefix, "/dev/null"])
def test_debian_user_cache(
    fake: WriteCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """Without a virtual environment, or with one that cannot be written."""
    monkeypatch.setattr(sys, "prefix", prefix)
    assert debian.obtain() == tmp_path / "cache/onepass/dataset-fashion-mnist"


def test_debian_fresh_lists(fake: WriteCommand, tmp_path: Path) -> None:
    fake(
        "apt-get",
        "case $* in *lists*download*) test -d lists/partial && echo > x.deb;;\n"
        "*download*) exit 1;; esac",
    )
    assert debian.obtain().is_dir()
    assert "update" in (tmp_path / "log").read_text()


def test_debian_root_installs(
    fake: WriteCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    file = tmp_path / TRAIN_IMAGES
    fake("dpkg", f"echo {file}")
    fake("apt-get", f"case $* in *install*) echo > {file};; esac")
    assert debian.obtain() == tmp_path
    assert "download" not in (tmp_path / "log").read_text()


def test_nothing_to_be_had(fake: WriteCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("apt-get", "echo W: lists are old >&2; echo E: Unable to locate package >&2; exit 100")
    said: list[str] = []
    loaded = data.choose(None, said.append)
    assert str(loaded) == "scikit-learn digits: 1,500 + 297 images"
    assert loaded.train.images.shape == (1500, 64)
    assert sorted(set(loaded.test.labels.tolist())) == list(range(10))
    reason = "apt-get: E: Unable to locate package"
    assert said[1] == f"NOT Fashion-MNIST, which cannot be had here: {reason}"
    assert "scikit-learn's digits" in said[2]
    fake("apt-get", "exit 3")
    with pytest.raises(debian.AptError, match=r"apt-get: exit code 3$"):
        debian.obtain()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(debian.AptError, match="there is no apt-get here"):
        debian.obtain()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="no images: scikit-learn is missing too"):
        data.choose(None, said.append)

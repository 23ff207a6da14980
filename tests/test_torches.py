"""tools/torches.py, which installs other versions of torch: what it does without installing one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from onepass import _versions

torches = pytest.importorskip("tools.torches", reason="tools/torches.py needs Python 3.11")


def test_the_oldest_and_the_newest_torch_are_tested_and_every_python_that_is_said_to_be() -> None:
    minors = [_versions.minor(version.torch) for version in torches.VERSIONS]
    (major, oldest), (_, newest) = _versions.TORCH
    assert minors == [(major, minor) for minor in range(oldest, newest + 1)]
    tested = [version for version in torches.VERSIONS if version.torch in torches.TESTED]
    assert tested[0] == torches.VERSIONS[0] and tested[-1] == torches.VERSIONS[-1]
    assert tested[-1].python == _versions.PYTHON_TO_TAKE
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for version in tested:
        assert version.torch in readme and version.python in readme


def test_a_copy_follows_the_checkout_and_keeps_what_was_built_in_it(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "csrc").mkdir(parents=True)
    (source / "docs/gallery").mkdir(parents=True)
    (source / "build").mkdir()
    (source / "build/old.o").touch()
    kept, changed = source / "csrc/kept.cpp", source / "csrc/changed.cpp"
    for path in (kept, changed, source / "csrc/gone.cpp"):
        path.write_text("1")
    torches.mirror(source, target)
    assert (target / "docs/gallery").exists() and not (target / "build").exists()
    (target / "build").mkdir()
    (target / "build/new.o").touch()
    before = (target / "csrc/kept.cpp").stat().st_mtime_ns
    changed.write_text("2")
    (source / "csrc/gone.cpp").unlink()
    torches.mirror(source, target)
    assert sorted(path.name for path in (target / "csrc").iterdir()) == ["changed.cpp", "kept.cpp"]
    assert (target / "csrc/changed.cpp").read_text() == "2"
    assert (target / "csrc/kept.cpp").stat().st_mtime_ns == before
    assert (target / "build/new.o").exists()


@pytest.fixture
def no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pip that reaches nothing and installs nothing, in the place of that of an environment."""
    monkeypatch.setattr(torches, "FOLDER", tmp_path)
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(tmp_path)), ("DRY_RUN", "1")):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    made = torches.Environment.__init__

    def init(self: torches.Environment, *arguments: object) -> None:
        made(self, *arguments)
        self.python = Path(sys.executable)

    monkeypatch.setattr(torches.Environment, "__init__", init)


def test_a_registry_out_of_reach_is_said(
    no_registry: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = torch.__version__.partition("+")[0]  # which pip would find installed
    other = next(version.torch for version in torches.VERSIONS if version.torch != here)
    monkeypatch.setattr(sys, "argv", ["torches.py", other])
    assert torches.main() == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(
        f"torch {other}: not tested: pip cannot install --no-deps torch=={other}"
    )
    assert f"No matching distribution found for torch=={other}" in said


def test_an_unknown_version_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["torches.py", "2.8.0"])
    with pytest.raises(SystemExit):
        torches.main()
    assert "unknown versions: 2.8.0" in capsys.readouterr().err

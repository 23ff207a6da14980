"""The package builds from its sdist, with the torch that is there, and changes nothing else."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.tags import sys_tags

from onepass import _versions
from onepass._native import folder_of

ROOT = Path(__file__).resolve().parents[1]
BACKEND = ROOT / "build_backend"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
# Kernels take longest to compile and are installed like all other code.
WITHOUT_KERNELS = {"ONEPASS_CUDA": "0"}


def run(*command, **settings) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_PRELOAD")}
    env |= settings.pop("env", {})
    done = subprocess.run(
        [str(part) for part in command],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **settings,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


class Scratch:
    """The unpacked sdist, and an environment without onepass that sees this one's torch."""

    def __init__(self, folder: Path) -> None:
        code = f"import onepass_build; print(onepass_build.build_sdist({str(folder)!r}))"
        name = run(sys.executable, "-c", code, cwd=ROOT, env={"PYTHONPATH": str(BACKEND)})
        self.sdist = folder / name.split()[-1]
        with tarfile.open(self.sdist) as archive:
            archive.extractall(folder, filter="data")
        self.source = folder / self.sdist.name.removesuffix(".tar.gz")
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
        self.python = folder / "venv" / "bin" / "python"
        # A path added by a .pth file is searched, but its own .pth files (the editable install of
        # onepass) are not read.
        site = run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        Path(site.strip(), "host.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def pip(self, *arguments, **settings) -> str:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        # For builds without isolation: ninja, without which all would be compiled again.
        path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        env = path | WITHOUT_KERNELS | settings.pop("env", {})
        return run(*pip, "--python", self.python, *arguments, cwd=self.source, env=env, **settings)

    def packages(self) -> dict[str, str]:
        found = json.loads(self.pip("list", "--format", "json").splitlines()[-1])
        return {package["name"]: package["version"] for package in found}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return Scratch(tmp_path_factory.mktemp("packaging"))


@pytest.fixture(scope="module")
def installed(scratch):
    """What pip said while installing, and the packages before it."""
    before = scratch.packages()
    return scratch.pip("install", "-v", "."), before


@pytest.mark.slow
@pytest.mark.xdist_group("packaging")  # one worker: the sdist is compiled once
class TestInstall:
    def test_downloads_no_torch(self, installed):
        log, _ = installed
        assert "Requirement already satisfied: torch" in log
        assert not re.search(r"(Collecting|Downloading|Processing|Using cached)\s+\S*torch", log)

    def test_changes_no_other_package(self, installed, scratch):
        _, before = installed
        after = scratch.packages()
        assert "onepass" in after
        before.pop("onepass", None)
        after.pop("onepass")
        assert after == before

    def test_works_when_imported(self, installed, scratch):
        code = "import onepass, sys; sys.exit(onepass.__file__.startswith(sys.prefix) - 1)"
        run(scratch.python, "-c", code, cwd="/")
        report = run(scratch.python, "-m", "onepass", "doctor", cwd="/")
        assert "ok   cpu" in report
        assert "FAIL" not in report

    def test_code_is_for_every_machine(self, installed, scratch):
        builds = [*scratch.source.glob("build/release/*/build.ninja")]
        assert len(builds) == 2
        for ninja in builds:
            assert not re.search(r"-march|-mtune|-mavx|-ffast-math|-Ofast", ninja.read_text())

    def test_sdist_has_every_source(self, scratch):
        sources = [path.relative_to(ROOT) for path in (ROOT / "csrc").rglob("*") if path.is_file()]
        assert [path for path in sources if not (scratch.source / path).is_file()] == []

    def test_wheel(self, installed, scratch):
        scratch.pip("wheel", "--no-deps", "-w", "dist", ".")
        (path,) = (scratch.source / "dist").glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
            code = {name: wheel.read(name) for name in names if name.endswith(".so")}
        assert path.stem.split("-", 2)[2] in {str(tag) for tag in sys_tags()}
        assert {name.split("/")[0] for name in names} == {"onepass", "onepass-0.1.0.dist-info"}
        assert {"onepass/py.typed", "onepass/_C.pyi"} <= set(names)
        folder = folder_of(torch.__version__)
        assert set(code) == {"onepass/libonepass_kernels.so", f"onepass/{folder}/_C{SUFFIX}"}
        # The examples are for readers of the source.
        assert (scratch.source / "examples" / "perceptron.py").is_file()
        assert not [name for name in names if re.search("demo|example|gallery", name)]
        assert not [name for name, bytes in code.items() if str(scratch.source).encode() in bytes]

    def test_no_build_isolation_and_editable(self, installed, scratch):
        log = scratch.pip("install", "--no-build-isolation", "--no-deps", "-e", ".")
        assert "Successfully installed onepass" in log
        found = run(scratch.python, "-c", "import onepass; print(onepass.__file__)", cwd="/")
        assert found.split()[-1].startswith(str(scratch.source))

    def test_missing_compiler_is_one_line(self, scratch):
        with pytest.raises(AssertionError) as failure:
            scratch.pip("install", "--no-build-isolation", ".", env={"CXX": "no-such-g++"})
        assert "[1 lines of output]" in str(failure.value)
        assert "no C++ compiler (no-such-g++): apt-get install g++" in str(failure.value)


class TestRequirements:
    @pytest.fixture
    def requires(self, monkeypatch):
        """The backend's answer for a target environment with these packages."""
        monkeypatch.syspath_prepend(BACKEND)
        import onepass_build

        monkeypatch.setattr(onepass_build, "check_compiler", lambda: None)

        def ask(path):
            monkeypatch.setattr(onepass_build, "_target_path", lambda: [str(path)])
            return onepass_build.get_requires_for_build_wheel()

        return ask

    @staticmethod
    def torch(folder, version):
        (folder / f"torch-{version}.dist-info").mkdir()
        text = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        (folder / f"torch-{version}.dist-info" / "METADATA").write_text(text)

    @pytest.mark.parametrize("version", ["2.9.0", "2.13.0+cpu", "2.15.1+cu132", "2.15.0a0+git1"])
    def test_torch_that_is_there_is_used(self, requires, tmp_path, version):
        self.torch(tmp_path, version)
        assert requires(tmp_path) == []

    def test_no_torch_asks_for_one(self, requires, tmp_path):
        assert requires(tmp_path) == ["torch>=2.9,<2.16"]

    @pytest.mark.parametrize("version", ["2.8.0+cu126", "2.16.0", "3.0.0a0+git1"])
    def test_other_torch_is_refused_and_not_replaced(self, requires, tmp_path, version):
        self.torch(tmp_path, version)
        with pytest.raises(SystemExit) as refused:
            requires(tmp_path)
        assert str(refused.value).splitlines() == [
            f"onepass works with {_versions.WORKS_WITH}; here is torch {version}.",
            'Fix:  pip install "torch>=2.9,<2.16"',
            "ONEPASS_UNTESTED=1 builds for it all the same.",
        ]

    @pytest.mark.parametrize("python", [(3, 9), (3, 15)])
    def test_other_python_is_refused(self, requires, tmp_path, monkeypatch, python):
        monkeypatch.setattr(sys, "version_info", (*python, 1, "final", 0))
        refusal = (
            f"here is Python {python[0]}.{python[1]}.\nFix:  "
            "in the folder of onepass's source: python3.13 -m pip install ."
        )
        with pytest.raises(SystemExit, match=re.escape(refusal)):
            requires(tmp_path)

    def test_untested_torch_is_built_for_when_asked(self, requires, tmp_path, monkeypatch):
        import onepass_build

        monkeypatch.setattr(onepass_build, "UNTESTED", True)
        self.torch(tmp_path, "2.16.0")
        assert requires(tmp_path) == []

    def test_versions_are_those_of_the_metadata(self):
        asked = (ROOT / "pyproject.toml").read_text()
        oldest, newest = (_versions.text(python) for python in _versions.PYTHON)
        assert f'dependencies = ["{_versions.REQUIREMENT}"]' in asked
        assert f'requires-python = ">={oldest}"' in asked
        minors = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', asked)
        assert (minors[0], minors[-1]) == (oldest, newest)

    def test_this_environment_is_seen(self, monkeypatch):
        monkeypatch.syspath_prepend(BACKEND)
        import onepass_build

        assert onepass_build.get_requires_for_build_editable() == []


def test_a_wish_for_cuda_that_is_none_is_refused_in_words() -> None:
    env = {**os.environ, "ONEPASS_CUDA": "yes"}
    command = [sys.executable, "setup.py", "--version"]
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode != 0
    assert "ONEPASS_CUDA must be 0, 1 or emulate, got 'yes'" in done.stderr

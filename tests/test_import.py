"""`import onepass` where it cannot work says why in words; the command line reports."""

import dataclasses
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
import torch

import onepass
from onepass import __main__ as command
from onepass import _native, _versions

PACKAGE = Path(onepass.__file__).parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
NEVER_LOADED = "#include <stdlib.h>\n__attribute__((constructor)) static void f(void) { abort(); }"
UNDEFINED = "void torch_stream_native_handle(void); void* f = (void*)torch_stream_native_handle;"
REBUILD = "in the folder of onepass's source: pip install --force-reinstall --no-deps ."


@dataclasses.dataclass
class Installation:
    """A copy of the package's Python files beside a torch that is only a version number."""

    folder: Path

    @property
    def package(self) -> Path:
        return self.folder / "python" / "onepass"

    def torch(self, version: str) -> None:
        (self.package.parent / "torch").mkdir()
        text = f"__version__ = {version!r}\n"
        (self.package.parent / "torch" / "__init__.py").write_text(text)

    def module(self, torch: str, name: str = f"_C{SUFFIX}") -> Path:
        """Where the glue for this version of torch lies."""
        folder = self.package / _native.folder_of(torch)
        folder.mkdir(exist_ok=True)
        return folder / name

    def compiled(self, torch: str, source: str, name: str = f"_C{SUFFIX}") -> None:
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(self.module(torch, name))]
        subprocess.run(command, input=source, text=True, check=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
        env["PYTHONPATH"] = str(self.package.parent)
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            env=env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def error(self) -> str:
        code = "try:\n import onepass\nexcept ImportError as e:\n print(e)\nelse:\n print('loaded')"
        done = self.run("-c", code)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture
def installation(tmp_path):
    ignore = shutil.ignore_patterns("*.so", "_torch_*_*", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "python" / "onepass", ignore=ignore)
    info = tmp_path / "python" / "onepass-1.2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onepass\nVersion: 1.2.0\n")
    return Installation(tmp_path)


def check_common(text: str, torch: str) -> None:
    assert len(text.splitlines()) <= 12
    assert f"with torch {torch} (Python {sys.version_info[0]}.{sys.version_info[1]}, " in text
    assert text.count("Fix:") == 1
    assert f"onepass works with {_versions.WORKS_WITH}.\n" in text
    assert text.splitlines()[-1].startswith("Fix:  ")


@pytest.mark.parametrize(
    ("built", "found", "fix"),
    [
        ("2.13.0+cpu", "2.12.1+cu126", 'pip install "torch==2.13.*"'),
        ("2.13.0+cpu", "2.14.0", REBUILD),
        ("2.9.0", "2.13.1+cpu", REBUILD),
        ("2.13.0", "2.8.0", 'pip install "torch==2.13.*"'),
        ("2.13.0", "3.0.0a0+git12ab", 'pip install "torch==2.13.*"'),
    ],
)
def test_other_torch_is_named_and_nothing_is_loaded(installation, built, found, fix):
    installation.torch(found)
    installation.compiled(built, NEVER_LOADED)
    text = installation.error()
    check_common(text, found)
    minor = ".".join(built.split(".")[:2])
    assert text.startswith("onepass 1.2.0 cannot load its kernels")
    assert f"This build is for torch {minor}, Python " in text
    assert "Loader said:  not tried: kernels for another torch could crash this one" in text
    assert fix in text


@pytest.mark.parametrize("found", ["2.13.0+cpu", "2.13.1+cu130", "2.13.0a0+git12ab"])
def test_missing_symbol_is_quoted(installation, found):
    installation.torch(found)
    installation.compiled("2.13.0+cpu", UNDEFINED)
    text = installation.error()
    check_common(text, found)
    assert "undefined symbol: torch_stream_native_handle" in text
    assert REBUILD in text


def test_file_that_is_no_library_is_quoted(installation):
    installation.torch("2.13.0")
    installation.module("2.13.0").write_bytes(b"no library " * 100)
    text = installation.error()
    check_common(text, "2.13.0")
    assert "invalid ELF header" in text


@pytest.mark.parametrize(
    "name", ["_C.cpython-39-x86_64-linux-gnu.so", "_C.cpython-39-aarch64-linux-gnu.so"]
)
def test_module_of_another_python(installation, name):
    installation.torch("2.13.0")
    installation.compiled("2.13.0", NEVER_LOADED, name)
    text = installation.error()
    check_common(text, "2.13.0")
    assert f"not tried: _torch_2_13/{name} is not for this Python" in text
    assert "Python 3.9.\n" in text


def test_nothing_was_compiled(installation):
    installation.torch("2.13.0")
    text = installation.error()
    check_common(text, "2.13.0")
    assert "no compiled module here, onepass was not built" in text


def test_a_wheel_for_several_torches_names_them(installation):
    """Of an older torch than all of them the newest is offered, since it has the most."""
    installation.torch("2.9.1")
    for built in ("2.10.0", "2.13.0", "2.15.0"):
        installation.compiled(built, NEVER_LOADED)
    text = installation.error()
    check_common(text, "2.9.1")
    assert "This build is for torch 2.10, 2.13, 2.15, Python " in text
    assert 'Fix:  pip install "torch==2.15.*"' in text


def test_only_the_glue_of_the_running_torch_is_loaded(installation):
    installation.torch("2.13.0")
    installation.compiled("2.12.0", NEVER_LOADED)
    installation.compiled("2.13.0", UNDEFINED)
    installation.compiled("2.14.0", NEVER_LOADED)
    assert "undefined symbol: torch_stream_native_handle" in installation.error()


def test_source_tree_is_to_be_built_where_it_lies(installation):
    installation.torch("2.14.0")
    installation.compiled("2.13.0", NEVER_LOADED)
    (installation.folder / "csrc").mkdir()
    (installation.folder / "setup.py").touch()
    assert f'Fix:  pip install -e "{installation.folder}"' in installation.error()


def test_no_torch(installation):
    assert installation.error() == 'onepass needs torch:  pip install "torch>=2.9,<2.16"\n'


@pytest.mark.parametrize("found", ["2.8.0+cu126", "2.16.0"])
def test_torch_that_no_build_can_serve(installation, found):
    installation.torch(found)
    (installation.folder / "csrc").mkdir()
    (installation.folder / "setup.py").touch()
    text = installation.error()
    check_common(text, found)
    assert 'Fix:  pip install "torch>=2.9,<2.16"' in text


@pytest.mark.parametrize("python", [(3, 9), (3, 15)])
def test_python_that_no_build_can_serve(installation, python):
    # In a process of its own: what the interpreter says of itself is all that is looked at.
    claim = f"import sys; sys.version_info = {(*python, 1, 'final', 0)}; import onepass"
    error = installation.run("-c", claim).stderr
    assert (
        f"onepass works with {_versions.WORKS_WITH}; here is Python {_versions.text(python)}."
        in error
    )
    folder = "in the folder of onepass's source"
    assert error.endswith(f"\nFix:  {folder}: python3.13 -m pip install .\n")


def test_broken_torch_speaks_for_itself(installation):
    installation.torch("2.13.0")
    (installation.package.parent / "torch" / "__init__.py").write_text("import no_such_part")
    assert "No module named 'no_such_part'" in installation.error()


@pytest.mark.parametrize("arguments", [["onepass"], ["onepass", "doctor"]])
def test_command_line_prints_the_text_without_traceback(installation, arguments):
    installation.torch("2.12.0")
    installation.compiled("2.13.0", NEVER_LOADED)
    done = installation.run("-m", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("onepass 1.2.0 cannot load its kernels with torch 2.12.0")
    assert "Traceback" not in done.stderr
    assert str(installation.package) in done.stderr


def test_text_of_made_up_facts():
    files = (f"_torch_2_13/_C{SUFFIX}",)
    facts = _native.Facts("2.13.0", files, SUFFIX, None, "1.0", "a\n  b")
    assert "Loader said:  a b\n" in _native.explain(facts)
    strange = dataclasses.replace(facts, torch="nightly", files=("_torch_x/_C.so",))
    check_common(_native.explain(strange), "nightly")


def test_build_info_agrees_with_the_compiled_module():
    info = _native.C.build_info()
    assert info["version"] == onepass.__version__ == metadata.version("onepass")
    assert _versions.minor(info["torch"]) == _versions.minor(torch.__version__)
    assert info["instruction_set"] in info["instruction_sets"]


def test_info_and_doctor(capsys):
    assert command.main([]) == 0
    info = capsys.readouterr().out
    assert [line.split()[0] for line in info.splitlines()] == [
        "onepass",
        "torch",
        "compiler",
        "CPU",
        "CUDA",
        "Python",
    ]
    assert command.main(["doctor"]) == 0
    lines = capsys.readouterr().out.removeprefix(info).splitlines()[2:]
    assert len(lines) >= 2 * len(onepass.optimizers.__all__)
    assert all(line.startswith("ok ") for line in lines)
    missing = [line for line in lines if "torch has no such class" in line]
    assert {line.split()[2] for line in missing} == {
        name for name in onepass.optimizers.__all__ if not hasattr(torch.optim, name)
    }


def test_bytes_are_those_of_state_bytes(capsys):
    asked = ["bytes", "--params", "8e9", "--optimizer", "Lion", "--dtype", "bfloat16"]
    assert command.main(asked) == 0
    rows = {row.split()[0]: row.split()[1:] for row in capsys.readouterr().out.splitlines()}
    assert {name: row[0] for name, row in rows.items()} == {
        "weights": "16.000",
        "gradients": "16.000",
        "state": "16.000",
        "together": "48.000",
    }
    assert command.main([*asked, "--state", "float32"]) == 0
    assert "32.000 GB    4.00 bytes a parameter" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "said"),
    (
        (["--params", "-1"], "number of elements"),
        (["--params", "nan"], "number of elements"),
        (["--params", "1", "--optimizer", "adamv"], "did you mean"),
        (["--params", "1", "--dtype", "int8"], "--dtype must be one of float32"),
        (["--params", "1", "--dtype", "nothing"], "--dtype must be one of float32"),
        (["--params", "1", "--state", "int4"], "Invalid state_dtype value"),
        ([], "required: --params"),
    ),
)
def test_bytes_of_what_is_none_are_refused_in_words(capsys, wrong, said):
    with pytest.raises(SystemExit):
        command.main(["bytes", *wrong])
    assert said in capsys.readouterr().err


def test_doctor_reports_a_difference_and_an_exception(capsys, monkeypatch):
    monkeypatch.setattr(command, "_difference", lambda *_: float("nan"))
    assert command.main(["doctor"]) == 1
    assert "FAIL cpu     Adam " in capsys.readouterr().out

    def fail(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(command, "_difference", fail)
    assert command.main(["doctor"]) == 1
    assert "RuntimeError: no such kernel" in capsys.readouterr().out

"""The same bits on another architecture: all algorithms compiled for aarch64, run by an emulator.

tests/portable is a program without torch that goes through the table of algorithms and prints a
line with a digest of the results for each variant and mix of stored types. For this machine it is
linked with the very loops of the build.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from onepass.rules import RULES
from tests.built import ROOT, built_object, flags
from tests.support import instruction_sets

PORTABLE = Path("tests", "portable")
SWEEP = sorted(file.relative_to(ROOT) for file in ROOT.glob("csrc/sweep/*.cpp"))
WITHOUT_LOOPS = [PORTABLE / "main.cpp", Path("csrc/registry/algorithm.cpp"), *SWEEP]
LOOPS = [unit for unit in sorted(Path("csrc/registry").glob("*.cpp")) if unit.stem != "algorithm"]
AARCH64 = "aarch64-linux-gnu-g++"
MIXES = 12  # of stored types and layouts, for each variant at least

# One worker: the programs are compiled once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("portable")]

Lines = dict[str, str]  # the digest by what it is of
Compile = Callable[..., list[Path]]


def output_of(*command: object) -> str:
    done = subprocess.run([*map(str, command)], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, f"{command}:\n{done.stderr}"
    return done.stdout


def lines_of(*command: object) -> Lines:
    lines = output_of(*command).splitlines()
    found = dict(line.split(": ") for line in lines)
    assert len(found) == len(lines)
    return found


def differing(got: Lines, want: Lines) -> list[str]:
    assert list(got) == list(want)
    return [label for label in want if got[label] != want[label]]


def subject_of(label: str) -> str:
    """Returns the algorithm, and those of its options that have loops of their own."""
    return label.partition(",")[0]


def compiled(
    compiler: Sequence[str], units: Sequence[Path], folder: Path, *options: str
) -> list[Path]:
    """Compiles units of the library of kernels with the options of setup.py."""

    def compile_one(unit: Path) -> Path:
        made = folder / unit.with_suffix(".o").name
        output_of(*compiler, "-Icsrc", "-c", unit, "-o", made, *flags()[2], *options)
        return made

    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(compile_one, units))


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the program for this machine."""
    folder = tmp_path_factory.mktemp("native")
    compiler = flags()[0]
    built = [built_object(unit) for unit in LOOPS]
    left = [unit for unit, made in zip(LOOPS, built, strict=True) if made is None]
    objects = compiled(compiler, [*WITHOUT_LOOPS, *left], folder)
    output_of(*compiler, *objects, *filter(None, built), "-o", folder / "program")
    return folder / "program"


@pytest.fixture(scope="module")
def expected(native: Path) -> Lines:
    return lines_of(native, "baseline")


def emulator() -> str:
    """Returns the emulator of aarch64, or says what has to be installed."""
    found = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    missing = [] if shutil.which(AARCH64) else ["g++-aarch64-linux-gnu"]
    missing += [] if found else ["qemu-user"]
    if found and not missing:
        return found
    words = f"to compile and run for aarch64: apt-get install {' '.join(missing)}"
    if os.environ.get("REQUIRE_AARCH64") == "1":
        pytest.fail(f"REQUIRE_AARCH64=1, {words}")
    pytest.skip(f"{words}; REQUIRE_AARCH64=1 makes this a failure")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """Returns the object for aarch64 of each unit."""
    emulator()
    units = [*WITHOUT_LOOPS, *LOOPS]
    made = compiled([AARCH64], units, tmp_path_factory.mktemp("aarch64"))
    return dict(zip(units, made, strict=True))


def emulated_lines(objects: Sequence[Path], folder: Path) -> Lines:
    output_of(AARCH64, "-static", *objects, "-o", folder / "program")
    return lines_of(emulator(), folder / "program")


def variants() -> Iterator[str]:
    yield "ema"
    for rule in RULES.values():
        options = [state.only_if for state in rule.states if state.only_if is not None]
        options += [hyper.name for hyper in rule.hypers if hyper.name == "cautious"]
        for on in itertools.product((False, True), repeat=len(options)):
            yield " ".join([rule.name, *itertools.compress(options, on)])


def test_every_variant_of_every_algorithm_is_looked_at(expected: Lines) -> None:
    lines = Counter(map(subject_of, expected))
    assert set(lines) == {*variants(), "power", "conversion"}
    assert all(lines[variant] >= MIXES for variant in variants())
    assert lines["conversion"] == 16


def test_every_instruction_set_computes_the_same_bits(native: Path, expected: Lines) -> None:
    for name in instruction_sets():
        assert not differing(lines_of(native, name), expected), name


def test_aarch64_computes_the_same_bits(
    objects: dict[Path, Path], expected: Lines, tmp_path: Path
) -> None:
    other = differing(emulated_lines([*objects.values()], tmp_path), expected)
    assert not other, f"aarch64 computes other bits: {'; '.join(other)}"


def test_a_product_that_is_fused_with_a_sum_is_noticed(
    objects: dict[Path, Path], expected: Lines, tmp_path: Path
) -> None:
    """What GCC makes for aarch64 unless it is told not to, in one family of the table."""
    family = Path("csrc/registry/recent.cpp")
    planted = compiled([AARCH64], [family], tmp_path, "-ffp-contract=fast")
    others = [made for unit, made in objects.items() if unit != family]
    other = differing(emulated_lines([*others, *planted], tmp_path), expected)
    table = (ROOT / "csrc/rules/rules.h").read_text()
    (rules,) = re.findall(r"using Recent = Family<(.*?)>", table, re.DOTALL)
    assert {subject_of(label).split()[0] for label in other} == set(
        re.findall(r"\w+", rules.lower())
    )


@pytest.mark.parametrize(
    ("required", "outcome"), [("1", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_what_is_missing_is_named_and_is_a_failure_where_it_is_required(
    required: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("REQUIRE_AARCH64", required)
    with pytest.raises(outcome, match=r"apt-get install g\+\+-aarch64-linux-gnu qemu-user"):
        emulator()

"""The emulation that runs CUDA kernels on the CPU keeps its own promises (tests/cuda_emulation)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILE = (
    *("-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-U_FORTIFY_SOURCE"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
)

PROMISES = (
    "block_reduction",
    "every_index_once",
    "counters_are_exact",
    "missing_barrier",
    "divergent_barrier",
    "exited_lane",
    "misaligned_words",
    "an_exception_leaves_the_emulator_usable",
)
OVERFLOW = "heap_overflow"

pytestmark = pytest.mark.xdist_group("emulation")  # one worker: the program is compiled once


@pytest.fixture(scope="module")
def selftest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("emulation") / "selftest"
    source = ROOT / "tests" / "cuda_emulation/selftest.cpp"
    compiler = os.environ.get("CXX", "g++")
    done = subprocess.run(
        [compiler, *COMPILE, source, "-o", program],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return program


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Leaks are not looked for: that needs ptrace, which containers may refuse.
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run(
        [program, *arguments], env=env, text=True, capture_output=True, timeout=60
    )


def test_every_check_is_run_here(selftest: Path) -> None:
    assert run(selftest).stdout.split() == sorted((*PROMISES, OVERFLOW))


@pytest.mark.parametrize("check", PROMISES)
def test_kernels_run_as_on_a_gpu_and_their_faults_are_found(selftest: Path, check: str) -> None:
    done = run(selftest, check)
    assert done.returncode == 0, done.stderr


def test_accesses_out_of_bounds_are_left_to_the_address_sanitizer(selftest: Path) -> None:
    done = run(selftest, OVERFLOW)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert OVERFLOW in done.stderr, "the report names the kernel: its stack was understood"


def test_it_refuses_the_longjmp_that_cannot_switch_stacks() -> None:
    source = '#include "tests/cuda_emulation/fibres.h"\n'
    options = ("-x", "c++", "-std=c++20", "-O1", "-fsyntax-only", "-U_FORTIFY_SOURCE")
    for fortified, code in (((), 0), (("-D_FORTIFY_SOURCE=2",), 1)):
        done = subprocess.run(
            [os.environ.get("CXX", "g++"), *options, *fortified, "-I", ROOT, "-"],
            input=source,
            text=True,
            capture_output=True,
        )
        assert done.returncode == code, done.stderr
    assert "Compile with -U_FORTIFY_SOURCE" in done.stderr

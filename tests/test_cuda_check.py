"""The check of compiled kernels notices one that computes otherwise than its rule."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tools.cuda_check import formulas, gates, ptx, registers, steps
from tools.cuda_check.binary import Name

ROOT = Path(__file__).parents[1]
SWEEP = "_ZN7onepass4cuda5sweepINS_4Adam6UpdateIfLj3EEELi2EfEEvNS0_6LaunchE"
NAME = Name("sweep", "Adam", 3, 2, "float32")

# The average of one element, from + weight (to - from), at addresses 64, 68 and 72.
PTX = f"""\
.visible .entry {SWEEP}(
.param .align 8 .b8 {SWEEP}_param_0[96]
)
.maxntid 256
{{
.reg .pred %p<2>;
ld.param.u64 %rd1, [{SWEEP}_param_0+8];
cvta.to.global.u64 %rd2, %rd1;
mov.u32 %r1, %tid.x;
setp.ne.s32 %p1, %r1, 0;
@%p1 bra $L__BB0_2;
ld.global.v2.f32 {{%f1, %f2}}, [%rd2];
ld.global.f32 %f3, [%rd2+8];
sub.rn.f32 %f4, %f2, %f1;
mul.rn.f32 %f5, %f3, %f4;
add.rn.f32 %f6, %f1, %f5;
st.global.f32 [%rd2], %f6;
$L__BB0_2:
ret;
}}
"""
FROM, TO, WEIGHT, AVERAGE = (
    struct.pack("<f", x).hex() for x in (0.25, 1.5, 0.125, 0.25 + 0.125 * 1.25)
)
STEP = {
    "launch": "00" * 8 + "40" + "00" * 7,
    "memory": [[64, FROM, ""], [68, TO, ""], [72, WEIGHT, ""]],
    "results": [[64, AVERAGE, "0.25 0.125 1.5 0.25 sub mul add"]],
}


def kernel(text: str = PTX) -> ptx.Kernel:
    (found,) = ptx.kernels_of(text.splitlines())
    return found


def test_a_kernel_that_computes_as_the_rule_passes() -> None:
    assert gates.exact_operations("k", kernel(), fused=False) == []
    assert steps.problems("k", kernel(), [STEP]) == []


@pytest.mark.parametrize(
    ("flag", "opcode"),
    [
        ("--fmad=true", "mul.f32"),
        ("--fmad=true", "fma.rn.f32"),
        ("-use_fast_math", "mul.rn.ftz.f32"),
        ("-use_fast_math", "ex2.approx.ftz.f32"),
        ("--prec-div=false", "div.full.f32"),
        ("--prec-sqrt=false", "sqrt.approx.f32"),
    ],
)
def test_what_a_wrong_flag_makes_is_named(flag: str, opcode: str) -> None:
    code = kernel(PTX.replace("mul.rn.f32", opcode))
    (problem,) = gates.exact_operations("sweep adam", code, fused=False)
    assert f"1 {opcode};" in problem
    assert flag.partition("=")[0] in problem


def test_a_fused_operation_passes_where_the_rule_asks_for_it() -> None:
    code = kernel(PTX.replace("mul.rn.f32 %f5, %f3, %f4;", "fma.rn.f32 %f5, %f3, %f4, %f1;"))
    assert gates.exact_operations("k", code, fused=True) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # The second gives the same number, which is why formulas are compared.
        ("mul.rn.f32 %f5, %f3, %f4", "mul.rn.f32 %f5, %f3, %f2", "and the rule"),
        ("mul.rn.f32 %f5, %f3, %f4", "div.rn.f32 %f5, %f4, 0f41000000", "and the rule"),
        ("add.rn.f32 %f6, %f1, %f5", "fma.rn.f32 %f6, %f3, %f4, %f1", "fma("),
        ("add.rn.f32 %f6, %f1, %f5", "ex2.approx.f32 %f6, %f5", "does not know `ex2"),
        ("st.global.f32 [%rd2]", "st.global.f32 [%rd2+4]", "and the rule"),
        ("ld.global.f32 %f3, [%rd2+8]", "ld.global.f32 %f3, [%rd2+12]", "where nothing is"),
        ("ld.global.f32 %f3, [%rd2+8]", "ld.global.f32 %f3, [%rd2+6]", "no multiple"),
        ("add.rn.f32 %f6, %f1, %f5", "add.rn.f32 %f6, %f9, %f5", "and the rule"),  # %f9 is not set
        ("mov.u32 %r1, %tid.x", "mov.u32 %r1, %ctaid.y", "does not know `mov"),
        ("ret;", "bra $L__BB0_2;", "did not end"),
        ("ret;", "st.global.f32 [%rd2+8], 0f00000000;\nret;", "writes 4 bytes it should not"),
    ],
)
def test_a_kernel_that_computes_otherwise_is_named(old: str, new: str, message: str) -> None:
    assert old in PTX
    (problem,) = steps.problems("sweep adam", kernel(PTX.replace(old, new)), [STEP])
    assert problem.startswith("sweep adam, PTX, step 0: ")
    assert message in problem


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.5 0.25 sub", "0.25 neg 1.5 add"),
        ("2 3 mul", "3 neg 2 neg mul"),
        ("7 1 neg mul", "7 neg"),
        ("3 neg 7 div", "3 7 div neg"),
        ("3 neg abs", "3 abs"),
        ("3 rcp", "1 3 div"),
        ("1 0 sub", "1"),
    ],
)
def test_formulas_that_round_alike_are_the_same(one: str, other: str) -> None:
    assert formulas.from_postfix(one) == formulas.from_postfix(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2 3 add 5 add", "2 3 5 add add"),
        ("2 3 mul 5 mul", "2 3 5 mul mul"),
        ("2 3 mul 5 add", "2 3 5 fma"),
        ("2 3 div", "2 1 3 div mul"),
        ("2 3 sub", "3 2 sub"),
    ],
)
def test_formulas_that_may_round_otherwise_are_not_the_same(one: str, other: str) -> None:
    assert formulas.from_postfix(one) != formulas.from_postfix(other)


def test_the_committed_table_is_complete() -> None:
    table, compiler = registers.read(registers.TABLE.read_text())
    assert re.fullmatch(r"nvcc \d+\.\d+\.\d+", compiler)
    assert {len(row) for row in table.values()} == {7}


def test_a_warning_of_nvcc_ends_the_build() -> None:
    assert "--Werror=all-warnings" in (ROOT / "setup.py").read_text()


@pytest.mark.parametrize(("required", "code"), [("1", 1), ("", 0)])
def test_a_missing_nvcc_is_said_and_is_an_error_where_one_is_required(
    required: str, code: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.cuda_check"],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "REQUIRE_NVCC": required, "COLUMNS": "200"},
        text=True,
        capture_output=True,
    )
    assert done.returncode == code
    assert "no nvcc" in done.stdout + done.stderr


def test_every_step_of_every_rule_can_be_written_down() -> None:
    expected = steps.expected()
    sweeps = [name for name in expected.steps if name.kind == "sweep"]
    assert {name.rule for name in sweeps} >= {"Adam", "SGD", "LAMB", "EMA"}
    assert expected.title(NAME) == "sweep adam float32"
    assert expected.title(NAME._replace(present=15)) == "sweep adam amsgrad cautious float32"
    assert [name.rule for name in sweeps if expected.is_fused(name)] == ["EMA", "EMA"]

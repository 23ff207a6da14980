"""The gates on compiled kernels read rightly what cuobjdump prints, and close where they must."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools.cuda_check import binary, formulas, gates, ptx, registers, steps
from tools.cuda_check.binary import MachineCode, Name, Usage

ROOT = Path(__file__).parents[1]
SWEEP = "_ZN7onepass4cuda5sweepINS_4Adam6UpdateIfLj3EEELi2EfEEvNS0_6LaunchE"
NAME = Name("sweep", "Adam", 3, 2, "float32")
WANTED = "7.5;12.0+PTX"

USAGE = f"""\
Fatbin elf code:
================
arch = sm_90
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:0
 Function {SWEEP}:
  REG:64 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:624 TEXTURE:0 SURFACE:0 SAMPLER:0
"""

SASS = f"""\
	code for sm_90
		Function : {SWEEP}
	.headerflags	@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0110*/                   F2F.F64.F32 R2, R2 ;           /* 0x0000000200027310 */
                                                                  /* 0x000e240000201800 */
        /*0120*/                   DSETP.NEU.AND P0, PT, R2, RZ, PT ; /* 0x000000ff0200722a */
        /*0820*/                   LDG.E.U8 R6, desc[UR14][R22.64+0x8c] ; /* 0x00008c0e16067981 */
        /*09b0*/              @!P0 LDG.E.128 R28, desc[UR14][R2.64] ; /* 0x0000000e021c8981 */
        /*09c0*/               @P0 LDG.E R28, desc[UR14][R2.64] ; /* 0x0000000e021c0981 */
        /*0ad0*/              @!P0 LDG.E.128 R24, desc[UR14][R52.64] ; /* 0x0000000e34188981 */
        /*0bf0*/              @!P0 LDG.E.128 R16, desc[UR14][R2.64] ; /* 0x0000000e02108981 */
        /*0d10*/              @!P0 LDG.E.128 R12, desc[UR14][R2.64] ; /* 0x0000000e020c8981 */
        /*1de0*/                   MUFU.RSQ R3, R2 ; /* 0x0000000200037308 */
        /*4f70*/              @!P0 STG.E.128 desc[UR14][R2.64], R12 ; /* 0x0000000c02008986 */
        /*5640*/              @!P0 STG.E.128 desc[UR14][R2.64], R12 ; /* 0x0000000c02008986 */
        /*5d10*/              @!P0 STG.E.128 desc[UR14][R2.64], R12 ; /* 0x0000000c02008986 */
        /*5d50*/              @!P2 BRA 0x820 ; /* 0xffffffa800b0a947 */
        /*96b0*/                   EXIT ; /* 0x000000000000794d */
"""

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


def machine_code(text: str = SASS) -> MachineCode:
    ((name, code),) = binary.machine_code(text.splitlines())
    assert name == SWEEP
    return code


@pytest.mark.parametrize(
    ("demangled", "name"),
    [
        ("sweep<onepass::Adam::Update<float, 3u>, 2, float>", NAME),
        ("prepare<onepass::SGD, 0u, double>", Name("prepare", "SGD", 0, 0, "float64")),
        ("finish<onepass::LAMB, 3u, 2, float>", Name("finish", "LAMB", 3, 2, "float32")),
        (
            "sum_blocks<onepass::Adam::Update<double, 11u>, 2, 1, double>",
            Name("sum_blocks", "Adam", 11, 2, "float64"),
        ),
    ],
)
def test_a_name_in_cpp_says_which_kernel_it_is(demangled: str, name: Name) -> None:
    assert Name.of(f"void onepass::cuda::{demangled}(onepass::cuda::Launch)") == name


def test_resources_are_read_by_kernel_and_architecture() -> None:
    assert binary.usages(USAGE.splitlines()) == {(SWEEP, "sm_90"): Usage(64, 0, 0, 624)}


def test_of_a_kernel_in_two_objects_the_greater_resources_count() -> None:
    twice = USAGE + USAGE.replace("REG:64 STACK:0", "REG:60 STACK:8")
    assert binary.usages(twice.splitlines()) == {(SWEEP, "sm_90"): Usage(64, 8, 0, 624)}


def test_machine_code_is_read_while_it_is_listed() -> None:
    code = machine_code()
    assert (code.wide_loads, code.wide_stores, code.loop_start) == (4, 3, 0x820)
    assert [address for address, _ in code.doubles] == [0x110, 0x120]


def test_architectures_are_read_from_both_listings() -> None:
    elf = ["ELF file    1: all.1.sm_75.cubin", "ELF file    2: all.2.sm_120.cubin"]
    assert binary.listed(elf) == ["sm_75", "sm_120"]
    assert binary.listed(["PTX file    1: all.1.sm_120.ptx"]) == ["sm_120"]


def test_good_kernels_pass_every_gate() -> None:
    assert gates.architectures(["sm_75", "sm_120"] * 2, ["sm_120"] * 2, WANTED) == []
    assert gates.resources("k", NAME, "sm_90", Usage(64, 0, 0, 624)) == []
    assert gates.sweep_code("k", NAME, "sm_90", machine_code()) == []
    assert gates.exact_operations("k", kernel(), fused=False) == []
    assert gates.argument_size("k", kernel()) == []
    assert gates.extension_size(5 * 2**20) == []
    assert gates.same_kernels({"sm_75": {NAME}, "sm_90": {NAME}}) == []
    assert steps.problems("k", kernel(), [STEP]) == []


@pytest.mark.parametrize(
    ("elf", "ptx_files", "missing"),
    [
        (["sm_75", "sm_120", "sm_120"], ["sm_120"] * 2, "sm_75: in 1 of 2 objects"),
        (["sm_75"], ["sm_120"], "sm_120: in 0 of 1 objects"),
        (["sm_75", "sm_120"], [], "PTX of sm_120"),
        ([], [], "sm_75: in 0 of no objects"),
    ],
)
def test_a_missing_architecture_is_named(elf: list[str], ptx_files: list[str], missing: str):
    problems = gates.architectures(elf, ptx_files, WANTED)
    assert problems[0].startswith(missing)
    assert "TORCH_CUDA_ARCH_LIST" in problems[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stack": 8}, "8 bytes of stack"),
        ({"local": 16}, "16 of local memory"),
        ({"registers": 169}, "169 registers, over 168"),
        ({"constants": 4096}, "4096 bytes of constants"),
    ],
)
def test_too_many_resources_are_named(changed: dict[str, int], message: str) -> None:
    (problem,) = gates.resources(
        "sweep adam", NAME, "sm_90", replace(Usage(64, 0, 0, 624), **changed)
    )
    assert problem.startswith("sweep adam, sm_90: ")
    assert message in problem


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("LDG.E.128 R28", "LDG.E.64 R28", "3 loads and 3 stores of 128 bits, not 4 and 3"),
        ("STG.E.128", "STG.E", "4 loads and 0 stores"),
        ("MUFU.RSQ R3, R2", "MUFU.RSQ64H R3, R2", "MUFU.RSQ64H R3, R2 at 0x1de0"),
        ("MUFU.RSQ R3, R2", "DADD R2, R4, R6", "DADD R2, R4, R6 at 0x1de0"),
        ("MUFU.RSQ R3, R2", "F2F.F32.F64 R2, R4", "F2F.F32.F64 R2, R4 at 0x1de0"),
        ("BRA 0x820", "BRA 0x6000", "no loop found"),
    ],
)
def test_a_poor_sweep_is_named(old: str, new: str, message: str) -> None:
    problems = gates.sweep_code("sweep adam", NAME, "sm_90", machine_code(SASS.replace(old, new)))
    assert any(message in problem for problem in problems)


def test_a_sweep_of_doubles_may_compute_in_double() -> None:
    code = machine_code(SASS.replace("MUFU.RSQ R3, R2", "DADD R2, R4, R6"))
    assert gates.sweep_code("k", NAME._replace(real="float64"), "sm_90", code) == []


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


def test_large_arguments_and_a_large_extension_are_named() -> None:
    (problem,) = gates.argument_size("k", kernel(PTX.replace("[96]", "[4096]")))
    assert "4096 bytes of arguments" in problem
    (problem,) = gates.extension_size(20 * 2**20)
    assert "20971520 bytes" in problem


def test_a_kernel_that_one_architecture_lacks_is_named() -> None:
    (problem,) = gates.same_kernels({"sm_75": {NAME}, "sm_90": set()})
    assert problem.startswith("sm_90: no kernel sweep of Adam")


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


TABLE = registers.page({"sweep adam float32": {"sm_90": 64, "sm_120": 72}}, "nvcc 13.0.88")


def test_the_table_of_registers_is_read_as_it_was_written() -> None:
    assert registers.read(TABLE) == (
        {"sweep adam float32": {"sm_90": 64, "sm_120": 72}},
        "nvcc 13.0.88",
    )


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"sweep adam float32": {"sm_90": 65, "sm_120": 72}}, "sm_90: 65 registers, in"),
        ({"sweep adam float32": {"sm_90": 64}}, "sm_120: no registers"),
        ({}, "sm_90: no registers"),
    ],
)
def test_every_other_number_of_registers_is_named(now: registers.Registers, message: str) -> None:
    problems = registers.problems(now, "nvcc 13.0.88", TABLE)
    assert message in problems[0]
    assert "--update" in problems[0]


def test_another_compiler_is_not_held_to_the_table() -> None:
    assert registers.problems({}, "nvcc 13.2.1", TABLE) == []


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

"""Compiles csrc/ into onepass._C; everything static stands in pyproject.toml.

Environment: ONEPASS_CUDA=0|1|emulate, TORCH_CUDA_ARCH_LIST, MAX_JOBS, ONEPASS_SANITIZE=1,
ONEPASS_UNTESTED=1 (read by build_backend/).
"""

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_backend"))
from toolchain import cuda_home, default_archs  # noqa: E402


def csrc(*suffixes: str) -> list[str]:
    """Returns the files below csrc/ that end so, relative to ROOT."""
    return sorted(str(f.relative_to(ROOT)) for f in ROOT.glob("csrc/**/*") if f.suffix in suffixes)


EMULATION = "tests/cuda_emulation"  # a mode of the tests: the kernels run on the CPU
SANITIZED = os.environ.get("ONEPASS_SANITIZE") == "1"
WISH = os.environ.get("ONEPASS_CUDA", "")
if WISH not in ("", "0", "1", "emulate"):
    sys.exit(f"onepass: ONEPASS_CUDA must be 0, 1 or emulate, got {WISH!r}")
EMULATED = WISH == "emulate"
KIND = ("sanitized" if SANITIZED else "release") + ("-emulated" if EMULATED else "")
CUDA = cuda_home() if WISH in ("", "1") else None
WHY_NOT = f"ONEPASS_CUDA={WISH}" if WISH in ("0", "emulate") else "no nvcc found"
if WISH == "1" and not CUDA:
    sys.exit(f"onepass: ONEPASS_CUDA=1, but {WHY_NOT}")

# Compiled with -fopenmp but not linked with it: torch's own libgomp must be the one that runs, or
# torch.set_num_threads would not reach our loops.
CXX = ["-std=c++20", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp"]
CXX += ["-fvisibility=hidden", "-fstack-protector-strong", f"-ffile-prefix-map={ROOT}=."]
LINK = ["-Wl,-z,relro,-z,now"]
if SANITIZED:
    CXX += ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    LINK += ["-fsanitize=address,undefined"]
else:
    CXX += ["-O3", "-g0", "-U_FORTIFY_SOURCE", *([] if EMULATED else ["-D_FORTIFY_SOURCE=2"])]
# --fmad=false: a product and a sum are rounded each, as on the CPU.
NVCC = ["-O3", "-std=c++20", "--fmad=false", "--expt-relaxed-constexpr", "--Werror=all-warnings"]
NVCC += ["--compress-mode=size", "-Xcompiler=-fvisibility=hidden"]

if importlib.util.find_spec("torch"):
    import torch
    from torch.utils import cpp_extension

    class Build(cpp_extension.BuildExtension):
        """Gives the facts of this build to the code as macros, and to _native.py as a module."""

        def finalize_options(self):
            super().finalize_options()
            # Not the temporary one of an editable install: ninja then compiles only what changed.
            self.build_temp = f"build/{KIND}-{sysconfig.get_config_var('SOABI')}"

        def run(self):
            facts = {"VERSION": self.distribution.get_version(), "TORCH_VERSION": torch.__version__}
            facts["CUDA_ARCHS"] = os.environ["TORCH_CUDA_ARCH_LIST"] if CUDA else ""
            macros = [(f"ONEPASS_{name}", f'"{value}"') for name, value in facts.items()]
            self.extensions[0].define_macros += macros
            # A torch without CUDA does not tell ninja which headers a .cu file includes.
            changed = max((ROOT / header).stat().st_mtime for header in csrc(".h", ".cuh"))
            for made in Path(self.build_temp).glob("csrc/cuda/*.o"):
                if made.stat().st_mtime < changed:
                    made.unlink()
            super().run()
            info = Path(self.get_ext_fullpath("onepass._C")).with_name("_build_info.py")
            lines = [f'{name} = "{value}"\n' for name, value in facts.items()]
            info.write_text('"""Written by setup.py beside _C."""\n\n' + "".join(lines))
            if not CUDA:
                print(f"onepass: built for the CPU only ({WHY_NOT})")

    sources = csrc(".cpp") + (csrc(".cu") if CUDA else [])
    paths = {"include_dirs": [str(ROOT / "csrc")], "depends": csrc(".h", ".cuh", ".cu")}
    if EMULATED:
        CXX += ["-DONEPASS_EMULATE_CUDA"]
        sources += [f"{EMULATION}/bindings.cpp", f"{EMULATION}/kernels.cpp"]
        paths["depends"] += sorted(f"{EMULATION}/{f.name}" for f in ROOT.glob(f"{EMULATION}/*.h"))
    if CUDA:  # in a CppExtension: a CUDAExtension links libraries that a CPU torch does not have
        cpp_extension.CUDA_HOME = str(CUDA)
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", default_archs(CUDA))
        paths["include_dirs"] += [str(CUDA / "include")]
        paths["library_dirs"] = [str(CUDA / "lib64")]
        paths["libraries"] = ["cudart_static", "rt", "dl", "pthread"]
        CXX += ["-DONEPASS_WITH_CUDA"]
    ext = cpp_extension.CppExtension("onepass._C", sources, **paths)
    ext.extra_compile_args, ext.extra_link_args = {"cxx": CXX, "nvcc": NVCC}, LINK
    setup(ext_modules=[ext], cmdclass={"build_ext": Build})
else:  # an sdist and the metadata need no torch; the backend stops every other build
    setup()

"""Compiles csrc/ into two libraries; everything static stands in pyproject.toml.

libonepass_kernels.so has the loops and knows neither torch nor Python. onepass/_torch_2_13/_C.*.so
is the glue between it, Python and torch 2.13: torch keeps no binary promise between minor versions,
so a wheel has one for each that it serves, over one library of kernels.

Environment: ONEPASS_CUDA=0|1|emulate, TORCH_CUDA_ARCH_LIST, MAX_JOBS, ONEPASS_SANITIZE=1,
ONEPASS_MANYLINUX=1 (for a glibc as old as manylinux_2_28's), ONEPASS_KERNELS=FILE (a library of
kernels that another build made of this source), ONEPASS_UNTESTED=1 (read by build_backend/).
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_backend"))
from toolchain import cuda_home, default_archs  # noqa: E402


def csrc(*suffixes: str, rooms: tuple[str, ...] = ("**",)) -> list[str]:
    """Returns the files in those folders of csrc/ that end so, relative to ROOT."""
    files = (file for room in rooms for file in ROOT.glob(f"csrc/{room}/*"))
    return sorted({str(f.relative_to(ROOT)) for f in files if f.suffix in suffixes})


KERNEL_ROOMS = ("rules", "storage", "sweep", "registry", "cuda")  # free of torch and Python
GLUE_ROOMS = ("tensor", "launch", "step", "bindings")


EMULATION = "tests/cuda_emulation"  # a mode of the tests: the kernels run on the CPU
SANITIZED = os.environ.get("ONEPASS_SANITIZE") == "1"
KERNELS = os.environ.get("ONEPASS_KERNELS")
MANYLINUX = os.environ.get("ONEPASS_MANYLINUX") == "1"
WISH = os.environ.get("ONEPASS_CUDA", "")
if WISH not in ("", "0", "1", "emulate"):
    sys.exit(f"onepass: ONEPASS_CUDA must be 0, 1 or emulate, got {WISH!r}")
EMULATED = WISH == "emulate"
KIND = ("sanitized" if SANITIZED else "release") + ("-emulated" if EMULATED else "")
CUDA = cuda_home() if WISH in ("", "1") else None
WHY_NOT = f"ONEPASS_CUDA={WISH}" if WISH in ("0", "emulate") else "no nvcc found"
if WISH == "1" and not CUDA:
    sys.exit(f"onepass: ONEPASS_CUDA=1, but {WHY_NOT}")

CXX = ["-std=c++20", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
CXX += ["-fstack-protector-strong", f"-ffile-prefix-map={ROOT}=."]
LINK = ["-Wl,-z,relro,-z,now"]
if EMULATED:
    CXX += ["-DONEPASS_EMULATE_CUDA"]  # nothing is hidden: both libraries use the emulation
else:
    CXX += ["-fvisibility=hidden"]
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

    TORCH_MINOR = "_".join(torch.__version__.split(".")[:2])
    LIBRARY, GLUE = "onepass.libonepass_kernels", f"onepass._torch_{TORCH_MINOR}._C"

    class Build(cpp_extension.BuildExtension):
        """Compiles each library in a folder of its own, and names the first as a library."""

        def get_ext_filename(self, name):
            *package, last = name.split(".")
            if last == LIBRARY.split(".")[-1]:
                return str(Path(*package, f"{last}.so"))
            return super().get_ext_filename(name)

        def run(self):
            version = ("ONEPASS_VERSION", f'"{self.distribution.get_version()}"')
            for extension in self.extensions:
                extension.define_macros.append(version)
            # A torch without CUDA does not tell ninja which headers a .cu file includes.
            changed = max((ROOT / header).stat().st_mtime for header in csrc(".h", ".cuh"))
            for made in Path(self.folder_of(LIBRARY)).glob("csrc/cuda/*.o"):
                if made.stat().st_mtime < changed:
                    made.unlink()
            # Glue that an earlier build left was compiled beside other kernels.
            package = Path("python/onepass" if self.inplace else f"{self.build_lib}/onepass")
            own = package / GLUE.split(".")[1]
            for folder in set(package.glob("_torch_*_*")) - {own}:
                shutil.rmtree(folder)
            if self.inplace:
                own.mkdir(exist_ok=True)
            super().run()
            if not CUDA:
                print(f"onepass: built for the CPU only ({WHY_NOT})")

        def build_extension(self, ext):
            self.build_temp = self.folder_of(ext.name)
            library = Path(self.get_ext_fullpath(LIBRARY))
            if ext.name == LIBRARY and KERNELS:
                library.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(KERNELS, library)
                return
            includes = self.compiler.include_dirs
            if ext.name == LIBRARY:
                self.compiler.include_dirs = []  # Python's
            else:
                ext.extra_objects = [str(library)]
            super().build_extension(ext)
            self.compiler.include_dirs = includes

        def folder_of(self, name):
            """Returns a folder that lasts: ninja then compiles only what changed."""
            python = sysconfig.get_config_var("SOABI")
            part = "kernels" if name == LIBRARY else f"torch-{TORCH_MINOR}-{python}"
            return f"build/{KIND}/{part}"

    headers = csrc(".h", ".cuh")
    kernels = Extension(
        LIBRARY,
        csrc(".cpp", *([".cu"] if CUDA else []), rooms=KERNEL_ROOMS),
        include_dirs=[str(ROOT / "csrc")],
        depends=headers,
        # -z,defs: whatever it lacked would be torch's or Python's.
        extra_link_args=[
            *LINK,
            *([] if SANITIZED else ["-Wl,-z,defs"]),
            "-Wl,-soname,libonepass_kernels.so",
        ],
    )
    # Compiled with -fopenmp but not linked with it: torch's own libgomp must be the one that runs,
    # or torch.set_num_threads would not reach our loops.
    glue = cpp_extension.CppExtension(
        GLUE,
        csrc(".cpp", rooms=GLUE_ROOMS),
        include_dirs=[str(ROOT / "csrc")],
        depends=headers,
        define_macros=[("ONEPASS_TORCH_VERSION", f'"{torch.__version__}"')],
        extra_compile_args={"cxx": [*CXX, "-fopenmp"]},
        extra_link_args=[*LINK, "-Wl,-rpath,$ORIGIN/.."],
    )
    if MANYLINUX:
        glue.sources.append("build_backend/old_glibc.cpp")
        glue.extra_link_args += ["-Wl,--wrap=exp,--wrap=log"]
    if EMULATED:
        kernels.sources.append(f"{EMULATION}/kernels.cpp")
        glue.sources.append(f"{EMULATION}/bindings.cpp")
        headers += sorted(f"{EMULATION}/{f.name}" for f in ROOT.glob(f"{EMULATION}/*.h"))
    if CUDA:  # in no CUDAExtension: that links libraries which a CPU torch does not have
        cpp_extension.CUDA_HOME = str(CUDA)
        # The kernels include nothing of torch, so that any toolkit will do beside any torch.
        cpp_extension._check_cuda_version = lambda *_: None
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", default_archs(CUDA))
        kernels.define_macros.append(
            ("ONEPASS_CUDA_ARCHS", f'"{os.environ["TORCH_CUDA_ARCH_LIST"]}"')
        )
        kernels.include_dirs.append(str(CUDA / "include"))
        kernels.library_dirs = [str(CUDA / "lib64")]
        kernels.libraries = ["cudart_static", "rt", "dl", "pthread"]
        kernels.depends += csrc(".cu")
        CXX += ["-DONEPASS_WITH_CUDA"]
    kernels.extra_compile_args = {"cxx": CXX, "nvcc": NVCC}
    setup(ext_modules=[kernels, glue], cmdclass={"build_ext": Build})
else:  # an sdist and the metadata need no torch; the backend stops every other build
    setup()

"""Builds the compiled kernels: one kernel source per CPU level, and the module that holds the memoryviews.

Everything declarative is in pyproject.toml. Environment: QUANTCORE_DEBUG_BUILD=1 turns on bounds checks;
QUANTCORE_LEVELS names the CPU levels to build, if not all, for checks that run at one of them.
"""

import os
import platform
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = "quantcore/_kernels"
IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
IS_DEBUG = os.environ.get("QUANTCORE_DEBUG_BUILD") == "1"
MACROS = [] if IS_FREE_THREADED else [("Py_LIMITED_API", "0x030B0000")]
# What `cdef inline` becomes in the kernels. Much is written for arguments that are constants where it is inlined; left
# to itself, gcc calls such a function at one level and not at another, and a loop is several times as slow there.
INLINE = [("CYTHON_INLINE", "inline __attribute__((always_inline))")]
# What is built for, which a cross compilation names (_PYTHON_HOST_PLATFORM); a universal build is of this machine.
ARCHITECTURE = sysconfig.get_platform().rpartition("-")[2]
if ARCHITECTURE.startswith("universal"):
    ARCHITECTURE = platform.machine()

# The bytes of a format depend on float32 arithmetic exactly as written: no contraction to FMA, no -ffast-math.
FLAGS = [
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-fno-asynchronous-unwind-tables",  # a tenth of the size, of use to debuggers only
    "-g0",
]
# Compilers other than gcc do not know these flags. Loops of 16 and 32 must be vectorised before they are unrolled away:
# see docs/kernels.md. A level is one unit with all formats, whose growth must not keep gcc from inlining what is
# written for constant sizes and functions. No copies of loops for other strides or without a condition, which few calls
# would run: a hundredth of the wheel.
GCC_FLAGS = [
    "--param=max-completely-peel-times=8",
    "--param=max-completely-peeled-insns=100",  # more copies of short loops are a twentieth of the wheel
    "--param=inline-unit-growth=400",
    "--param=vect-epilogues-nomask=0",  # loops are whole vectors; narrower ones for the ends are a quarter of v4
    "-fno-ipa-cp-clone",
    "-fno-loop-interchange",
    "-fno-loop-unroll-and-jam",
    "-fno-split-loops",
    "-fno-unswitch-loops",
    "-fno-version-loops-for-strides",
]
CORE_FLAGS = ["-Os"]  # it hands out work; -O3 would be three times its size
LINK_FLAGS = ["-Wl,-s"] if sys.platform == "linux" else []
if ARCHITECTURE.lower() in ("x86_64", "amd64"):
    LEVELS = {
        "baseline": ["-march=x86-64-v2"],
        "x86_64_v3": ["-march=x86-64-v3"],
        "x86_64_v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    }
else:
    LEVELS = {"baseline": []}
if asked := os.environ.get("QUANTCORE_LEVELS"):
    LEVELS = {level: LEVELS[level] for level in asked.split()}


class BuildKernels(build_ext):
    """The CPU levels are compiled side by side.

    On Windows it is Clang that compiles the kernels, which are in GNU C, and one after the other: setuptools changes
    the settings of MSVC, whose place it takes, while it runs.
    """

    def build_extensions(self) -> None:
        if os.name == "posix" and not self.parallel:  # nothing else was asked for
            self.parallel = True
        if self.compiler.compiler_type == "msvc":
            self.compiler.initialize()
            self.compiler.cc = "clang-cl"
            for ext in self.extensions:
                # Windows needs the unwind tables; CodeView has no -g0.
                left_out = ("-g", "-fno-asynchronous-unwind-tables")
                kept = [flag for flag in ext.extra_compile_args if not flag.startswith(left_out)]
                ext.extra_compile_args = [f"/clang:{flag}" for flag in kept]
        elif is_gcc(self.compiler.compiler):
            for ext in self.extensions:
                ext.extra_compile_args += GCC_FLAGS
        super().build_extensions()


def is_gcc(command: list[str]) -> bool:
    """Whether it says so; where there is no compiler, setuptools says that better."""
    try:
        version = subprocess.run([*command, "--version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return b"Free Software Foundation" in version.stdout  # in every language of the messages


def extension(name: str, flags: list[str]) -> Extension:
    return Extension(
        f"quantcore._kernels.{name}",
        [f"{KERNELS}/{name}.pyx"],
        include_dirs=[f"{KERNELS}/simd", f"{KERNELS}/tables"],
        depends=sorted(str(f) for f in Path(KERNELS).rglob("*") if f.suffix in (".pxd", ".pxi", ".h")),
        define_macros=MACROS + ([] if name == "_core" else INLINE),
        extra_compile_args=FLAGS + flags,
        extra_link_args=LINK_FLAGS,
        py_limited_api=not IS_FREE_THREADED,
    )


def built_on_github() -> tuple[str, str] | None:
    """The address of the repository that a build on GitHub is of, and its branch or tag; no other build knows one."""
    server, repository, ref = (os.environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY", "REF_NAME"))
    return (f"{server}/{repository}", ref) if server and repository and ref else None


def project_urls() -> dict[str, str]:
    """The links beside the description on PyPI."""
    if not (built := built_on_github()):
        return {}
    repository, ref = built
    return {
        "Source": repository,
        "Documentation": f"{repository}/blob/{ref}/docs/index.md",
        "Changelog": f"{repository}/blob/{ref}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def description() -> str:
    """README.md for PyPI, which has no files beside it: built on GitHub, it has the addresses of the files there."""
    text = Path("README.md").read_text(encoding="utf-8")
    if not (built := built_on_github()):
        return text
    repository, ref = built
    at = {"!": f"{repository}/raw/{ref}", "": f"{repository}/blob/{ref}"}
    return re.sub(r"(!?)(\[[^]]*\])\((?!https?:|#)", lambda found: f"{found[1]}{found[2]}({at[found[1]]}/", text)


setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    project_urls=project_urls(),
    ext_modules=cythonize(
        [extension("_core", CORE_FLAGS)] + [extension(f"_{level}", flags) for level, flags in LEVELS.items()],
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": IS_DEBUG,
            "wraparound": IS_DEBUG,
            "initializedcheck": IS_DEBUG,
            "cdivision": True,
            "binding": False,  # what functions written in Python have beside a call: the stubs tell the signatures
            "auto_pickle": False,  # no kernel is pickled; the refusals are a tenth of _core
            "freethreading_compatible": True,
        },
    ),
    cmdclass={"build_ext": BuildKernels},
    options={} if IS_FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}},
)

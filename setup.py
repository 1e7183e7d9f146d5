"""Builds the compiled kernels: one kernel source per CPU level, and the module that holds the memoryviews.

Everything declarative is in pyproject.toml. Environment: QUANTCORE_DEBUG_BUILD=1 turns on bounds checks.
"""

import os
import platform
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

KERNELS = "quantcore/_kernels"
IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
IS_DEBUG = os.environ.get("QUANTCORE_DEBUG_BUILD") == "1"
MACROS = [] if IS_FREE_THREADED else [("Py_LIMITED_API", "0x030B0000")]

# The bytes of a format depend on float32 arithmetic exactly as written: no contraction to FMA, no -ffast-math.
# Loops of 16 and 32 must be vectorised before they are unrolled away: see docs/kernels.md.
FLAGS = [
    "-O3",
    "--param=max-completely-peel-times=8",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-g0",
]
if platform.machine() in ("x86_64", "AMD64"):
    LEVELS = {
        "baseline": ["-march=x86-64-v2"],
        "x86_64_v3": ["-march=x86-64-v3"],
        "x86_64_v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    }
else:
    LEVELS = {"baseline": []}


def extension(name: str, flags: list[str]) -> Extension:
    return Extension(
        f"quantcore._kernels.{name}",
        [f"{KERNELS}/{name}.pyx"],
        include_dirs=[KERNELS],
        depends=sorted(str(f) for f in Path(KERNELS).iterdir() if f.suffix in (".pxd", ".pxi", ".h")),
        define_macros=MACROS,
        extra_compile_args=FLAGS + flags,
        py_limited_api=not IS_FREE_THREADED,
    )


setup(
    ext_modules=cythonize(
        [extension("_core", [])] + [extension(f"_{level}", flags) for level, flags in LEVELS.items()],
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": IS_DEBUG,
            "wraparound": IS_DEBUG,
            "initializedcheck": IS_DEBUG,
            "cdivision": True,
            "freethreading_compatible": True,
        },
    ),
    options={} if IS_FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}},
)

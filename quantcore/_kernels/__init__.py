"""The compiled kernels: chooses the best CPU level once, at import, and re-exports what `_core` has.

Levels are the x86-64 psABI's. A level's module is imported only after the CPU was queried, since importing it
could already execute its instructions. `QUANTCORE_ISA` forces a level. Nothing else of quantcore is imported here.
"""

import importlib
import importlib.util
import os
import sys
from itertools import pairwise
from typing import NoReturn

if importlib.util.find_spec("quantcore._kernels._core") is None:
    raise ImportError(
        "the kernels are not built here: pip install -e . (Python imports the sources in "
        f"{os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}, which hide any installed quantcore)"
    )

from quantcore._kernels import _core
from quantcore._kernels._core import (
    HISTOGRAM_BINS,
    AddTables,
    ClipHistograms,
    ColumnTables,
    CountColumns,
    CountHalves,
    CountRows,
    CountRuns,
    CountValues,
    DequantizeBlocks,
    DequantizeCodes,
    DequantizeColumns,
    DequantizeGroups,
    DequantizeNibbles,
    DequantizeScales,
    ErrorsOfAffine,
    ErrorsOfPairs,
    ExtremesOfColumns,
    ExtremesOfGroups,
    FakeQuantizeColumns,
    FakeQuantizeGroups,
    FloorColumns,
    Kernel,
    QuantizeBlocks,
    QuantizeColumns,
    QuantizeGroups,
    QuantizeNibbles,
    QuantizeNibblesLinear,
    QuantizeScales,
    Sealed,
    SumRuns,
    add_errors,
    are_apart,
    are_within,
    block_sizes,
    clear_histograms,
    coding_rows,
    error_chunk,
    first_infinite,
    join_extremes,
    lsq_gradients,
    merge_histograms,
    parameters_between,
    quantize_small,
    walk_strings,
    widen_histograms,
)

__all__ = [
    "HISTOGRAM_BINS",
    "LEVEL",
    "SUPPORTED_LEVELS",
    "AddTables",
    "ClipHistograms",
    "ColumnTables",
    "CountColumns",
    "CountHalves",
    "CountRows",
    "CountRuns",
    "CountValues",
    "DequantizeBlocks",
    "DequantizeCodes",
    "DequantizeColumns",
    "DequantizeGroups",
    "DequantizeNibbles",
    "DequantizeScales",
    "ErrorsOfAffine",
    "ErrorsOfPairs",
    "ExtremesOfColumns",
    "ExtremesOfGroups",
    "FakeQuantizeColumns",
    "FakeQuantizeGroups",
    "FloorColumns",
    "Kernel",
    "QuantizeBlocks",
    "QuantizeColumns",
    "QuantizeGroups",
    "QuantizeNibbles",
    "QuantizeNibblesLinear",
    "QuantizeScales",
    "Sealed",
    "SumRuns",
    "add_errors",
    "are_apart",
    "are_within",
    "block_sizes",
    "clear_histograms",
    "coding_rows",
    "error_chunk",
    "first_infinite",
    "join_extremes",
    "lsq_gradients",
    "merge_histograms",
    "parameters_between",
    "quantize_small",
    "walk_strings",
    "widen_histograms",
]


def _refuse(problem: str) -> NoReturn:
    """No import without kernels; where Python was started for the command line alone, one line and no traceback."""
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    is_module = program == "-m" and ("-m", "quantcore") in pairwise(sys.orig_argv)
    if is_module or os.path.basename(program).removesuffix(".exe") == "quantcore":
        raise SystemExit(f"quantcore: error: {problem}")
    raise ImportError(problem)


def _supported_levels() -> tuple[str, ...]:
    x86_64_level = _core.x86_64_level()
    if x86_64_level == 1:
        _refuse("quantcore needs an x86-64-v2 CPU (SSE4.2, POPCNT, CMPXCHG16B); this one reports only x86-64-v1")
    levels = ("baseline", "x86_64_v3", "x86_64_v4")
    return levels[: max(1, x86_64_level - 1)]


def _choose_level(supported: tuple[str, ...]) -> str:
    level = os.environ.get("QUANTCORE_ISA") or supported[-1]
    if level not in supported:
        shown = repr(level) if len(level) <= 80 else f"{level[:80]!r}..."
        _refuse(f"QUANTCORE_ISA={shown}: unknown, or not supported by this CPU; allowed here: {', '.join(supported)}")
    return level


SUPPORTED_LEVELS = _supported_levels()
LEVEL = _choose_level(SUPPORTED_LEVELS)
_core.use(importlib.import_module(f"quantcore._kernels._{LEVEL}").table)

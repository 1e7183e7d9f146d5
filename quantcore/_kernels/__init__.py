"""The compiled kernels: chooses the best CPU level once, at import, and re-exports what `_core` has.

Levels are the x86-64 psABI's. A level's module is imported only after the CPU was asked, since importing it could
already execute its instructions. `QUANTCORE_ISA` forces a level. Nothing of quantcore but `errors` is imported here.
"""

import importlib
import os

from quantcore._kernels import _core
from quantcore._kernels._core import (
    HISTOGRAM_BINS,
    CountChannels,
    CountHalves,
    CountValues,
    DequantizeBlocks,
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
    Kernel,
    QuantizeBlocks,
    QuantizeColumns,
    QuantizeGroups,
    QuantizeNibbles,
    QuantizeNibblesLinear,
    QuantizeScales,
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
    walk_strings,
)

__all__ = [
    "HISTOGRAM_BINS",
    "LEVEL",
    "SUPPORTED_LEVELS",
    "CountChannels",
    "CountHalves",
    "CountValues",
    "DequantizeBlocks",
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
    "Kernel",
    "QuantizeBlocks",
    "QuantizeColumns",
    "QuantizeGroups",
    "QuantizeNibbles",
    "QuantizeNibblesLinear",
    "QuantizeScales",
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
    "walk_strings",
]


def _supported_levels() -> tuple[str, ...]:
    x86_64_level = _core.x86_64_level()
    if x86_64_level == 1:
        raise ImportError(
            "quantcore needs an x86-64-v2 CPU (SSE4.2, POPCNT, CMPXCHG16B); this one reports only x86-64-v1"
        )
    levels = ("baseline", "x86_64_v3", "x86_64_v4")
    return levels[: max(1, x86_64_level - 1)]


def _chosen_level(supported: tuple[str, ...]) -> str:
    level = os.environ.get("QUANTCORE_ISA") or supported[-1]
    if level not in supported:
        raise ImportError(
            f"QUANTCORE_ISA={level!r}: unknown, or not supported by this CPU; allowed here: {', '.join(supported)}"
        )
    return level


SUPPORTED_LEVELS = _supported_levels()
LEVEL = _chosen_level(SUPPORTED_LEVELS)
_core.use(importlib.import_module(f"quantcore._kernels._{LEVEL}").table)

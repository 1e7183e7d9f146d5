"""Suites of benchmarks drawn by matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quantcore._base.plotting import COLOURS, plain, take_axes

__all__ = ["draw_suite"]

_MARKERS = "osD^vP"


def draw_suite(axes: Any, points: Mapping[str, Sequence[tuple[float, float]]]) -> Any:
    """SQNR against bits per weight: pairs of them by what shares a scale, which is told by colour and marker."""
    axes = take_axes(axes)
    for i, (kind, pairs) in enumerate(points.items()):
        axes.plot(
            *np.array(pairs).T, _MARKERS[i % len(_MARKERS)], color=COLOURS[i % len(COLOURS)], markersize=4, alpha=0.7,
            label=plain(kind),
        )  # fmt: skip
    axes.set_xlabel("bits per weight, scales included")
    axes.set_ylabel("SQNR in dB")
    if points:
        axes.legend(frameon=False, fontsize="small")
    return axes

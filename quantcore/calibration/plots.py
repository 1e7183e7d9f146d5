"""Calibrations drawn by matplotlib: the histogram that was observed, the range that is kept, the codes.

Results are `CalibrationResult`, whose module imports this one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base.plotting import COLOURS, take_axes
from quantcore._base.text import rounded
from quantcore.affine.params import QuantParams
from quantcore.calibration.clipping import Bins

__all__ = ["draw_histogram", "draw_ranges", "draw_result"]

_MOST_STEPS = 200
_MOST_LEVELS = 64
_OBSERVED, _KEPT = COLOURS[0], COLOURS[1]


def draw_histogram(axes: Any, bins: Bins, result: Any, channel: int = 0) -> Any:
    """The share of the values in each step, on a logarithmic scale, and what is kept of the range."""
    axes = take_axes(axes)
    step = -(-len(bins.counts) // _MOST_STEPS)
    counts = np.concatenate([bins.counts, np.zeros(-len(bins.counts) % step, np.int64)]).reshape(-1, step).sum(1)
    edges = (bins.first + step * np.arange(len(counts) + 1)) * bins.width
    axes.stairs(counts / counts.sum(), edges, fill=True, color=_OBSERVED, alpha=0.45)
    axes.set_yscale("log")
    axes.set_xlabel("value")
    axes.set_ylabel("share of the values")
    _draw_kept(axes, result, channel)
    return axes


def draw_result(axes: Any, result: Any) -> Any:
    """The range that was observed and the one that is kept: of a tensor with its codes, of channels side by side."""
    if result.params.granularity.axis is not None:
        return draw_ranges(axes, result)
    axes = take_axes(axes, (6.4, 1.8))
    axes.barh([0], [result.observed_max - result.observed_min], left=[result.observed_min], height=0.6,
              color=_OBSERVED, alpha=0.45, label="observed")  # fmt: skip
    axes.set_yticks([])
    axes.set_xlabel("value")
    _draw_kept(axes, result, 0)
    return axes


def draw_ranges(axes: Any, result: Any) -> Any:
    """The ranges of all channels."""
    axes = take_axes(axes)
    channels = np.arange(result.params.num_groups)
    for low, high, colour, label in (
        (result.observed_min, result.observed_max, _OBSERVED, "observed"),
        (result.clip_min, result.clip_max, _KEPT, "kept"),
    ):
        axes.fill_between(channels, low, high, step="mid", color=colour, alpha=0.45, linewidth=0, label=label)
    axes.set_xlabel(f"channel of axis {result.params.granularity.axis}")
    axes.set_ylabel("value")
    axes.set_title(_title(result), fontsize="medium")
    axes.legend(frameon=False, fontsize="small")
    return axes


def _draw_kept(axes: Any, result: Any, channel: int) -> None:
    low, high = (float(np.atleast_1d(end)[channel]) for end in (result.clip_min, result.clip_max))
    axes.axvspan(low, high, color=_KEPT, alpha=0.12, linewidth=0)
    for end in (low, high):
        axes.axvline(end, color=_KEPT, linewidth=1.2, linestyle=(0, (4, 2)))
    levels = _levels(result.params, channel)
    if levels.size <= _MOST_LEVELS:
        axes.plot(levels, np.full(levels.size, 0.03), "|", color=_KEPT, transform=axes.get_xaxis_transform())
    scale = float(np.atleast_1d(result.scale)[channel])
    axes.set_title(f"{_title(result)}, scale {rounded(scale)}", fontsize="medium")


def _levels(params: QuantParams, channel: int) -> NDArray[np.float64]:
    """The values of all codes."""
    codes = np.arange(params.quant_min, params.quant_max + 1, dtype=np.float64)
    offset = 0.0 if params.offsets is None else float(params.offsets[channel])
    return offset + (codes - float(params.zero_points[channel])) * float(params.scales[channel])


def _title(result: Any) -> str:
    return f"{result.method}: {result.params.bits} bits {result.params.mode.value}"

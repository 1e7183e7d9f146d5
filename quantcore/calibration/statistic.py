"""What a method keeps of its data: extremes or histograms, and the range that the method takes from them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from quantcore._base import arguments
from quantcore._base.text import brief
from quantcore.affine.modes import QuantMode
from quantcore.calibration.clipping import Bins, Range, clip_ranges, percentiles, within
from quantcore.calibration.extremes import Extremes, MovingExtremes, sequence
from quantcore.calibration.histograms import Histograms
from quantcore.calibration.results import CalibrationMethod
from quantcore.calibration.totals import MOST_VALUES
from quantcore.errors import InvalidValueError

Statistic = Extremes | Histograms


def new_statistic(method: CalibrationMethod, n_channels: int) -> Statistic:
    """An empty statistic of so many channels."""
    if method.averaging_constant is not None:
        return MovingExtremes(n_channels, method.averaging_constant)
    return Extremes(n_channels) if method.name == "min_max" else Histograms(n_channels)


def restore_statistic(method: CalibrationMethod, axis: int | None, mapping: Mapping[str, Any]) -> Statistic | None:
    """The statistic of a saved calibrator, or None where nothing was observed.

    Raises
    ------
    ValueError, TypeError
        A field is missing, out of range or contradicts another one.
    """
    num_batches = arguments.integer(mapping.get("num_batches"), "num_batches", 0, MOST_VALUES)
    n_channels = arguments.integer(mapping.get("num_channels"), "num_channels", 0, MOST_VALUES)
    state = mapping.get("state")
    if (state is None) != (num_batches == 0) or (state is None) != (n_channels == 0):
        raise InvalidValueError(
            f"state: contradicts num_batches {brief(num_batches)} and num_channels {brief(n_channels)}"
        )
    if state is None:
        return None
    if not isinstance(state, Mapping):
        raise InvalidValueError(f"state: expected a mapping, got {brief(state)}")
    if axis is None and n_channels != 1:
        raise InvalidValueError(f"num_channels: expected 1 without an axis, got {n_channels}")
    for key in ("channels",) if "channels" in state else ("lowest", "highest"):
        sequence(state, key, n_channels)  # before memory is allocated for so many channels
    statistic = new_statistic(method, n_channels)
    statistic.restore(state, num_batches)
    return statistic


def clip(
    statistic: Statistic,
    method: CalibrationMethod,
    bits: int,
    mode: QuantMode,
    limits: tuple[int, int],
    *,
    n_threads: int | None,
) -> Range:
    """The range per channel that the method keeps: all of it, or what its search in the histograms finds."""
    lowest, highest = statistic.lowest, statistic.highest
    if not isinstance(statistic, Histograms):
        return lowest, highest
    if method.lower is not None and method.upper is not None:
        percents = method.lower, method.upper
        found = [
            percentiles(Bins(*statistic.bins(channel)), percents, float(low), float(high))
            for channel, (low, high) in enumerate(zip(lowest, highest, strict=True))
        ]
        low, high = np.array(found, np.float32).T
        return low, high
    ends = [
        clip_ranges(grids, counts, method.name, bits, limits, mode=mode, n_threads=n_threads)
        for grids, counts in statistic.whole_rows()
    ]
    return within(np.concatenate(ends), lowest, highest)

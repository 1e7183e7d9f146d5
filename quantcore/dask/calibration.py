"""Calibration on Dask arrays: workers compute the statistics of every block and merge them in a tree."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import dask
import dask.array

from quantcore._base.text import brief
from quantcore.calibration.calibrator import Calibrator
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["calibrate"]

_FAN_IN = 8


def calibrate(array: Any, calibrator: Calibrator) -> Calibrator:
    """Calibrate on a Dask array, with the current scheduler.

    Parameters
    ----------
    array : dask.array.Array
        float16, bfloat16, float32 or float64. Per channel, the blocks are first joined along the channel axis, so
        that each has all channels.
    calibrator : Calibrator
        It is not changed. A moving average is refused: its value depends on the order of the batches.

    Returns
    -------
    Calibrator
        `calibrator` merged with the statistics of all blocks; each block that is not empty counts as a batch. The
        result equals that of one process that observes the whole array.

    Raises
    ------
    InvalidTypeError
        An argument has another type or dtype.
    InvalidValueError
        `calibrator` is a moving average; the array lacks the axis, holds NaN or inf, or has another number of channels
        than the calibrator has seen.
    """
    if not isinstance(array, dask.array.Array):
        raise InvalidTypeError(f"array: expected a dask.array.Array, got {type(array).__name__}")
    if not isinstance(calibrator, Calibrator):
        raise InvalidTypeError(f"calibrator: expected a Calibrator, got {brief(calibrator)}")
    if calibrator.method.name == "moving_average":
        raise InvalidValueError("calibrator: a moving average depends on the order of the batches, which blocks lack")
    axis = calibrator.axis
    if axis is not None:
        if not -array.ndim <= axis < array.ndim:
            raise InvalidValueError(f"calibrator: axis {axis} is out of range for an array of {array.ndim} dimensions")
        if array.numblocks[axis] > 1:
            array = array.rechunk({axis % array.ndim: -1})
    empty = deepcopy(calibrator)
    empty.reset()
    start = dask.delayed(empty, traverse=False)
    level = [dask.delayed(_observe)(start, block) for block in array.to_delayed().ravel()]
    while len(level) > 1:
        level = [dask.delayed(_merge)(start, level[i : i + _FAN_IN]) for i in range(0, len(level), _FAN_IN)]
    return _merge(calibrator, dask.compute(*level))


def _observe(start: Calibrator, block: Any) -> Calibrator:
    """The statistics of a block, on one thread: the scheduler runs other blocks on other threads."""
    result = deepcopy(start)
    if block.size:
        result.observe_named(block, "a block of array", n_threads=1)
    return result


def _merge(start: Calibrator, parts: Sequence[Calibrator]) -> Calibrator:
    """Merge all of them into a new one, since a task must not change its inputs."""
    result = deepcopy(start)
    for part in parts:
        result.merge(part)
    return result

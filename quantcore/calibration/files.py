"""Streaming calibration of arrays in files: one calibrator per name."""

import copy
import os
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments
from quantcore._base.arrays import BEYOND_FLOAT32, are_finite
from quantcore._base.patterns import compile_patterns, unused_patterns
from quantcore._base.text import brief
from quantcore.array_files.slabs import BoxSlab, ChannelSlab
from quantcore.array_files.stored import FileArray, open_arrays
from quantcore.array_files.streamed import check_array, stream_slabs
from quantcore.calibration.calibrator import Calibrator
from quantcore.calibration.omission import check_nan_policy
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.files.streaming import Progress

__all__ = ["calibrate_files"]


def calibrate_files(
    paths: Iterable[str | os.PathLike[str]],
    calibrator: Calibrator,
    *,
    exclude: Iterable[str] = (),
    nan_policy: str = "raise",
    notify: Callable[[str], None] | None = None,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Calibrator]:
    """Calibrate on all arrays of files: .npy, .npz, Parquet, zarr and models (see `open_model`), in bounded memory.

    Parameters
    ----------
    paths : iterable of path
        In the order in which a moving average takes them. Arrays of the same name in several files are batches of one
        another; the array of a .npy file is called "values". Columns of Parquet files are floats, or lists of them of
        the same length, of which axis 1 has the dimensions; nulls count as NaN. Zarr arrays and groups (v2 and v3) are
        folders or .zip files; the arrays of a group are called by their paths in it, and what was not written counts as
        the fill value.
    calibrator : Calibrator
        Without data; each name gets a copy of it.
    exclude : iterable of regex
        Arrays whose name matches one of the patterns are left out. So are arrays of other types than floats, with a
        notice.
    nan_policy : {"raise", "omit"}, default "raise"
        "omit": NaN is left out of the statistics.
    notify : (text) -> None, optional
        Called with a line for each array that is left out for its type; None: `warnings.warn`.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.
    progress : (done, total) -> None, optional
        Called with numbers of bytes.

    Returns
    -------
    dict of str to Calibrator
        In the order in which the names were first met.

    Raises
    ------
    FileFormatError, OSError
        A file is malformed or cannot be read.
    InvalidValueError
        An array is empty, holds NaN, inf or what is beyond float32, lacks the axis or has another number of channels
        than before; no array is left; `calibrator` has data already. The message names file and array.

    Notes
    -----
    For a moving average every array is one batch. The other methods do not depend on how values are divided into
    batches; their `num_batches` counts the parts in which the arrays were read.
    """
    if not isinstance(calibrator, Calibrator):
        raise InvalidTypeError(f"calibrator: expected a Calibrator, got {brief(calibrator)}")
    if calibrator.has_data:
        raise InvalidValueError(f"calibrator: expected one without data, got {calibrator.num_batches} batches")
    paths, patterns = arguments.entries(paths, "paths", "paths"), compile_patterns(exclude, "exclude")
    nan_policy = check_nan_policy(nan_policy)
    arguments.callback(notify, "notify")
    arguments.callback(progress, "progress")
    notify = notify or partial(warnings.warn, stacklevel=3)

    def is_wanted(array: FileArray) -> bool:
        return array.dtype is not None and not is_excluded(array)

    def is_excluded(array: FileArray) -> bool:
        return any(pattern.search(array.name) for pattern in patterns)

    total = 0
    names: set[str] = set()
    for path in paths:
        with open_arrays(path) as arrays:
            for array in arrays:
                names.add(array.name)
                if array.dtype is None and not is_excluded(array):
                    notify(f"{array.label}: {array.dtype_name} is not a float type: left out")
            for array in filter(is_wanted, arrays):
                check_array(array, calibrator.axis)
                total += array.nbytes
    for text in unused_patterns(patterns, "exclude", names):
        notify(text)
    bytes_read = Progress(total, progress)
    calibrators: dict[str, Calibrator] = {}
    for path in paths:
        with open_arrays(path) as arrays:
            for array in filter(is_wanted, arrays):
                if array.name not in calibrators:
                    calibrators[array.name] = copy.deepcopy(calibrator)
                _observe(calibrators[array.name], array, nan_policy, n_threads, bytes_read)
    if not calibrators:
        raise InvalidValueError(f"paths: no arrays to calibrate on in {len(paths)} files")
    return calibrators


def _observe(
    calibrator: Calibrator, array: FileArray, nan_policy: str, n_threads: int | None, progress: Progress
) -> None:
    """Calibrate on one array; a moving average only needs the extremes of a batch, so it gets these alone."""
    is_average = calibrator.method.name == "moving_average"
    target = (
        Calibrator.min_max(calibrator.bits, axis=calibrator.axis, mode=calibrator.mode) if is_average else calibrator
    )

    def observe(slab: ChannelSlab | BoxSlab, values: NDArray[Any]) -> None:
        try:
            target.observe_named(values, array.label, nan_policy=nan_policy, n_threads=n_threads)
        except InvalidValueError:
            _refuse_first(array, slab, values, nan_policy)
            raise

    stream_slabs(array, calibrator.axis, observe, progress=progress)
    if is_average:
        extremes = target.compute_named(array.label)
        batch = batch_of(extremes.observed_min, extremes.observed_max, len(array.shape), calibrator.axis)
        calibrator.observe_named(batch, array.label, n_threads=n_threads)


def _refuse_first(array: FileArray, slab: ChannelSlab | BoxSlab, values: NDArray[Any], nan_policy: str) -> None:
    """Refuse what is not a finite float32 in a slab by its index in the whole array: that of a kernel is in the slab.

    Raises
    ------
    InvalidValueError
    """
    in_file_order = values.T if array.is_fortran else values
    bad = ~are_finite(in_file_order)
    if nan_policy == "omit":
        bad &= ~np.isnan(in_file_order)
    if not bad.any():
        return
    flat = int(np.flatnonzero(bad)[0])
    index = slab.index_of(flat, array.shape[::-1] if array.is_fortran else array.shape)
    value = in_file_order.reshape(-1)[flat]
    what = f"{value} at {index[::-1] if array.is_fortran else index}"
    if np.isfinite(value):
        raise InvalidValueError(f"{array.label}: {what} is {BEYOND_FLOAT32}")
    raise InvalidValueError(f"{array.label}: must be finite, got {what}")


def batch_of(lowest: Any, highest: Any, n_dims: int, axis: int | None) -> NDArray[np.float32]:
    """The smallest batch with these extremes, with channels on the calibrator's axis."""
    if axis is None:
        return np.array([lowest, highest], np.float32)
    axis %= n_dims
    shape = tuple(-1 if i == axis else 1 for i in range(n_dims))
    ends = [np.asarray(end, np.float32).reshape(shape) for end in (lowest, highest)]
    return np.concatenate(ends, axis=axis - 1) if n_dims > 1 else ends[0]

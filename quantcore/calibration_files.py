"""Calibration of arrays in files, streamed: a calibrator for each name."""

import copy
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore.array_files import StoredArray, check_array, open_arrays, stream_slabs
from quantcore.calibration import Calibrator
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.patterns import compiled
from quantcore.tables import brief

__all__ = ["calibrate_files"]


def calibrate_files(
    paths: Iterable[str | os.PathLike[str]],
    calibrator: Calibrator,
    *,
    exclude: Iterable[str] = (),
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Calibrator]:
    """Calibrate on all arrays of .npy, .npz and .safetensors files, in bounded memory.

    Parameters
    ----------
    paths : iterable of path
        In the order in which a moving average takes them. Arrays of the same name in several files are batches of one
        another; the array of a .npy file is called "values".
    calibrator : Calibrator
        Without data; each name gets a copy of it.
    exclude : iterable of regex
        Arrays whose name has one of the patterns are left out.
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
        An array is empty, holds NaN or inf, lacks the axis or has another number of channels than before; no array is
        left; `calibrator` has data already. The message names file and array.
    InvalidTypeError
        An array is not float16, bfloat16, float32 or float64.

    Notes
    -----
    For a moving average every array is one batch. The other methods do not depend on how values are divided into
    batches; their `num_batches` counts the parts in which the arrays were read.
    """
    if not isinstance(calibrator, Calibrator):
        raise InvalidTypeError(f"calibrator: expected a Calibrator, got {brief(calibrator)}")
    if calibrator.has_data:
        raise InvalidValueError(f"calibrator: expected one without data, got {calibrator.num_batches} batches")
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise InvalidTypeError(f"paths: expected an iterable of paths, got {brief(paths)}")
    paths, patterns = list(paths), compiled(exclude, "exclude")

    def is_wanted(array: StoredArray) -> bool:
        return not any(pattern.search(array.name) for pattern in patterns)

    total = 0
    for path in paths:
        with open_arrays(path) as arrays:
            for array in filter(is_wanted, arrays):
                check_array(array, calibrator.axis)
                total += array.nbytes
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if progress is not None:
            progress(done, total)

    calibrators: dict[str, Calibrator] = {}
    for path in paths:
        with open_arrays(path) as arrays:
            for array in filter(is_wanted, arrays):
                found = calibrators.setdefault(array.name, copy.deepcopy(calibrator))
                _observe(found, array, n_threads, advance)
    if not calibrators:
        raise InvalidValueError(f"paths: no arrays to calibrate on in {len(paths)} files")
    return calibrators


def _observe(
    calibrator: Calibrator, array: StoredArray, n_threads: int | None, progress: Callable[[int], None]
) -> None:
    """One array; for a moving average, which knows batches by their extremes, only these are taken as the batch."""
    is_average = calibrator.method.name == "moving_average"
    target = (
        Calibrator.min_max(calibrator.bits, calibrator.symmetric, axis=calibrator.axis) if is_average else calibrator
    )

    def observe(values: NDArray[Any]) -> None:
        try:
            target.observe(values, n_threads=n_threads)
        except InvalidValueError as error:
            # The place that the message gives is that in a part of the array.
            infinite = values[~np.isfinite(values)]
            problem = f"must be finite, got {infinite[0]}" if infinite.size else str(error)
            raise InvalidValueError(f"{array.label}: {problem}") from None

    stream_slabs(array, calibrator.axis, observe, progress=progress)
    if is_average:
        extremes = target.compute()
        batch = _batch_of(extremes.observed_min, extremes.observed_max, len(array.shape), calibrator.axis)
        calibrator.observe(batch, n_threads=n_threads)


def _batch_of(lowest: Any, highest: Any, n_dims: int, axis: int | None) -> NDArray[np.float32]:
    """The smallest batch with these extremes, the channels where the calibrator looks for them."""
    if axis is None:
        return np.array([lowest, highest], np.float32)
    axis %= n_dims
    shape = tuple(-1 if i == axis else 1 for i in range(n_dims))
    ends = [np.asarray(end, np.float32).reshape(shape) for end in (lowest, highest)]
    return np.concatenate(ends, axis=axis - 1) if n_dims > 1 else ends[0]

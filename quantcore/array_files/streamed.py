"""Arrays in files, sent on in slabs of bounded size while the next one is read."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base.arguments import MOST_DIMENSIONS
from quantcore._base.arrays import widen_bfloat16
from quantcore.array_files.slabs import BoxSlab, ChannelSlab
from quantcore.array_files.stored import FileArray
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.files.streaming import Progress, stream

SLAB_BYTES = 1 << 23


def check_array(array: FileArray, axis: int | None) -> np.dtype[Any]:
    """Return the dtype of an array that can be calibrated on.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        The array does not hold floats, has no dimensions or no elements, or has no such axis.
    """
    if array.dtype is None:
        raise InvalidTypeError(
            f"{array.label}: expected float16, bfloat16, float32 or float64, got {array.dtype_name}; "
            "--exclude (exclude=) leaves an array out"
        )
    shape = array.shape
    if axis is not None and len(shape) > MOST_DIMENSIONS:
        raise InvalidValueError(
            f"{array.label}: has {len(shape)} dimensions, the limit with an axis is {MOST_DIMENSIONS}"
        )
    if not shape or 0 in shape:
        raise InvalidValueError(
            f"{array.label}: shape {shape} has no values to calibrate on; --exclude (exclude=) leaves an array out"
        )
    if axis is not None and not -len(shape) <= axis < len(shape):
        raise InvalidValueError(f"{array.label}: axis {axis} is out of range for shape {shape}")
    return array.dtype


def stream_slabs(
    array: FileArray,
    axis: int | None,
    observe: Callable[[ChannelSlab | BoxSlab, NDArray[Any]], None],
    *,
    progress: Progress,
    slab_bytes: int = SLAB_BYTES,
) -> int:
    """Send an array to `observe` in slabs; the next slab is read meanwhile.

    Parameters
    ----------
    array : StoredArray
    axis : int or None
        The channel axis; every slab holds all channels, on the same axis. None: slabs are flat.
    observe : (slab, ndarray) -> None
        Gets a slab's place in the file's order, and its values as float16, float32 or float64 (bfloat16 is widened),
        valid only during the call.
    progress : Progress
        Advances by the bytes of each slab.
    slab_bytes : int
        The approximate size of a slab (see `slabs.slabs`).

    Returns
    -------
    int
        The number of slabs.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        See `check_array`.
    """
    dtype = check_array(array, axis)
    n_dims = len(array.shape)
    axis = axis % n_dims if axis is not None else None
    if array.is_fortran and axis is not None:
        axis = n_dims - 1 - axis
    parts: Iterator[Any] = array.slabs(axis, slab_bytes)
    first = next(parts)
    n_taken = 0

    def read(slab: Any, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        data = buffer[: slab.size * dtype.itemsize]
        array.read(slab, data)
        return data

    def take(slab: Any, data: NDArray[np.uint8]) -> None:
        nonlocal n_taken
        values = widen_bfloat16(data.view(dtype).reshape(slab.shape))
        observe(slab, values.T if array.is_fortran else values)
        n_taken += 1

    stream(
        itertools.chain((first,), parts),
        read=read,
        compute=lambda _slab, data, _buffer: data,
        take=take,
        buffer_bytes=(first.size * dtype.itemsize, 0),
        n_threads=1,
        in_order=True,  # compressed arrays can only be read from front to back
        progress=progress,
    )
    return n_taken

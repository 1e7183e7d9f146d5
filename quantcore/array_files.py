"""Arrays of floats in .npy, .npz and .safetensors files, streamed in slabs of bounded size.

What a file is, is told by its content: pickles are refused and never opened. Nothing is mapped and no array is loaded
whole; the parts that an array consists of come from `array_slabs`.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import npy
from quantcore._files import InputFile, is_pickle, label
from quantcore.array_slabs import Slab, slabs
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError
from quantcore.npz import NpzFile, is_zip
from quantcore.safetensors import Checkpoint, SafetensorsInfo, open_checkpoint
from quantcore.streaming import stream

VALUES = "values"
"""What the one array of a .npy file is called."""
SLAB_BYTES = 1 << 23
_SAFETENSORS_FLOATS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in a file that is open.

    Attributes
    ----------
    name : str
        Its name in the file, `VALUES` in a .npy file.
    label : str
        File and array, for messages.
    shape : tuple of int
    dtype : dtype or None
        Of the elements as they lie in the file; uint16 stands for bfloat16. None: no floats; `dtype_name` says what.
    dtype_name : str
    is_fortran : bool
        Whether the first axis is the one that varies fastest.
    read_into : (start, buffer) -> None
        Fills a buffer with the bytes from `start` on.
    """

    name: str
    label: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    dtype_name: str
    is_fortran: bool
    read_into: Callable[[int, Any], None]

    @property
    def nbytes(self) -> int:
        """Bytes in the file, decompressed."""
        return prod(self.shape) * self.dtype.itemsize if self.dtype is not None else 0


@contextlib.contextmanager
def open_arrays(path: str | os.PathLike[str]) -> Iterator[tuple[StoredArray, ...]]:
    """The arrays of a .npy, .npz or .safetensors file, or of a folder of shards; they can be read while it is open.

    Raises
    ------
    FileFormatError
        The file is malformed, or is a pickle; the message names what is wrong.
    OSError
        The file cannot be opened or read.
    """
    if not os.path.isdir(path):
        with InputFile(path) as file:
            head = file.read(0, min(9, file.size))
            if is_pickle(head):
                raise FileFormatError(f"{file.label}: pickle files are never opened; use safetensors, .npz or .npy")
            if head.startswith(npy.MAGIC):
                header = npy.read_header(file.read, file.size, file.label)
                yield (_of_npy(VALUES, file.label, header, file.read_into),)
                return
            if is_zip(head):
                npz = NpzFile(file)
                yield tuple(
                    _of_npy(member.name, f"{file.label}: {member.name}", member.header, member.read_into)
                    for member in npz.members
                )
                return
    with open_checkpoint(path) as checkpoint:
        yield tuple(_of_safetensors(label(path), checkpoint, tensor) for tensor in checkpoint.tensors)


def check_array(array: StoredArray, axis: int | None) -> np.dtype[Any]:
    """Return the dtype of an array that can be calibrated on.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        The array is not one of floats, has no dimension or no element, or has no such axis.
    """
    if array.dtype is None:
        raise InvalidTypeError(
            f"{array.label}: expected float16, bfloat16, float32 or float64, got {array.dtype_name}; "
            "--exclude (exclude=) leaves an array out"
        )
    shape = array.shape
    if not shape or 0 in shape:
        raise InvalidValueError(
            f"{array.label}: shape {shape} has no values to calibrate on; --exclude (exclude=) leaves an array out"
        )
    if axis is not None and not -len(shape) <= axis < len(shape):
        raise InvalidValueError(f"{array.label}: axis {axis} is out of range for shape {shape}")
    return array.dtype


def stream_slabs(
    array: StoredArray,
    axis: int | None,
    observe: Callable[[NDArray[Any]], None],
    *,
    progress: Callable[[int], None],
    slab_bytes: int = SLAB_BYTES,
) -> int:
    """Send an array to `observe` in slabs; the next one is read meanwhile.

    Parameters
    ----------
    array : StoredArray
    axis : int or None
        The channel axis, which every slab has all of, at the same place. None: slabs are flat.
    observe : (ndarray) -> None
        Gets a slab as float16, float32 or float64 (bfloat16 is widened), valid only during the call.
    progress : (int) -> None
        Gets the number of bytes of each slab.
    slab_bytes : int
        The size of a slab, roughly; see `array_slabs.slabs`.

    Returns
    -------
    int
        How many slabs there were.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        See `check_array`.
    """
    dtype = check_array(array, axis)
    shape, n_dims = array.shape, len(array.shape)
    axis = axis % n_dims if axis is not None else None
    if array.is_fortran:
        shape = shape[::-1]
        axis = n_dims - 1 - axis if axis is not None else None
    parts = list(slabs(shape, axis, max(1, slab_bytes // dtype.itemsize)))

    def read(slab: Slab, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        data = buffer[: slab.size * dtype.itemsize]
        n_bytes = slab.run * dtype.itemsize
        for i in range(slab.n_runs):
            start = (slab.first + i * slab.stride) * dtype.itemsize
            array.read_into(start, data[i * n_bytes : (i + 1) * n_bytes])
        return data

    def take(slab: Slab, data: NDArray[np.uint8]) -> None:
        values = data.view(dtype).reshape(slab.shape)
        if dtype == np.uint16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        observe(values.T if array.is_fortran else values)

    largest = max(slab.size for slab in parts) * dtype.itemsize
    stream(
        parts,
        read=read,
        compute=lambda _slab, data, _buffer: data,
        take=take,
        buffer_bytes=(largest, 0),
        n_threads=1,
        in_order=True,  # compressed arrays know no other
        progress=progress,
    )
    return len(parts)


def _of_npy(name: str, where: str, header: npy.NpyHeader, read_into: Callable[[int, Any], None]) -> StoredArray:
    return StoredArray(
        name,
        where,
        header.shape,
        header.dtype,
        str(header.dtype),
        header.is_fortran,
        lambda start, buffer: read_into(header.offset + start, buffer),
    )


def _of_safetensors(path: str, checkpoint: Checkpoint, tensor: SafetensorsInfo) -> StoredArray:
    dtype = _SAFETENSORS_FLOATS.get(tensor.dtype)
    return StoredArray(
        tensor.name,
        f"{path}: {label(tensor.name)}",
        tensor.shape,
        np.dtype(dtype) if dtype else None,
        tensor.dtype,
        False,
        lambda start, buffer: checkpoint.read_into(tensor, start, buffer),
    )

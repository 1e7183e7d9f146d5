"""Arrays of floats in .npy, .npz, Parquet and zarr files and in models, streamed in slabs of bounded size.

The kind of a file is recognised by its content; pickles are refused and never opened. Nothing is mapped and no array is
loaded whole; `slabs` cuts an array into parts.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base.arrays import ELEMENT_TYPES, STORAGE_DTYPES
from quantcore._base.records import shown
from quantcore.array_files import npy
from quantcore.array_files.members import read_each_run
from quantcore.array_files.npz import NpzFile, is_zip
from quantcore.array_files.parquet import ParquetColumn, read_columns
from quantcore.array_files.slabs import WIDE_SLAB_BYTES, ChannelSlab, slabs
from quantcore.array_files.zarr_arrays import ChunkedArray, open_zarr
from quantcore.array_files.zarr_places import is_zarr
from quantcore.errors import FileFormatError
from quantcore.files.disk import InputFile, label, local_path
from quantcore.files.kinds import HEAD_BYTES, NPY, PARQUET, PICKLE, kind_of
from quantcore.models.opening import open_model
from quantcore.models.tensors import StoredTensor

VALUES = "values"
"""The name of the only array of a .npy file."""


@shown()
@dataclass(frozen=True, slots=True, repr=False)
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
        The dtype of the elements in the file; uint16 stands for bfloat16. None: not floats (see `dtype_name`).
    dtype_name : str
    is_fortran : bool
        Whether the first axis is the one that varies fastest.
    read_into : (start, buffer) -> None
        Fills a buffer with the bytes from `start` on.
    read_runs : (start, n_runs, stride, buffer) -> None
        Fills the equal parts of a buffer with the bytes from `start`, `start + stride`, and so on.
    most_runs : int, optional
        Beyond so many runs, `read_runs` reads from the front again: the fewer calls, the better.
    """

    name: str
    label: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    dtype_name: str
    is_fortran: bool
    read_into: Callable[[int, Any], None] = field(repr=False)
    read_runs: Callable[[int, int, int, Any], None] = field(repr=False)
    most_runs: int | None = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes in the file, decompressed."""
        return prod(self.shape) * self.dtype.itemsize if self.dtype is not None else 0

    def slabs(self, axis: int | None, slab_bytes: int) -> Iterator[ChannelSlab]:
        """How the array is cut, in the file's order, of which `axis` is one; the first slab is the largest."""
        assert self.dtype is not None
        shape, itemsize = self.shape[::-1] if self.is_fortran else self.shape, self.dtype.itemsize
        parts = slabs(shape, axis, max(1, slab_bytes // itemsize))
        first = next(parts)
        if self.most_runs is not None and first.n_runs > self.most_runs:
            return slabs(shape, axis, max(slab_bytes, WIDE_SLAB_BYTES) // itemsize)
        return itertools.chain((first,), parts)

    def read(self, slab: ChannelSlab, buffer: NDArray[np.uint8]) -> None:
        """Fill a buffer with the elements of a slab."""
        assert self.dtype is not None
        itemsize = self.dtype.itemsize
        self.read_runs(slab.first * itemsize, slab.n_runs, slab.stride * itemsize, buffer)


FileArray = StoredArray | ChunkedArray
"""An array in a file: in one piece, or in chunks."""


@contextlib.contextmanager
def open_arrays(path: str | os.PathLike[str]) -> Iterator[tuple[FileArray, ...]]:
    """The arrays of a .npy, .npz or Parquet file, a zarr array or group (a folder or a .zip), or a model (see
    `open_model`); readable inside the `with` block.

    Raises
    ------
    FileFormatError
        The file is malformed, or is a pickle; the message names what is wrong.
    OSError
        The file cannot be opened or read.
    """
    if is_zarr(local_path(path)):
        with open_zarr(local_path(path), label(path), VALUES) as arrays:
            yield arrays
            return
    if not local_path(path).is_dir():
        with InputFile(path) as file:
            head = file.read(0, min(HEAD_BYTES, file.size))
            kind = kind_of(head)
            if kind == PICKLE:
                raise FileFormatError(f"{file.label}: pickle files are never opened; use safetensors, .npz or .npy")
            if kind == NPY:
                header = npy.read_header(file.read, file.size, file.label)
                yield (_of_npy(VALUES, file.label, header, file.read_into, partial(read_each_run, file.read_into)),)
                return
            if kind == PARQUET:
                yield tuple(_of_parquet(column) for column in read_columns(os.fspath(local_path(path)), file.label))
                return
            if is_zip(head):
                npz = NpzFile(file)
                yield tuple(
                    _of_npy(
                        m.name,
                        f"{file.label}: {m.name}",
                        m.header,
                        m.data.read_into,
                        m.data.read_runs,
                        m.data.most_runs,
                    )
                    for m in npz.members
                )
                return
            if kind is None and not file.label.endswith((".gguf", ".safetensors", ".json")):
                raise FileFormatError(
                    f"{file.label}: is no .npy, .npz, Parquet or zarr file, and no model in GGUF or safetensors"
                )
    with open_model(path) as model:
        yield tuple(_of_model(model.label, tensor) for tensor in model.stored)


def _of_npy(
    name: str,
    where: str,
    header: npy.NpyHeader,
    read_into: Callable[[int, Any], None],
    read_runs: Callable[[int, int, int, Any], None],
    most_runs: int | None = None,
) -> StoredArray:
    return StoredArray(
        name,
        where,
        header.shape,
        header.dtype if header.is_float else None,
        str(header.dtype),
        header.is_fortran,
        lambda start, buffer: read_into(header.offset + start, buffer),
        lambda start, n_runs, stride, buffer: read_runs(header.offset + start, n_runs, stride, buffer),
        most_runs,
    )


def _of_parquet(column: ParquetColumn) -> StoredArray:
    return StoredArray(
        column.name,
        column.label,
        column.shape,
        column.dtype,
        column.dtype_name,
        False,
        column.read_into,
        partial(read_each_run, column.read_into),
        1,
    )


def _of_model(path: str, tensor: StoredTensor) -> StoredArray:
    element_type = ELEMENT_TYPES.get(tensor.type)
    return StoredArray(
        tensor.name,
        f"{path}: {label(tensor.name)}",
        tensor.shape,
        None if element_type is None else np.dtype(STORAGE_DTYPES[element_type]),
        tensor.type,
        False,
        tensor.read_into,
        partial(read_each_run, tensor.read_into),
    )

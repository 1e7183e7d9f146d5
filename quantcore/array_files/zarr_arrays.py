"""Zarr arrays and groups, v2 and v3, in a folder or a .zip: streamed chunk by chunk. Needs the extra `zarr`.

Which arrays there are is found in `zarr_places`; each is then opened by its path. What decodes to Python objects, such
as the filter `pickle`, is never read.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments
from quantcore._base.extras import missing_extra
from quantcore._base.records import shown
from quantcore._base.text import brief
from quantcore.array_files.slabs import WIDE_SLAB_BYTES, BoxSlab, boxes
from quantcore.array_files.zarr_places import MOST_CHUNK_BYTES, in_archive, in_folder, label_of, refusals
from quantcore.errors import FileFormatError


@shown()
@dataclass(frozen=True, slots=True, repr=False)
class ChunkedArray:
    """An array in chunks; the attributes are those of `StoredArray`.

    Attributes
    ----------
    chunks : tuple of int
        The shape of what is read at once: a chunk, also where several lie in a shard.
    source : zarr.Array
    """

    name: str
    label: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    dtype_name: str
    chunks: tuple[int, ...]
    source: Any

    @property
    def is_fortran(self) -> bool:
        """Never: elements come in C order, whatever the order within the chunks."""
        return False

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return prod(self.shape) * self.dtype.itemsize if self.dtype is not None else 0

    def slabs(self, axis: int | None, slab_bytes: int) -> Iterator[BoxSlab]:
        """How the array is cut; the first slab is the largest."""
        assert self.dtype is not None
        itemsize = self.dtype.itemsize
        most = max(slab_bytes, WIDE_SLAB_BYTES) // itemsize
        return boxes(self.shape, self.chunks, axis, max(1, slab_bytes // itemsize), most)

    def read(self, slab: BoxSlab, buffer: NDArray[np.uint8]) -> None:
        """Fill a buffer with the elements of a slab, in C order."""
        assert self.dtype is not None
        region = tuple(slice(i, i + n) for i, n in zip(slab.start, slab.shape, strict=True))
        with refusals(self.label):
            buffer.view(self.dtype).reshape(slab.shape)[...] = self.source[region]


@contextlib.contextmanager
def open_zarr(path: Path, label: str, root_name: str) -> Iterator[tuple[ChunkedArray, ...]]:
    """The arrays of a zarr array or group, readable inside the `with` block.

    Parameters
    ----------
    path : Path
        For which `is_zarr` is true.
    label : str
        The path for messages.
    root_name : str
        The name of an array that is in no group; those in groups are called by their paths.

    Raises
    ------
    FileFormatError
        The metadata are malformed, an array is encoded by a codec that is missing or unpickles objects, or a chunk is
        too large.
    MissingExtraError
        zarr is not installed.
    """
    try:
        import zarr
        from zarr.storage import LocalStore, ZipStore
    except ImportError as error:
        raise missing_extra(f"{label}: a zarr array or group", "zarr", error) from None
    is_folder = path.is_dir()
    places = in_folder(path, label) if is_folder else in_archive(path, label)
    if not places:
        yield ()  # a store that nothing has been read from cannot be closed
        return
    with refusals(label):
        store = LocalStore(path, read_only=True) if is_folder else ZipStore(path, mode="r")

    def opened(place: str) -> Any:
        with refusals(label_of(label, place)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of data types and codecs that are not in the specification
            return zarr.open_array(store, path=place, mode="r")

    try:
        yield tuple(_array(place, label_of(label, place), root_name, opened(place)) for place in places)
    finally:
        store.close()


def _array(place: str, label: str, root_name: str, source: Any) -> ChunkedArray:
    dtype = np.dtype(source.dtype)
    is_float = dtype.kind == "f" and dtype.itemsize <= 8
    shape = tuple(source.shape)
    chunks: tuple[int, ...] = shape
    if is_float and shape:
        with refusals(label):
            arguments.shape(shape)  # refuses more elements than can be counted
            _refuse_pickles(source.metadata.to_dict(), label)
            # Beside other codecs, shards are read whole.
            is_sharded = source.shards is not None and len(source.metadata.codecs) > 1
            chunks = tuple(source.shards if is_sharded else source.chunks)
        n_bytes = prod(chunks) * dtype.itemsize
        if n_bytes > MOST_CHUNK_BYTES or 0 in chunks:
            raise FileFormatError(
                f"{label}: chunks: {brief(chunks)} take {n_bytes} bytes, the limit is {MOST_CHUNK_BYTES}"
            )
    native = dtype.newbyteorder("=") if is_float else None
    return ChunkedArray(place or root_name, label, shape, native, str(dtype), chunks, source)


def _refuse_pickles(metadata: Any, label: str) -> None:
    """Refuse codecs that unpickle objects, wherever they stand in the metadata of an array."""
    if isinstance(metadata, Mapping):
        for field in ("id", "name"):
            name = metadata.get(field)
            if isinstance(name, str) and "pickle" in name.lower():
                raise FileFormatError(f"{label}: codec {brief(name)}: pickled data are never read")
        inner: Sequence[Any] = [value for key, value in metadata.items() if key != "attributes"]
    else:
        inner = metadata if isinstance(metadata, Sequence) and not isinstance(metadata, str) else ()
    for value in inner:
        _refuse_pickles(value, label)

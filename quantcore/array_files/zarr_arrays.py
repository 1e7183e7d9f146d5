"""Zarr arrays and groups, v2 and v3, in a folder or a .zip: streamed chunk by chunk. Needs the extra `zarr`.

Which arrays there are is found here, from names and metadata alone; each is then opened by its path. What decodes to
Python objects, such as the filter `pickle`, is never read.
"""

import contextlib
import os
import posixpath
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments
from quantcore._base.extras import missing_extra
from quantcore._base.text import brief, printable
from quantcore.array_files.slabs import WIDE_SLAB_BYTES, BoxSlab, boxes
from quantcore.errors import FileFormatError, QuantcoreError
from quantcore.files.disk import InputFile
from quantcore.files.kinds import ZARR_NAMES
from quantcore.files.strict_json import parse_object

_V3, _V2_ARRAY, _V2_GROUP = ZARR_NAMES
_MOST_METADATA_BYTES = 100_000_000
_MOST_CHUNK_BYTES = 1 << 31
_ZIP_HEADS = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True, slots=True)
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
        with _refusals(self.label):
            buffer.view(self.dtype).reshape(slab.shape)[...] = self.source[region]


def is_zarr(path: Path) -> bool:
    """Whether it is a folder with the metadata of a zarr array or group, or a .zip that holds such metadata."""
    if path.is_dir():
        return any((path / name).exists() for name in ZARR_NAMES)
    if not path.is_file():
        return False
    with InputFile(path) as file:
        if bytes(file.read(0, min(4, file.size))) not in _ZIP_HEADS:
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(posixpath.basename(name) in ZARR_NAMES for name in archive.namelist())
    except Exception:  # it may be anything: what it is, others say
        return False


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
    places = _in_folder(path, label) if is_folder else _in_archive(path, label)
    with _refusals(label):
        store = LocalStore(path, read_only=True) if is_folder else ZipStore(path, mode="r")

    def opened(place: str) -> Any:
        with _refusals(_label(label, place)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of data types and codecs that are not in the specification
            return zarr.open_array(store, path=place, mode="r")

    try:
        yield tuple(_array(place, _label(label, place), root_name, opened(place)) for place in places)
    finally:
        store.close()


def _array(place: str, label: str, root_name: str, source: Any) -> ChunkedArray:
    dtype = np.dtype(source.dtype)
    is_float = dtype.kind == "f" and dtype.itemsize <= 8
    shape = tuple(source.shape)
    chunks: tuple[int, ...] = shape
    if is_float and shape:
        with _refusals(label):
            arguments.shape(shape)  # refuses more elements than can be counted
            _refuse_pickles(source.metadata.to_dict(), label)
            # Beside other codecs, shards are read whole.
            is_sharded = source.shards is not None and len(source.metadata.codecs) > 1
            chunks = tuple(source.shards if is_sharded else source.chunks)
        n_bytes = prod(chunks) * dtype.itemsize
        if n_bytes > _MOST_CHUNK_BYTES or 0 in chunks:
            raise FileFormatError(
                f"{label}: chunks: {brief(chunks)} take {n_bytes} bytes, the limit is {_MOST_CHUNK_BYTES}"
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


def _in_folder(folder: Path, label: str) -> list[str]:
    """The paths of the arrays below a folder, in the order of their names; "" is the folder itself."""
    found: list[str] = []
    pending = [""]
    seen: set[str] = set()
    while pending:
        place = pending.pop()
        here = folder / place if place else folder
        kind = _kind(_files(here), _label(label, place))
        if kind == "array":
            found.append(place)
        if kind != "group" or (real := os.path.realpath(here)) in seen:  # links may lead back
            continue
        seen.add(real)
        names = sorted((entry.name for entry in os.scandir(here) if entry.is_dir()), reverse=True)
        pending += [f"{place}/{name}" if place else name for name in names]
    return found


def _in_archive(path: Path, label: str) -> list[str]:
    """The paths of the arrays in a .zip."""
    with _refusals(label), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.file_size > _MOST_CHUNK_BYTES:
                name = brief(printable(info.filename))
                raise FileFormatError(f"{label}: {name}: {info.file_size} bytes, the limit is {_MOST_CHUNK_BYTES}")
        names = set(archive.namelist())
        places = sorted({posixpath.dirname(name) for name in names if posixpath.basename(name) in ZARR_NAMES})

        def read(place: str) -> Callable[[str], bytes | None]:
            def bytes_of(name: str) -> bytes | None:
                inside = posixpath.join(place, name)
                if inside not in names:
                    return None
                _check_size(archive.getinfo(inside).file_size, _label(label, inside))
                return archive.read(inside)

            return bytes_of

        return [place for place in places if _kind(read(place), _label(label, place)) == "array"]


def _files(folder: Path) -> Callable[[str], bytes | None]:
    """Reads the metadata files of a folder; None where there is none."""

    def bytes_of(name: str) -> bytes | None:
        if not (folder / name).exists():
            return None
        with InputFile(folder / name) as file:
            _check_size(file.size, file.label)
            return bytes(file.read(0, file.size))

    return bytes_of


def _kind(read: Callable[[str], bytes | None], label: str) -> str | None:
    """ "array", "group", or None for what is neither."""
    if (data := read(_V3)) is not None:
        kind = parse_object(data, label, _V3, nan=True).get("node_type")
        if kind not in ("array", "group"):
            raise FileFormatError(f"{label}: {_V3}: node_type: expected 'array' or 'group', got {brief(kind)}")
        return str(kind)
    if read(_V2_ARRAY) is not None:
        return "array"
    return "group" if read(_V2_GROUP) is not None else None


def _check_size(size: int, label: str) -> None:
    if size > _MOST_METADATA_BYTES:
        raise FileFormatError(f"{label}: {size} bytes of metadata, the limit is {_MOST_METADATA_BYTES}")


def _label(label: str, place: str) -> str:
    return f"{label}: {printable(place)}" if place else label


@contextlib.contextmanager
def _refusals(label: str) -> Iterator[None]:
    """Whatever zarr and its codecs raise about damaged data, as one line that names the array."""
    try:
        yield
    except FileFormatError as error:
        raise error if str(error).startswith(label) else FileFormatError(f"{label}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, QuantcoreError) else f"{type(error).__name__}: {error}"
        raise FileFormatError(f"{label}: {' '.join(text.split())[:200]}") from None

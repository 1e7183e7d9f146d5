"""A strict reader of safetensors checkpoints: one file, or the shards of a folder.

The header is parsed here, and tensors are read by position, rather than through the `safetensors` library: the
library maps the file (a file that shrinks while mapped kills the process) and needs further packages for bfloat16.
Source: the format's description in the safetensors README.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from quantcore._base import arguments
from quantcore._base.records import shown
from quantcore._base.text import quote
from quantcore.errors import FileFormatError, InvalidValueError
from quantcore.files.kinds import HEAD_BYTES, SAFETENSORS, kind_of, say_wrong
from quantcore.files.strict_json import parse_members
from quantcore.files.tensor_reader import TensorFiles, TensorReader
from quantcore.safetensors.folders import INDEX_NAME as INDEX_NAME
from quantcore.safetensors.folders import MAX_HEADER_BYTES, CheckpointFiles, find_files

ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits per element of each dtype of the format."""
_MOST_BITS = (1 << 63) - 1
_METADATA = "__metadata__"
_KEYS = {"dtype", "shape", "data_offsets"}


@shown()
@dataclass(frozen=True, slots=True, repr=False)
class SafetensorsInfo:
    """One tensor of a safetensors file; `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    nbytes: int

    @property
    def stored_type(self) -> str:
        """The type in the file, which may be another one than that of values that are decoded while they are read."""
        return self.dtype

    @property
    def stored_bytes(self) -> int:
        """Bytes in the file."""
        return self.nbytes


class SafetensorsReader(TensorReader):
    """The header of one safetensors file, and positioned access to its tensors.

    Parameters
    ----------
    path : path
        A regular file.

    Attributes
    ----------
    tensors : tuple of SafetensorsInfo
        In the order of their data.
    metadata : dict of str to str
        `__metadata__`, empty if there is none.

    Raises
    ------
    FileFormatError
        Anything malformed: the message names the file, the field and what is wrong with it.
    OSError
        The file cannot be opened or read.
    """

    tensors: tuple[SafetensorsInfo, ...]
    metadata: dict[str, str]

    def _refuse(self, field: str, problem: str) -> NoReturn:
        raise FileFormatError(f"{self._file.label}: {field}: {problem}")

    def _parse(self) -> None:
        size = self._file.size
        kind = kind_of(self._file.read(0, min(HEAD_BYTES, size)))
        if kind is not None and kind != SAFETENSORS:
            raise FileFormatError(say_wrong(self.path, kind, "safetensors"))
        if size < 8:
            self._refuse("header length", f"takes 8 bytes, the file has {size}")
        (length,) = struct.unpack("<Q", self._file.read(0, 8))
        if length > MAX_HEADER_BYTES or length > size - 8:
            self._refuse(
                "header length",
                f"{length} bytes; the file has {size - 8} more, the limit is {MAX_HEADER_BYTES}: no safetensors file, "
                "or one that was cut short",
            )
        data_start = 8 + length
        self.metadata = {}
        tensors: list[SafetensorsInfo] = []
        text = self._file.read(8, length)
        for name, entry in parse_members(text, self._file.label, "header", may_be_long=_METADATA):
            if name == _METADATA:
                self.metadata = self._metadata(entry)
            else:
                tensors.append(self._tensor(name, entry, data_start))
        tensors.sort(key=lambda t: (t.offset, t.nbytes))
        position = data_start
        for tensor in tensors:
            if tensor.offset != position:
                self._refuse(
                    f"data_offsets of {tensor.name[:80]!r}",
                    f"start at {tensor.offset - data_start}, expected {position - data_start} (overlap or gap)",
                )
            position += tensor.nbytes
        if position != size:
            self._refuse("end of file", f"tensors end at {position}, the file has {size} bytes")
        self.tensors = tuple(tensors)

    def _metadata(self, metadata: Any) -> dict[str, str]:
        if metadata is None:
            return {}
        if not isinstance(metadata, dict) or not all(_is_text(k) and _is_text(v) for k, v in metadata.items()):
            self._refuse("__metadata__", "must map strings to strings")
        return metadata

    def _tensor(self, name: str, entry: Any, data_start: int) -> SafetensorsInfo:
        field = f"tensor {name[:80]!r}"
        if not _is_text(name):
            self._refuse(field, "name is not UTF-8 (a lone surrogate)")
        # As the safetensors library, which passes over what else an entry has.
        if not isinstance(entry, dict) or not entry.keys() >= _KEYS:
            self._refuse(field, "must have dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in ITEM_BITS:
            self._refuse(field, f"unknown dtype {str(dtype)[:40]!r}")
        if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
            self._refuse(field, "shape and data_offsets must be lists of non-negative integers, the latter of two")
        start, stop = offsets
        bits = ITEM_BITS[dtype] * _product(shape)
        if bits > _MOST_BITS or bits % 8 or stop - start != bits // 8:
            self._refuse(field, f"{dtype} of shape {str(shape)[:80]} does not take the bytes of data_offsets {offsets}")
        return SafetensorsInfo(name, tuple(shape), dtype, data_start + start, stop - start)


class Checkpoint(TensorFiles):
    """The tensors of one safetensors file or of all shards of a folder. Construct it with `open_checkpoint`.

    Attributes
    ----------
    path : str
        What was opened, for messages.
    folder : Path
        The folder of its files.
    files : tuple of Path
        All files that were read: shards and index.
    shards : tuple of SafetensorsReader
    index_name : str, optional
        The name of the index, or the one that shards without an index should have; None for a single file.
    tensors : tuple of SafetensorsInfo
        The tensors of all shards, in the order of the shards.
    """

    folder: Path
    files: tuple[Path, ...]
    shards: tuple[SafetensorsReader, ...]
    index_name: str | None
    tensors: tuple[SafetensorsInfo, ...]

    def __init__(self, files: CheckpointFiles, shards: list[SafetensorsReader]) -> None:
        path = files.path
        self.path = path
        self.folder = files.folder
        self.index_name = files.index_name
        self.files = tuple(shard.file_path for shard in shards) + ((files.index,) if files.index is not None else ())
        self.shards = tuple(shards)
        self._shard_of: dict[str, SafetensorsReader] = {}
        tensors = []
        for shard in shards:
            for tensor in shard.tensors:
                if tensor.name in self._shard_of:
                    raise FileFormatError(
                        f"{path}: tensor {tensor.name[:80]!r} is in two shards: "
                        f"{self._shard_of[tensor.name].path} and {shard.path}"
                    )
                self._shard_of[tensor.name] = shard
                tensors.append(tensor)
        self.tensors = tuple(tensors)

    def read_into(self, tensor: SafetensorsInfo, start: int, buffer: Any) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start`."""
        shard = self._shard_of.get(arguments.text(getattr(tensor, "name", None), "tensor"))
        if shard is None:
            raise InvalidValueError(f"tensor: {self.path} has none of the name {quote(tensor.name)}")
        shard.read_into(tensor, start, buffer)

    def close(self) -> None:
        """Close all shards."""
        for shard in self.shards:
            shard.close()


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a safetensors checkpoint: a file, a folder, or an index.

    Parameters
    ----------
    path : path
        The file, folder or index to open. Of a folder, the index or the single file is read, by the names of
        transformers, diffusers, PEFT and Mistral; or all shards of one name, if there is no index.

    Returns
    -------
    Checkpoint
        Use it as a context manager.

    Raises
    ------
    FileFormatError
        A shard is malformed or missing, is named by more than a plain file name or is no regular file, or the index
        names a tensor that the shard does not have.
    OSError
        A file cannot be opened or read.
    """
    files = find_files(path)
    shards: list[SafetensorsReader] = []
    try:
        for file in files.shards:
            shards.append(SafetensorsReader(file))
        checkpoint = Checkpoint(files, shards)
        _check_index(files, shards)
        return checkpoint
    except BaseException:
        for shard in shards:
            shard.close()
        raise


def _check_index(files: CheckpointFiles, shards: list[SafetensorsReader]) -> None:
    """Refuse an index that is stale: every tensor that it names must be where it says. Others may lie beside them."""
    if files.weight_map is None:
        return
    found = {t.name: file.name for file, shard in zip(files.shards, shards, strict=True) for t in shard.tensors}
    for name, file in sorted(files.weight_map.items()):
        if found.get(name) != file:
            where = f"found in {found[name]!r}" if name in found else "in none of the shards"
            raise FileFormatError(f"{files.path}: tensor {name[:80]!r} is mapped to {file!r}, but is {where}")


def _product(shape: list[int]) -> int:
    """The number of elements of a shape; counting stops beyond 2**64, even if an extent of 0 follows."""
    product = 1
    for extent in shape:
        if extent and (product := product * extent) > _MOST_BITS:
            return product
    return product if all(shape) else 0


def _is_text(value: Any) -> bool:
    """Whether a string can be encoded as UTF-8: JSON escapes can spell half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)

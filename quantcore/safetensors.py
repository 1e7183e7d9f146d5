"""A strict reader of safetensors checkpoints: one file, or a folder of shards with its index.

The header is parsed here, and tensors are read by position, rather than through the `safetensors` library: that one
maps the file (a file that shrinks while mapped kills the process) and needs further packages for bfloat16.
Source: the format's description in the safetensors README.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from quantcore._files import InputFile, label
from quantcore._json import parsed_json
from quantcore.errors import FileFormatError

MAX_HEADER_BYTES = 100_000_000
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one element of each dtype of the format."""
_MOST_BITS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class SafetensorsInfo:
    """One tensor of a safetensors file; `offset` counts from the file's start."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    nbytes: int


class SafetensorsReader:
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

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = InputFile(path)
        try:
            self._parse()
        except BaseException:
            self._file.close()
            raise

    @property
    def path(self) -> str:
        """The path, for messages."""
        return self._file.label

    @property
    def file_path(self) -> Path:
        """The path."""
        return self._file.path

    def read_into(self, tensor: SafetensorsInfo, start: int, buffer: Any) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start` on; ValueError if they are not all the tensor's."""
        self._file.read_part(tensor.offset, tensor.nbytes, start, buffer)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse(self, field: str, problem: str) -> NoReturn:
        raise FileFormatError(f"{self._file.label}: {field}: {problem}")

    def _parse(self) -> None:
        size = self._file.size
        if size < 8:
            self._refuse("header length", f"takes 8 bytes, the file has {size}")
        (length,) = struct.unpack("<Q", self._file.read(0, 8))
        if length > MAX_HEADER_BYTES or length > size - 8:
            self._refuse(
                "header length", f"{length} bytes; the file has {size - 8} more, the limit is {MAX_HEADER_BYTES}"
            )
        data_start = 8 + length
        header = parsed_json(self._file.read(8, length), self._file.label, "header")
        self.metadata = self._metadata(header.pop("__metadata__", {}))
        tensors = [self._tensor(name, entry, data_start) for name, entry in header.items()]
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
        if not isinstance(metadata, dict) or not all(_is_text(k) and _is_text(v) for k, v in metadata.items()):
            self._refuse("__metadata__", "must map strings to strings")
        return metadata

    def _tensor(self, name: str, entry: Any, data_start: int) -> SafetensorsInfo:
        field = f"tensor {name[:80]!r}"
        if not _is_text(name):
            self._refuse(field, "name is not UTF-8 (a lone surrogate)")
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            self._refuse(field, "must have exactly dtype, shape and data_offsets")
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


class Checkpoint:
    """The tensors of one safetensors file or of all shards of a folder. Made by `open_checkpoint`.

    Attributes
    ----------
    path : str
        What was opened, for messages.
    folder : Path
        Where its files are.
    files : tuple of Path
        All files that were read: shards and index.
    shards : tuple of SafetensorsReader
    tensors : tuple of SafetensorsInfo
        Shard after shard.
    """

    def __init__(self, path: str, folder: Path, shards: list[SafetensorsReader], index: Path | None = None) -> None:
        self.path = path
        self.folder = folder
        self.files = tuple(shard.file_path for shard in shards) + ((index,) if index is not None else ())
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
        """Fill `buffer` with the tensor's bytes from byte `start` on."""
        self._shard_of[tensor.name].read_into(tensor, start, buffer)

    def close(self) -> None:
        """Close all shards."""
        for shard in self.shards:
            shard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a safetensors file, a folder with `model.safetensors.index.json` or `model.safetensors`, or an index file.

    Parameters
    ----------
    path : path
        What to open.

    Returns
    -------
    Checkpoint
        Use it as a context manager.

    Raises
    ------
    FileFormatError
        A shard is malformed or missing, is named by more than a plain file name or leaves the folder, or the index and
        the shards disagree on which tensor is where.
    OSError
        A file cannot be opened or read.
    """
    path = Path(os.fsdecode(path))
    if path.is_dir():
        index = path / INDEX_NAME
        if not index.exists():
            single = path / SINGLE_NAME
            if not single.exists():
                raise FileFormatError(f"{label(path)}: has neither {INDEX_NAME} nor {SINGLE_NAME}")
            return _open_shards(label(path), path, [single])
        path = index
    elif path.suffix != ".json":
        return _open_shards(label(path), path.parent, [path])
    weight_map = _weight_map(path)
    names = list(dict.fromkeys(weight_map.values()))
    files = [_shard_path(path, path.parent, name) for name in names]
    return _open_shards(label(path), path.parent, files, weight_map, path)


def _open_shards(
    path: str, folder: Path, files: list[Path], weight_map: dict[str, str] | None = None, index: Path | None = None
) -> Checkpoint:
    shards: list[SafetensorsReader] = []
    try:
        for file in files:
            shards.append(SafetensorsReader(file))
        checkpoint = Checkpoint(path, folder, shards, index)
        if weight_map is not None:
            found = {t.name: file.name for file, shard in zip(files, shards, strict=True) for t in shard.tensors}
            for name in sorted(found.keys() | weight_map.keys()):
                if found.get(name) != weight_map.get(name):
                    raise FileFormatError(
                        f"{path}: tensor {name[:80]!r} is mapped to {weight_map.get(name)!r}, "
                        f"but found in {found.get(name)!r}"
                    )
        return checkpoint
    except BaseException:
        for shard in shards:
            shard.close()
        raise


def _weight_map(path: Path) -> dict[str, str]:
    with InputFile(path) as file:
        if file.size > MAX_HEADER_BYTES:
            raise FileFormatError(f"{file.label}: {file.size} bytes, the limit of an index is {MAX_HEADER_BYTES}")
        index = parsed_json(file.read(0, file.size), file.label, "index")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise FileFormatError(f"{label(path)}: weight_map: must map tensor names to file names")
    return weight_map


def _shard_path(index: Path, folder: Path, name: str) -> Path:
    file = folder / name
    if not 0 < len(name) <= 255 or name in (".", "..") or any(c in name for c in "/\\\0"):
        raise FileFormatError(f"{label(index)}: shard {name[:80]!r}: must be a plain file name")
    if not file.exists():
        raise FileFormatError(f"{label(index)}: shard {name[:80]!r}: missing")
    if file.resolve().parent != folder.resolve() and not _is_hub_snapshot(file, folder):
        raise FileFormatError(f"{label(index)}: shard {name[:80]!r}: is a link that leaves the folder")
    return file


def _is_hub_snapshot(file: Path, folder: Path) -> bool:
    """Whether a link goes from `snapshots/REVISION/` to `blobs/` of the same model, as in the Hugging Face cache."""
    resolved_folder = folder.resolve()
    return (
        resolved_folder.parent.name == "snapshots" and file.resolve().parent == resolved_folder.parent.parent / "blobs"
    )


def _product(shape: list[int]) -> int:
    """Elements of a shape; beyond 2**64 it is given up, also if an extent of 0 were to follow."""
    product = 1
    for extent in shape:
        if extent and (product := product * extent) > _MOST_BITS:
            return product
    return product if all(shape) else 0


def _is_text(value: Any) -> bool:
    """A string that can be written as UTF-8: JSON escapes can spell half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)

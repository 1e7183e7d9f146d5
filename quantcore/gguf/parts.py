"""A GGUF model of one file or of several parts, which are opened as one, from the name of any of them.

llama.cpp's gguf-split writes such parts: the first has the metadata of the model, each says its own number, how many
there are, and how many tensors they have together.
"""

import os
from pathlib import Path
from typing import Any

from quantcore._base import arguments
from quantcore._base.text import quote
from quantcore.errors import FileFormatError, InvalidValueError
from quantcore.files.paths import label
from quantcore.files.tensor_reader import TensorFiles
from quantcore.gguf.layout import SPLIT_COUNT_KEY, SPLIT_NO_KEY, SPLIT_TENSORS_KEY, TensorInfo, ValueType
from quantcore.gguf.part_names import part_path, part_prefix
from quantcore.gguf.reader import GGUFReader
from quantcore.gguf.values import KeyValue


class GGUFModel(TensorFiles):
    """The metadata and the tensors of a GGUF model, whatever the number of its parts. Made by `open_gguf`.

    Attributes
    ----------
    path : str
        What was opened, for messages.
    parts : tuple of GGUFReader
        Its files in order; a single one if the model is not split.
    version, alignment : int
        Those of the first part.
    kvs : tuple of KeyValue
        The metadata, which are those of the first part.
    tensors : tuple of TensorInfo
        The tensors of all parts, in their order.
    notices : tuple of str
        What the user should know of the files.
    """

    version: int
    alignment: int
    kvs: tuple[KeyValue, ...]
    tensors: tuple[TensorInfo, ...]
    notices: tuple[str, ...]

    def __init__(self, path: str, parts: tuple[GGUFReader, ...]) -> None:
        self.path = path
        self.parts = parts
        first = parts[0]
        self.version, self.alignment, self.kvs = first.version, first.alignment, first.kvs
        self._part_of: dict[str, int] = {}
        for i, part in enumerate(parts):
            for tensor in part.tensors:
                if tensor.name in self._part_of:
                    other = parts[self._part_of[tensor.name]].path
                    raise FileFormatError(f"{part.path}: tensor {quote(tensor.name)} is in {other} as well")
                self._part_of[tensor.name] = i
        self.tensors = tuple(tensor for part in parts for tensor in part.tensors)
        self.notices = tuple(
            notice if len(parts) == 1 else f"part {i}: {notice}" for i, p in enumerate(parts, 1) for notice in p.notices
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        return tuple(part.file_path for part in self.parts)

    def value(self, key: str) -> Any:
        """The decoded value of a key (a list for an array), or None if there is no such key."""
        return self.parts[0].value(key)

    def part_of(self, name: str) -> int:
        """The number of the part that has a tensor, from 0 on; InvalidValueError if none has it."""
        return self._numbered(name, "name")

    def _numbered(self, name: Any, field: str) -> int:
        if (number := self._part_of.get(arguments.text(name, field))) is None:
            raise InvalidValueError(f"{field}: {label(self.path)} has no tensor {quote(name)}")
        return number

    def read_into(self, tensor: TensorInfo, start: int, buffer: Any) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start`; ValueError beyond the tensor's end."""
        self.parts[self._numbered(getattr(tensor, "name", None), "tensor")].read_into(tensor, start, buffer)

    def close(self) -> None:
        """Close all files."""
        for part in self.parts:
            part.close()


def open_gguf(path: str | os.PathLike[str]) -> GGUFModel:
    """Open a GGUF model: a file, or all parts of a split model from the name of any of them.

    Raises
    ------
    FileFormatError
        A file is malformed; a part is missing, is another one than its name says, or belongs to another model.
    OSError
        A file cannot be opened or read.
    """
    opened: list[GGUFReader] = []
    try:
        given = GGUFReader(path)
        opened.append(given)
        count = _number(given, SPLIT_COUNT_KEY, ValueType.UINT16) or 0
        if count < 2:
            return GGUFModel(label(path), (given,))
        number = _required(given, SPLIT_NO_KEY, ValueType.UINT16)
        if number >= count:
            raise FileFormatError(f"{given.path}: {SPLIT_NO_KEY}: {number} of {count} parts, which count from 0")
        prefix = part_prefix(path, number, count)
        if prefix is None:
            raise FileFormatError(
                f"{given.path}: is part {number + 1} of {count}, whose name ends in {part_path('', number, count)}"
            )
        parts = []
        for i in range(count):
            part = given if i == number else _open_part(part_path(prefix, i, count), i, count, given)
            if part is not given:
                opened.append(part)
            _check_part(part, i, count, given)
            parts.append(part)
        _check_number_of_tensors(given, parts)
        return GGUFModel(label(path), tuple(parts))
    except BaseException:
        for part in opened:
            part.close()
        raise


def _open_part(path: Path, number: int, count: int, given: GGUFReader) -> GGUFReader:
    if not os.path.lexists(path):
        raise FileFormatError(f"{label(path)}: part {number + 1} of {count} is missing ({given.path} needs it)")
    return GGUFReader(path)


def _check_part(part: GGUFReader, number: int, count: int, given: GGUFReader) -> None:
    """Refuse a part that is another one than its name says, or one of another model."""
    for key, kind, expected in (
        (SPLIT_NO_KEY, ValueType.UINT16, number),
        (SPLIT_COUNT_KEY, ValueType.UINT16, count),
        (SPLIT_TENSORS_KEY, ValueType.INT32, _required(given, SPLIT_TENSORS_KEY, ValueType.INT32)),
    ):
        found = _required(part, key, kind)
        if found != expected:
            raise FileFormatError(f"{part.path}: {key}: expected {expected} in part {number + 1}, got {found}")


def _check_number_of_tensors(given: GGUFReader, parts: list[GGUFReader]) -> None:
    expected, found = given.value(SPLIT_TENSORS_KEY), sum(len(part.tensors) for part in parts)
    if found != expected:
        raise FileFormatError(f"{given.path}: {SPLIT_TENSORS_KEY}: {expected}, but the parts have {found} together")


def _required(part: GGUFReader, key: str, kind: ValueType) -> int:
    found = _number(part, key, kind)
    if found is None:
        raise FileFormatError(f"{part.path}: {key}: missing in a part of a split model")
    return found


def _number(part: GGUFReader, key: str, kind: ValueType) -> int | None:
    kv = next((kv for kv in part.kvs if kv.key == key), None)
    if kv is None:
        return None
    if kv.type_id != kind:
        raise FileFormatError(f"{part.path}: {key}: expected type {kind.name}, got {ValueType(kv.type_id).name}")
    return int(kv.value)

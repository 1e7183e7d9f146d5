"""A model to read, whatever its container: the tensors in the order they are written, each with a way to its bytes."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

from quantcore._files import InputFile, is_pickle, label
from quantcore.errors import FileFormatError
from quantcore.ggml_types import GGML_TYPES, GGMLType
from quantcore.gguf.layout import (
    ARCHITECTURE_KEY,
    FILE_TYPE_KEY,
    MAGIC,
    QUANTIZATION_VERSION_KEY,
    KeyValue,
)
from quantcore.gguf.reader import GGUFReader
from quantcore.gguf.rules import layer_then_name
from quantcore.safetensors import Checkpoint, open_checkpoint

_TYPES_BY_NAME = {t.name: t for t in GGML_TYPES.values()}
_REPLACED_KEYS = {QUANTIZATION_VERSION_KEY, FILE_TYPE_KEY, "split.no", "split.count", "split.tensors.count"}
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor to be read: `read_into(start, buffer)` fills a buffer with its bytes from `start` on."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    read_into: Callable[[int, Any], None]

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size // self.type.block_size * self.type.bytes_per_block


class Source:
    """A model file (GGUF) or checkpoint (safetensors), open. Use it as a context manager.

    Attributes
    ----------
    label : str
        The path, for messages.
    paths : tuple of Path
        The files that are read.
    kvs : tuple of KeyValue
        The metadata to copy; for safetensors only the architecture.
    tensors : tuple of SourceTensor
        By layer, then by name.
    notices : tuple of str
        What the user should know of how the file was read.
    """

    def __init__(self, path: str | os.PathLike[str], *, arch: str | None = None) -> None:
        self.label = label(path)
        self.notices: tuple[str, ...] = ()
        self._reader: GGUFReader | Checkpoint
        if is_gguf(path):
            self._reader = reader = GGUFReader(path)
            self.paths: tuple[Path, ...] = (Path(os.fsdecode(path)),)
            tensors = [_of_gguf(reader, t) for t in reader.tensors]
            self.kvs = _copied_kvs(reader, arch)
        else:
            self._reader = checkpoint = open_checkpoint(path)
            self.paths = checkpoint.files
            tensors = [self._of_safetensors(checkpoint, t) for t in checkpoint.tensors]
            self.kvs = (KeyValue.string(ARCHITECTURE_KEY, arch or self._architecture(checkpoint.folder)),)
        self.tensors = tuple(sorted(tensors, key=lambda t: layer_then_name(t.name)))

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _of_safetensors(self, checkpoint: Checkpoint, tensor: Any) -> SourceTensor:
        type_ = _TYPES_BY_NAME.get(tensor.dtype)
        if type_ is None:
            checkpoint.close()
            raise FileFormatError(f"{self.label}: tensor {tensor.name[:80]!r}: GGUF has no type for {tensor.dtype}")
        return SourceTensor(
            tensor.name,
            tensor.shape or (1,),
            type_,
            lambda start, buffer: checkpoint.read_into(tensor, start, buffer),
        )

    def _architecture(self, folder: Path) -> str:
        """`model_type` of the checkpoint's config.json."""
        try:
            with InputFile(folder / "config.json") as file:
                model_type = json.loads(file.read(0, min(file.size, 1 << 20)))["model_type"]
            if is_architecture(model_type):
                return str(model_type)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        self.notices += (f"{ARCHITECTURE_KEY}: 'unknown', since no config.json tells it; --arch (arch=) names it",)
        return "unknown"


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a GGUF file, by its first bytes, or calls itself one; the alternative is safetensors."""
    if Path(os.fsdecode(path)).is_dir():
        return False
    with InputFile(path) as file:
        head = file.read(0, min(9, file.size))
    if head.startswith(_ZIP) or is_pickle(head):
        raise FileFormatError(f"{label(path)}: pickle and zip files (PyTorch) are never opened; use safetensors")
    return head.startswith(MAGIC) or os.fsdecode(path).endswith(".gguf")


def _of_gguf(reader: GGUFReader, tensor: Any) -> SourceTensor:
    return SourceTensor(
        tensor.name,
        tensor.shape,
        tensor.type,
        lambda start, buffer: reader.read_into(tensor, start, buffer),
    )


def _copied_kvs(reader: GGUFReader, arch: str | None) -> tuple[KeyValue, ...]:
    if (reader.value("split.count") or 0) not in (0, 1):
        reader.close()
        raise FileFormatError(f"{reader.path}: split.count: one part of a split model; merge the parts first")
    kvs = tuple(kv for kv in reader.kvs if kv.key not in _REPLACED_KEYS)
    if arch is None:
        return kvs
    named = KeyValue.string(ARCHITECTURE_KEY, arch)
    if all(kv.key != ARCHITECTURE_KEY for kv in kvs):
        return (named, *kvs)
    return tuple(named if kv.key == ARCHITECTURE_KEY else kv for kv in kvs)


def is_architecture(value: object) -> bool:
    """Whether a value can be the name of an architecture."""
    return isinstance(value, str) and value != "" and value.isprintable()

"""A writer of GGUF files: the whole head first, since all sizes are known, then the tensors' bytes as they come."""

import struct
from collections.abc import Iterable
from typing import Any

from quantcore._files import OutputFile
from quantcore.errors import InvalidValueError
from quantcore.ggml_types import GGMLType
from quantcore.gguf.layout import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    WRITTEN_VERSION,
    KeyValue,
    TensorInfo,
    encoded_tensor_info,
    padded,
)


class GGUFWriter:
    """Writes the head of a GGUF file, then tensor after tensor in the order they were declared.

    Parameters
    ----------
    file : OutputFile
        Where to write, open.
    kvs : iterable of KeyValue
        Metadata, in order. `general.alignment` among them is obeyed.
    tensors : iterable of (name, shape, GGMLType)
        Shapes in NumPy's order.

    Raises
    ------
    ValueError
        A tensor cannot stand in a GGUF file: name over 63 bytes, more than 4 dimensions, an empty one.
    """

    def __init__(
        self, file: OutputFile, kvs: Iterable[KeyValue], tensors: Iterable[tuple[str, tuple[int, ...], GGMLType]]
    ) -> None:
        kvs, tensors = tuple(kvs), tuple(tensors)
        self._file = file
        self._alignment = next(
            (struct.unpack("<I", kv.raw)[0] for kv in kvs if kv.key == ALIGNMENT_KEY), DEFAULT_ALIGNMENT
        )
        head = MAGIC + struct.pack("<IQQ", WRITTEN_VERSION, len(tensors), len(kvs))
        parts = [head, *(kv.encoded() for kv in kvs)]
        data_offset = 0
        for name, shape, type_ in tensors:
            check_tensor(name, shape)
            info = TensorInfo(name, shape, type_.id, data_offset)
            parts.append(encoded_tensor_info(name, shape, type_.id, data_offset))
            data_offset += padded(info.nbytes, self._alignment)
        self._position = 0
        self.write(b"".join(parts))
        self.end_tensor()

    def write(self, data: Any) -> None:
        """The next bytes of the current tensor."""
        self._file.write(data)
        self._position += memoryview(data).nbytes

    def end_tensor(self) -> None:
        """Pad the current tensor to the alignment."""
        self.write(bytes(padded(self._position, self._alignment) - self._position))


def check_tensor(name: str, shape: tuple[int, ...]) -> None:
    """Refuse a tensor that GGUF has no place for."""
    if not name or "\0" in name or len(name.encode("utf-8")) > MAX_NAME_BYTES:
        raise InvalidValueError(f"tensor {name!r}: GGUF names have 1 to {MAX_NAME_BYTES} bytes")
    if not 1 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 1:
        raise InvalidValueError(
            f"tensor {name!r}: GGUF takes 1 to {MAX_DIMENSIONS} dimensions of at least 1, not {shape}"
        )

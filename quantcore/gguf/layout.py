"""GGUF's layout: value types, the records of its two tables, and how a key with its value is written.

Source: the GGUF specification in ggml's `docs/gguf.md`. All numbers are little-endian.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from math import prod

from quantcore.ggml_types import GGML_TYPES, GGMLType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
WRITTEN_VERSION = 3
DEFAULT_ALIGNMENT = 32
MAX_NAME_BYTES = 63
MAX_DIMENSIONS = 4

ALIGNMENT_KEY = "general.alignment"
ARCHITECTURE_KEY = "general.architecture"
QUANTIZATION_VERSION_KEY = "general.quantization_version"
FILE_TYPE_KEY = "general.file_type"


class ValueType(IntEnum):
    """Types of metadata values."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


SCALAR_CODES = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
"""`struct` codes of the values of fixed size."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One metadata entry; `raw` is the value as it stands in the file, without its type."""

    key: str
    type_id: int
    raw: bytes

    @classmethod
    def uint32(cls, key: str, value: int) -> "KeyValue":
        """An entry with an unsigned number."""
        return cls(key, ValueType.UINT32, struct.pack("<I", value))

    @classmethod
    def string(cls, key: str, value: str) -> "KeyValue":
        """An entry with a text."""
        return cls(key, ValueType.STRING, encoded_string(value))

    def encoded(self) -> bytes:
        """Key, type and value as they stand in a file."""
        return encoded_string(self.key) + struct.pack("<I", self.type_id) + self.raw


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a GGUF file: `shape` in NumPy's order (outermost first), `offset` from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int

    @property
    def type(self) -> GGMLType:
        """The type that `type_id` stands for."""
        return GGML_TYPES[self.type_id]

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.size // self.type.block_size * self.type.bytes_per_block


def encoded_string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def encoded_tensor_info(name: str, shape: tuple[int, ...], type_id: int, data_offset: int) -> bytes:
    """A line of the tensor table. Outermost dimensions of 1 are left out, as ggml writes them."""
    extents = list(reversed(shape))
    while len(extents) > 1 and extents[-1] == 1:
        extents.pop()
    return (
        encoded_string(name)
        + struct.pack(f"<I{len(extents)}Q", len(extents), *extents)
        + struct.pack("<IQ", type_id, data_offset)
    )


def padded(size: int, alignment: int) -> int:
    """The next multiple of `alignment`."""
    return -(-size // alignment) * alignment

"""GGUF's layout: value types, limits, and the record of a tensor. `values` has the metadata's entries.

Source: the GGUF specification in ggml's `docs/gguf.md`. All numbers are little-endian.
"""

import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from math import prod

from quantcore._base.records import shown
from quantcore.ggml.types import GGML_TYPES, REMOVED_TYPES, GGMLType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
WRITTEN_VERSION = 3
DEFAULT_ALIGNMENT = 32
LEAST_ALIGNMENT = 8
MAX_ALIGNMENT = 1 << 16
MAX_KEY_BYTES = 65535
MAX_NAME_BYTES = 63
"""Bytes of a tensor's name that llama.cpp reads."""
MAX_LONG_NAME_BYTES = 127
"""Bytes of a tensor's name in the files of ComfyUI."""
MAX_DIMENSIONS = 4
MAX_READ_DIMENSIONS = 5
"""Dimensions of a tensor that is read: ComfyUI's files of video models have convolutions in space and time."""
MAX_ELEMENTS = (1 << 63) - 1
MAX_TYPE_ID = (1 << 16) - 1
"""ggml numbers its types from 0 on, forks of it from a few hundred on: a larger id is damage, not a new type."""
MOST_ELEMENT_BYTES = 8
"""Bytes that an element of an unknown type takes at most, as one of I64 and F64 does."""
MOST_ELEMENTS_IN_BYTE = 16
"""Elements of an unknown type that a byte holds at most; ggml's types go down to 1.1 bits for an element."""
MAX_METADATA_BYTES = 512_000_000
MAX_PARTS = (1 << 16) - 1
"""Parts of a split model at most: their number is a UINT16."""
MAX_RESIDENT_BYTES = 48 << 20
"""Memory that keys, short values and the table of tensors take at most; long values stay in the file."""

ALIGNMENT_KEY = "general.alignment"
ARCHITECTURE_KEY = "general.architecture"
QUANTIZATION_VERSION_KEY = "general.quantization_version"
FILE_TYPE_KEY = "general.file_type"
SPLIT_NO_KEY = "split.no"
"""The number of a part of a split model, from 0 on."""
SPLIT_COUNT_KEY = "split.count"
"""How many parts there are; 0 or 1: the file is the whole model."""
SPLIT_TENSORS_KEY = "split.tensors.count"
"""How many tensors all parts have together."""
SPLIT_KEYS = (SPLIT_NO_KEY, SPLIT_COUNT_KEY, SPLIT_TENSORS_KEY)

_LAYER = re.compile(r"blk\.\s*([+-]?)0*(\d+)", re.ASCII)
_MOST_DIGITS = 19
_LONG_MAX = (1 << 63) - 1


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

SCALAR_SIZES = {int(t): struct.calcsize("<" + code) for t, code in SCALAR_CODES.items()}


@shown()
@dataclass(frozen=True, slots=True, repr=False)
class TensorInfo:
    """One tensor of a GGUF file.

    Attributes
    ----------
    name : str
    shape : tuple of int
        In NumPy's order, outermost first.
    type_id : int
    offset : int
        From the start of the file.
    opaque_bytes : int
        The room up to the next tensor, if the type is not known here; else not used.
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    opaque_bytes: int = 0

    @property
    def type(self) -> GGMLType:
        """The ggml type with the id `type_id`; one that is not known is a single block that is the whole tensor."""
        known = GGML_TYPES.get(self.type_id)
        return known or GGMLType(name_type(self.type_id), self.type_id, max(1, self.size), self.opaque_bytes)

    @property
    def stored_type(self) -> str:
        """The name of the type."""
        return self.type.name

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return count_bytes(self.size, self.type)


def name_type(type_id: int) -> str:
    """The name of a type; of one that ggml has removed with that word, of a newer one "type" and its number."""
    if type_id in GGML_TYPES:
        return GGML_TYPES[type_id].name
    return f"{REMOVED_TYPES[type_id]} (removed)" if type_id in REMOVED_TYPES else f"type {type_id}"


def count_bytes(size: int, type_: GGMLType) -> int:
    """Bytes that so many elements take, which are whole blocks."""
    return size // type_.block_size * type_.bytes_per_block


def count_elements(shape: tuple[int, ...]) -> int:
    """Elements of a shape as if extents of 0 were 1, so that one of them does not hide what the others multiply to."""
    return prod(extent or 1 for extent in shape)


def is_plausible(size: int, nbytes: int, alignment: int) -> bool:
    """Whether a tensor of so many elements can take so many bytes, padding included, whatever its type is."""
    return size <= MOST_ELEMENTS_IN_BYTE * nbytes and nbytes <= round_up(MOST_ELEMENT_BYTES * size, alignment)


def is_alignment(value: int) -> bool:
    """Whether a number can be `general.alignment`: a power of two from 8 to 65536."""
    return LEAST_ALIGNMENT <= value <= MAX_ALIGNMENT and not value & (value - 1)


def key_value_memory(key_bytes: int, value_bytes: int) -> int:
    """Memory for a key and a short value that are kept, roughly."""
    return 256 + 2 * key_bytes + value_bytes


def tensor_memory(name_bytes: int) -> int:
    """Memory for a tensor's entry, roughly."""
    return 512 + 2 * name_bytes


def encode_string(text: str | bytes) -> bytes:
    """A string as it is in a file: its length, then its bytes."""
    data = text.encode("utf-8") if isinstance(text, str) else bytes(text)
    return struct.pack("<Q", len(data)) + data


def encode_tensor_info(
    name: str, shape: tuple[int, ...], type_id: int, data_offset: int, *, keeps_ones: bool = False
) -> bytes:
    """The entry of the tensor table as bytes. Outermost dimensions of 1 are left out, as ggml writes them, or kept."""
    extents = list(reversed(shape))
    while len(extents) > 1 and extents[-1] == 1 and not keeps_ones:
        extents.pop()
    return (
        encode_string(name)
        + struct.pack(f"<I{len(extents)}Q", len(extents), *extents)
        + struct.pack("<IQ", type_id, data_offset)
    )


def round_up(size: int, alignment: int) -> int:
    """The next multiple of `alignment`."""
    return -(-size // alignment) * alignment


def n_dimensions(shape: tuple[int, ...]) -> int:
    """The number of dimensions as ggml counts them: outermost extents of 1 do not count; a scalar has one dimension."""
    for i, extent in enumerate(shape):
        if extent != 1:
            return len(shape) - i
    return 1


def layer_then_name(name: str) -> tuple[int, bytes]:
    """The sort key of tensors in a model file: the number after `blk.` (-1 if there is none), then the bytes.

    The number is what C's `sscanf("%d")` reads on Linux: it stops at the limits of 64 bits, of which 32 are kept.
    """
    layer = -1
    if match := _LAYER.match(name):
        sign, digits = match.groups()
        number = int(digits) if len(digits) <= _MOST_DIGITS else _LONG_MAX + 1
        layer = max(-number, -_LONG_MAX - 1) if sign == "-" else min(number, _LONG_MAX)
    return (layer + 2**31) % 2**32 - 2**31, name.encode("utf-8")

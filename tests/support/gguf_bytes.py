"""A builder of GGUF files in which every field can lie.

Nothing here imports the package: the layout is written out again from the format's definition.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# Value types
U8, I8, U16, I16, U32, I32, F32_VALUE, BOOL, STRING, ARRAY, U64, I64, F64_VALUE = range(13)
# Tensor types
F32, F16, Q4_0, Q8_0, Q6_K, I32_TENSOR, I64_TENSOR, F64, BF16 = 0, 1, 2, 8, 14, 26, 27, 28, 30
REMOVED_TENSOR_TYPES = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip
"""id: name"""


class KV(NamedTuple):
    """One key with the bytes of its value; `key_length` overrides the true length."""

    key: bytes
    type_id: int
    payload: bytes
    key_length: int | None = None


class Tensor(NamedTuple):
    """One tensor with the bytes behind it; None means the honest value."""

    name: bytes = b"w"
    ne: tuple[int, ...] = (32,)
    type_id: int = F32
    data: bytes = struct.pack("<32f", *(0.25 * i - 4 for i in range(32)))
    offset: int | None = None
    n_dims: int | None = None
    name_length: int | None = None


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    """Eight bytes; negative values give their two's complement."""
    return struct.pack("<Q", value % 2**64)


def string(text: bytes, length: int | None = None) -> bytes:
    return u64(len(text) if length is None else length) + text


def array(item_type: int, count: int, items: bytes = b"") -> bytes:
    return u32(item_type) + u64(count) + items


def text_kv(key: bytes, text: bytes, length: int | None = None) -> KV:
    return KV(key, STRING, string(text, length))


def array_kv(item_type: int, count: int, items: bytes = b"") -> KV:
    return KV(b"x.array", ARRAY, array(item_type, count, items))


ARCHITECTURE = text_kv(b"general.architecture", b"llama")


def fill(size: int, alignment: int) -> bytes:
    return bytes(-size % alignment)


def pieces(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    kvs: Sequence[KV] = (ARCHITECTURE,),
    tensors: Sequence[Tensor] = (Tensor(),),
    n_kvs: int | None = None,
    n_tensors: int | None = None,
    alignment: int | None = None,
    padding: int = 32,
    pad_header: bool = True,
    pad_tail: bool = True,
    trailing: bytes = b"",
) -> Iterator[tuple[str, bytes]]:
    """Yield (field, bytes) in file order. `alignment` is what the file declares, `padding` what it is laid out with."""
    if alignment is not None:
        kvs = (*kvs, KV(b"general.alignment", U32, u32(alignment)))
    size = 0

    def piece(label: str, data: bytes) -> tuple[str, bytes]:
        nonlocal size
        size += len(data)
        return label, data

    yield piece("magic", magic)
    yield piece("version", u32(version))
    yield piece("tensor count", u64(len(tensors) if n_tensors is None else n_tensors))
    yield piece("kv count", u64(len(kvs) if n_kvs is None else n_kvs))
    for i, kv in enumerate(kvs):
        yield piece(f"kv {i} key length", u64(len(kv.key) if kv.key_length is None else kv.key_length))
        yield piece(f"kv {i} key", kv.key)
        yield piece(f"kv {i} type", u32(kv.type_id))
        yield piece(f"kv {i} value", kv.payload)
    offset = 0
    for i, tensor in enumerate(tensors):
        name_length = len(tensor.name) if tensor.name_length is None else tensor.name_length
        yield piece(f"tensor {i} name length", u64(name_length))
        yield piece(f"tensor {i} name", tensor.name)
        yield piece(f"tensor {i} n_dims", u32(len(tensor.ne) if tensor.n_dims is None else tensor.n_dims))
        yield piece(f"tensor {i} dims", b"".join(map(u64, tensor.ne)))
        yield piece(f"tensor {i} type", u32(tensor.type_id))
        yield piece(f"tensor {i} offset", u64(offset if tensor.offset is None else tensor.offset))
        offset += len(tensor.data) + len(fill(len(tensor.data), padding))
    if pad_header:
        yield piece("header padding", fill(size, padding))
    for i, tensor in enumerate(tensors):
        yield piece(f"tensor {i} data", tensor.data)
        if pad_tail or i + 1 < len(tensors):
            yield piece(f"tensor {i} padding", fill(len(tensor.data), padding))
    yield piece("trailing bytes", trailing)


def build_gguf(**fields: object) -> bytes:
    """Return the file as bytes; the keywords are those of `pieces`."""
    return b"".join(data for _, data in pieces(**fields))  # type: ignore[arg-type]


EVERY_VALUE = {
    "x.u8": (U8, struct.pack("<B", 255), 255),
    "x.i8": (I8, struct.pack("<b", -128), -128),
    "x.u16": (U16, struct.pack("<H", 65535), 65535),
    "x.i16": (I16, struct.pack("<h", -32768), -32768),
    "x.u32": (U32, u32(2**32 - 1), 2**32 - 1),
    "x.i32": (I32, struct.pack("<i", -(2**31)), -(2**31)),
    "x.f32": (F32_VALUE, struct.pack("<f", 0.5), 0.5),
    "x.false": (BOOL, b"\0", False),
    "x.true": (BOOL, b"\1", True),
    "x.text": (STRING, string("π ≈ 3".encode()), "π ≈ 3"),
    "x.empty": (STRING, string(b""), ""),
    "x.u64": (U64, u64(-1), 2**64 - 1),
    "x.i64": (I64, u64(-(2**63)), -(2**63)),
    "x.f64": (F64_VALUE, struct.pack("<d", -0.1), -0.1),
    "x.ints": (ARRAY, array(I32, 3, struct.pack("<3i", 1, -2, 3)), [1, -2, 3]),
    "x.texts": (ARRAY, array(STRING, 2, string(b"a") + string(b"")), ["a", ""]),
    "x.bools": (ARRAY, array(BOOL, 2, b"\0\1"), [False, True]),
    "x.none": (ARRAY, array(F32_VALUE, 0), []),
}
"""key: (type id, bytes, decoded value)"""

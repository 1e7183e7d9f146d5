"""A catalogue of malformed GGUF files, made with ``tests/support/gguf_bytes.py``.

Names read ``family/what is wrong``. Every family has a valid neighbour in ``VALID``, so that a refusal is owed to the
one field that lies. Each hostile file is consistent otherwise: a reader that trusts the field (wraps a product, skips a
check) would accept it.
"""

import struct
from collections.abc import Iterator

from tests.support.gguf_bytes import (
    ARCHITECTURE,
    ARRAY,
    BF16,
    BOOL,
    EVERY_VALUE,
    F16,
    F32,
    F32_VALUE,
    F64,
    F64_VALUE,
    I32,
    I32_TENSOR,
    I64_TENSOR,
    KV,
    Q4_0,
    Q6_K,
    Q8_0,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Tensor,
    array,
    array_kv,
    build_gguf,
    fill,
    pieces,
    string,
    text_kv,
    u32,
    u64,
)
from tests.support.hostile_paths import Maker, a_folder, fifo, holed, link, sparse, unix_socket


def _with_kv(*kvs: KV) -> bytes:
    return build_gguf(kvs=(ARCHITECTURE, *kvs))


def _tensor(**fields: object) -> bytes:
    return build_gguf(tensors=(Tensor(**fields),))  # type: ignore[arg-type]


def _two(**second: object) -> bytes:
    """Two tensors, the second with the given fields."""
    return build_gguf(tensors=(Tensor(b"a"), Tensor(b"b")._replace(**second)))


def _sized(type_id: int, ne: tuple[int, ...], size: int) -> bytes:
    return _tensor(type_id=type_id, ne=ne, data=bytes(i % 60 for i in range(size)))


def _big_endian(version: int, magic: bytes = b"GGUF") -> bytes:
    """Return a well-formed big-endian file, as written for s390x."""
    key, text, name = b"general.architecture", b"llama", b"w"
    head = magic + struct.pack(f">IQQQ{len(key)}sIQ{len(text)}s", version, 1, 1, len(key), key, STRING, len(text), text)
    head += struct.pack(">Q1sIQIQ", len(name), name, 1, 32, F32, 0)
    return head + fill(len(head), 32) + struct.pack(">32f", *range(32))


def _version_1() -> bytes:
    """Return a well-formed file of the first version, whose counts and lengths have 32 bits."""
    key, text, name = b"general.architecture", b"llama", b"w"
    head = b"GGUF" + struct.pack(f"<IIII{len(key)}sII{len(text)}s", 1, 1, 1, len(key), key, STRING, len(text), text)
    head += struct.pack("<I1sIIIQ", len(name), name, 1, 32, F32, 0)
    return head + fill(len(head), 32) + Tensor().data


_RAW_TOKENS = array_kv(STRING, 3, string(b"\xff\xfe") + string(b"\xc3") + string(b"ok"))
_NOT_UTF8 = {
    "not UTF-8": b"a\xffb",
    "a surrogate": b"a\xed\xa0\x80",
    "an overlong NUL": b"a\xc0\x80",
    "half a character": b"a\xc3",
}
HALF = Tensor(b"h", (5,), F16, bytes(10))  # 10 bytes: padding is needed behind it

VALID: dict[str, bytes] = {
    "magic/GGUF": build_gguf(),
    "version/2": build_gguf(version=2),
    "version/3": build_gguf(version=3),
    "truncation/the whole file": build_gguf(kvs=(ARCHITECTURE, array_kv(U32, 2, bytes(8))), tensors=(HALF, Tensor())),
    "counts/nothing at all": build_gguf(kvs=(), tensors=(), pad_header=False),
    "counts/nothing at all, padded": build_gguf(kvs=(), tensors=()),
    "counts/no tensors": build_gguf(tensors=(), pad_header=False),
    "counts/no tensors, padded": build_gguf(tensors=()),
    "counts/no keys": build_gguf(kvs=()),
    "counts/100 of each": build_gguf(
        kvs=[KV(b"k%d" % i, U8, b"\1") for i in range(100)], tensors=[Tensor(b"t%d" % i) for i in range(100)]
    ),
    "key/65535 bytes": _with_kv(KV(b"k" * 65535, U8, b"\1")),
    "key/UTF-8": _with_kv(KV("clé".encode(), U8, b"\1")),
    "string/1 MB": _with_kv(text_kv(b"x.text", b"x" * 10**6)),
    "value type/every one": _with_kv(*(KV(key.encode(), t, raw) for key, (t, raw, _) in EVERY_VALUE.items())),
    "value type/not a number": _with_kv(
        KV(b"x.nan", F32_VALUE, b"\0\0\xc0\x7f"), KV(b"x.inf", F64_VALUE, b"\0" * 6 + b"\xf0\xff")
    ),
    "bool/0 and 1": _with_kv(KV(b"x.no", BOOL, b"\0"), KV(b"x.yes", BOOL, b"\1"), array_kv(BOOL, 2, b"\1\0")),
    "array/empty": _with_kv(array_kv(U8, 0)),
    "array/empty, of strings": _with_kv(array_kv(STRING, 0)),
    "array/raw-byte tokens": _with_kv(_RAW_TOKENS),
    **{f"string/{what}": _with_kv(text_kv(b"x.text", text)) for what, text in _NOT_UTF8.items()},
    "array/3000 strings": _with_kv(array_kv(STRING, 3000, b"".join(string(b"t%d" % i) for i in range(3000)))),
    **{f"name/{n} bytes": _tensor(name=b"n" * n) for n in (64, 100, 127)},
    "name/32 characters in 64 bytes": _tensor(name="é".encode() * 32),
    "name/63 bytes": _tensor(name=b"n" * 63),
    "name/63 bytes of UTF-8": _tensor(name="é".encode() * 31 + b"x"),
    "n_dims/1 to 4": build_gguf(tensors=[Tensor(b"t%d" % n, (32,) + (1,) * (n - 1)) for n in range(1, 5)]),
    "dims/0": _tensor(ne=(0,), data=b""),
    "dims/0 in the middle": _tensor(ne=(32, 0, 2), data=b""),
    "dims/0 at the end": _tensor(ne=(32, 1, 1, 0), data=b""),
    "dims/0 of Q8_0": _sized(Q8_0, (32, 0), 0),
    "dims/0 between others": build_gguf(tensors=(Tensor(b"a"), Tensor(b"z", (32, 0), data=b""), HALF)),
    "dims/outer one is odd": _sized(F32, (4, 3, 5, 7), 4 * 4 * 3 * 5 * 7),
    "tensor type/F64": _sized(F64, (3,), 24),
    "tensor type/I32": _sized(I32_TENSOR, (3,), 12),
    "tensor type/I64": _sized(I64_TENSOR, (3,), 24),
    "tensor type/BF16": _sized(BF16, (3, 2), 12),
    "blocks/Q4_0": _sized(Q4_0, (64, 3), 2 * 3 * 18),
    "blocks/Q8_0": _sized(Q8_0, (32, 3), 3 * 34),
    "blocks/Q6_K": _sized(Q6_K, (256, 2), 2 * 210),
    **{f"alignment/{n}": build_gguf(alignment=n, padding=n, tensors=(HALF, Tensor())) for n in (8, 16, 32, 64, 4096)},
    "offset/three tensors": build_gguf(tensors=(HALF, Tensor(b"a"), Tensor(b"b"))),
    "data/tail padded": build_gguf(tensors=(HALF,)),
    "data/tail not padded": build_gguf(tensors=(HALF,), pad_tail=False),
    "data/half of the padding": build_gguf(tensors=(HALF,), pad_tail=False, trailing=bytes(11)),
    "data/no tensors, half of the padding": build_gguf(kvs=(), tensors=(), pad_header=False, trailing=bytes(4)),
}


def _truncations() -> Iterator[tuple[str, bytes]]:
    """Cut a file inside and behind every field of every structure."""
    texts = KV(b"y.texts", ARRAY, array(STRING, 2, string(b"ab") + string(b"c")))
    whole = list(pieces(kvs=(ARCHITECTURE, array_kv(U32, 2, bytes(8)), texts), tensors=(HALF, Tensor(ne=(8, 4)))))
    data, end = b"".join(chunk for _, chunk in whole), 0
    for label, chunk in whole:
        if chunk:
            yield f"truncation/inside {label}", data[: end + len(chunk) // 2]
            end += len(chunk)
            if end < len(data):
                yield f"truncation/behind {label}", data[:end]


def _nested(depth: int, innermost: bytes = array(U8, 1, b"\1")) -> bytes:
    return _with_kv(KV(b"x.array", ARRAY, array(ARRAY, 1) * depth + innermost))


_GGUF = build_gguf()
_BITS = {"2^31": 2**31, "2^32": 2**32, "2^60": 2**60, "2^63": 2**63, "2^64-1": 2**64 - 1}
_NUL = {"NUL inside": b"a\0b", "NUL at the end": b"ab\0"}
_DULL = KV(b"x.dull", U8, b"\1")
_BLOCKS_WRAP = 32 * (2**63 // 34 + 1)  # Q8_0: the elements fit a signed 64-bit integer, the bytes do not

MALFORMED: dict[str, bytes] = {
    "magic/empty file": b"",
    "magic/three bytes": b"GGU",
    "magic/older GGML": b"lmgg" + _GGUF[4:],
    "magic/lower case": b"gguf" + _GGUF[4:],
    "magic/byte-swapped": b"FUGG" + _GGUF[4:],
    "magic/zeros": bytes(4096),
    "magic/behind a newline": b"\n" + _GGUF,
    "magic/behind a byte-order mark": b"\xef\xbb\xbf" + _GGUF,
    "magic/text": b"not a model\n" * 20,
    "version/1": build_gguf(version=1),
    "version/1 in its own layout": _version_1(),
    **{f"version/{n}": build_gguf(version=n) for n in (0, 4, 5, 2**16 + 3, 3 * 2**24, 2**31 + 3, 2**32 - 1)},
    "version/big-endian 2": _big_endian(2),
    "version/big-endian 3": _big_endian(3),
    "version/big-endian, magic too": _big_endian(3, b"FUGG"),
    **dict(_truncations()),
    **{f"counts/{text} tensors": build_gguf(n_tensors=n) for text, n in _BITS.items()},
    **{f"counts/{text} keys": build_gguf(n_kvs=n) for text, n in _BITS.items()},
    "counts/one tensor too many": build_gguf(n_tensors=2),
    "counts/one key too many": build_gguf(n_kvs=2),
    "counts/one key too few": build_gguf(n_kvs=0),
    "counts/one key and nothing behind": build_gguf(kvs=(), tensors=(), n_kvs=1, pad_header=False),
    "counts/one tensor and nothing behind": build_gguf(kvs=(), tensors=(), n_tensors=1, pad_header=False),
    "key/empty": _with_kv(KV(b"", U8, b"\1")),
    "key/65536 bytes": _with_kv(KV(b"k" * 65536, U8, b"\1")),
    **{f"key/length {text}": _with_kv(_DULL._replace(key_length=n)) for text, n in _BITS.items()},
    **{f"key/{what}": _with_kv(KV(key, U8, b"\1")) for what, key in (_NOT_UTF8 | _NUL).items()},
    "key/twice": _with_kv(_DULL, _DULL),
    "key/twice, apart": _with_kv(_DULL, KV(b"x.other", U8, b"\1"), _DULL),
    "key/twice, other type": _with_kv(_DULL, text_kv(_DULL.key, b"text")),
    "key/twice, with a newline": _with_kv(*[KV(b"a\nb\rc\x1b[2J\xe2\x80\xa8d\x0be", U8, b"\1")] * 2),
    "key/twice, 65535 bytes": _with_kv(*[KV(b"k" * 65535, U8, b"\1")] * 2),
    **{f"string/length {text}": _with_kv(text_kv(b"x.text", b"text", n)) for text, n in _BITS.items()},
    "string/one byte longer than the file": build_gguf(
        kvs=(text_kv(b"x.text", b"text", 5),), tensors=(), pad_header=False
    ),
    **{f"value type/{n}": _with_kv(KV(b"x.y", n, bytes(4))) for n in (2**16 + 4, 2**31 + 4)},
    **{f"value type/{n}, no value": _with_kv(KV(b"x.y", n, b"")) for n in (13, 14, 255, 2**32 - 1)},
    **{f"bool/{n}": _with_kv(KV(b"x.bool", BOOL, bytes([n]))) for n in (2, 128, 255)},
    "bool/2 in an array": _with_kv(array_kv(BOOL, 3, b"\0\1\2")),
    **{f"array/item type {n}": _with_kv(array_kv(n, 1, bytes(8))) for n in (13, 255, 2**32 - 1)},
    "array/unknown item type, empty": _with_kv(array_kv(13, 0)),
    "array/nested": _nested(1),
    "array/nested, empty": _with_kv(array_kv(ARRAY, 0)),
    "array/nested, inner one empty": _nested(1, array(U8, 0)),
    "array/nested 10000 deep": _nested(10_000),
    "array/nested, 2^63 items": _with_kv(array_kv(ARRAY, 2**63)),
    **{f"array/{text} bytes": _with_kv(array_kv(U8, n, bytes(8))) for text, n in _BITS.items()},
    **{f"array/{text} strings": _with_kv(array_kv(STRING, n, bytes(8))) for text, n in _BITS.items()},
    "array/2^63 items in 49 bytes": build_gguf(kvs=(KV(b"k", ARRAY, array(U8, 2**63)),), tensors=(), pad_header=False),
    "array/2^61 u64, 0 bytes if it wraps": _with_kv(array_kv(U64, 2**61)),
    "array/2^62 u32, 0 bytes if it wraps": _with_kv(array_kv(U32, 2**62)),
    "array/2^63 u16, 0 bytes if it wraps": _with_kv(array_kv(U16, 2**63)),
    "array/2^61+1 f64, 8 bytes if it wraps": _with_kv(array_kv(F64_VALUE, 2**61 + 1, bytes(8))),
    "array/one item longer than the file": build_gguf(kvs=(array_kv(U8, 5, bytes(4)),), tensors=(), pad_header=False),
    "array/string of 2^64-1": _with_kv(array_kv(STRING, 1, string(b"ab", 2**64 - 1))),
    "array/string of 2^64-8, back to itself if it wraps": _with_kv(array_kv(STRING, 2, string(b"", -8))),
    "array/last string longer than the file": build_gguf(
        kvs=(array_kv(STRING, 2, string(b"ab") + string(b"c", 2)),), tensors=(), pad_header=False
    ),
    "name/empty": _tensor(name=b""),
    "name/128 bytes": _tensor(name=b"n" * 128),
    "name/64 characters in 128 bytes": _tensor(name="é".encode() * 64),
    "name/70000 bytes": _tensor(name=b"n" * 70_000),
    **{f"name/length {text}": _tensor(name_length=n) for text, n in _BITS.items()},
    **{f"name/{what}": _tensor(name=name) for what, name in (_NOT_UTF8 | _NUL).items()},
    "name/twice": _two(name=b"a"),
    "name/twice, apart": build_gguf(tensors=(Tensor(b"a"), Tensor(b"b"), Tensor(b"a"))),
    "name/twice, with a newline": build_gguf(tensors=[Tensor(b"a\nb\rc\x1b[2J\xe2\x80\xa8d")] * 2),
    "n_dims/0": _tensor(ne=(), data=bytes(4)),
    "n_dims/0, no data": _tensor(ne=(), data=b""),
    "n_dims/6": _tensor(ne=(32, 1, 1, 1, 1, 1)),
    **{f"n_dims/{n}": _tensor(n_dims=n) for n in (2**31, 2**31 + 1, 2**32 - 1)},
    "dims/0 beside 2^64 elements": _tensor(ne=(2**32, 0, 2**32), data=b""),
    "dims/0 beside 2^64 bytes": _tensor(ne=(2**62, 0), data=b""),
    "dims/0, and a gap behind it": build_gguf(tensors=(Tensor(b"z", (0,), data=b""), Tensor(offset=32))),
    "dims/0 and -1": _tensor(ne=(0, -1), data=b""),
    "dims/0 elements of part blocks": _sized(Q4_0, (33, 0), 0),
    "dims/-1": _tensor(ne=(-1,), data=b""),
    "dims/-32 times -1": _tensor(ne=(-32, -1)),
    "dims/-2^63": _tensor(ne=(-(2**63),), data=b""),
    "dims/2^63-1": _tensor(ne=(2**63 - 1,), data=b""),
    "dims/2^64 elements": _tensor(ne=(2**32, 2**32), data=b""),
    "dims/2^64 elements in four": _tensor(ne=(2**16,) * 4, data=b""),
    "dims/2^64 + 32 elements": _tensor(ne=(32, (2**64 + 32) // 32)),
    "dims/2^63 elements": _tensor(ne=(2**32, 2**31), data=b""),
    "dims/2^64 bytes of F32": _tensor(ne=(2**62,), data=b""),
    "dims/2^64 + 128 bytes of F32": _tensor(ne=(2**62 + 32,)),
    "dims/2^64 bytes of F64": _tensor(type_id=F64, ne=(2**30, 2**31), data=b""),
    "dims/2^63 bytes of F32": _tensor(ne=(2**61,), data=b""),
    "dims/2^63 bytes of Q8_0": _tensor(type_id=Q8_0, ne=(_BLOCKS_WRAP,), data=b""),
    "dims/2^48 bytes": _tensor(ne=(2**23, 2**23)),
    **{f"tensor type/{n}": _tensor(type_id=n) for n in (2**16, 2**31, 2**32 - 1)},
    "tensor type/57 without data": _tensor(type_id=57, data=b""),
    "tensor type/removed, without data": _tensor(type_id=4, data=b""),
    "tensor type/57 in the place of the next one": _two(type_id=57, offset=0, data=b""),
    "tensor type/57, the next one at the same place": build_gguf(
        tensors=(Tensor(b"a", type_id=57, data=b""), Tensor(b"b"))
    ),
    "tensor type/57, the next one before it": build_gguf(
        tensors=(Tensor(b"a"), Tensor(b"b", type_id=57), Tensor(b"c", offset=0))
    ),
    "tensor type/57, misaligned": build_gguf(padding=1, tensors=(HALF, Tensor(b"b", type_id=57))),
    "tensor type/57, the next one misaligned": build_gguf(
        tensors=(Tensor(b"a", type_id=57), Tensor(b"b", offset=136, data=bytes(8) + Tensor().data))
    ),
    "tensor type/57, more bytes than any type takes": build_gguf(
        tensors=(Tensor(b"a", (4,), 57, bytes(64)), Tensor(b"b"))
    ),
    "tensor type/57, the next one beyond the file": build_gguf(
        tensors=(Tensor(b"a", (2**40,), 57), Tensor(b"b", offset=2**40))
    ),
    "tensor type/57, fewer bytes than any type takes": _tensor(type_id=57, ne=(17 * 128,)),
    "tensor type/57, 2^63-1 elements": _tensor(type_id=57, ne=(2**63 - 1,)),
    "tensor type/57, 2^64 elements": _tensor(type_id=57, ne=(2**32, 2**32)),
    "blocks/31 of Q4_0": _sized(Q4_0, (31,), 18),
    "blocks/33 of Q4_0": _sized(Q4_0, (33,), 18),
    "blocks/rows of 16, 32 in all, Q4_0": _sized(Q4_0, (16, 2), 18),
    "blocks/rows of 1, 32 in all, Q8_0": _sized(Q8_0, (1, 32), 34),
    "blocks/rows of 128, 256 in all, Q6_K": _sized(Q6_K, (128, 2), 210),
    **{f"alignment/{n}": build_gguf(alignment=n, padding=n) for n in (1, 2, 3, 4, 12, 24, 33, 48, 96)},
    "alignment/0": build_gguf(alignment=0),
    "alignment/2^31": build_gguf(alignment=2**31, tensors=(), pad_header=False),
    "alignment/2^31 with a tensor": build_gguf(alignment=2**31),
    "alignment/2^32-1": build_gguf(alignment=2**32 - 1, tensors=(), pad_header=False),
    **{
        f"alignment/as {what}": _with_kv(KV(b"general.alignment", type_id, raw))
        for what, type_id, raw in (
            ("u64", U64, u64(32)),
            ("i32", I32, u32(32)),
            ("u16", U16, b"\x20\0"),
            ("f32", F32_VALUE, struct.pack("<f", 32)),
            ("text", STRING, string(b"32")),
            ("array", ARRAY, array(U32, 1, u32(32))),
        )
    },
    "alignment/twice": build_gguf(kvs=[KV(b"general.alignment", U32, u32(32))] * 2),
    "offset/first is 32": _tensor(offset=32, data=bytes(32) + Tensor().data),
    "offset/first is 1": _tensor(offset=1, data=bytes(1) + Tensor().data),
    "offset/misaligned": _two(offset=136, data=bytes(8) + Tensor().data),
    "offset/misaligned, packed": build_gguf(padding=1, tensors=(HALF, Tensor(b"b"))),
    "offset/the same twice": _two(offset=0, data=b""),
    "offset/overlapping": _two(offset=96, data=Tensor().data[:96]),
    "offset/descending": build_gguf(tensors=(Tensor(b"a", offset=128), Tensor(b"b", offset=0))),
    "offset/gap": _two(offset=160, data=bytes(32) + Tensor().data),
    "offset/end of the file": _two(offset=128, data=b""),
    "offset/beyond the file": _two(offset=2**20),
    **{f"offset/{text}": _two(offset=n) for text, n in _BITS.items()},
    "offset/2^63-32": _two(offset=2**63 - 32),
    "offset/2^64-32": _two(offset=2**64 - 32),
    "offset/2^64-32, alone": _tensor(offset=2**64 - 32, ne=(8,), data=bytes(32)),
    "offset/sizes wrap to the right sum": build_gguf(
        tensors=(
            Tensor(b"a", (2**61,), data=b""),
            Tensor(b"b", (2**61,), data=b"", offset=2**63),
            Tensor(b"c", offset=0),
        )
    ),
    "data/one byte short": _GGUF[:-1],
    "data/none": _tensor(data=b""),
    "data/second tensor missing": _two(data=b""),
    "data/header padding missing": build_gguf(pad_header=False),
}


def _many(item_type: int, count: int, size: int) -> Maker:
    """Return a maker of a file with an array of zeros, `size` bytes long, and zeros for the second key."""
    head = build_gguf(kvs=(array_kv(item_type, count),), n_kvs=2, tensors=(), pad_header=False)
    return sparse(head, len(head) + size + 64)


_BARE = {"tensors": (), "pad_header": False}
_OVER_LIMIT = build_gguf(kvs=(text_kv(b"x.text", b"", 512 * 10**6),), **_BARE)
_MANY_KEYS = build_gguf(kvs=[KV(b"key %d" % i, U8, b"\1") for i in range(5_000)] + [_DULL] * 2, **_BARE)
_MANY_BYTES = build_gguf(kvs=(array_kv(U8, 2**33),), **_BARE)
_MANY_STRINGS = build_gguf(kvs=(array_kv(STRING, 10**9),), **_BARE)
_LONG_STRING = build_gguf(kvs=(text_kv(b"x.text", b"", 2**33),), **_BARE)
_LONG_KEY = build_gguf(kvs=(KV(b"", U8, b"", key_length=2**33),), **_BARE)
_LONG_NAME = build_gguf(kvs=(), tensors=(Tensor(b"", name_length=2**33),))

UNOPENABLE: dict[str, Maker] = {
    "unopenable/socket": unix_socket,
    "unopenable/link loop": link("loop.gguf", "loop.gguf"),
    "unopenable/link to nothing": link("nothing.gguf", "missing.gguf"),
    "unopenable/no such file": lambda folder: folder / "missing.gguf",
    "unopenable/file as a folder": lambda folder: sparse(_GGUF, len(_GGUF))(folder) / "model.gguf",
}
"""Makers of paths that the operating system does not open: each takes an empty folder and returns the path."""

ON_DISK: dict[str, Maker] = {
    "on disk/FIFO": fifo,
    "on disk/link to a FIFO": lambda folder: link("link.gguf", fifo(folder).name)(folder),
    "on disk/folder": a_folder,
    "on disk/character device": link("zero.gguf", "/dev/zero"),
    "sparse/8 GB of zeros": sparse(b"", 2**33),
    "sparse/array of 2^33 bytes": sparse(_MANY_BYTES, len(_MANY_BYTES) + 2**33),
    "sparse/array of 10^9 strings": sparse(_MANY_STRINGS, len(_MANY_STRINGS) + 8 * 10**9),
    **{f"sparse/array of {n} strings, then an empty key": _many(STRING, n, 8 * n) for n in (10**7, 6 * 10**6)},
    **{f"sparse/array of {n} bytes, then an empty key": _many(U8, n, n) for n in (10**8, 6 * 10**7, 3 * 10**7)},
    "sparse/5000 keys, then one twice": sparse(_MANY_KEYS, len(_MANY_KEYS)),
    "sparse/array of 5 * 10^8 bytes, then an empty key": _many(U8, 5 * 10**8, 5 * 10**8),
    "sparse/array of 10^8 bools, then an empty key": _many(BOOL, 10**8, 10**8),
    "sparse/array of 6 * 10^7 f64, then an empty key": _many(F64_VALUE, 6 * 10**7, 48 * 10**7),
    "sparse/metadata beyond 512 MB": sparse(_OVER_LIMIT, len(_OVER_LIMIT) + 512 * 10**6),
    "sparse/string of 2^33 bytes": sparse(_LONG_STRING, len(_LONG_STRING) + 2**33),
    "sparse/key of 2^33 bytes": sparse(_LONG_KEY, len(_LONG_KEY) + 2**33),
    "sparse/name of 2^33 bytes": sparse(_LONG_NAME, len(_LONG_NAME) + 2**33),
    "sparse/10^8 keys": sparse(build_gguf(kvs=(), tensors=(), n_kvs=10**8), 2**33),
    "sparse/10^8 tensors": sparse(build_gguf(kvs=(), tensors=(), n_tensors=10**8), 2**33),
    "sparse/alignment 2^31": sparse(build_gguf(alignment=2**31, pad_header=False, tensors=()), 2**31),
}
"""Makers of what can be opened and is no model."""


def _long_value(value: KV, size: int) -> Maker:
    """Return a maker of a file whose first value ends with `size` zeros; a multiple of 32 keeps the padding right."""
    parts = list(pieces(kvs=(value, ARCHITECTURE)))
    end = 1 + [label for label, _ in parts].index("kv 0 value")
    return holed(*(b"".join(data for _, data in part) for part in (parts[:end], parts[end:])), size)


_VOCABULARY = _with_kv(array_kv(STRING, 300_000, b"".join(string(b"token %d" % i) for i in range(300_000))))
_HUGE = _tensor(ne=(2**15, 2**15), data=b"")
VALID_ON_DISK: dict[str, Maker] = {
    "on disk/vocabulary of 300000": sparse(_VOCABULARY, len(_VOCABULARY)),
    "on disk/link to a file": lambda folder: link("link.gguf", sparse(_GGUF, len(_GGUF))(folder).name)(folder),
    "sparse/8 GB behind the data": sparse(_GGUF, 2**33),
    "sparse/string of 40 MB": _long_value(text_kv(b"x.text", b"", 40 * 10**6), 40 * 10**6),
    "sparse/string of 500 MB": _long_value(text_kv(b"x.text", b"", 5 * 10**8), 5 * 10**8),
    "sparse/array of 5 * 10^8 bytes": _long_value(array_kv(U8, 5 * 10**8), 5 * 10**8),
    "sparse/array of 5 * 10^6 strings": _long_value(array_kv(STRING, 5 * 10**6), 4 * 10**7),
    "sparse/4 GB tensor": sparse(_HUGE, len(_HUGE) + 2**32),
}

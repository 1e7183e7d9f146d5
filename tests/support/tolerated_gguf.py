"""GGUF files that are opened although something about them is unusual, and what is said of it."""

from tests.support.gguf_bytes import REMOVED_TENSOR_TYPES, Tensor, build_gguf
from tests.support.hostile_gguf import HALF

TRAILING: dict[str, tuple[bytes, int]] = {
    "one byte": (build_gguf(trailing=b"\0"), 1),
    "32 bytes": (build_gguf(trailing=bytes(32)), 32),
    "text": (build_gguf(trailing=b"hidden payload"), 14),
    "one byte more than the padding": (build_gguf(tensors=(HALF,), trailing=bytes(1)), 1),
    "twice the padding": (build_gguf(tensors=(HALF,), trailing=bytes(32)), 32),
    "no tensors": (build_gguf(kvs=(), tensors=(), trailing=bytes(32)), 32),
}
"""Valid files with bytes after the last tensor, and how many."""

LONG_NAMES = ("name/64 bytes", "name/100 bytes", "name/127 bytes", "name/32 characters in 64 bytes")
"""Those of `hostile_gguf.VALID` that llama.cpp does not open, since it reads names of 63 bytes only."""

UNKNOWN_TYPES: dict[str, tuple[bytes, list[tuple[str, int]]]] = {
    **{
        f"{what} {n}": (build_gguf(tensors=(Tensor(type_id=n),)), [(name, 128)])
        for what, types in (
            ("newer", {n: f"type {n}" for n in (43, 57, 255, 2**16 - 1)}),
            ("removed", {n: f"{name} (removed)" for n, name in REMOVED_TENSOR_TYPES.items()}),
        )
        for n, name in types.items()
    },
    "first of two": (
        build_gguf(tensors=(Tensor(b"a", (7,), 57, bytes(10)), Tensor(b"b"))),
        [("type 57", 32), ("F32", 128)],
    ),
    "between others": (
        build_gguf(tensors=(HALF, Tensor(b"u", (64, 2), 57, bytes(range(72))), Tensor(b"b"))),
        [("F16", 10), ("type 57", 96), ("F32", 128)],
    ),
    "last, the tail not padded": (
        build_gguf(tensors=(Tensor(b"a"), Tensor(b"u", (64,), 57, bytes(36))), pad_tail=False),
        [("F32", 128), ("type 57", 36)],
    ),
    "without elements": (
        build_gguf(tensors=(Tensor(b"a"), Tensor(b"u", (64, 0), 57, b""), Tensor(b"b"))),
        [("F32", 128), ("type 57", 0), ("F32", 128)],
    ),
    "last, more bytes behind than it can take": (
        build_gguf(tensors=(Tensor(b"u", (4,), 57, bytes(32)),), trailing=bytes(5)),
        [("type 57", 32)],
    ),
}
"""Files with tensors whose type is not known here: each tensor's type as it is named, and the bytes that it has."""

"""Malformed safetensors files and pickles in disguise, each with a valid neighbour.

Names read ``family/what is wrong``, as in ``hostile_gguf.py``. ``MALFORMED`` and ``VALID`` hold single files;
``PICKLES`` are makers of one file each. Sharded checkpoints are in ``hostile_checkpoints.py``.
"""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.support import hostile_gguf
from tests.support.hostile_paths import Maker, sparse


def build_safetensors(header: object, data: bytes = b"", header_length: int | None = None) -> bytes:
    """Return a file; a header of bytes is taken as it is, anything else becomes JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if header_length is None else header_length) + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


_DATA = struct.pack("<4f", 1, -2, 3, -4)  # two tensors of two float32


def _one(size: int = 8, **fields: object) -> bytes:
    """Return a file of one tensor, with `size` bytes of data."""
    return build_safetensors({"a": entry(**fields)}, _DATA[:size])  # type: ignore[arg-type]


def _two(first: object, second: object, size: int = 16) -> bytes:
    return build_safetensors({"a": entry(offsets=first), "b": entry(offsets=second)}, _DATA[:size])


def _text(text: str | bytes) -> bytes:
    """Return a file of 8 data bytes with a header of these characters, padded with spaces as writers do."""
    raw = text.encode() if isinstance(text, str) else text
    return build_safetensors(raw + b" " * (-len(raw) % 8), _DATA[:8])


_A = json.dumps(entry())
GOOD = build_safetensors({"__metadata__": {"format": "pt"}, "a": entry(), "b": entry(offsets=(8, 16))}, _DATA)


def _lacking(key: str) -> bytes:
    return build_safetensors({"a": {k: v for k, v in entry().items() if k != key}}, _DATA[:8])


VALID: dict[str, bytes] = {
    "length/as it is": GOOD,
    "length/padded with spaces": _text(f'{{"a": {_A}}}'),
    "header/no tensors": build_safetensors({}),
    "header/name in UTF-8": _text(f'{{"clé": {_A}}}'),
    "header/name with escapes": _text(f'{{"a\\u0062\\"": {_A}}}'),
    "header/name with a pair of surrogates": _text(f'{{"a\\ud83d\\ude00": {_A}}}'),
    "keys/in any order": _text('{"a": {"data_offsets": [0, 8], "dtype": "F32", "shape": [2]}}'),
    "dtype/F64": _one(dtype="F64", shape=[1]),
    "dtype/F16": _one(dtype="F16", shape=[4]),
    "dtype/BF16": _one(dtype="BF16", shape=[2, 2]),
    "dtype/I64": _one(dtype="I64", shape=[1]),
    "dtype/U8": _one(dtype="U8", shape=[8]),
    "dtype/BOOL": _one(dtype="BOOL", shape=[8]),
    "shape/scalar": _one(4, shape=[], offsets=[0, 4]),
    "shape/no elements": _one(0, shape=[3, 0], offsets=[0, 0]),
    "shape/five axes": _one(shape=[1, 1, 2, 1, 1]),
    "offsets/header not in file order": build_safetensors({"b": entry(offsets=[8, 16]), "a": entry()}, _DATA),
    "metadata/text to text": _text(f'{{"__metadata__": {{"format": "pt", "note": ""}}, "a": {_A}}}'),
    "keys/unknown ones": _text(f'{{"a": {_A[:-1]}, "device": "cpu", "extra": {{"x": [1, [2.5, null]]}}}}}}'),
    "metadata/null": _text(f'{{"__metadata__": null, "a": {_A}}}'),
    "metadata/empty": _text(f'{{"__metadata__": {{}}, "a": {_A}}}'),
    "shape/no elements in front": build_safetensors({"a": entry(), "b": entry("F64", [4, 0], [0, 0])}, _DATA[:8]),
    "shape/no elements between": build_safetensors(
        {"a": entry(), "b": entry("F16", [0], [8, 8]), "c": entry(offsets=[8, 16])}, _DATA
    ),
    "shape/no elements behind": build_safetensors({"a": entry(), "b": entry("I8", [0, 0], [8, 8])}, _DATA[:8]),
    "data/all of it": _two([0, 8], [8, 16]),
}

_OVER = 100_000_001  # the safetensors library's limit is 100 MB
_NUMBERS = {
    "negative": -8,
    "a float": 8.0,
    "a bool": True,
    "text": "8",
    "null": None,
    "2^63": 2**63,
    "2^64+8": 2**64 + 8,
}

MALFORMED: dict[str, bytes] = {
    "length/empty file": b"",
    "length/seven bytes": GOOD[:7],
    "length/eight bytes": GOOD[:8],
    "length/0": build_safetensors(b"", b"", 0),
    "length/1": build_safetensors(b"{", b""),
    "length/one byte more than the file": build_safetensors({}, b"", 3),
    "length/header without its last byte": build_safetensors({"a": entry()}, _DATA[:8], len(f'{{"a": {_A}}}') - 1),
    "length/2^31": build_safetensors({"a": entry()}, _DATA[:8], 2**31),
    "length/2^63": build_safetensors({"a": entry()}, _DATA[:8], 2**63),
    "length/2^64-8, back to the start if it wraps": build_safetensors({"a": entry()}, _DATA[:8], 2**64 - 8),
    "length/2^64-1": build_safetensors({"a": entry()}, _DATA[:8], 2**64 - 1),
    "length/big-endian": struct.pack(">Q", 2) + b"{}",
    "header/not UTF-8": _text(b'{"a\xff": ' + _A.encode() + b"}"),
    "header/UTF-16": build_safetensors(json.dumps({"a": entry()}).encode("utf-16"), _DATA[:8]),
    "header/byte-order mark": _text(f'\ufeff{{"a": {_A}}}'),
    "header/lone surrogate": _text(f'{{"a\\ud800": {_A}}}'),
    "header/not JSON": _text("tensor a, two floats"),
    "header/array": _text(f'["a", {_A}]'),
    "header/text": _text('"a"'),
    "header/number": _text("8"),
    "header/null": _text("null"),
    "header/two objects": _text(f'{{"a": {_A}}} {{}}'),
    "header/trailing comma": _text(f'{{"a": {_A},}}'),
    "header/single quotes": _text(f'{{"a": {_A}}}'.replace('"', "'")),
    "header/NUL behind": _text(f'{{"a": {_A}}}\0'),
    "header/newline in a name": _text(f'{{"a\nb": {_A}}}'),
    "header/100000 arrays deep": _text("[" * 100_000 + "]" * 100_000),
    "header/100000 objects deep": _text('{"a":' * 100_000 + "1" + "}" * 100_000),
    "header/100000 arrays deep, never closed": _text('{"a": ' + "[" * 100_000),
    "header/100000 deep in the metadata": _text(f'{{"__metadata__": {"[" * 100_000 + "]" * 100_000}, "a": {_A}}}'),
    "header/NaN": _text('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [NaN, 8]}}'),
    "header/NaN in the metadata": _text(f'{{"__metadata__": {{"x": NaN}}, "a": {_A}}}'),
    "header/Infinity": _text('{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 8]}}'),
    "header/5000 digits": _text('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, ' + "9" * 5000 + "]}}"),
    "keys/tensor twice": _text(f'{{"a": {_A}, "a": {_A}}}'),
    "keys/tensor twice, spelt differently": _text(f'{{"a": {_A}, "\\u0061": {_A}}}'),
    "keys/tensor twice, with a newline": _text(f'{{"a\\nb\\u2028\\u001b[2J": {_A}, "a\\nb\\u2028\\u001b[2J": {_A}}}'),
    "keys/dtype twice": _text('{"a": {"dtype": "I32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'),
    "keys/metadata twice": _text(f'{{"__metadata__": {{}}, "__metadata__": {{}}, "a": {_A}}}'),
    **{f"keys/no {key}": _lacking(key) for key in ("dtype", "shape", "data_offsets")},
    **{f"keys/tensor is {json.dumps(v)}": build_safetensors({"a": v}, _DATA[:8]) for v in (None, 8, "F32", [2], {})},
    **{
        f"dtype/{json.dumps(v)}": _one(dtype=v)
        for v in ("Q4_0", "f32", "float32", "F32 ", "F\u0663\u0662", "", "F32\nx", 0, None, ["F32"])
    },
    "dtype/too wide for the bytes": _one(dtype="F64"),
    "dtype/too narrow for the bytes": _one(dtype="F16"),
    "shape/not a list": _one(shape=2),
    "shape/object": _one(shape={"0": 2}),
    "shape/nested": _one(shape=[[2]]),
    **{f"shape/{what}": _one(0 if n != 8.0 else 8, shape=[n], offsets=[0, 0]) for what, n in _NUMBERS.items()},
    "shape/a float, sizes agree": _one(shape=[2.0]),
    "shape/a bool, sizes agree": _one(4, shape=[True], offsets=[0, 4]),
    "shape/-1 times -2": _one(shape=[-1, -2]),
    "shape/2^64 elements": _one(0, shape=[2**32, 2**32], offsets=[0, 0]),
    "shape/2^64 + 2 elements": _one(shape=[2, 2**63 + 1]),
    "shape/2^64 bytes": _one(0, shape=[2**62], offsets=[0, 0]),
    "shape/2^64 + 8 bytes": _one(shape=[2**61 + 1, 2]),
    "shape/2^64 elements times 0": _one(0, shape=[2**32, 2**32, 2**32, 0], offsets=[0, 0]),
    "shape/2^1240 elements": _one(shape=[2**62] * 20),
    "shape/30000 axes of 2^62": _one(shape=[2**62] * 30_000),
    "shape/one element too many": _one(shape=[3]),
    "shape/one element too few": _one(shape=[1]),
    "shape/zero, with bytes": _one(shape=[0]),
    "offsets/none": _one(offsets=[]),
    "offsets/one": _one(offsets=[8]),
    "offsets/three": _one(offsets=[0, 8, 8]),
    "offsets/object": _one(offsets={"begin": 0, "end": 8}),
    **{f"offsets/end is {what}": _one(offsets=[0, n]) for what, n in _NUMBERS.items() if n != 8},
    "offsets/end is a float": _one(offsets=[0, 8.0]),
    "offsets/begin is a bool": _one(offsets=[False, 8]),
    "shape/-0": build_safetensors(b'{"a": {"dtype": "F32", "shape": [-0], "data_offsets": [0, 0]}}'),
    "offsets/begin is the integer -0": _text('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [-0, 8]}}'),
    "offsets/begin is -0": _text('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [-0.0, 8]}}'),
    "offsets/begin is negative": _one(offsets=[-8, 0]),
    "offsets/2^64-8 to 2^64": _one(offsets=[2**64 - 8, 2**64]),
    "offsets/2^64-8 to 0": _one(offsets=[2**64 - 8, 0]),
    "offsets/descending": _one(offsets=[8, 0]),
    "offsets/begin behind end": _two([0, 8], [16, 8]),
    "offsets/the same twice": _two([0, 8], [0, 8], 8),
    "offsets/overlapping": _two([0, 8], [4, 12], 12),
    "offsets/gap": build_safetensors({"a": entry(), "b": entry("U8", [4], [12, 16])}, _DATA),
    "offsets/gap in front": _one(16, offsets=[8, 16]),
    "offsets/empty tensor behind the end": build_safetensors(
        {"a": entry(), "b": entry("F32", [0], [12, 12])}, _DATA[:8]
    ),
    "offsets/beyond the file": _two([0, 8], [8, 16], 8),
    "offsets/2^40 bytes": _one(shape=[2**38], offsets=[0, 2**40]),
    "metadata/lone surrogate": _text(f'{{"__metadata__": {{"note": "\\udfff"}}, "a": {_A}}}'),
    "metadata/not an object": _text(f'{{"__metadata__": ["pt"], "a": {_A}}}'),
    "metadata/number for a text": _text(f'{{"__metadata__": {{"version": 1}}, "a": {_A}}}'),
    "metadata/null for a text": _text(f'{{"__metadata__": {{"version": null}}, "a": {_A}}}'),
    "metadata/object for a text": _text(f'{{"__metadata__": {{"version": {{}}}}, "a": {_A}}}'),
    "data/one byte short": GOOD[:-1],
    "data/none": _one(0),
    "data/one byte behind": GOOD + b"\0",
    "data/text behind": GOOD + b"hidden payload",
    "data/no tensors, data behind": build_safetensors({}, _DATA),
}


ON_DISK: dict[str, Maker] = {
    name: make for name, make in hostile_gguf.ON_DISK.items() if name.startswith("on disk/")
} | {
    "sparse/8 GB of zeros": sparse(b"", 2**33, "sparse.safetensors"),
    "sparse/header over 100 MB": sparse(build_safetensors(b'{"a": ', b"", _OVER), _OVER + 8, "sparse.safetensors"),
    "sparse/header of 8 GB": sparse(build_safetensors(b'{"a": ', b"", 2**33), 2**33 + 8, "sparse.safetensors"),
    "sparse/8 GB behind the data": sparse(GOOD, 2**33, "sparse.safetensors"),
}


class _Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.folder,)


def _zip(payload: bytes) -> bytes:
    """Return what today's ``torch.save`` writes: a zip with ``data.pkl``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def _legacy(payload: bytes) -> bytes:
    """Return what ``torch.save`` wrote before version 1.6: a pickled magic number and protocol, then pickles."""
    return pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2) + payload


PICKLE_MARKER = "unpickled"
"""Name of the folder that appears beside a file of `PICKLES` when it is unpickled."""


def _pickled(name: str, protocol: int, wrap: Callable[[bytes], bytes] = bytes) -> Maker:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(wrap(pickle.dumps(_Bomb(str(folder / PICKLE_MARKER)), protocol=protocol)))
        return path

    return make


_DISGUISES = ("pytorch_model.bin", "model.pt", "model.pkl", "model.safetensors", "model.gguf")
PICKLES: dict[str, Maker] = {
    **{f"pickle/protocol {n} as {name}": _pickled(name, n) for name in _DISGUISES for n in (0, 2, 5)},
    **{f"pickle/in a zip as {name}": _pickled(name, 2, _zip) for name in _DISGUISES},
    **{f"pickle/legacy torch as {name}": _pickled(name, 2, _legacy) for name in _DISGUISES},
}

"""Malformed safetensors files, hostile shard indexes and pickles in disguise, each with a valid neighbour.

Names read ``family/what is wrong``, as in ``tests/hostile_gguf.py``. ``MALFORMED`` and ``VALID`` hold single files;
``CHECKPOINTS`` and ``VALID_CHECKPOINTS`` are makers that take an empty folder, build a sharded checkpoint and perhaps
something outside it, and return the checkpoint's folder. ``PICKLES`` are makers of one file each.
"""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests import hostile_gguf

Maker = Callable[[Path], Path]
INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


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
_GOOD = build_safetensors({"__metadata__": {"format": "pt"}, "a": entry(), "b": entry(offsets=(8, 16))}, _DATA)


def _lacking(key: str) -> bytes:
    return build_safetensors({"a": {k: v for k, v in entry().items() if k != key}}, _DATA[:8])


VALID: dict[str, bytes] = {
    "length/as it is": _GOOD,
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
    "length/seven bytes": _GOOD[:7],
    "length/eight bytes": _GOOD[:8],
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
    "data/one byte short": _GOOD[:-1],
    "data/none": _one(0),
    "data/one byte behind": _GOOD + b"\0",
    "data/text behind": _GOOD + b"hidden payload",
    "data/no tensors, data behind": build_safetensors({}, _DATA),
}


def _sparse(head: bytes, size: int) -> Maker:
    def make(folder: Path) -> Path:
        path = folder / "sparse.safetensors"
        path.write_bytes(head)
        os.truncate(path, size)
        return path

    return make


ON_DISK: dict[str, Maker] = {
    name: make for name, make in hostile_gguf.ON_DISK.items() if name.startswith("on disk/")
} | {
    "sparse/8 GB of zeros": _sparse(b"", 2**33),
    "sparse/header over 100 MB": _sparse(build_safetensors(b'{"a": ', b"", _OVER), _OVER + 8),
    "sparse/header of 8 GB": _sparse(build_safetensors(b'{"a": ', b"", 2**33), 2**33 + 8),
    "sparse/8 GB behind the data": _sparse(_GOOD, 2**33),
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


def write_checkpoint(
    folder: Path,
    weight_map: object = None,
    shards: Mapping[str, str] = {FIRST: "a", SECOND: "b"},
    index: bytes | None = None,
) -> Path:
    """Write shards (file name to tensor names, a letter each) and an index into ``folder/checkpoint``; return that."""
    root = folder / "checkpoint"
    root.mkdir()
    for name, tensors in shards.items():
        write_shard(root / name, tensors)
    if index is None:
        honest = {tensor: name for name, tensors in shards.items() for tensor in tensors}
        index = json.dumps({"metadata": {}, "weight_map": honest if weight_map is None else weight_map}).encode()
    (root / INDEX).write_bytes(index)
    return root


def write_shard(path: Path, tensors: str) -> None:
    """Write a shard of float32 tensors of two elements, named by the letters of `tensors`."""
    header = {name: entry(offsets=[8 * i, 8 * i + 8]) for i, name in enumerate(tensors)}
    path.write_bytes(build_safetensors(header, _DATA[:8] * len(tensors)))


def _mapped(shard: object, outside: str = "") -> Maker:
    """Tensor b is mapped to `shard`; a good shard lies at `outside`, relative to the checkpoint's folder."""

    def make(folder: Path) -> Path:
        root = write_checkpoint(folder, {"a": FIRST, "b": shard}, {FIRST: "a"})
        if outside:
            (root / outside).parent.mkdir(exist_ok=True)
            write_shard(root / outside, "b")
        return root

    return make


def _absolute(folder: Path) -> Path:
    write_shard(folder / SECOND, "b")
    return write_checkpoint(folder, {"a": FIRST, "b": str(folder / SECOND)}, {FIRST: "a"})


def _absolute_inside(folder: Path) -> Path:
    return write_checkpoint(folder, {"a": FIRST, "b": str(folder / "checkpoint" / SECOND)})


def _linked(target: str) -> Maker:
    """The second shard is a symbolic link; good shards lie beside the checkpoint's folder and inside it."""

    def make(folder: Path) -> Path:
        write_shard(folder / "outside.safetensors", "b")
        root = write_checkpoint(folder, {"a": FIRST, "b": SECOND}, {FIRST: "a", "inside.safetensors": "b"})
        (root / "hop.safetensors").symlink_to("../outside.safetensors")
        (root / SECOND).symlink_to(target)
        return root

    return make


def _hub(root_name: str, blobs: str = "blobs") -> Maker:
    """Both shards are links into another folder, as in the Hugging Face cache: ``snapshots/REVISION`` and ``blobs``."""

    def make(folder: Path) -> Path:
        root = folder / "hub" / root_name
        (folder / "hub" / blobs).mkdir(parents=True)
        root.parent.mkdir(parents=True)
        write_checkpoint(folder).rename(root)
        for name in (FIRST, SECOND):
            (root / name).rename(folder / "hub" / blobs / name)
            (root / name).symlink_to(os.path.relpath(folder / "hub" / blobs / name, root))
        return root

    return make


def _replaced(make_second: Callable[[Path], None]) -> Maker:
    """The second shard is made by `make_second`."""

    def make(folder: Path) -> Path:
        root = write_checkpoint(folder, {"a": FIRST, "b": SECOND}, {FIRST: "a"})
        make_second(root / SECOND)
        return root

    return make


def _index(index: object) -> Maker:
    raw = index if isinstance(index, bytes) else json.dumps(index).encode()
    return lambda folder: write_checkpoint(folder, index=raw)


def _index_is(make_index: Callable[[Path], None]) -> Maker:
    def make(folder: Path) -> Path:
        root = write_checkpoint(folder)
        (root / INDEX).unlink()
        make_index(root / INDEX)
        return root

    return make


def _with_map(weight_map: object) -> Maker:
    return lambda folder: write_checkpoint(folder, weight_map)


_MAP = {"a": FIRST, "b": SECOND}
VALID_CHECKPOINTS: dict[str, Maker] = {
    "shard/two": write_checkpoint,
    "shard/link that stays inside": _linked("inside.safetensors"),
    "shard/links of the Hugging Face cache": _hub("snapshots/revision"),
    "tensor/four in two": lambda folder: write_checkpoint(folder, shards={FIRST: "ac", SECOND: "bd"}),
    "index/more than the map": _index({"metadata": {"total_size": 16}, "weight_map": _MAP}),
}
CHECKPOINTS: dict[str, Maker] = {
    "shard/in the parent": _mapped("../outside.safetensors", "../outside.safetensors"),
    "shard/in the parent, in and out": _mapped(f"x/../../{SECOND}", f"../{SECOND}"),
    "shard/in and out of the parent": _mapped(f"../checkpoint/{SECOND}", SECOND),
    "shard/in a folder": _mapped("deep/b.safetensors", "deep/b.safetensors"),
    "shard/with a dot": _mapped(f"./{SECOND}", SECOND),
    "shard/with a slash": _mapped(f"{SECOND}/", SECOND),
    "shard/backslashes": _mapped("..\\b.safetensors", "..\\b.safetensors"),
    "shard/absolute": _absolute,
    "shard/absolute, inside": _absolute_inside,
    "shard/empty name": _mapped(""),
    "shard/dot": _mapped("."),
    "shard/two dots": _mapped(".."),
    "shard/NUL": _mapped(f"{FIRST}\0"),
    "shard/newline": _mapped("a\nb.safetensors"),
    "shard/lone surrogate": _mapped("\ud800.safetensors"),
    "shard/name of 100000 characters": _mapped("x" * 100_000),
    "shard/link to the parent": _linked("../outside.safetensors"),
    "shard/link to a link to the parent": _linked("hop.safetensors"),
    "shard/link to blobs, but not from a snapshot": _hub("models/x/revision"),
    "shard/link from a snapshot, but not to blobs": _hub("snapshots/revision", "b"),
    "shard/link loop": _linked(SECOND),
    "shard/link to nothing": _linked("nothing.safetensors"),
    "shard/link to a device": _linked("/dev/zero"),
    "shard/missing": _mapped(SECOND),
    "shard/folder": _replaced(Path.mkdir),
    "shard/FIFO": _replaced(os.mkfifo),
    "shard/malformed": _replaced(lambda path: path.write_bytes(_GOOD[:-1]) and None),
    "shard/pickle": _replaced(lambda path: path.write_bytes(pickle.dumps({"b": [1.0, 2.0]})) and None),
    "shard/the index": _mapped(INDEX),
    "tensor/in the wrong shard": _with_map({"a": SECOND, "b": FIRST}),
    "tensor/in no shard": _with_map({**_MAP, "c": FIRST}),
    "tensor/in two shards": lambda folder: write_checkpoint(folder, _MAP, {FIRST: "a", SECOND: "ba"}),
    "tensor/twice in the map": _index(
        b'{"weight_map": {"a": "%s", "b": "%s", "a": "%s"}}' % (FIRST.encode(), SECOND.encode(), FIRST.encode())
    ),
    "index/array": _index([_MAP]),
    "index/text": _index(FIRST),
    "index/null": _index(None),
    "index/no map": _index({"metadata": {}}),
    "index/map twice": _index(b'{"weight_map": {}, "weight_map": %s}' % json.dumps(_MAP).encode()),
    "index/map is null": _index({"weight_map": None}),
    "index/map is an array": _index({"weight_map": [["a", FIRST], ["b", SECOND]]}),
    **{f"index/shard is {json.dumps(v)}": _with_map({"a": FIRST, "b": v}) for v in (None, 2, 2.5, True, [SECOND], {})},
    "index/empty": _index(b""),
    "index/not JSON": _index(b"weight_map: a"),
    "index/not UTF-8": _index(b'{"weight_map": {"a\xff": "x"}}'),
    "index/NaN": _index(b'{"metadata": {"total_size": NaN}, "weight_map": %s}' % json.dumps(_MAP).encode()),
    "index/100000 deep": _index(b'{"weight_map": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "index/5000 digits": _index(b'{"metadata": ' + b"9" * 5000 + b', "weight_map": %s}' % json.dumps(_MAP).encode()),
    "index/sparse 8 GB": _index_is(lambda path: _sparse(b"{", 2**33)(path.parent).rename(path) and None),
    "index/folder": _index_is(Path.mkdir),
    "index/FIFO": _index_is(os.mkfifo),
}
"""The index itself is opened as well as its folder."""

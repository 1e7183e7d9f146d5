"""Hostile checkpoints of safetensors: shard indexes that lie, shards that lead elsewhere, each with a valid neighbour.

Names read ``family/what is wrong``, as in ``hostile_gguf.py``. ``CHECKPOINTS`` and ``VALID_CHECKPOINTS`` are
makers that take an empty folder, build a sharded checkpoint and perhaps something outside it, and return the
checkpoint's folder.
"""

import json
import os
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.hostile_paths import Maker, sparse
from tests.support.hostile_safetensors import GOOD, build_safetensors, entry

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


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
    path.write_bytes(build_safetensors(header, struct.pack("<2f", 1, -2) * len(tensors)))


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
    "shard/link to the parent": _linked("../outside.safetensors"),
    "shard/link to a link to the parent": _linked("hop.safetensors"),
    "shard/links to another disk": _hub("models/x/revision", "disk/b"),
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
    "shard/link loop": _linked(SECOND),
    "shard/link to nothing": _linked("nothing.safetensors"),
    "shard/link to a device": _linked("/dev/zero"),
    "shard/missing": _mapped(SECOND),
    "shard/folder": _replaced(Path.mkdir),
    "shard/FIFO": _replaced(os.mkfifo),
    "shard/malformed": _replaced(lambda path: path.write_bytes(GOOD[:-1]) and None),
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
    "index/sparse 8 GB": _index_is(lambda path: sparse(b"{", 2**33)(path.parent).rename(path) and None),
    "index/folder": _index_is(Path.mkdir),
    "index/FIFO": _index_is(os.mkfifo),
}
"""The index itself is opened as well as its folder."""

"""What is in a model file, as a dictionary for JSON and as text for people."""

import os
from typing import Any

from quantcore._files import label
from quantcore.gguf.layout import ValueType
from quantcore.gguf.reader import GGUFReader
from quantcore.gguf.sources import is_gguf
from quantcore.safetensors import open_checkpoint
from quantcore.tables import bytes_text, table

_MOST_ITEMS = 6
_LONGEST_TEXT = 70


def described(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The container, its metadata and its tensors. Long arrays are cut to their first items.

    Raises
    ------
    FileFormatError, OSError
        The file is malformed or cannot be read.
    """
    if not is_gguf(path):
        with open_checkpoint(path) as checkpoint:
            return {
                "path": label(path),
                "format": "safetensors",
                "shards": [shard.path for shard in checkpoint.shards],
                "metadata": {k: v for shard in checkpoint.shards for k, v in shard.metadata.items()},
                "tensors": [
                    {"name": t.name, "shape": list(t.shape), "type": t.dtype, "bytes": t.nbytes}
                    for t in checkpoint.tensors
                ],
            }
    with GGUFReader(path) as reader:
        return {
            "path": label(path),
            "format": f"GGUF {reader.version}",
            "alignment": reader.alignment,
            "metadata": {kv.key: _shortened(reader.value(kv.key), kv.type_id) for kv in reader.kvs},
            "tensors": [
                {"name": t.name, "shape": list(t.shape), "type": t.type.name, "bytes": t.nbytes} for t in reader.tensors
            ],
        }


def shown(description: dict[str, Any]) -> str:
    """A description as text."""
    tensors = description["tensors"]
    total = sum(t["bytes"] for t in tensors)
    lines = [f"{description['path']}: {description['format']}, {len(tensors)} tensors, {bytes_text(total)}"]
    if description["metadata"]:
        values = [(key, _text(value)) for key, value in description["metadata"].items()]
        lines += ["", table(("key", "value"), values)]
    if tensors:
        rows = [(t["name"], "x".join(map(str, t["shape"])), t["type"], bytes_text(t["bytes"])) for t in tensors]
        lines += ["", table(("tensor", "shape", "type", "size"), rows, right=(3,))]
    return "\n".join(lines)


def _shortened(value: Any, type_id: int) -> Any:
    if type_id == ValueType.ARRAY and len(value) > _MOST_ITEMS:
        return {"length": len(value), "first": value[:_MOST_ITEMS]}
    return value


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f"[{_text(value['first'])[1:-1]}, ...] ({value['length']} items)"
    text = repr(value) if not isinstance(value, str) else value
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "..."

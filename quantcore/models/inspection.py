"""The contents of a model file, as a dictionary for JSON and as text."""

import os
from typing import Any

from quantcore._base.text import bytes_text, table
from quantcore.gguf.parts import GGUFModel
from quantcore.gguf.values import shorten_value
from quantcore.models.opening import open_model
from quantcore.safetensors.reader import Checkpoint

_MOST_ITEMS = 6
_LONGEST_TEXT = 70
_MOST_TEXT_BYTES = 1 << 16


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The container, its metadata and its tensors, and what the user should know of the file.

    Long arrays are shortened to their first items, strings of more than 64 KiB to their beginning.

    Raises
    ------
    FileFormatError, OSError
        The file is malformed or cannot be read.
    """
    with open_model(path) as model:
        return {
            "path": model.label,
            **_describe_container(model.container),
            "notices": list(model.notices),
            "tensors": [
                {"name": t.name, "shape": list(t.shape), "type": t.type, "bytes": t.nbytes} for t in model.stored
            ],
        }


def _describe_container(container: GGUFModel | Checkpoint) -> dict[str, Any]:
    if isinstance(container, GGUFModel):
        return {
            "format": f"GGUF {container.version}",
            "alignment": container.alignment,
            "parts": [part.path for part in container.parts],
            "metadata": {kv.key: shorten_value(kv, _MOST_ITEMS, _MOST_TEXT_BYTES) for kv in container.kvs},
        }
    return {
        "format": "safetensors",
        "shards": [shard.path for shard in container.shards],
        "metadata": {key: value for shard in container.shards for key, value in shard.metadata.items()},
    }


def format_description(description: dict[str, Any]) -> str:
    """A description as text."""
    tensors = description["tensors"]
    total = sum(t["bytes"] for t in tensors)
    n_parts = len(description.get("parts", ()))
    kind = description["format"] + (f" in {n_parts} parts" if n_parts > 1 else "")
    lines = [f"{description['path']}: {kind}, {len(tensors)} tensors, {bytes_text(total)}"]
    if description["metadata"]:
        values = [(key, _text(value)) for key, value in description["metadata"].items()]
        lines += ["", table(("key", "value"), values)]
    if tensors:
        rows = [(t["name"], "x".join(map(str, t["shape"])), t["type"], bytes_text(t["bytes"])) for t in tensors]
        lines += ["", table(("tensor", "shape", "type", "size"), rows, right=(3,))]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f"[{_text(value['first'])[1:-1]}, ...] ({value['length']} items)"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "..."

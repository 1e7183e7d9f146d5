"""The JSON files beside the tensors of a checkpoint: what the model is, and how it is quantized already."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantcore.errors import FileFormatError
from quantcore.files.disk import InputFile
from quantcore.files.strict_json import read_object
from quantcore.safetensors.folders import MAX_HEADER_BYTES

CONFIG = "config.json"
DEEPEST = 4
"""How many levels of parts of a configuration are looked at."""


def read_json(path: Path, field: str) -> dict[str, Any] | None:
    """The object that a file holds; None if there is no such file.

    Raises
    ------
    FileFormatError
        It is no JSON object, or longer than the header of a checkpoint may be.
    OSError
        It cannot be read.
    """
    if not path.exists():
        return None
    with InputFile(path) as file:
        return read_object(file, MAX_HEADER_BYTES, field, nan=True)


def read_config(folder: Path) -> dict[str, Any] | None:
    """config.json of a checkpoint, or None if it has none. NaN and Infinity pass, which Python writes into some."""
    return read_json(folder / CONFIG, "config")


def readable_config(folder: Path) -> dict[str, Any] | None:
    """config.json, if there is one that can be read: a file of tensors need not have one."""
    try:
        return read_config(folder)
    except (OSError, FileFormatError):
        return None


def nested_configs(config: dict[str, Any], depth: int = 0) -> Iterator[dict[str, Any]]:
    """A configuration and those of its parts, such as `text_config` and `vision_config`."""
    yield config
    if depth < DEEPEST:
        for value in config.values():
            if isinstance(value, dict):
                yield from nested_configs(value, depth + 1)


def model_types(config: dict[str, Any]) -> set[str]:
    """`model_type` of a configuration and of its parts."""
    return {c["model_type"] for c in nested_configs(config) if isinstance(c.get("model_type"), str)}

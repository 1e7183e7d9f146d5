"""What llama-quantize writes into the metadata of its files, and what users override there.

Each key that is set moves to the end, as ggml's `gguf_set_val_*` has it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from quantcore._base.text import brief, quote
from quantcore.conversion.file_types import guess_file_type
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.ggml.types import GGMLType
from quantcore.gguf.imatrix import Imatrix
from quantcore.gguf.layout import ARCHITECTURE_KEY, FILE_TYPE_KEY
from quantcore.gguf.parts import GGUFModel
from quantcore.gguf.values import KeyValue
from quantcore.models.opening import Model

_LONGEST_TEXT = 127
"""Bytes of a text that llama.cpp's overrides hold."""
_MOST_UINT32 = (1 << 32) - 1


def set_keys(kvs: tuple[KeyValue, ...], new: tuple[KeyValue, ...]) -> tuple[KeyValue, ...]:
    """Metadata with other entries behind it, each in place of the one of its key."""
    for kv in new:
        kvs = (*(old for old in kvs if old.key != kv.key), kv)
    return kvs


def override_keys(overrides: Mapping[str, Any]) -> tuple[KeyValue, ...]:
    """The entries that `--override-kv` stands for: integers are stored as their magnitude in UINT32, as llama-quantize
    does, floats as FLOAT32.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        A value is of no such type or beyond its range.
    """
    if not isinstance(overrides, Mapping):
        raise InvalidTypeError(f"kv_overrides: expected a mapping from keys to values, got {brief(overrides)}")
    return tuple(_override(key, value) for key, value in overrides.items())


def describe_imatrix(matrix: Imatrix) -> tuple[KeyValue, ...]:
    """The entries that tell of the importance matrix with which a file was made."""
    kvs = []
    if matrix.path:
        kvs.append(KeyValue.string("quantize.imatrix.file", _cut(matrix.path)))
    if matrix.datasets:
        kvs.append(KeyValue.string("quantize.imatrix.dataset", _cut(matrix.datasets[0])))
    kvs.append(KeyValue.uint32("quantize.imatrix.entries_count", len(matrix)))
    if matrix.chunk_count > 0:
        kvs.append(KeyValue.uint32("quantize.imatrix.chunks_count", matrix.chunk_count))
    return tuple(kvs)


def values_by_key(kvs: tuple[KeyValue, ...], overrides: tuple[KeyValue, ...]) -> Callable[[str], Any]:
    """A function that gives the value of a key, None without one; an override counts only with a value of the kind
    that the key has.
    """
    found = {kv.key: kv for kv in kvs}
    for kv in overrides:
        old = found.get(kv.key)
        if old is None or type(old.value) is type(kv.value):
            found[kv.key] = kv
    return lambda key: found[key].value if key in found else None


def count_layers(n_layers: int, values: Callable[[str], Any]) -> KeyValue:
    """The entry for the number of layers that remain."""
    return KeyValue.uint32(f"{values(ARCHITECTURE_KEY)}.block_count", n_layers)


def copied_file_type(model: Model, types: list[GGMLType]) -> int:
    """`general.file_type` of a copy: the model's own, or else a guess from the types of its tensors."""
    own = model.container.value(FILE_TYPE_KEY) if isinstance(model.container, GGUFModel) else None
    return own if isinstance(own, int) and 0 <= own <= _MOST_UINT32 else guess_file_type(types)


def _override(key: str, value: Any) -> KeyValue:
    if isinstance(value, (bool, np.bool_)):
        return KeyValue.bool(key, bool(value))
    if isinstance(value, (int, np.integer)):
        if abs(int(value)) > _MOST_UINT32:
            raise InvalidValueError(f"kv_overrides: {quote(str(key))}: {brief(value)} does not fit into 32 bits")
        return KeyValue.uint32(key, abs(int(value)))
    if isinstance(value, (float, np.floating)):
        return KeyValue.float32(key, float(value))
    if isinstance(value, str):
        return KeyValue.string(key, value)
    raise InvalidTypeError(f"kv_overrides: {quote(str(key))}: expected a number, bool or string, got {brief(value)}")


def _cut(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")[:_LONGEST_TEXT]

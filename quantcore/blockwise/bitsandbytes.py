"""bitsandbytes' packed quantization state: the keys of a safetensors checkpoint and their meaning.

A weight `w` is stored as `w` (the packed codes), `w.absmax`, `w.quant_map`, for double quantization `w.nested_absmax`
and `w.nested_quant_map`, and `w.quant_state.bitsandbytes__nf4` (or `__fp4`): JSON with the rest. Source: `QuantState`
in bitsandbytes' `functional.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore._base.text import brief, did_you_mean, shorten
from quantcore.blockwise.codebooks import BITSANDBYTES_CODES, CODEBOOKS, check_block_size, dynamic_map
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.files.strict_json import parse_text

STATE_PREFIX = "quant_state.bitsandbytes__"
DTYPES = ("float32", "float16", "bfloat16")
"""What a weight may be decoded to."""
_NESTED_KEYS = ("nested_blocksize", "nested_dtype", "nested_offset")
_LINEAR_MAP = arrays.seal(np.arange(256, dtype=np.float32))
_WORDS = {"quant_type": BITSANDBYTES_CODES, "dtype": DTYPES, "nested_dtype": ("float32",)}
"""What the entries of a state that are names may be."""
_MOST_STATE_BYTES = 1 << 20  # bitsandbytes writes some hundreds


@dataclass(frozen=True, eq=False)
class NestedState:
    """How the scales themselves are quantized; the `absmax` of the packed state then holds their codes."""

    absmax: NDArray[np.float32]
    offset: float
    block_size: int
    scale_code: str


@dataclass(frozen=True, eq=False)
class PackedState:
    """A weight as bitsandbytes stores it; `dtype` is the type it is decoded to."""

    data: NDArray[np.uint8]
    absmax: NDArray[Any]
    shape: tuple[int, ...]
    block_size: int
    quant_type: str
    dtype: str
    nested: NestedState | None

    def entries(self, name: str, *, state_bytes: int = 0) -> dict[str, NDArray[Any]]:
        """The arrays of a checkpoint, under the name of the weight; the JSON is padded with spaces to `state_bytes`."""
        if self.quant_type not in BITSANDBYTES_CODES:
            raise InvalidValueError(
                f"quant_type: bitsandbytes has {' and '.join(BITSANDBYTES_CODES)}, got {self.quant_type!r}"
            )
        dtype = arguments.choice(self.dtype, "dtype", DTYPES)
        if not isinstance(name, str) or not name:
            raise InvalidValueError(f"name: expected the name of a weight, got {brief(name)}")
        entries: dict[str, NDArray[Any]] = {name: self.data.reshape(-1, 1), f"{name}.absmax": self.absmax}
        state: dict[str, Any] = {
            "quant_type": self.quant_type,
            "blocksize": self.block_size,
            "dtype": dtype,
            "shape": list(self.shape),
        }
        if self.nested is not None:
            entries[f"{name}.nested_absmax"] = self.nested.absmax
            entries[f"{name}.nested_quant_map"] = nested_map(self.nested.scale_code)
            state |= {
                "nested_blocksize": self.nested.block_size,
                "nested_dtype": "float32",
                "nested_offset": self.nested.offset,
            }
        entries[f"{name}.quant_map"] = CODEBOOKS[self.quant_type].table
        entries[f"{name}.{STATE_PREFIX}{self.quant_type}"] = np.frombuffer(
            json.dumps(state).ljust(state_bytes).encode(), np.uint8
        )
        return entries


def unpack(mapping: Mapping[str, Any], name: str | None = None) -> PackedState:
    """Read one weight and its state; a missing or contradictory entry is refused by its key."""
    if not isinstance(mapping, Mapping) or not all(isinstance(key, str) for key in mapping):
        raise InvalidTypeError(f"mapping: expected a mapping of strings to arrays, got {brief(mapping)}")
    if not (name is None or isinstance(name, str)):
        raise InvalidTypeError(f"name: expected a string, got {brief(name)}")
    key = _state_key(mapping, name)
    prefix, _, quant_type = key.rpartition(STATE_PREFIX)
    weight = _weight_of(key)

    def array(name: str) -> NDArray[Any]:
        if name not in mapping:
            raise InvalidValueError(f"{shorten(name)}: missing")
        return _as_array(mapping[name], shorten(name))

    shown = shorten(prefix)  # for messages: a file's names may be long
    state = _state_of(array(key), shorten(key))
    if state["quant_type"] != quant_type:
        raise InvalidValueError(f"{shorten(key)}: holds quant_type {brief(state['quant_type'])}")
    shape, block_size = state["shape"], state["blocksize"]
    data = np.ascontiguousarray(array(weight)).reshape(-1).view(np.uint8)
    n_blocks = -(-prod(shape) // block_size)
    if data.size != (prod(shape) + 1) // 2:
        raise InvalidValueError(
            f"{shorten(weight)}: shape {brief(shape)} takes {(prod(shape) + 1) // 2} bytes, got {data.size}"
        )
    if not np.array_equal(array(f"{prefix}quant_map").reshape(-1), CODEBOOKS[quant_type].table):
        raise InvalidValueError(f"{shown}quant_map: not the values of {quant_type}")
    if "nested_offset" not in state:
        if f"{prefix}nested_absmax" in mapping:
            raise InvalidValueError(f"{shorten(key)}: nested_offset is missing, but there is {shown}nested_absmax")
        absmax = _scales(array(f"{prefix}absmax"), f"{shown}absmax", n_blocks, np.float32)
        return PackedState(data, absmax, shape, block_size, quant_type, state["dtype"], None)
    nested_size = state["nested_blocksize"]
    nested = NestedState(
        _scales(array(f"{prefix}nested_absmax"), f"{shown}nested_absmax", -(-n_blocks // nested_size), np.float32),
        state["nested_offset"],
        nested_size,
        _scale_code(array(f"{prefix}nested_quant_map"), f"{shown}nested_quant_map"),
    )
    absmax = _scales(array(f"{prefix}absmax"), f"{shown}absmax", n_blocks, np.uint8)
    return PackedState(data, absmax, shape, block_size, quant_type, state["dtype"], nested)


def _weight_of(state_key: str) -> str:
    return state_key.rpartition(STATE_PREFIX)[0].removesuffix(".") or "weight"


def _state_key(mapping: Mapping[str, Any], name: str | None) -> str:
    """The key of the state of the weight `name`, or of the only one."""
    keys = [key for key in mapping if STATE_PREFIX in key]
    found = [key for key in keys if name is None or _weight_of(key) == name]
    if len(found) == 1:
        return found[0]
    weights = list(dict.fromkeys(_weight_of(key) for key in keys))
    if name is None and len(weights) > 1:
        raise InvalidValueError(f"name: expected one of the {len(weights)} weights in the mapping, {brief(weights)}")
    if name is None or found:
        raise InvalidValueError(
            f"{' or '.join(STATE_PREFIX + code for code in BITSANDBYTES_CODES)}: expected one, got {brief(found)}"
        )
    raise InvalidValueError(f"name: the mapping has no 4-bit weight {brief(name)}{did_you_mean(name, weights)}")


def nested_map(scale_code: str) -> NDArray[np.float32]:
    """The values of the 8-bit codes of the scales, in units of the super-scale."""
    return dynamic_map() if scale_code == "dynamic" else _LINEAR_MAP


def _state_of(array: NDArray[Any], name: str) -> dict[str, Any]:
    """The JSON of a state, checked."""
    if array.dtype != np.uint8 or array.ndim != 1:
        raise InvalidValueError(f"{name}: expected uint8 of one dimension, got {array.dtype} of shape {array.shape}")
    if array.size > _MOST_STATE_BYTES:
        raise InvalidValueError(f"{name}: {array.size} bytes, the limit is {_MOST_STATE_BYTES}")
    try:
        state = parse_text(array.tobytes(), nan=True)  # the check of the field names it
    except ValueError as error:
        raise InvalidValueError(f"{name}: {error}") from None
    nested = [key for key in _NESTED_KEYS if key in state]
    for key in ("quant_type", "blocksize", "dtype", "shape", *(_NESTED_KEYS if nested else ())):
        if key not in state:
            raise InvalidValueError(f"{name}: {key} is missing")
    for key, allowed in _WORDS.items():
        if key in state and (not isinstance(state[key], str) or state[key] not in allowed):
            raise InvalidValueError(f"{name}: {key} must be {' or '.join(allowed)}, got {brief(state[key])}")
    try:
        state["shape"] = arguments.shape(state["shape"], f"{name}: shape")
        state["blocksize"] = check_block_size(state["blocksize"], f"{name}: blocksize")
        if nested:
            state["nested_blocksize"] = check_block_size(state["nested_blocksize"], f"{name}: nested_blocksize")
            state["nested_offset"] = arguments.float32(state["nested_offset"], f"{name}: nested_offset")
    except InvalidTypeError as error:
        raise InvalidValueError(str(error)) from None
    return state


def _scales(array: NDArray[Any], name: str, size: int, dtype: type) -> NDArray[Any]:
    if array.dtype != dtype:
        raise InvalidValueError(f"{name}: expected dtype {np.dtype(dtype)}, got {array.dtype}")
    if array.size != size:
        raise InvalidValueError(f"{name}: expected {size} elements for this shape and block size, got {array.size}")
    array = array.reshape(-1)
    bad = np.flatnonzero(~np.isfinite(array) | np.less(array, 0))
    if bad.size:
        raise InvalidValueError(f"{name}: must be finite and >= 0, got {array[bad[0]]} at index {bad[0]}")
    return array


def _scale_code(values: NDArray[Any], name: str) -> str:
    for scale_code in ("dynamic", "linear"):
        if np.array_equal(values.reshape(-1), nested_map(scale_code)):
            return scale_code
    raise InvalidValueError(f"{name}: neither bitsandbytes' dynamic map nor 0 to 255")


def _as_array(value: Any, name: str) -> NDArray[Any]:
    """An array of numbers; a tensor of bfloat16 as its bits, since only the bytes of packed codes matter."""
    if (torch := arrays.torch_of(value)) is not None:
        value, _ = arrays.from_torch(value, name, torch)
    array = arrays.as_array(value, name)
    if array.dtype.name == "bfloat16":
        array = array.view(np.uint16)
    if array.dtype.kind not in "biuf":
        raise InvalidTypeError(f"{name}: expected an array of numbers, got dtype {array.dtype}")
    return array

"""bitsandbytes' packed quantization state: the keys as they stand in a safetensors checkpoint, and what they say.

A weight `w` is stored as `w` (the packed codes), `w.absmax`, `w.quant_map`, for double quantization `w.nested_absmax`
and `w.nested_quant_map`, and `w.quant_state.bitsandbytes__nf4` (or `__fp4`): JSON with the rest. Source: `QuantState`
in bitsandbytes' `functional.py`.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays
from quantcore.codebooks import CODEBOOKS, check_block_size, dynamic_map
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.tables import brief

STATE_PREFIX = "quant_state.bitsandbytes__"
DTYPES = ("float32", "float16", "bfloat16")
_NESTED_KEYS = ("nested_blocksize", "nested_dtype", "nested_offset")
_LINEAR_MAP = np.arange(256, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class NestedState:
    """How the scales are quantized in turn; `absmax` of the state are then their codes."""

    absmax: NDArray[np.float32]
    offset: float
    block_size: int
    scale_code: str


@dataclass(frozen=True, eq=False)
class PackedState:
    """A weight as bitsandbytes stores it; `dtype` is what it decodes to."""

    data: NDArray[np.uint8]
    absmax: NDArray[Any]
    shape: tuple[int, ...]
    block_size: int
    quant_type: str
    dtype: str
    nested: NestedState | None

    def entries(self, name: str, *, state_bytes: int = 0) -> dict[str, NDArray[Any]]:
        """The arrays of a checkpoint, under the name of the weight; spaces fill the JSON up to `state_bytes`."""
        if self.quant_type not in ("nf4", "fp4"):
            raise InvalidValueError(f"quant_type: bitsandbytes has nf4 and fp4, got {self.quant_type!r}")
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            raise InvalidValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {brief(self.dtype)}")
        if not isinstance(name, str) or not name:
            raise InvalidValueError(f"name: expected the name of a weight, got {brief(name)}")
        entries: dict[str, NDArray[Any]] = {name: self.data.reshape(-1, 1), f"{name}.absmax": self.absmax}
        state: dict[str, Any] = {
            "quant_type": self.quant_type,
            "blocksize": self.block_size,
            "dtype": self.dtype,
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


def unpacked(mapping: Mapping[str, Any]) -> PackedState:
    """Read one weight and its state; whatever is missing or contradicts is refused by its key."""
    if not isinstance(mapping, Mapping) or not all(isinstance(key, str) for key in mapping):
        raise InvalidTypeError("mapping: expected a mapping of strings to arrays")
    state_keys = [key for key in mapping if STATE_PREFIX in key]
    if len(state_keys) != 1:
        raise InvalidValueError(f"{STATE_PREFIX}nf4 or {STATE_PREFIX}fp4: expected one, got {brief(state_keys)}")
    (key,) = state_keys
    prefix, _, quant_type = key.rpartition(STATE_PREFIX)
    weight = prefix.removesuffix(".") or "weight"

    def array(name: str) -> NDArray[Any]:
        if name not in mapping:
            raise InvalidValueError(f"{name}: missing")
        return _as_array(mapping[name], name)

    state = _state_of(array(key), key)
    if state["quant_type"] != quant_type:
        raise InvalidValueError(f"{key}: holds quant_type {brief(state['quant_type'])}")
    shape, block_size = state["shape"], state["blocksize"]
    data = np.ascontiguousarray(array(weight)).reshape(-1).view(np.uint8)
    n_blocks = -(-prod(shape) // block_size)
    if data.size != (prod(shape) + 1) // 2:
        raise InvalidValueError(f"{weight}: shape {brief(shape)} takes {(prod(shape) + 1) // 2} bytes, got {data.size}")
    if not np.array_equal(array(f"{prefix}quant_map").reshape(-1), CODEBOOKS[quant_type].table):
        raise InvalidValueError(f"{prefix}quant_map: not the values of {quant_type}")
    if "nested_offset" not in state:
        if f"{prefix}nested_absmax" in mapping:
            raise InvalidValueError(f"{key}: nested_offset is missing, but there is {prefix}nested_absmax")
        absmax = _scales(array(f"{prefix}absmax"), f"{prefix}absmax", n_blocks, np.float32)
        return PackedState(data, absmax, shape, block_size, quant_type, state["dtype"], None)
    nested_size = state["nested_blocksize"]
    nested = NestedState(
        _scales(array(f"{prefix}nested_absmax"), f"{prefix}nested_absmax", -(-n_blocks // nested_size), np.float32),
        state["nested_offset"],
        nested_size,
        _scale_code(array(f"{prefix}nested_quant_map"), f"{prefix}nested_quant_map"),
    )
    absmax = _scales(array(f"{prefix}absmax"), f"{prefix}absmax", n_blocks, np.uint8)
    return PackedState(data, absmax, shape, block_size, quant_type, state["dtype"], nested)


def nested_map(scale_code: str) -> NDArray[np.float32]:
    """The values of the 8-bit codes of the scales, in units of the super-scale."""
    return dynamic_map() if scale_code == "dynamic" else _LINEAR_MAP


def finite_float32(value: Any, name: str) -> float:
    """A real number, rounded to float32 and finite there."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InvalidTypeError(f"{name}: expected a number, got {brief(value)}")
    number: Any = value
    if not abs(number) <= _arrays.F32_MAX:
        raise InvalidValueError(f"{name}: must be finite in float32, got {brief(value)}")
    return float(np.float32(value))


def _state_of(array: NDArray[Any], name: str) -> dict[str, Any]:
    """The JSON of a state, checked."""
    try:
        state = json.loads(bytes(array))
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{name}: not JSON ({' '.join(str(error).split())[:80]})") from None
    if not isinstance(state, dict):
        raise InvalidValueError(f"{name}: must be a JSON object")
    nested = [key for key in _NESTED_KEYS if key in state]
    for key in ("quant_type", "blocksize", "dtype", "shape", *(_NESTED_KEYS if nested else ())):
        if key not in state:
            raise InvalidValueError(f"{name}: {key} is missing")
    for key, allowed in (("quant_type", ("nf4", "fp4")), ("dtype", DTYPES), ("nested_dtype", ("float32",))):
        if key in state and (not isinstance(state[key], str) or state[key] not in allowed):
            raise InvalidValueError(f"{name}: {key} must be {' or '.join(allowed)}, got {brief(state[key])}")
    try:
        state["shape"] = _arrays.shape(state["shape"], f"{name}: shape")
        state["blocksize"] = check_block_size(state["blocksize"], f"{name}: blocksize")
        if nested:
            state["nested_blocksize"] = check_block_size(state["nested_blocksize"], f"{name}: nested_blocksize")
            state["nested_offset"] = finite_float32(state["nested_offset"], f"{name}: nested_offset")
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
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value, _ = _arrays.from_torch(value, name, torch)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(f"{name}: cannot be read as an array ({error})") from error
    if array.dtype.name == "bfloat16":
        array = array.view(np.uint16)
    if array.dtype.kind not in "biuf":
        raise InvalidTypeError(f"{name}: expected an array of numbers, got dtype {array.dtype}")
    return array

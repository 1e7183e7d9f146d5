"""bitsandbytes' packed quantization state: the keys as they stand in a safetensors checkpoint, and what they say.

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

from quantcore import _arrays
from quantcore.codebooks import CODEBOOKS, dynamic_map
from quantcore.errors import InvalidTypeError, InvalidValueError

STATE_PREFIX = "quant_state.bitsandbytes__"
DTYPES = ("float32", "float16", "bfloat16")
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
        if self.dtype not in DTYPES:
            raise InvalidValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")
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
    """Read one weight and its state; whatever is missing or contradicts is refused by name."""
    arrays = {key: _as_array(value, key) for key, value in mapping.items()}
    state_keys = [key for key in arrays if STATE_PREFIX in key]
    if len(state_keys) != 1:
        raise InvalidValueError(f"{STATE_PREFIX}nf4 or {STATE_PREFIX}fp4: expected one of them, got {state_keys}")
    prefix, quant_type = state_keys[0].split(STATE_PREFIX)
    weight = prefix.rstrip(".") or "weight"
    state = state_of(arrays[state_keys[0]], state_keys[0])
    if state["quant_type"] != quant_type:
        raise InvalidValueError(f"{state_keys[0]}: holds quant_type {state['quant_type']!r}")

    def array(name: str) -> NDArray[Any]:
        if name not in arrays:
            raise InvalidValueError(f"{name}: missing")
        return arrays[name]

    shape = state["shape"]
    data = np.ascontiguousarray(array(weight)).reshape(-1).view(np.uint8)
    if data.size != (prod(shape) + 1) // 2:
        raise InvalidValueError(f"{weight}: shape {shape} takes {(prod(shape) + 1) // 2} bytes, got {data.size}")
    if not np.array_equal(array(f"{prefix}quant_map").reshape(-1), CODEBOOKS[quant_type].table):
        raise InvalidValueError(f"{prefix}quant_map: not the values of {quant_type}")
    nested = None
    if "nested_offset" in state:
        nested = NestedState(
            array(f"{prefix}nested_absmax").reshape(-1),
            float(state["nested_offset"]),
            state["nested_blocksize"],
            _scale_code(array(f"{prefix}nested_quant_map"), f"{prefix}nested_quant_map"),
        )
    elif f"{prefix}nested_absmax" in arrays:
        raise InvalidValueError(f"{state_keys[0]}: nested_offset is missing, but there is {prefix}nested_absmax")
    absmax = array(f"{prefix}absmax").reshape(-1)
    return PackedState(data, absmax, shape, state["blocksize"], quant_type, state["dtype"], nested)


def nested_map(scale_code: str) -> NDArray[np.float32]:
    """The values of the 8-bit codes of the scales, in units of the super-scale."""
    return dynamic_map() if scale_code == "dynamic" else _LINEAR_MAP


def state_of(array: NDArray[np.uint8], name: str) -> dict[str, Any]:
    """The JSON of a state, checked."""
    try:
        state = json.loads(bytes(array))
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{name}: not JSON ({' '.join(str(error).split())[:80]})") from None
    if not isinstance(state, dict):
        raise InvalidValueError(f"{name}: must be a JSON object")
    for key in ("quant_type", "blocksize", "dtype", "shape"):
        if key not in state:
            raise InvalidValueError(f"{name}: {key} is missing")
    if state["quant_type"] not in ("nf4", "fp4"):
        raise InvalidValueError(f"{name}: quant_type must be nf4 or fp4, got {state['quant_type']!r}")
    if state["dtype"] not in DTYPES:
        raise InvalidValueError(f"{name}: dtype must be one of {', '.join(DTYPES)}, got {state['dtype']!r}")
    state["shape"] = _arrays.shape(state["shape"], f"{name}: shape")
    nested = [key for key in ("nested_blocksize", "nested_dtype", "nested_offset") if key in state]
    if nested and len(nested) < 3:
        raise InvalidValueError(f"{name}: has {', '.join(nested)} only of the three nested_ entries")
    if nested and (type(state["nested_offset"]) not in (int, float) or state["nested_dtype"] != "float32"):
        raise InvalidValueError(f"{name}: nested_offset must be a number and nested_dtype float32")
    return state


def _scale_code(values: NDArray[Any], name: str) -> str:
    for scale_code in ("dynamic", "linear"):
        if np.array_equal(values.reshape(-1), nested_map(scale_code)):
            return scale_code
    raise InvalidValueError(f"{name}: neither bitsandbytes' dynamic map nor 0 to 255")


def _as_array(value: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(f"{name}: cannot be read as an array ({error})") from error

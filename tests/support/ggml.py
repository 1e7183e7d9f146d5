"""Genuine ggml through ctypes: the one that the wheel `xllamacpp` carries, built without FMA, with every type.

A process can hold one libggml only, so `xllamacpp` itself is imported in processes of its own (`llama_client.py`), and
nothing else in the tests' process loads one. QUANTCORE_TEST_GGML=pywhispercpp takes the older one of that wheel, for
which `second_ggml.py` starts a process. The functions skip the test that calls them where the wheel is missing.
"""

import ctypes
import importlib.util
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

# The library of each wheel, from the folder of its package.
_FILES = {"xllamacpp": "xllamacpp*.so", "pywhispercpp": "../pywhispercpp.libs/libggml-base*.so*"}

_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits` of ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _ToFloat),
        ("from_float_ref", ctypes.c_void_p),
    )


@cache
def library() -> ctypes.CDLL:
    """The loaded library."""
    package = os.environ.get("QUANTCORE_TEST_GGML", "xllamacpp")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs {package}")
    (path,) = Path(spec.origin).parent.glob(_FILES[package])
    loaded = ctypes.CDLL(str(path))
    loaded.ggml_quantize_chunk.restype = ctypes.c_size_t
    loaded.ggml_quantize_chunk.argtypes = (
        [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    )
    loaded.ggml_quantize_init.argtypes = [ctypes.c_int]
    loaded.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    loaded.ggml_type_name.restype = ctypes.c_char_p
    loaded.ggml_version.restype = ctypes.c_char_p
    loaded.ggml_blck_size.restype = ctypes.c_int64
    loaded.ggml_type_size.restype = ctypes.c_size_t
    return loaded


def version() -> str:
    """ggml's own version."""
    return library().ggml_version().decode()


def type_sizes(type_id: int) -> tuple[str, int, int]:
    """ggml's name of a type in lower case, the elements in a block, and the bytes a block takes."""
    found = traits(type_id)
    return found.type_name.decode().lower(), found.blck_size, found.type_size


def quantize(values: np.ndarray, type_id: int, imatrix: np.ndarray | None = None) -> bytes:
    """The bytes that `ggml_quantize_chunk` writes for a 2-D float32 array, with a weight for each column if given."""
    assert values.ndim == 2 and values.dtype == np.float32
    rows, cols = values.shape
    _, block_size, bytes_per_block = type_sizes(type_id)
    values = np.ascontiguousarray(values)
    out = np.empty(rows * cols // block_size * bytes_per_block, np.uint8)
    weights = None if imatrix is None else np.ascontiguousarray(imatrix, np.float32)
    assert weights is None or weights.shape == (cols,)
    library().ggml_quantize_init(type_id)
    written = library().ggml_quantize_chunk(
        type_id, values.ctypes.data, out.ctypes.data, 0, rows, cols, None if weights is None else weights.ctypes.data
    )
    assert written == out.size
    return out.tobytes()


def dequantize(data: np.ndarray | bytes, type_id: int) -> np.ndarray:
    """The flat float32 array that ggml's `to_float` of the type reads out of whole blocks."""
    raw = np.frombuffer(bytes(data), np.uint8)
    _, block_size, bytes_per_block = type_sizes(type_id)
    out = np.empty(raw.size // bytes_per_block * block_size, np.float32)
    to_float = traits(type_id).to_float
    if not to_float:  # F32 has none
        return raw.view(np.float32)
    to_float(raw.ctypes.data, out.ctypes.data, out.size)
    return out


@cache
def traits(type_id: int) -> _TypeTraits:
    """ggml's description of a type, with its `to_float`."""
    loaded = library()
    found = loaded.ggml_get_type_traits(type_id).contents
    # The structure is read right only if it says what ggml's functions say.
    assert found.type_name == loaded.ggml_type_name(type_id)
    assert found.blck_size == loaded.ggml_blck_size(type_id)
    assert found.type_size == loaded.ggml_type_size(type_id)
    return found

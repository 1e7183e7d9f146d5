"""Dask arrays to codes and back, lazily: each block is quantized by itself, to the bytes of the whole array."""

from collections.abc import Callable
from typing import Any, TypeVar

import dask
import dask.array
import numpy as np
from numpy.typing import DTypeLike, NDArray

from quantcore._base import arrays
from quantcore._base.text import brief
from quantcore.affine import QuantParams, dequantize_with_params, quantize_with_params
from quantcore.affine.part_params import params_of_part
from quantcore.blockwise.codebooks import CODEBOOKS
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.ggml import GGUFQuantType
from quantcore.ggml.formats import dequantize as dequantize_blocks
from quantcore.ggml.formats import quantize as quantize_blocks
from quantcore.ggml.formats import supported_format, take_effort
from quantcore.ggml.importance import take_importance
from quantcore.ggml.types import GGMLType

__all__ = ["dequantize", "quantize"]

_FLOATS = ("float32", "float16", "bfloat16", "float64")
T = TypeVar("T")


def quantize(
    array: Any, scheme: QuantParams | GGUFQuantType | str | int, *, imatrix: Any = None, effort: str = "reference"
) -> Any:
    """Quantize a Dask array lazily: affine codes with given parameters, or blocks of a GGUF format.

    Parameters
    ----------
    array : dask.array.Array, shape (..., cols)
        float32, float16, bfloat16 or float64, with finite values. Its chunks may be of unknown length where no
        parameter depends on the place: not along the last axis of blocks and groups, nor along the axis of channels.
    scheme : QuantParams, GGUFQuantType, str or int
        Parameters that fit the whole array, as `quantcore.dask.calibrate` finds them: codes of
        `quantcore.quantize_with_params`. Or a GGUF type, its name in any case, or ggml's id of it: bytes of
        `quantcore.quantize`; `cols` must be whole blocks then.
    imatrix, effort
        As for `quantcore.quantize`; for blocks.

    Returns
    -------
    dask.array.Array of int8 or uint8
        Codes of the shape and chunks of `array`, or bytes of shape (..., cols // block_size * bytes_per_block) in
        chunks of the same blocks. Where a chunk begins or ends inside a block or a group, `array` is rechunked along
        the last axis, with an `imatrix` to whole rows.

    Raises
    ------
    InvalidTypeError
        `array` is no Dask array or not of floats; `scheme` is something else.
    InvalidValueError
        `cols` is not whole blocks, or unknown; the parameters do not fit the shape; `scheme` is an unknown type, or one
        of `quantize_4bit`, whose blocks run over rows and give codes and scales apart. Values that cannot be quantized
        are found when they are computed; the message names the block.

    Notes
    -----
    Blocks are computed with one thread each, since the scheduler runs several of them.
    """
    array = _take(array, "array")
    if array.dtype.name not in _FLOATS:
        raise InvalidTypeError(f"array: expected dtype {', '.join(_FLOATS)}, got {array.dtype}")
    if isinstance(scheme, QuantParams):
        if imatrix is not None or take_effort(effort):
            raise InvalidValueError("imatrix, effort: go with a GGUF type, not with parameters")
        return _map_affine(array, "array", scheme, _quantize_affine, scheme.code_dtype)
    fmt = _take_format(scheme)
    array = _align(array, "array", fmt.block_size, f"the {fmt.name} block size {fmt.block_size}")
    importance = take_importance(imatrix, fmt, _known_shape(array), is_refined=take_effort(effort))
    if importance is None:
        weights = None
    else:
        # ggml's weights of some types contain the mean square of the whole row.
        array = array.rechunk({array.ndim - 1: -1})
        weights = importance.weights if len(importance.weights) > 1 else importance.weights[0]
    chunks = tuple(size // fmt.block_size * fmt.bytes_per_block for size in array.chunks[-1])
    return _map(array, _quantize_ggml, np.uint8, chunks, fmt.id, _share(weights), effort)


def dequantize(array: Any, scheme: QuantParams | GGUFQuantType | str | int, *, dtype: DTypeLike = np.float32) -> Any:
    """Decode a Dask array of codes or blocks lazily: the inverse of `quantize`.

    Parameters
    ----------
    array : dask.array.Array of int8 or uint8, shape (..., n_bytes)
        As `quantize` returns it, also after it was stored and loaded with other chunks.
    scheme : QuantParams, GGUFQuantType, str or int
        As for `quantize`.
    dtype : dtype, default float32
        float32, float16 or bfloat16, rounded to nearest even from float32.

    Returns
    -------
    dask.array.Array of `dtype`, of the shape of the values

    Raises
    ------
    InvalidTypeError
        `array` is no Dask array, or of another dtype than the codes; `dtype` is not one of the three.
    InvalidValueError
        The last axis is not whole blocks, or unknown; the parameters do not fit the shape; `scheme` is unknown.
    """
    array = _take(array, "array")
    wanted, _ = arrays.float_dtype(dtype, "dtype")
    if isinstance(scheme, QuantParams):
        if array.dtype != scheme.code_dtype:
            raise InvalidTypeError(f"array: expected dtype {scheme.code_dtype}, got {array.dtype}")
        return _map_affine(array, "array", scheme, _dequantize_affine, wanted, wanted)
    fmt = _take_format(scheme)
    if array.dtype != np.uint8:
        raise InvalidTypeError(f"array: expected dtype uint8 (blocks of {fmt.name}), got {array.dtype}")
    array = _align(array, "array", fmt.bytes_per_block, f"the {fmt.bytes_per_block} bytes of a {fmt.name} block")
    chunks = tuple(size // fmt.bytes_per_block * fmt.block_size for size in array.chunks[-1])
    return _map(array, _dequantize_ggml, wanted, chunks, fmt.id, wanted)


def _take(array: Any, name: str) -> Any:
    if not isinstance(array, dask.array.Array):
        raise InvalidTypeError(f"{name}: expected a dask.array.Array, got {type(array).__name__}")
    if array.ndim == 0:
        raise InvalidValueError(f"{name}: must have at least one dimension, got shape ()")
    return array


def _take_format(scheme: Any) -> GGMLType:
    if isinstance(scheme, str) and scheme.lower() in CODEBOOKS:
        raise InvalidValueError(
            f"scheme: {scheme} has blocks that run over rows, and scales apart from the codes: use quantize_4bit on "
            "each matrix (dask.delayed), or quantcore.dask.quantize_checkpoint"
        )
    if not isinstance(scheme, GGUFQuantType | str | int) or isinstance(scheme, bool):
        raise InvalidTypeError(f"scheme: expected QuantParams or a GGUF type, got {brief(scheme)}")
    return supported_format(scheme, "scheme")


def _align(array: Any, name: str, unit: int, what: str, *, is_whole: bool = True) -> Any:
    """The array in chunks of whole units along the last axis; a shorter last unit is allowed unless `is_whole`."""
    sizes = array.chunks[-1]
    total = array.shape[-1]
    if np.isnan(total):
        raise _unknown(name, "along the last axis")
    if is_whole and total % unit:
        raise InvalidValueError(f"{name}: last axis of shape {array.shape} is not a multiple of {what}")
    if all(size % unit == 0 for size in sizes[:-1]):
        return array
    # About as large as the largest one was.
    return array.rechunk({array.ndim - 1: max(max(sizes) // unit, 1) * unit})


def _map_affine(
    array: Any, name: str, params: QuantParams, work: Callable[..., Any], dtype: Any, *arguments: Any
) -> Any:
    granularity = params.granularity
    axis, group_size = granularity.axis, granularity.group_size
    if group_size is not None:
        array = _align(array, name, group_size, "", is_whole=False)
    if axis is not None and -array.ndim <= axis < array.ndim and np.isnan(array.shape[axis]):
        raise _unknown(name, f"along axis {axis}")
    if group_size is not None and np.isnan(array.shape).any():
        raise _unknown(name, "of an array with parameters per group")
    shape = _known_shape(array)
    if 0 not in shape:
        params.sharing(shape, name)
    return _map(array, work, dtype, array.chunks[-1], _share(params), shape, *arguments)


def _known_shape(array: Any) -> tuple[int, ...]:
    """The shape, with 1 for what is unknown."""
    return tuple(1 if np.isnan(size) else int(size) for size in array.shape)


def _unknown(name: str, where: str) -> InvalidValueError:
    return InvalidValueError(f"{name}: has chunks of unknown length {where}; compute_chunk_sizes() finds them")


def _map(array: Any, work: Callable[..., Any], dtype: Any, last_chunks: tuple[int, ...], *arguments: Any) -> Any:
    """Map the blocks; `work` is given the block, where it lies, and the arguments."""
    meta = np.empty((0,) * array.ndim, dtype)
    chunks = (*array.chunks[:-1], last_chunks)
    token = work.__name__.strip("_")
    return dask.array.map_blocks(_apply, array, work, *arguments, dtype=dtype, chunks=chunks, meta=meta, token=token)


def _share(value: T) -> T | Any:
    """An array or a record as a task of its own, so that it is not sent with every block; equal ones have one name."""
    return None if value is None else dask.delayed(value, traverse=False, pure=True)


def _apply(block: NDArray[Any], work: Callable[..., Any], *arguments: Any, block_info: Any = None) -> Any:
    """Let an error name the block."""
    info = block_info[0]
    try:
        return work(block, info["array-location"], *arguments)
    except (InvalidValueError, InvalidTypeError) as error:
        raise type(error)(f"block {info['chunk-location']} of the array: {error}") from None


def _quantize_affine(block: NDArray[Any], location: Any, params: QuantParams, shape: tuple[int, ...]) -> NDArray[Any]:
    return quantize_with_params(block, params_of_part(params, shape, location), n_threads=1)


def _dequantize_affine(
    block: NDArray[Any], location: Any, params: QuantParams, shape: tuple[int, ...], dtype: Any
) -> NDArray[Any]:
    return dequantize_with_params(block, params_of_part(params, shape, location), dtype=dtype, n_threads=1)


def _quantize_ggml(block: NDArray[Any], location: Any, type_id: int, imatrix: Any, effort: str) -> NDArray[np.uint8]:
    if imatrix is not None and imatrix.ndim == 2:
        imatrix = imatrix[slice(*location[0])]
    return quantize_blocks(block, type_id, imatrix=imatrix, effort=effort, n_threads=1)


def _dequantize_ggml(block: NDArray[Any], location: Any, type_id: int, dtype: Any) -> NDArray[Any]:
    return dequantize_blocks(block, type_id, dtype=dtype, n_threads=1)

"""GGUF block formats: arrays to ggml's bytes and back, for every type that has kernels.

A format is its entry in `ggml_types` (id, block size, bytes) and a pair of kernels under the same id; shapes, errors
and threads are the same for all and live here.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quantcore import _arrays, _kernels, _parallel
from quantcore.errors import InvalidValueError
from quantcore.ggml_types import GGML_TYPES, GGMLType, GGUFQuantType, as_ggml_type

__all__ = ["SUPPORTED_TYPES", "dequantize", "quantize"]

SUPPORTED_TYPES: tuple[GGUFQuantType, ...] = tuple(sorted(GGUFQuantType(i) for i in _kernels.block_sizes()))
"""The types that `quantize` and `dequantize` take."""

_UINT8 = np.dtype(np.uint8)
_FORMATS: dict[int, GGMLType] = {int(t): GGML_TYPES[t] for t in SUPPORTED_TYPES}
_BY_NAME = {name: fmt for fmt in _FORMATS.values() for name in (fmt.name, fmt.name.lower())}


def quantize(
    values: Any, qtype: GGUFQuantType | str | int, *, n_threads: int | None = None, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Quantize to a GGUF format: the bytes that ggml's `ggml_quantize_chunk` writes.

    Parameters
    ----------
    values : array_like, shape (..., cols)
        float32, float16, bfloat16 or float64, finite. `cols` must be a multiple of the type's block size.
    qtype : GGUFQuantType, str or int
        The type, its name in any case, or ggml's id of it.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The bytes do not depend on it.
    out : ndarray of uint8, shape (..., cols // block_size * bytes_per_block), optional
        Where to write the result.

    Returns
    -------
    ndarray of uint8, shape (..., cols // block_size * bytes_per_block)
        Blocks in ggml's layout, row by row.

    Raises
    ------
    ValueError
        `values` holds NaN or inf, a value too large for the type's fp16 scale (Q4_0: 524160, Q8_0: 8321040), or has
        a last axis that is not whole blocks; `qtype` is unknown or has no kernels yet; `out` does not fit.
    TypeError
        `values` is not a float array, or is masked.

    Notes
    -----
    Q4_0: `d = m / -8` with `m` the first value of largest magnitude, codes `min(15, trunc(x * (1/d) + 8.5))`.
    Q8_0: `d = absmax / 127`, codes `x * (1/d)` rounded half away from zero. `d` is stored as fp16, all arithmetic is
    float32 without contraction (source: ggml's `quantize_row_q4_0_ref` and `quantize_row_q8_0_ref`).

    Examples
    --------
    >>> import numpy as np
    >>> quantize(np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32), "q8_0").shape
    (2, 34)
    """
    fmt = supported_format(qtype)
    source = _arrays.floats(values, "values")
    *rows, cols = source.shape
    if cols % fmt.block_size:
        raise InvalidValueError(
            f"values: last axis of shape {source.shape} is not a multiple of the {fmt.name} block size {fmt.block_size}"
        )
    shape = (*rows, cols // fmt.block_size * fmt.bytes_per_block)
    result = _arrays.output(out, shape, _UINT8, source.origin, alignment=fmt.alignment)
    quantize_blocks(source, fmt, result, n_threads)
    return result


def quantize_blocks(
    source: _arrays.Floats, fmt: GGMLType, out: NDArray[np.uint8], n_threads: int | None, name: str = "values"
) -> None:
    """Quantize a flat run of elements; a last block that is not full is filled up with zeros (`out` is flat then)."""
    type_id, block_size, element_type = fmt.id, fmt.block_size, source.element_type
    block_bytes = block_size * source.itemsize
    n_whole, n_tail = divmod(source.raw.nbytes, block_bytes)
    kernel = _kernels.QuantizeBlocks(type_id, source.raw, element_type, out)
    bad = _parallel.run(kernel, n_whole, max(block_bytes, fmt.bytes_per_block), n_threads)
    if bad < 0 and n_tail:
        tail = np.zeros(block_bytes, np.uint8)
        tail[:n_tail] = _arrays.bytes_of(source.raw)[n_whole * block_bytes :]
        kernel = _kernels.QuantizeBlocks(type_id, tail, element_type, out[n_whole * fmt.bytes_per_block :])
        bad = n_whole if _parallel.run(kernel, 1, block_bytes, 1) >= 0 else -1
    if bad >= 0:
        _arrays.refuse_block(source, name, bad, block_size, fmt.name)


def dequantize(
    data: Any,
    qtype: GGUFQuantType | str | int,
    *,
    dtype: DTypeLike = np.float32,
    strict: bool = True,
    n_threads: int | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Decode a GGUF format, equal to ggml's `to_float` to the last bit.

    Parameters
    ----------
    data : array_like of uint8, shape (..., n_bytes), or bytes
        Whole blocks: `n_bytes` is a multiple of the type's bytes per block.
    qtype : GGUFQuantType, str or int
        The type, its name in any case, or ggml's id of it.
    dtype : dtype, default float32
        float32, float16 or bfloat16 (`ml_dtypes.bfloat16`), rounded to nearest even from float32.
    strict : bool, default True
        Refuse blocks whose scale (for F32, F16 and BF16: whose value) is inf or NaN.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.
    out : ndarray of `dtype`, shape (..., n_bytes // bytes_per_block * block_size), optional
        Where to write the result.

    Returns
    -------
    ndarray of `dtype`, shape (..., n_bytes // bytes_per_block * block_size)

    Raises
    ------
    ValueError
        The last axis is not whole blocks; a scale is not finite and `strict`; `qtype` is unknown; `out` does not fit.
    TypeError
        `data` is not uint8, or `dtype` is not one of the three.

    Notes
    -----
    Q4_0: `x = (code - 8) * d`; Q8_0: `x = code * d`, in float32.
    """
    fmt = supported_format(qtype)
    source = _arrays.packed(data, "data")
    *rows, n_bytes = source.shape
    if n_bytes % fmt.bytes_per_block:
        raise InvalidValueError(
            f"data: last axis of shape {source.shape} must be a multiple of the {fmt.bytes_per_block} bytes of a "
            f"{fmt.name} block"
        )
    wanted, element_type = _arrays.float_dtype(dtype, "dtype")
    shape = (*rows, n_bytes // fmt.bytes_per_block * fmt.block_size)
    result = _arrays.output(out, shape, wanted, source)
    source = _arrays.contiguous(source, alignment=fmt.alignment)
    bad = dequantize_blocks(source, fmt, result, element_type, n_threads)
    if bad >= 0 and strict:
        raise InvalidValueError(f"data: block {bad} of {fmt.name} holds a scale or value that is inf or NaN")
    return result


def dequantize_blocks(
    data: NDArray[np.uint8], fmt: GGMLType, out: NDArray[Any], element_type: int, n_threads: int | None
) -> int:
    """Decode a flat run of whole blocks into the bytes of `out`; the first block with a non-finite scale, or -1."""
    return _parallel.run(
        _kernels.DequantizeBlocks(fmt.id, data, out, element_type),
        data.size // fmt.bytes_per_block,
        max(fmt.block_size * _arrays.ITEMSIZES[element_type], fmt.bytes_per_block),
        n_threads,
        goes_on=True,
    )


def supported_format(qtype: GGUFQuantType | str | int, name: str = "qtype") -> GGMLType:
    """The layout of a type that has kernels."""
    fmt = _BY_NAME.get(qtype) if type(qtype) is str else _FORMATS.get(qtype) if type(qtype) is GGUFQuantType else None
    if fmt is None:
        fmt = as_ggml_type(qtype, name)
        if fmt.id not in _FORMATS:
            names = ", ".join(t.name for t in SUPPORTED_TYPES)
            raise InvalidValueError(f"{name}: {fmt.name} has no kernels in this version; supported: {names}")
    return fmt

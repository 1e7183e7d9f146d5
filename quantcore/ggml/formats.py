"""GGUF block formats: arrays to ggml's bytes and back, for every type that has kernels.

A format is its row in `types` and the kernels that offered themselves under the same id; shapes, errors and threads
are handled here, the same for all.
"""

from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quantcore import _kernels
from quantcore._base import arguments, arrays, parallel
from quantcore._base.records import Quantized
from quantcore._base.text import brief
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.ggml.importance import Importance, refuse_without_importance, take_importance
from quantcore.ggml.types import GGML_TYPES, GGMLType, GGUFQuantType, ImatrixUse, as_ggml_type

__all__ = ["EFFORTS", "SUPPORTED_TYPES", "UNWEIGHTED_TYPES", "dequantize", "quantize"]

EFFORTS = ("reference", "best")
"""How far `quantize` searches: as ggml does, or more widely for blocks of the same formats with a smaller error."""

SUPPORTED_TYPES: tuple[GGUFQuantType, ...] = tuple(sorted(GGUFQuantType(i) for i in _kernels.block_sizes()))
"""The types that `quantize` and `dequantize` take."""

UNWEIGHTED_TYPES = tuple(t for t in SUPPORTED_TYPES if t.layout.imatrix is not ImatrixUse.REQUIRED)
"""Those of them that need no importance matrix."""

_UINT8 = np.dtype(np.uint8)
_CHUNK_BLOCKS = 64  # the least that is handed out together
_REFINED_WORK = 256  # GGMLType.work with effort="best"
_FORMATS: dict[int, GGMLType] = {int(t): GGML_TYPES[t] for t in SUPPORTED_TYPES}
_BY_NAME = {name: fmt for fmt in _FORMATS.values() for name in (fmt.name, fmt.name.lower())}


def quantize(
    values: Any,
    qtype: GGUFQuantType | str | int,
    *,
    imatrix: Any = None,
    effort: str = "reference",
    n_threads: int | None = None,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Quantize to a GGUF format: the bytes that ggml's `ggml_quantize_chunk` writes, or blocks with a smaller error.

    Parameters
    ----------
    values : array_like, shape (..., cols)
        float32, float16, bfloat16 or float64, finite. `cols` must be a multiple of the type's block size.
    qtype : GGUFQuantType, str or int
        The type, its name in any case, or ggml's id of it.
    imatrix : array_like, shape (cols,), or (experts, cols) for values of shape (experts, rows, cols), optional
        Importance of each column: floats that are finite and not negative, such as the mean square of the activations
        that meet it. Where ggml weighs errors (Q4_0, Q4_1, Q5_0, Q5_1, the K-quants, the IQ types) the result is that
        of `ggml_quantize_chunk` with these weights; on the other types they have no effect. IQ2_XXS, IQ2_XS and IQ1_S
        need one.
    effort : {"reference", "best"}, default "reference"
        "reference": ggml's bytes. "best": a wider search for scales, minima and codes after that. A block is replaced
        only by one whose sum over `weight * (value - decoded)**2` is smaller, the value rounded to float32 and the
        weight that of its column in `imatrix`, which counts for every block type then, or 1. F32, F16 and BF16 stay.
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
        a last axis that is not whole blocks; `qtype` is unknown or has no kernels yet; `imatrix` has another shape, a
        weight that is negative, NaN or inf, or is missing where the type needs one; `effort` is none of the two;
        `out` does not fit.
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
    source = arrays.take_floats(values, "values")
    *rows, cols = source.shape
    if cols % fmt.block_size:
        raise InvalidValueError(
            f"values: last axis of shape {source.shape} is not a multiple of the {fmt.name} block size {fmt.block_size}"
        )
    is_refined = take_effort(effort)
    importance = take_importance(imatrix, fmt, source.shape, is_refined=is_refined)
    shape = (*rows, cols // fmt.block_size * fmt.bytes_per_block)
    result = arrays.output(out, shape, _UINT8, source.origin, alignment=fmt.alignment)
    quantize_blocks(source, fmt, result, n_threads, importance=importance, is_refined=is_refined)
    return result if out is None else out


def quantize_blocks(
    source: arrays.Floats,
    fmt: GGMLType,
    out: NDArray[np.uint8],
    n_threads: int | None,
    name: str = "values",
    importance: Importance | None = None,
    is_refined: bool = False,
) -> None:
    """Quantize a flat run of elements; an incomplete last block is padded with zeros (`out` is flat then).

    With `importance` the run consists of whole rows. `is_refined`: effort="best".
    """
    type_id, block_size, element_type = fmt.id, fmt.block_size, source.element_type
    block_bytes = block_size * source.itemsize
    n_whole, n_tail = divmod(source.raw.nbytes, block_bytes)
    if importance is None:
        if source.raw.nbytes:
            refuse_without_importance(fmt, name)
        kernel = _kernels.QuantizeBlocks(type_id, source.raw, element_type, out, is_refined=is_refined)
        unit = _CHUNK_BLOCKS
    else:
        weights, cols = importance.weights, importance.cols
        kernel = _kernels.QuantizeBlocks(
            type_id, source.raw, element_type, out, weights, cols, importance.rows_per_group, is_refined
        )
        unit = max(1, _CHUNK_BLOCKS * block_size // cols) * (cols // block_size)  # whole rows
    work = max(fmt.work, _REFINED_WORK) if is_refined and block_size > 1 else fmt.work
    item_bytes = max(block_bytes, fmt.bytes_per_block) * work
    bad = parallel.run(kernel, n_whole, item_bytes, n_threads, unit=unit)
    if bad < 0 and n_tail:
        tail = np.zeros(block_bytes, np.uint8)
        tail[:n_tail] = arrays.bytes_of(source.raw)[n_whole * block_bytes :]
        rest = out[n_whole * fmt.bytes_per_block :]
        kernel = _kernels.QuantizeBlocks(type_id, tail, element_type, rest, is_refined=is_refined)
        bad = n_whole if parallel.run(kernel, 1, block_bytes, 1) >= 0 else -1
    if bad >= 0:
        arrays.refuse_block(source, name, bad, block_size, fmt.name)


@overload
def dequantize(
    data: Any,
    qtype: GGUFQuantType | str | int | None = ...,
    *,
    dtype: type[np.float32] = ...,
    strict: bool = ...,
    n_threads: int | None = ...,
) -> NDArray[np.float32]: ...
@overload
def dequantize(
    data: Any,
    qtype: GGUFQuantType | str | int | None = ...,
    *,
    dtype: DTypeLike = ...,
    strict: bool = ...,
    n_threads: int | None = ...,
    out: NDArray[Any] | None = ...,
) -> NDArray[Any]: ...
def dequantize(
    data: Any,
    qtype: GGUFQuantType | str | int | None = None,
    *,
    dtype: DTypeLike = np.float32,
    strict: bool = True,
    n_threads: int | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Decode a GGUF format, equal to ggml's `to_float` to the last bit, or any record of quantized values.

    Parameters
    ----------
    data : array_like of uint8, shape (..., n_bytes), or bytes, or a record
        Whole blocks: `n_bytes` is a multiple of the type's bytes per block. A record (`Q4_0`, `Quantized4Bit`,
        `DoubleQuantized4Bit`, `QuantizedTensor`, ...) is decoded by its own method `dequantize`.
    qtype : GGUFQuantType, str or int
        The type, its name in any case, or ggml's id of it. A record knows its own, and takes none.
    dtype : dtype, default float32
        float32, float16 or bfloat16 (`ml_dtypes.bfloat16`), rounded to nearest even from float32.
    strict : bool, default True
        Refuse blocks whose scale (for F32, F16 and BF16: whose value) is inf or NaN. Records are always checked so.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.
    out : ndarray of `dtype`, shape (..., n_bytes // bytes_per_block * block_size), optional
        Where to write the result.

    Returns
    -------
    ndarray of `dtype`, shape (..., n_bytes // bytes_per_block * block_size), or of the shape of a record's values

    Raises
    ------
    ValueError
        The last axis is not a whole number of blocks; a scale is not finite and `strict`; `qtype` is unknown; `out`
        does not fit; `qtype` or `strict=False` is given for a record.
    TypeError
        `data` is not uint8, or `dtype` is not one of the three; `qtype` is missing for what is no record.

    Notes
    -----
    Q4_0: `x = (code - 8) * d`; Q8_0: `x = code * d`, in float32.
    """
    if type(data) is not np.ndarray and isinstance(data, Quantized):
        return _dequantize_record(data, qtype, dtype, strict, n_threads, out)
    if qtype is None:
        raise InvalidTypeError("qtype: is missing; only records such as quantcore.Q4_0 know their own")
    fmt = supported_format(qtype)
    source = arrays.take_bytes(data, "data")
    *rows, n_bytes = source.shape
    if n_bytes % fmt.bytes_per_block:
        raise InvalidValueError(
            f"data: last axis of shape {source.shape} must be a multiple of the {fmt.bytes_per_block} bytes of a "
            f"{fmt.name} block"
        )
    wanted, element_type = arrays.float_dtype(dtype, "dtype")
    shape = (*rows, n_bytes // fmt.bytes_per_block * fmt.block_size)
    result = arrays.output(out, shape, wanted, source)
    source = arrays.contiguous(source, alignment=fmt.alignment)
    is_strict = arguments.flag(strict, "strict")
    bad = dequantize_blocks(source, fmt, result, element_type, n_threads)
    if bad >= 0 and is_strict:
        raise InvalidValueError(f"data: block {bad} of {fmt.name} holds a scale or value that is inf or NaN")
    return result if out is None else out


def _dequantize_record(
    record: Quantized, qtype: object, dtype: DTypeLike, strict: bool, n_threads: int | None, out: NDArray[Any] | None
) -> NDArray[Any]:
    if qtype is not None:
        raise InvalidValueError(f"qtype: goes with bytes, not with a {type(record).__name__}, got {brief(qtype)}")
    if not arguments.flag(strict, "strict"):
        raise InvalidValueError("strict: False goes with bytes, not with a record; pass its data and its qtype")
    return record.dequantize(dtype=dtype, n_threads=n_threads, out=out)


def dequantize_blocks(
    data: NDArray[np.uint8], fmt: GGMLType, out: NDArray[Any], element_type: int, n_threads: int | None
) -> int:
    """Decode a flat run of whole blocks into `out`; returns the first block with a non-finite scale, or -1."""
    return parallel.run(
        _kernels.DequantizeBlocks(fmt.id, data, out, element_type),
        data.size // fmt.bytes_per_block,
        max(fmt.block_size * arrays.ITEMSIZES[element_type], fmt.bytes_per_block),
        n_threads,
        goes_on=True,
    )


def take_effort(effort: object) -> bool:
    """Whether blocks are refined after the reference's bytes.

    Raises
    ------
    InvalidValueError
        `effort` is none of `EFFORTS`.
    """
    return arguments.choice(effort, "effort", EFFORTS) == "best"


def supported_format(qtype: GGUFQuantType | str | int, name: str = "qtype") -> GGMLType:
    """The layout of a type that has kernels."""
    fmt = _BY_NAME.get(qtype) if type(qtype) is str else _FORMATS.get(qtype) if type(qtype) is GGUFQuantType else None
    if fmt is None:
        fmt = as_ggml_type(qtype, name)
        if fmt.id not in _FORMATS:
            names = ", ".join(t.name for t in SUPPORTED_TYPES)
            raise InvalidValueError(f"{name}: {fmt.name} has no kernels in this version; supported: {names}")
    return fmt


def unweighted_format(qtype: GGUFQuantType | str | int, name: str = "qtype") -> GGMLType:
    """The layout of a type that has kernels and needs no importance matrix."""
    fmt = supported_format(qtype, name)
    refuse_without_importance(fmt, name)
    return fmt

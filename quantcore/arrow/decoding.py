"""Codes of a column back to values, with the parameters that the column has."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from quantcore._base import arrays
from quantcore._base.text import brief
from quantcore.affine import QuantParams, dequantize_with_params
from quantcore.arrow import columns
from quantcore.arrow.building import array_of, spread
from quantcore.arrow.columns import fixed_size_matrix, flat_values, nulls_of
from quantcore.arrow.types import CODES, OFFSET, SCALE, AffineType, BlockType, from_serialized
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.ggml import GGUFQuantType, formats

__all__ = ["dequantize", "params_of", "to_numpy"]

Quantized = AffineType | BlockType


def dequantize(
    column: Any,
    *,
    params: QuantParams | AffineType | BlockType | None = None,
    dtype: DTypeLike = np.float32,
    n_threads: int | None = None,
) -> Any:
    """The values of a quantized column; null rows stay null.

    Parameters
    ----------
    column : ExtensionArray or ChunkedArray, or anything with `__arrow_c_array__` or `__arrow_c_stream__`
        As `quantize` returns. Its storage alone, as from an engine that knows no extension types, needs `params`.
    params : QuantParams, AffineType or BlockType, optional
        What the codes are, where the column does not say it.
    dtype : dtype, default float32
        float32 or float16.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.

    Returns
    -------
    Array or ChunkedArray
        Of `fixed_size_list<dtype>[d]`, or of numbers; chunked as the column.

    Raises
    ------
    ValueError
        The column has no parameters and none are given, or it has other ones.
    TypeError
        The column does not hold codes.
    """
    chunks, kind, is_chunked = columns.chunks_of(column, "column")
    source = _type_of_codes(kind, params)
    wanted, _ = arrays.float_dtype(dtype, "dtype")
    if wanted.name == "bfloat16":
        raise InvalidTypeError("dtype: Arrow has no bfloat16; expected float32 or float16")
    number = pa.from_numpy_dtype(wanted)
    target = number if source.n_dimensions is None else pa.list_(number, source.n_dimensions)
    found = [_decode(chunk, source, target, wanted, n_threads) for chunk in chunks]
    return pa.chunked_array(found, target) if is_chunked else found[0]


def _type_of_codes(kind: pa.DataType, params: QuantParams | Quantized | None) -> Quantized:
    if params is not None and not isinstance(params, (QuantParams, AffineType, BlockType)):
        raise InvalidTypeError(f"params: expected QuantParams or the type of a column, got {brief(params)}")
    if isinstance(kind, (AffineType, BlockType)):
        if params is not None and params != kind and params != getattr(kind, "params", None):
            raise InvalidValueError(f"params: the column has parameters of its own, and other ones: {kind}")
        return kind
    if params is None:
        raise InvalidValueError(
            f"column: {kind} has no parameters; params= gives the ones that it was quantized with, if they are known"
        )
    if isinstance(params, QuantParams):
        return AffineType(params, kind.list_size if pa.types.is_fixed_size_list(kind) else None)
    return params


def _decode(
    chunk: pa.Array, source: Quantized, target: pa.DataType, dtype: np.dtype[Any], n_threads: int | None
) -> pa.Array:
    is_null = nulls_of(chunk)
    is_kept = None if is_null is None else ~is_null
    fields = _codes_of(chunk, source)
    if is_kept is not None:
        fields = [field[is_kept] for field in fields]
    if isinstance(source, BlockType):
        values = formats.dequantize(fields[0], source.qtype, dtype=dtype, n_threads=n_threads)
    elif len(fields[0]):
        params = _own_params(source, fields[1:]) if source.is_per_vector else source.params
        values = dequantize_with_params(fields[0], params, dtype=dtype, n_threads=n_threads)
    else:
        values = np.empty(fields[0].shape, dtype)
    return array_of(target, spread(values, is_kept), is_kept)


def _codes_of(chunk: pa.Array, source: Quantized) -> list[NDArray[Any]]:
    """Codes, and scales and offsets of vectors that have their own, as views of Arrow's memory."""
    storage = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
    try:
        if storage.type != source.storage_type:
            storage = storage.cast(source.storage_type)
    except pa.ArrowException:
        raise InvalidTypeError(f"column: expected {source.storage_type} ({source}), got {storage.type}") from None
    if isinstance(source, BlockType):
        width = source.storage_type.byte_width
        memory = storage.buffers()[1] or b""
        whole = np.frombuffer(memory, np.uint8, len(storage) * width, storage.offset * width if len(storage) else 0)
        return [whole.reshape(len(storage), width)]
    if not source.is_per_vector:
        return [_no_holes(storage)]
    names = [CODES, SCALE, OFFSET][: source.storage_type.num_fields]
    # `field` minds the slice, but not that a row may be null.
    return [_no_holes(storage.field(name)) for name in names]


def _no_holes(array: pa.Array) -> NDArray[Any]:
    return fixed_size_matrix(array) if pa.types.is_fixed_size_list(array.type) else flat_values(array)


def _own_params(source: AffineType, rows: Sequence[NDArray[Any]]) -> QuantParams:
    template = source.params
    scales = np.ascontiguousarray(rows[0])
    offsets = np.ascontiguousarray(rows[1]) if template.has_offsets else None
    zero_points = np.zeros(scales.size, np.int32)
    limits = template.quant_min, template.quant_max
    return QuantParams(scales, zero_points, template.granularity, template.mode, template.bits, *limits, offsets)


def params_of(column: Any) -> QuantParams | GGUFQuantType:
    """What the codes of a column are.

    Parameters
    ----------
    column : Array, ChunkedArray, Field or DataType
        Quantized. Of a field without an extension type, as from an engine that strips those, the parameters that
        `quantize_table` wrote to its metadata.

    Returns
    -------
    QuantParams or GGUFQuantType
        Of vectors with parameters of their own: a scale for each row, 1 where it is null.

    Raises
    ------
    ValueError
        There are no parameters.
    """
    kind = column if isinstance(column, pa.DataType) else getattr(column, "type", None)
    mirrored = (column.metadata or {}).get(b"quantcore") if isinstance(column, pa.Field) else None
    if not isinstance(kind, (AffineType, BlockType)) and mirrored is not None:
        kind = from_serialized(mirrored, kind)
    if isinstance(kind, BlockType):
        return kind.qtype
    if not isinstance(kind, AffineType):
        raise InvalidValueError(f"column: {brief(kind)} has no parameters")
    if not kind.is_per_vector or not isinstance(column, (pa.Array, pa.ChunkedArray)):
        return kind.params
    chunks = columns.chunks_of(column, "column")[0]
    rows = []
    for chunk in chunks:
        is_null = nulls_of(chunk)
        fields = _codes_of(chunk, kind)[1:]
        keep = np.ones(len(chunk), bool) if is_null is None else ~is_null
        rows.append([np.where(keep, field, np.float32(i == 0)) for i, field in enumerate(fields)])
    if not sum(map(len, chunks)):
        return kind.params
    return _own_params(kind, [np.concatenate(parts) for parts in zip(*rows, strict=True)])


def to_numpy(column: Any) -> NDArray[Any]:
    """A column as a matrix: the codes of a quantized one, the floats of another.

    Parameters
    ----------
    column : Array, ChunkedArray, or anything with `__arrow_c_array__` or `__arrow_c_stream__`
        Without null rows.

    Returns
    -------
    ndarray, shape (n, d), of numbers (n,)
        A read-only view of Arrow's memory if the column is one array whose rows lie together; else a copy.

    Raises
    ------
    ValueError
        A row is null or bad, which the message names.
    TypeError
        The column holds something else.
    """
    chunks, kind, _ = columns.chunks_of(column, "column")
    first = 0
    for chunk in chunks:
        is_null = nulls_of(chunk)
        if is_null is not None:
            columns.refuse_bad(is_null, first, "column", lambda _: "null")
        first += len(chunk)
    if isinstance(kind, (AffineType, BlockType)):
        parts = [_codes_of(chunk, kind)[0] for chunk in chunks]
        empty = _codes_of(pa.array([], kind.storage_type), kind)[0]
    else:
        taken = columns.take_chunks(chunks, kind, "column", None, columns.ERROR)
        parts = [rows.matrix for rows in taken]
        empty = parts[0][:0] if parts else np.empty((0,), np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate([empty, *parts])

"""A column of vectors or numbers to codes with their parameters; statistics of a column."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quantcore._base import arguments
from quantcore._base.arrays import take_floats
from quantcore._base.text import brief
from quantcore.affine import QuantGranularity, QuantMode, QuantParams, quantize_with_params
from quantcore.affine.from_extremes import calibrate as calibrate_values
from quantcore.affine.modes import code_range
from quantcore.arrow import columns
from quantcore.arrow.building import array_of, spread, struct_of
from quantcore.arrow.columns import Rows
from quantcore.arrow.types import AffineType, BlockType
from quantcore.calibration import Calibrator
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.ggml import GGUFQuantType, formats

__all__ = ["calibrate", "quantize"]

_MODES = {"uint8": QuantMode.OFFSET, "int8": QuantMode.SYMMETRIC}
_AXES = {"tensor": None, "vector": 0, "dimension": 1}
_FEWEST_ROWS = 2
Quantized = AffineType | BlockType


def quantize(
    column: Any,
    scheme: str = "uint8",
    *,
    params: QuantParams | AffineType | BlockType | None = None,
    granularity: str | None = None,
    on_bad: str = "error",
    n_threads: int | None = None,
) -> Any:
    """Codes of a column; null rows stay null.

    Parameters
    ----------
    column : Array, ChunkedArray, or anything with `__arrow_c_array__` or `__arrow_c_stream__`
        float16, float32 or float64, or lists of them: of a fixed size, `list`, `large_list` or views. Zero copy where
        the rows lie together in memory.
    scheme : str, default "uint8"
        "uint8": offset and scale; "int8": scale alone; or the name of a block format of ggml, such as "Q8_0".
    params : QuantParams, AffineType or BlockType, optional
        What the codes are, such as the type of a column that was quantized before; instead of `scheme` and
        `granularity`. None: found in this column.
    granularity : {"dimension", "vector", "tensor"}, optional
        What has a scale of its own; None: each dimension of vectors, and a column of numbers. Not of block formats.
    on_bad : {"error", "null", "drop"}, default "error"
        What to do about a row that holds NaN, inf, what is beyond float32 or a null, or has another length: than
        `params` or the type of the column say, else than more than half of the vectors of the column have.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The codes do not depend on it.

    Returns
    -------
    ExtensionArray or ChunkedArray
        Of an `AffineType` or `BlockType`; chunked as the column.

    Raises
    ------
    ValueError
        A row is bad, which the message names; a column of fewer than two vectors has no ranges; the parameters do not
        fit the vectors.
    TypeError
        The column does not hold floats or lists of floats.

    Examples
    --------
    >>> vectors = pa.array([[0.0, 280.0], [1.0, 300.0], None], pa.list_(pa.float32(), 2))
    >>> codes = quantize(vectors)
    >>> codes.type, codes.storage.to_pylist()
    (AffineType(vectors of 2, 8 bits, offset, per_channel), [[0, 0], [255, 255], None])
    """
    found, _ = quantize_column(column, "column", scheme, params, granularity, on_bad, n_threads)
    return found


def quantize_column(
    column: Any,
    name: str,
    scheme: str,
    params: QuantParams | Quantized | None,
    granularity: str | None,
    on_bad: str,
    n_threads: int | None,
) -> tuple[Any, NDArray[np.bool_]]:
    """`quantize` of a column with a name, and which of its rows are bad."""
    on_bad = columns.check_on_bad(on_bad)
    chunks, kind, is_chunked = columns.chunks_of(column, name)
    n_dimensions = getattr(params, "n_dimensions", None)
    if isinstance(params, QuantParams) and params.granularity.from_front(2).axis == 1:
        n_dimensions = params.num_groups
    taken = columns.take_chunks(chunks, kind, name, n_dimensions, on_bad)
    if columns.is_list(getattr(kind, "storage_type", kind)) and n_dimensions is None:
        n_dimensions = taken[0].matrix.shape[1] if taken else kind.list_size
    try:
        target = _target(taken, name, scheme, params, granularity, n_dimensions, n_threads)
        found = [_encode(rows, name, target, n_threads) for rows in taken]
    except InvalidValueError:
        columns.refuse_infinite(taken, name)
        raise
    is_bad = [rows.is_bad for rows in taken]
    if on_bad == columns.DROP:
        found = [part.filter(pa.array(~bad)) for part, bad in zip(found, is_bad, strict=True)]
    whole = pa.chunked_array(found, target) if is_chunked else found[0]
    return whole, np.concatenate([np.empty(0, bool), *is_bad])


def _target(
    taken: Sequence[Rows],
    name: str,
    scheme: str,
    params: QuantParams | Quantized | None,
    granularity: str | None,
    n_dimensions: int | None,
    n_threads: int | None,
) -> Quantized:
    """The type of the codes, with parameters found in the rows unless they are given."""
    if params is not None:
        if granularity is not None:
            raise InvalidValueError("granularity: does not go with params, which have their own")
        if isinstance(params, QuantParams):
            params = AffineType(params, n_dimensions)
        if not isinstance(params, (AffineType, BlockType)):
            raise InvalidTypeError(f"params: expected QuantParams or the type of a column, got {brief(params)}")
        if params.n_dimensions != n_dimensions:
            raise InvalidValueError(f"params: {params} do not fit {name}, a column of vectors")
        return params
    if not isinstance(scheme, str) or scheme.lower() not in _MODES:
        qtype = GGUFQuantType(formats.unweighted_format(scheme, "scheme").id)
        if granularity is not None or n_dimensions is None:
            what = "granularity: does" if granularity is not None else f"{name}: a column of numbers does"
            raise InvalidValueError(f"{what} not go with a block format, got scheme {qtype.name}")
        return BlockType(qtype, n_dimensions)
    mode, axis = _MODES[scheme.lower()], _axis_of(granularity, n_dimensions)
    if axis == 0:
        limits = code_range(8, mode)
        return AffineType(QuantParams.without_scales(QuantGranularity(axis=0), mode, 8, *limits), n_dimensions)
    calibrator = Calibrator.min_max(axis=axis, mode=mode)
    for matrix in columns.not_empty(taken):
        calibrator.observe_named(matrix, name, n_threads=n_threads)
    n_rows = sum(len(rows.matrix) for rows in taken)
    if n_rows < (_FEWEST_ROWS if axis == 1 else 1):
        raise InvalidValueError(
            f"{name}: ranges need at least {_FEWEST_ROWS} rows, got {n_rows}; params= takes those of other data"
        )
    return AffineType(calibrator.compute_named(name).params, n_dimensions)


def _axis_of(granularity: str | None, n_dimensions: int | None) -> int | None:
    if granularity is None:
        granularity = "tensor" if n_dimensions is None else "dimension"
    granularity = arguments.choice(granularity, "granularity", _AXES)
    if n_dimensions is None and granularity != "tensor":
        raise InvalidValueError(f"granularity: a column of numbers has one scale (tensor), got {granularity}")
    return _AXES[granularity]


def _encode(rows: Rows, name: str, target: Quantized, n_threads: int | None) -> pa.ExtensionArray:
    storage, matrix = target.storage_type, rows.matrix
    if isinstance(target, BlockType):
        codes = np.empty((len(matrix), storage.byte_width), np.uint8)
        source, fmt = take_floats(matrix, name), formats.supported_format(target.qtype)
        formats.quantize_blocks(source, fmt, codes, n_threads, name)
        return pa.ExtensionArray.from_storage(target, array_of(storage, spread(codes, rows.is_kept), rows.is_kept))
    params = target.params
    if not target.is_per_vector:
        codes = quantize_with_params(matrix, params, n_threads=n_threads)
        return pa.ExtensionArray.from_storage(target, array_of(storage, spread(codes, rows.is_kept), rows.is_kept))
    if not len(matrix):
        codes, scales, offsets = np.empty(matrix.shape, params.code_dtype), *np.empty((2, 0), np.float32)
    else:
        narrow = params.quant_min == -params.quant_max
        own = calibrate_values(matrix, params.granularity, params.bits, params.mode, narrow, n_threads, name)
        codes, scales = quantize_with_params(matrix, own, n_threads=n_threads), own.scales
        offsets = own.offsets if own.offsets is not None else scales
    fields = [spread(values, rows.is_kept) for values in (codes, scales, offsets)[: storage.num_fields]]
    return pa.ExtensionArray.from_storage(target, struct_of(storage, fields, rows.is_kept))


def calibrate(
    column: Any, calibrator: Calibrator, *, on_bad: str = "error", n_threads: int | None = None
) -> Calibrator:
    """The statistics of a column, of which null rows are no part.

    Parameters
    ----------
    column : Array, ChunkedArray, or anything with `__arrow_c_array__` or `__arrow_c_stream__`
        As for `quantize`.
    calibrator : Calibrator
        Per tensor, or for vectors with axis 1, a scale per dimension. It is not changed.
    on_bad : {"error", "null", "drop"}, default "error"
        As for `quantize`; the latter two leave bad rows out.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.

    Returns
    -------
    Calibrator
        `calibrator` with the statistics of the column; each chunk that is not empty counts as a batch. Those of several
        columns or partitions merge exactly.

    Raises
    ------
    ValueError
        A row is bad, which the message names; the calibrator has another axis or number of channels.
    TypeError
        An argument has another type.
    """
    if not isinstance(calibrator, Calibrator):
        raise InvalidTypeError(f"calibrator: expected a Calibrator, got {brief(calibrator)}")
    on_bad = columns.check_on_bad(on_bad)
    chunks, kind, _ = columns.chunks_of(column, "column")
    if calibrator.axis not in (None, 1, -1) or (calibrator.axis and not columns.is_list(kind)):
        raise InvalidValueError(f"calibrator: expected axis 1 (of vectors) or none, got {calibrator.axis}")
    result = deepcopy(calibrator)
    if not sum(map(len, chunks)):
        return result
    n_dimensions = (calibrator.num_channels or None) if calibrator.axis else None
    taken = columns.take_chunks(chunks, kind, "column", n_dimensions, on_bad)
    try:
        for matrix in columns.not_empty(taken):
            result.observe_named(matrix, "column", n_threads=n_threads)
    except InvalidValueError:
        columns.refuse_infinite(taken, "column")
        raise
    return result

"""Extremes and affine codes of whole arrays: kernels over the groups or columns that `sharing` makes of them."""

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels
from quantcore._base import arrays, parallel
from quantcore._base.arrays import Floats
from quantcore.affine.sharing import Part, Sharing, sharing_of
from quantcore.errors import InvalidValueError

# For extremes of columns: each chunk writes a row of them, as large as a row of float32.
_MOST_ROWS, _LEAST_CHUNKS = 64, 16
_SCAN = 1 << 20


def extremes(source: Floats, sharing: Sharing, name: str, n_threads: int | None) -> NDArray[np.float32]:
    """The smallest and the largest element of each scale, shape (2, n_scales); NaN and inf are refused."""
    bounds = np.empty((2, sharing.n_scales), np.int32)
    keys = [_keys_of_part(source, sharing, part, n_threads) for part in sharing.parts]
    if not _kernels.join_extremes(keys, bounds):
        refuse_first(source, name)
    return bounds.view(np.float32)


def _keys_of_part(
    source: Floats, sharing: Sharing, part: Part, n_threads: int | None
) -> tuple[NDArray[np.int32], int, int]:
    """Keys of extremes, and the extents outside and inside their channel axis, as `join_extremes` takes them."""
    item_bytes = part.size * source.itemsize
    if part.repeats:
        unit = max(1, min(_MOST_ROWS, part.n_items // _LEAST_CHUNKS))
        n_chunks = -(-part.n_items // parallel.chunk_items(item_bytes, unit))
        outer, inner = n_chunks * part.repeats, sharing.inner
        keys = np.empty((2, n_chunks * part.size), np.int32)
        columns = _kernels.ExtremesOfColumns(source.raw, source.element_type, part.first, part.size, keys)
        parallel.run(columns, part.n_items, item_bytes, n_threads, unit=unit)
    else:
        outer, inner = (1, 1) if sharing.group_size else (sharing.outer, sharing.layout[2])
        keys = np.empty((2, part.n_items), np.int32)
        groups = _kernels.ExtremesOfGroups(source.raw, source.element_type, sharing.layout, keys)
        parallel.run(groups, part.n_items, item_bytes, n_threads, unit=1)
    return keys, outer, inner


def quantize(
    source: Floats,
    sharing: Sharing,
    parameters: NDArray[np.float32],
    out: NDArray[Any],
    name: str,
    n_threads: int | None,
) -> None:
    """Codes of every element into `out`; `parameters` as `QuantParams.rows_for` gives them."""
    raw, element_type = source.raw, source.element_type
    for part in sharing.parts:
        kernel: _kernels.Kernel
        if part.repeats:
            kernel = _kernels.QuantizeColumns(raw, element_type, part.first, part.size, parameters, out)
        else:
            kernel = _kernels.QuantizeGroups(raw, element_type, sharing.layout, parameters, out)
        if parallel.run(kernel, part.n_items, part.size * source.itemsize, n_threads, unit=1) >= 0:
            refuse_first(source, name)


def floor_codes(
    source: Floats,
    sharing: Sharing,
    ranges: NDArray[np.float32],
    most: float,
    factor: float,
    is_wide: bool,
    out: NDArray[Any],
    name: str,
    n_threads: int | None,
) -> None:
    """Codes that are rounded down, `floor(clip((x - low) / width, 0, most) * factor)`, of every element into `out`.

    `ranges`: the low and the width of each channel, shape (2, channels); `is_wide`: the product is float64.
    """
    wide = sharing.widen(ranges)
    for part in sharing.column_parts:
        kernel = _kernels.FloorColumns(
            source.raw, source.element_type, part.first, part.size, wide, most, factor, is_wide, out
        )
        if parallel.run(kernel, part.n_items, part.size * source.itemsize, n_threads, unit=1) >= 0:
            refuse_first(source, name)


def dequantize(
    codes: NDArray[Any],
    is_signed: bool,
    sharing: Sharing,
    parameters: NDArray[np.float32],
    out: NDArray[Any],
    element_type: int,
    n_threads: int | None,
) -> None:
    """Values of every code into `out`; `parameters` as `QuantParams.rows_for` gives them."""
    itemsize = arrays.ITEMSIZES[element_type]
    for part in sharing.parts:
        kernel: _kernels.Kernel
        if part.repeats:
            place = part.first, part.size
            kernel = _kernels.DequantizeColumns(codes, is_signed, *place, parameters, out, element_type)
        else:
            kernel = _kernels.DequantizeGroups(codes, is_signed, sharing.layout, parameters, out, element_type)
        parallel.run(kernel, part.n_items, part.size * itemsize, n_threads, unit=1)


def coding_rows(
    scales: NDArray[np.float32],
    zero_points: NDArray[np.int32],
    offsets: NDArray[np.float32] | None,
    limits: tuple[int, int],
) -> NDArray[np.float32]:
    """Parameters as the kernels take them: rows of scales, inverses, zero points, both limits minus zero points, and
    offsets if any.
    """
    rows = np.empty((5 if offsets is None else 6, scales.size), np.float32)
    _kernels.coding_rows(scales, zero_points, offsets, *limits, rows)
    return arrays.seal(rows)


def refuse_not_finite(source: Floats, name: str, n_threads: int | None) -> None:
    """Refuse NaN, inf and what is beyond float32 in an array that is not empty, where no other pass would see them."""
    extremes(source, sharing_of(source.shape), name, n_threads)


def refuse_first(source: Floats, name: str) -> NoReturn:
    """Find the first element that is not a finite float32, and say so."""
    for start in range(0, source.size, _SCAN):
        stop = min(start + _SCAN, source.size)
        bad = np.flatnonzero(~arrays.are_finite(source.values(start, stop)))
        if bad.size:
            arrays.refuse_range(source, name, start + int(bad[0]), start + int(bad[0]) + 1)
    raise InvalidValueError(f"{name}: changed while it was read")


def of_keys(keys: NDArray[np.int32]) -> NDArray[np.float32]:
    """The float32 values of integers that order as they do (`keys_of`)."""
    return np.asarray(_mirror(keys)).view(np.float32)


def keys_of(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Integers that order as the values do."""
    return _mirror(values.view(np.int32))


def _mirror(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """The bits of floats as keys, and the other way round."""
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))

"""Extremes and affine codes of whole arrays: which elements share a scale becomes groups or columns for the kernels.

A group is a run of elements that share a scale. Where such runs are short (a channel on one of the last axes), rows are
taken instead of which each column has its scale; a narrow row is repeated to a width that vectorises.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays, _kernels, _parallel
from quantcore._arrays import Floats

SHORTEST_RUN = 32
LONGEST_RUN = 1 << 16
NARROWEST_ROW = 512
_INFINITE_KEY = 0x7F800000
_SCAN = 1 << 20


@dataclass(frozen=True, slots=True)
class Sharing:
    """Which elements share a scale: `outer` x `channels` x `inner`, in groups of `group_size` along the rows if given.

    Per tensor: one channel of everything. Per group: `outer` rows of `inner` elements.
    """

    outer: int
    channels: int
    inner: int
    group_size: int | None = None

    @property
    def n_scales(self) -> int:
        if self.group_size is None:
            return self.channels
        return self.outer * -(-self.inner // self.group_size)

    @property
    def is_in_columns(self) -> bool:
        return self.group_size is None and self.inner < SHORTEST_RUN and self.channels > 1

    @property
    def layout(self) -> tuple[int, int, int, int]:
        """Of the groups: cols, size, per_row, sharing."""
        size = min(max(self.inner, 1), self.group_size or LONGEST_RUN)
        per_row = -(-self.inner // size)
        return self.inner, size, per_row, max(1, per_row) if self.group_size is None else 1

    @property
    def n_groups(self) -> int:
        return self.outer * self.channels * self.layout[2]

    def column_parts(self) -> list[tuple[int, int, int]]:
        """(first element, rows, repeats): rows of `repeats` times channels x inner, and the rest as one more row."""
        width = self.channels * self.inner
        repeats = min(max(1, -(-NARROWEST_ROW // width)), max(1, self.outer))
        n_rows, rest = divmod(self.outer, repeats)
        parts = [(0, n_rows, repeats)] if n_rows else []
        return [*parts, (n_rows * repeats * width, 1, rest)] if rest else parts


def extremes(source: Floats, sharing: Sharing, name: str, n_threads: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """The smallest and the largest value of the elements of each scale, float32; NaN and inf are refused."""
    if sharing.is_in_columns:
        lowest, highest = _extremes_of_columns(source, sharing, n_threads)
    else:
        lowest, highest = _extremes_of_groups(source, sharing, n_threads)
    if lowest.min() <= ~_INFINITE_KEY or highest.max() >= _INFINITE_KEY:
        refuse_first(source, name)
    return of_keys(lowest), of_keys(highest)


def quantize(
    source: Floats,
    sharing: Sharing,
    scales: NDArray[np.float32],
    zero_points: NDArray[np.int32],
    limits: tuple[int, int],
    out: NDArray[np.uint8],
    name: str,
    n_threads: int | None,
) -> None:
    """Codes of every element into the bytes of `out`."""
    inverses = inverses_of(scales)
    itemsize, element_type = source.itemsize, source.element_type
    if not sharing.is_in_columns:
        layout = sharing.layout
        bad = _parallel.run(
            lambda *turn: _kernels.quantize_groups(
                source.raw, element_type, layout, inverses, zero_points, *limits, out, *turn
            ),
            sharing.n_groups,
            max(1, layout[1]) * itemsize,
            n_threads,
            unit=1,
        )
        if bad >= 0:
            refuse_first(source, name)
        return

    def quantize_part(first: int, n_rows: int, repeats: int) -> None:
        wide_inverses, wide_zero_points = (widened(a, sharing, repeats) for a in (inverses, zero_points))
        width = wide_inverses.size
        stop = first + n_rows * width
        raw = source.raw[first * itemsize : stop * itemsize]
        bad = _parallel.run(
            lambda *turn: _kernels.quantize_columns(
                raw, element_type, wide_inverses, wide_zero_points, *limits, out[first:stop], *turn
            ),
            n_rows,
            width * itemsize,
            n_threads,
            unit=1,
        )
        if bad >= 0:
            refuse_first(source, name)

    for part in sharing.column_parts():
        quantize_part(*part)


def dequantize(
    codes: NDArray[np.uint8],
    is_signed: bool,
    sharing: Sharing,
    scales: NDArray[np.float32],
    zero_points: NDArray[np.int32],
    out: NDArray[np.uint8],
    element_type: int,
    n_threads: int | None,
) -> None:
    """Values of every code into the bytes of `out`."""
    itemsize = _arrays.ITEMSIZES[element_type]
    if not sharing.is_in_columns:
        layout = sharing.layout
        _parallel.run(
            lambda *turn: _kernels.dequantize_groups(
                codes, is_signed, layout, scales, zero_points, out, element_type, *turn
            ),
            sharing.n_groups,
            max(1, layout[1]) * itemsize,
            n_threads,
            unit=1,
        )
        return

    def dequantize_part(first: int, n_rows: int, repeats: int) -> None:
        wide_scales, wide_zero_points = (widened(a, sharing, repeats) for a in (scales, zero_points))
        width = wide_scales.size
        stop = first + n_rows * width
        target = out[first * itemsize : stop * itemsize]
        _parallel.run(
            lambda *turn: _kernels.dequantize_columns(
                codes[first:stop], is_signed, wide_scales, wide_zero_points, target, element_type, *turn
            ),
            n_rows,
            width * itemsize,
            n_threads,
            unit=1,
        )

    for part in sharing.column_parts():
        dequantize_part(*part)


def coding(
    sharing: Sharing, scales: NDArray[np.float32], zero_points: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Inverse scales, scales and zero points of the groups, or of the columns of a row."""
    inverses = inverses_of(scales)
    if not sharing.is_in_columns:
        return inverses, scales, zero_points
    repeats = sharing.column_parts()[0][2]
    return (
        widened(inverses, sharing, repeats),
        widened(scales, sharing, repeats),
        widened(zero_points, sharing, repeats),
    )


def refuse_first(source: Floats, name: str) -> NoReturn:
    """Find the first element that is not a finite float32, and say so."""
    limit = np.finfo(np.float32).max
    for start in range(0, source.size, _SCAN):
        stop = min(start + _SCAN, source.size)
        with np.errstate(invalid="ignore"):
            is_fine = np.abs(source.values(start, stop).astype(np.float64)) <= limit
        bad = np.flatnonzero(~is_fine)
        if bad.size:
            _arrays.refuse_range(source, name, start + int(bad[0]), start + int(bad[0]) + 1)
    raise AssertionError("the array changed while it was read")


def _extremes_of_groups(
    source: Floats, sharing: Sharing, n_threads: int | None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    layout = sharing.layout
    lowest, highest = (np.empty(sharing.n_groups, np.int32) for _ in range(2))
    _parallel.run(
        lambda *turn: _kernels.extremes_of_groups(source.raw, source.element_type, layout, lowest, highest, *turn),
        sharing.n_groups,
        layout[1] * source.itemsize,
        n_threads,
        unit=1,
    )
    if sharing.group_size is not None:
        return lowest, highest
    shape = (sharing.outer, sharing.channels, layout[2])
    return lowest.reshape(shape).min(axis=(0, 2)), highest.reshape(shape).max(axis=(0, 2))


def _extremes_of_columns(
    source: Floats, sharing: Sharing, n_threads: int | None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    def extremes_of_part(first: int, n_rows: int, repeats: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        width = repeats * sharing.channels * sharing.inner
        raw = source.raw[first * source.itemsize : (first + n_rows * width) * source.itemsize]
        n_chunks = -(-n_rows // _parallel.chunk_items(width * source.itemsize, 1))
        low, high = (np.empty((n_chunks, width), np.int32) for _ in range(2))
        _parallel.run(
            lambda *turn: _kernels.extremes_of_columns(raw, source.element_type, width, low, high, *turn),
            n_rows,
            width * source.itemsize,
            n_threads,
            unit=1,
        )
        shape = (-1, sharing.channels, sharing.inner)
        return low.reshape(shape).min(axis=(0, 2)), high.reshape(shape).max(axis=(0, 2))

    found = [extremes_of_part(*part) for part in sharing.column_parts()]
    return np.minimum.reduce([low for low, _ in found]), np.maximum.reduce([high for _, high in found])


def inverses_of(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / scale in float32, finite even of a subnormal scale."""
    with np.errstate(over="ignore"):
        inverses: NDArray[np.float32] = np.minimum(np.float32(1) / scales, np.finfo(np.float32).max)
    return inverses


def widened(values: NDArray[Any], sharing: Sharing, repeats: int) -> NDArray[Any]:
    """A value for each column of a row."""
    return np.tile(np.repeat(values, sharing.inner), repeats)


def of_keys(keys: NDArray[np.int32]) -> NDArray[np.float32]:
    """The float32 values of integers that order as they do (`keys_of`)."""
    bits = keys ^ ((keys >> 31) & np.int32(0x7FFFFFFF))
    return np.asarray(bits).view(np.float32)


def keys_of(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Integers that order as the values do."""
    bits = values.view(np.int32)
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))


def sharing_of(shape: tuple[int, ...], axis: int | None = None, group_size: int | None = None) -> Sharing:
    """Per tensor, per channel of an axis, or per group along the last axis."""
    if group_size is not None:
        return Sharing(prod(shape[:-1]), 1, shape[-1], group_size)
    if axis is None:
        return Sharing(1, 1, prod(shape))
    return Sharing(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))

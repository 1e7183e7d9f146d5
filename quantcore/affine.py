"""Extremes and affine codes of whole arrays: which elements share a scale becomes groups or columns for the kernels.

A group is a run of elements that share a scale. Where such runs are short (a channel on one of the last axes), rows are
taken instead of which each column has its scale; a narrow row is repeated to a width that vectorises.
"""

from __future__ import annotations  # those of functions made for each call would be evaluated each time

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays, _kernels, _parallel
from quantcore._arrays import Floats
from quantcore.errors import InvalidValueError

SHORTEST_RUN = 32
LONGEST_RUN = 1 << 16
NARROWEST_ROW = 512
_MOST_ROWS, _LEAST_CHUNKS = 64, 16  # of columns' extremes: each chunk has a row of them, as large as one of float32
_INFINITE_KEY = 0x7F800000
_SCAN = 1 << 20

Layout = tuple[int, int, int, int]
"""Of groups, for the kernels: cols, size, per_row, sharing."""


@dataclass(frozen=True)
class Sharing:
    """Which elements share a scale: `outer` x `channels` x `inner`, in groups of `group_size` along the rows if given.

    Per tensor: one channel of everything. Per group: `outer` rows of `inner` elements.
    """

    outer: int
    channels: int
    inner: int
    group_size: int | None = None

    @cached_property
    def n_scales(self) -> int:
        if self.group_size is None:
            return self.channels
        return self.outer * -(-self.inner // self.group_size)

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many elements share each scale."""
        if self.group_size is None:
            return np.full(self.channels, self.outer * self.inner)
        starts = np.arange(0, self.inner, self.group_size)
        return np.tile(np.minimum(self.group_size, self.inner - starts), self.outer)

    @property
    def is_in_columns(self) -> bool:
        return self.group_size is None and self.inner < SHORTEST_RUN and self.channels > 1

    @cached_property
    def layout(self) -> Layout:
        """Of the groups."""
        size = min(max(self.inner, 1), self.group_size or LONGEST_RUN)
        per_row = -(-self.inner // size)
        return self.inner, size, per_row, max(1, per_row) if self.group_size is None else 1

    @property
    def n_groups(self) -> int:
        return self.outer * self.channels * self.layout[2]

    @cached_property
    def repeats(self) -> int:
        """How often channels x inner are repeated in a row, so that it is wide enough."""
        return min(max(1, -(-NARROWEST_ROW // (self.channels * self.inner))), max(1, self.outer))

    @cached_property
    def column_parts(self) -> list[tuple[int, int, int]]:
        """(first element, rows, repeats): rows of `repeats` times channels x inner, and the rest as one more row."""
        width, repeats = self.channels * self.inner, self.repeats
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
    parameters: NDArray[np.float32],
    out: NDArray[np.uint8],
    name: str,
    n_threads: int | None,
) -> None:
    """Codes of every element into the bytes of `out`; `parameters` as `rows_for` gives them."""
    itemsize, element_type = source.itemsize, source.element_type

    def groups(layout: Layout) -> _parallel.Kernel:
        return lambda *turn: _kernels.quantize_groups(source.raw, element_type, layout, parameters, out, *turn)

    def columns(start: int, stop: int, width: int) -> _parallel.Kernel:
        raw, target, rows = source.raw[start * itemsize : stop * itemsize], out[start:stop], narrowed(parameters, width)
        return lambda *turn: _kernels.quantize_columns(raw, element_type, rows, target, *turn)

    if not run(groups, columns, sharing, itemsize, n_threads):
        refuse_first(source, name)


def dequantize(
    codes: NDArray[np.uint8],
    is_signed: bool,
    sharing: Sharing,
    parameters: NDArray[np.float32],
    out: NDArray[np.uint8],
    element_type: int,
    n_threads: int | None,
) -> None:
    """Values of every code into the bytes of `out`; `parameters` as `rows_for` gives them."""
    itemsize = _arrays.ITEMSIZES[element_type]

    def groups(layout: Layout) -> _parallel.Kernel:
        return lambda *turn: _kernels.dequantize_groups(codes, is_signed, layout, parameters, out, element_type, *turn)

    def columns(start: int, stop: int, width: int) -> _parallel.Kernel:
        part, target, rows = codes[start:stop], out[start * itemsize : stop * itemsize], narrowed(parameters, width)
        return lambda *turn: _kernels.dequantize_columns(part, is_signed, rows, target, element_type, *turn)

    run(groups, columns, sharing, itemsize, n_threads)


def run(
    groups: Callable[[Layout], _parallel.Kernel],
    columns: Callable[[int, int, int], _parallel.Kernel],
    sharing: Sharing,
    itemsize: int,
    n_threads: int | None,
    *,
    rows: int = 1,
) -> bool:
    """Run the kernel made by `groups(layout)`, or by `columns(first element, end, width)` for each part in columns.

    At least `rows` rows of columns are handed out together. Returns whether every element could be taken.
    """
    if not sharing.is_in_columns:
        layout = sharing.layout
        kernel, item_bytes = groups(layout), max(1, layout[1]) * itemsize
        return _parallel.run(kernel, sharing.n_groups, item_bytes, n_threads, unit=1) < 0
    for first, n_rows, repeats in sharing.column_parts:
        width = repeats * sharing.channels * sharing.inner
        kernel = columns(first, first + n_rows * width, width)
        if _parallel.run(kernel, n_rows, width * itemsize, n_threads, unit=rows) >= 0:
            return False
    return True


def coding_rows(
    scales: NDArray[np.float32], zero_points: NDArray[np.int32], limits: tuple[int, int]
) -> NDArray[np.float32]:
    """What kernels take of parameters: rows of scales, inverses, zero points, and limits less zero points.

    An inverse is 1 / scale in float32, as torch computes it; finite even of a subnormal scale.
    """
    rows = np.empty((5, scales.size), np.float32)
    with np.errstate(over="ignore"):
        np.minimum(np.float32(1) / scales, _arrays.F32_MAX, out=rows[1])
    rows[0], rows[2] = scales, zero_points
    np.subtract(limits[0], zero_points, out=rows[3], casting="unsafe")
    np.subtract(limits[1], zero_points, out=rows[4], casting="unsafe")
    _arrays.given_away(rows)
    return rows


def refuse_not_finite(source: Floats, name: str, n_threads: int | None) -> None:
    """Refuse NaN, inf and what is beyond float32 in an array that is not empty, where no other pass would see them."""
    extremes(source, sharing_of(source.shape), name, n_threads)


def refuse_first(source: Floats, name: str) -> NoReturn:
    """Find the first element that is not a finite float32, and say so."""
    for start in range(0, source.size, _SCAN):
        stop = min(start + _SCAN, source.size)
        with np.errstate(invalid="ignore"):
            is_fine = np.abs(source.values(start, stop).astype(np.float64)) <= _arrays.F32_MAX
        bad = np.flatnonzero(~is_fine)
        if bad.size:
            _arrays.refuse_range(source, name, start + int(bad[0]), start + int(bad[0]) + 1)
    raise InvalidValueError(f"{name}: changed while it was read")


def _extremes_of_groups(
    source: Floats, sharing: Sharing, n_threads: int | None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    layout = sharing.layout
    lowest, highest = np.empty(sharing.n_groups, np.int32), np.empty(sharing.n_groups, np.int32)
    _parallel.run(
        lambda *turn: _kernels.extremes_of_groups(source.raw, source.element_type, layout, lowest, highest, *turn),
        sharing.n_groups,
        layout[1] * source.itemsize,
        n_threads,
        unit=1,
    )
    if sharing.n_groups == sharing.n_scales:
        return lowest, highest
    shape = (sharing.outer, sharing.channels, layout[2])
    return lowest.reshape(shape).min(axis=(0, 2)), highest.reshape(shape).max(axis=(0, 2))


def _extremes_of_columns(
    source: Floats, sharing: Sharing, n_threads: int | None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    def extremes_of_part(first: int, n_rows: int, repeats: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        width = repeats * sharing.channels * sharing.inner
        raw = source.raw[first * source.itemsize : (first + n_rows * width) * source.itemsize]
        together = max(1, min(_MOST_ROWS, n_rows // _LEAST_CHUNKS))
        n_chunks = -(-n_rows // _parallel.chunk_items(width * source.itemsize, together))
        low, high = (np.empty((n_chunks, width), np.int32) for _ in range(2))
        _parallel.run(
            lambda *turn: _kernels.extremes_of_columns(raw, source.element_type, width, low, high, *turn),
            n_rows,
            width * source.itemsize,
            n_threads,
            unit=together,
        )
        shape = (-1, sharing.channels, sharing.inner)
        return low.reshape(shape).min(axis=(0, 2)), high.reshape(shape).max(axis=(0, 2))

    found = [extremes_of_part(*part) for part in sharing.column_parts]
    if len(found) == 1:
        return found[0]
    return np.minimum.reduce([low for low, _ in found]), np.maximum.reduce([high for _, high in found])


def widened(rows: NDArray[np.float32], sharing: Sharing) -> NDArray[np.float32]:
    """`coding_rows` of the columns of a row (`repeats`), from those of the scales."""
    shape = (len(rows), sharing.repeats, sharing.channels, sharing.inner)
    wide = np.empty(shape, np.float32)
    wide[:] = rows[:, None, :, None]
    return wide.reshape(len(rows), -1)


def narrowed(rows: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """The same for a row that is repeated less often."""
    return rows if rows.shape[1] == width else np.ascontiguousarray(rows[:, :width])


def of_keys(keys: NDArray[np.int32]) -> NDArray[np.float32]:
    """The float32 values of integers that order as they do (`keys_of`)."""
    return np.asarray(_mirrored(keys)).view(np.float32)


def keys_of(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Integers that order as the values do."""
    return _mirrored(values.view(np.int32))


def _mirrored(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """The bits of floats as keys, and the other way round."""
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))


@lru_cache(maxsize=256)
def sharing_of(shape: tuple[int, ...], axis: int | None = None, group_size: int | None = None) -> Sharing:
    """Per tensor, per channel of an axis, or per group along the last axis."""
    if group_size is not None:
        return Sharing(prod(shape[:-1]), 1, shape[-1], group_size)
    if axis is None:
        return Sharing(1, 1, prod(shape))
    return Sharing(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))

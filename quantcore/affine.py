"""Extremes and affine codes of whole arrays: which elements share a scale becomes groups or columns for the kernels.

A group is a run of elements that share a scale. Where such runs are short (a channel on one of the last axes), rows are
taken instead of which each column has its scale; a narrow row is repeated to a width that vectorises.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays, _kernels, _parallel
from quantcore._arrays import Floats
from quantcore.errors import InvalidValueError

SHORTEST_RUN = 32
LONGEST_RUN = 1 << 16
NARROWEST_ROW = 512
_MOST_ROWS, _LEAST_CHUNKS = 64, 16  # of columns' extremes: each chunk has a row of them, as large as one of float32
_SCAN = 1 << 20

Layout = tuple[int, int, int, int]
"""Of groups, for the kernels: cols, size, per_row, sharing."""


class Part(NamedTuple):
    """What one run of a kernel does: `n_items` groups of up to `size` elements, or rows of `size` columns.

    Rows begin with element `first` and consist of `repeats` times the channels; 0: groups.
    """

    first: int
    n_items: int
    size: int
    repeats: int


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
    def counts(self) -> tuple[int, int, int]:
        """How many elements share a scale, how many the last one of each row, and scales in a row."""
        if self.group_size is None:
            return self.outer * self.inner, self.outer * self.inner, self.channels
        per_row = -(-self.inner // self.group_size)
        return self.group_size, self.inner - (per_row - 1) * self.group_size, per_row

    @cached_property
    def is_in_columns(self) -> bool:
        return self.group_size is None and self.inner < SHORTEST_RUN and self.channels > 1

    @cached_property
    def layout(self) -> Layout:
        """Of the groups."""
        size = min(max(self.inner, 1), self.group_size or LONGEST_RUN)
        per_row = -(-self.inner // size)
        return self.inner, size, per_row, max(1, per_row) if self.group_size is None else 1

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All groups; or rows of `repeats` times channels x inner, and the rest as one more row."""
        if not self.is_in_columns:
            _, size, per_row, _ = self.layout
            return (Part(0, self.outer * self.channels * per_row, size, 0),)
        width = self.channels * self.inner
        repeats = min(max(1, -(-NARROWEST_ROW // width)), max(1, self.outer))
        n_rows, rest = divmod(self.outer, repeats)
        parts = (Part(0, n_rows, width * repeats, repeats), Part(n_rows * repeats * width, 1, width * rest, rest))
        return tuple(part for part in parts if part.n_items and part.size)

    @property
    def repeats(self) -> int:
        """How often the channels are repeated in a row of columns."""
        return self.parts[0].repeats

    def widened(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """`coding_rows` of the columns of a row, from those of the scales."""
        wide = np.empty((len(rows), self.repeats, self.channels, self.inner), np.float32)
        wide[:] = rows[:, None, :, None]
        return wide.reshape(len(rows), -1)


def extremes(source: Floats, sharing: Sharing, name: str, n_threads: int | None) -> NDArray[np.float32]:
    """The smallest and the largest value of the elements of each scale, shape (2, n_scales); NaN, inf are refused."""
    bounds = np.empty((2, sharing.n_scales), np.int32)
    keys = [_keys_of_part(source, sharing, part, n_threads) for part in sharing.parts]
    if not _kernels.join_extremes(keys, bounds):
        refuse_first(source, name)
    return bounds.view(np.float32)


def _keys_of_part(
    source: Floats, sharing: Sharing, part: Part, n_threads: int | None
) -> tuple[NDArray[np.int32], int, int]:
    """Keys of extremes with what lies around and within a channel of them, as for `join_extremes`."""
    item_bytes = part.size * source.itemsize
    if part.repeats:
        unit = max(1, min(_MOST_ROWS, part.n_items // _LEAST_CHUNKS))
        n_chunks = -(-part.n_items // _parallel.chunk_items(item_bytes, unit))
        outer, inner = n_chunks * part.repeats, sharing.inner
        keys = np.empty((2, n_chunks * part.size), np.int32)
        columns = _kernels.ExtremesOfColumns(source.raw, source.element_type, part.first, part.size, keys)
        _parallel.run(columns, part.n_items, item_bytes, n_threads, unit=unit)
    else:
        outer, inner = (1, 1) if sharing.group_size else (sharing.outer, sharing.layout[2])
        keys = np.empty((2, part.n_items), np.int32)
        groups = _kernels.ExtremesOfGroups(source.raw, source.element_type, sharing.layout, keys)
        _parallel.run(groups, part.n_items, item_bytes, n_threads, unit=1)
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
        if _parallel.run(kernel, part.n_items, part.size * source.itemsize, n_threads, unit=1) >= 0:
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
    itemsize = _arrays.ITEMSIZES[element_type]
    for part in sharing.parts:
        kernel: _kernels.Kernel
        if part.repeats:
            place = part.first, part.size
            kernel = _kernels.DequantizeColumns(codes, is_signed, *place, parameters, out, element_type)
        else:
            kernel = _kernels.DequantizeGroups(codes, is_signed, sharing.layout, parameters, out, element_type)
        _parallel.run(kernel, part.n_items, part.size * itemsize, n_threads, unit=1)


def coding_rows(
    scales: NDArray[np.float32], zero_points: NDArray[np.int32], limits: tuple[int, int]
) -> NDArray[np.float32]:
    """What kernels take that go there and back: rows of scales, inverses, zero points, and limits less zero points."""
    rows = np.empty((5, scales.size), np.float32)
    _kernels.coding_rows(scales, zero_points, *limits, rows)
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

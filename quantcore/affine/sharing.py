"""Which elements of an array share a scale, as groups or columns for the kernels.

A group is a run of elements that share a scale. Where such runs are short (a channel on one of the last axes), the
kernels take rows instead, with one scale per column; a narrow row is repeated to a width that vectorises.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHORTEST_RUN = 32
LONGEST_RUN = 1 << 16
NARROWEST_ROW = 512

Layout = tuple[int, int, int, int]
"""The layout of groups as the kernels take it: cols, size, per_row, sharing (see `_kernels/table.pxd`)."""


class Part(NamedTuple):
    """What one run of a kernel does: `n_items` groups of up to `size` elements, or rows of `size` columns.

    Rows begin with element `first` and hold the channels `repeats` times; `repeats` is 0 for groups.
    """

    first: int
    n_items: int
    size: int
    repeats: int


@dataclass(frozen=True)
class Sharing:
    """Which elements share a scale: `outer` x `channels` x `inner`, in groups of `group_size` along the rows if given.

    Per tensor: one channel that holds everything. Per group: `outer` rows of `inner` elements.
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
        """The elements per scale, the elements of the last scale of each row, and the scales per row."""
        if self.group_size is None:
            return self.outer * self.inner, self.outer * self.inner, self.channels
        per_row = -(-self.inner // self.group_size)
        return min(self.group_size, self.inner), self.inner - (per_row - 1) * self.group_size, per_row

    @cached_property
    def is_in_columns(self) -> bool:
        return self.group_size is None and self.inner < SHORTEST_RUN and self.channels > 1

    @cached_property
    def is_scale_per_group(self) -> bool:
        """Whether the array is divided into groups, each of which has a scale that no other group has."""
        return not self.is_in_columns and self.parts[0].n_items == self.n_scales

    @cached_property
    def layout(self) -> Layout:
        """The layout of the groups."""
        size = min(max(self.inner, 1), self.group_size or LONGEST_RUN)
        per_row = -(-self.inner // size)
        return self.inner, size, per_row, max(1, per_row) if self.group_size is None else 1

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All groups at once, or the columns."""
        if self.is_in_columns:
            return self.column_parts
        _, size, per_row, _ = self.layout
        return (Part(0, self.outer * self.channels * per_row, size, 0),)

    @cached_property
    def column_parts(self) -> tuple[Part, ...]:
        """Rows of `repeats` x channels x inner elements, and the rest as one more row."""
        width = self.channels * self.inner
        repeats = min(max(1, -(-NARROWEST_ROW // width)), max(1, self.outer))
        n_rows, rest = divmod(self.outer, repeats)
        parts = (Part(0, n_rows, width * repeats, repeats), Part(n_rows * repeats * width, 1, width * rest, rest))
        return tuple(part for part in parts if part.n_items and part.size)

    @property
    def repeats(self) -> int:
        """How many times a row of columns holds the channels."""
        return self.column_parts[0].repeats

    def widen(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """`coding_rows` of the columns of a row, from those of the scales."""
        wide = np.empty((len(rows), self.repeats, self.channels, self.inner), np.float32)
        wide[:] = rows[:, None, :, None]
        return wide.reshape(len(rows), -1)


@lru_cache(maxsize=256)
def sharing_of(shape: tuple[int, ...], axis: int | None = None, group_size: int | None = None) -> Sharing:
    """Per tensor, per channel of an axis, or per group along the last axis."""
    if group_size is not None:
        return Sharing(prod(shape[:-1]), 1, shape[-1], group_size)
    if axis is None:
        return Sharing(1, 1, prod(shape))
    return Sharing(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))

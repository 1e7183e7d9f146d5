"""How an array in a file is cut into slabs of bounded size, each of which holds every channel.

`slabs` cuts an array that lies in a file in one piece, `boxes` one that lies there in chunks.

A calibrator wants all channels in every batch. Where the values of one index before the channel axis fit into a slab,
a slab is a few such indices: one run of bytes. Where they do not (axis 0 of a weight matrix, above all) it is a block
of columns: one run from each channel, so one positioned read each. That reads every byte once and needs neither a copy
of the file nor calibrators for parts of the channels; a run has at least 64 elements, so that reads do not dominate.

Of an array in chunks, a slab is as many whole chunks as fit, beside each other, with all of them along the channel
axis. Where those are too large together, it is a part of each, and each chunk is read several times.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

WIDE_SLAB_BYTES = 1 << 27
"""The size of slabs where smaller ones would be read again and again."""
_SHORTEST_RUN = 64


@dataclass(frozen=True, slots=True)
class ChannelSlab:
    """`n_runs` runs of `run` elements, `stride` apart, from element `first`; `shape` is in the file's order."""

    first: int
    n_runs: int
    run: int
    stride: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.n_runs * self.run

    def index_of(self, flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The index in the whole array, of this shape in the file's order, of an element of the slab."""
        run, place = divmod(flat, self.run)
        return tuple(int(i) for i in np.unravel_index(self.first + run * self.stride + place, shape))


@dataclass(frozen=True, slots=True)
class BoxSlab:
    """The elements from index `start` on, as many along each axis as `shape` says."""

    start: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    def index_of(self, flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The index in the whole array of an element of the slab."""
        return tuple(i + int(j) for i, j in zip(self.start, np.unravel_index(flat, self.shape), strict=True))


def slabs(shape: tuple[int, ...], axis: int | None, slab_elements: int) -> Iterator[ChannelSlab]:
    """Cut an array that lies in C order.

    Parameters
    ----------
    shape : tuple of int
        The shape of the array, of at least one dimension.
    axis : int or None
        The channel axis, from 0 to len(shape) - 1; every slab holds all its indices. None: slabs are flat.
    slab_elements : int
        The largest number of elements in a slab, unless there are more channels than a 64th of it.

    Yields
    ------
    ChannelSlab
        In ascending order; every element is in one of them.
    """
    if axis is None:
        size = prod(shape)
        for first in range(0, size, slab_elements):
            count = min(slab_elements, size - first)
            yield ChannelSlab(first, 1, count, 0, (count,))
        return
    if 0 in shape:
        return
    n_before, n_channels, n_after = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
    size = n_channels * n_after
    width = min(n_after, max(slab_elements // n_channels, _SHORTEST_RUN))
    if width == n_after:
        step = max(1, slab_elements // size)
        for i in range(0, n_before, step):
            count = min(step, n_before - i)
            yield ChannelSlab(i * size, 1, count * size, 0, _around(shape, axis, count, n_after))
        return
    for i in range(n_before):
        for j in range(0, n_after, width):
            count = min(width, n_after - j)
            yield ChannelSlab(i * size + j, n_channels, count, n_after, _around(shape, axis, 1, count))


def boxes(
    shape: tuple[int, ...], chunks: tuple[int, ...], axis: int | None, slab_elements: int, most_elements: int
) -> Iterator[BoxSlab]:
    """Cut an array that lies in chunks.

    Parameters
    ----------
    shape, chunks : tuple of int
        The shape of the array and of its chunks, of at least one dimension, no extent of which is 0.
    axis : int or None
        The channel axis, from 0 to len(shape) - 1; every slab holds all its indices.
    slab_elements : int
        Slabs grow by whole chunks up to so many elements.
    most_elements : int
        Larger chunks are cut, unless there are more channels.

    Yields
    ------
    BoxSlab
        The first one is the largest; every element is in one of them.
    """
    extents = [min(n, most) for n, most in zip(chunks, shape, strict=True)]
    if axis is not None:
        extents[axis] = shape[axis]
    strides = list(extents)  # parts of a chunk do not reach into the next one
    others = [i for i in range(len(shape)) if i != axis]
    while prod(extents) > most_elements and any(extents[i] > 1 for i in others):
        longest = max(others, key=lambda i: extents[i])
        extents[longest] = -(-extents[longest] // 2)
    if extents == strides:
        for i in reversed(others):
            extents[i] = min(shape[i], extents[i] * max(1, slab_elements // prod(extents)))
        strides = list(extents)
    yield from _boxes(shape, strides, extents, (), ())


def _boxes(
    shape: tuple[int, ...],
    strides: list[int],
    extents: list[int],
    start: tuple[int, ...],
    counts: tuple[int, ...],
) -> Iterator[BoxSlab]:
    """The boxes whose first indices and extents are given; one by one, since a hostile shape has any number of them."""
    axis = len(start)
    if axis == len(shape):
        yield BoxSlab(start, counts)
        return
    for outer in range(0, shape[axis], strides[axis]):
        end = min(outer + strides[axis], shape[axis])
        for first in range(outer, end, extents[axis]):
            count = min(extents[axis], end - first)
            yield from _boxes(shape, strides, extents, (*start, first), (*counts, count))


def _around(shape: tuple[int, ...], axis: int, n_before: int, n_after: int) -> tuple[int, ...]:
    """As many dimensions as `shape`, with the channels at `axis`."""
    n_inner = len(shape) - axis - 1
    before = (n_before,) + (1,) * (axis - 1) if axis else ()
    after = (1,) * (n_inner - 1) + (n_after,) if n_inner else ()
    return (*before, shape[axis], *after)

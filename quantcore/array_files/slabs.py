"""How an array in a file is cut into slabs of bounded size, each of which holds every channel.

A calibrator wants all channels in every batch. Where the values of one index before the channel axis fit into a slab,
a slab is a few such indices: one run of bytes. Where they do not (axis 0 of a weight matrix, above all) it is a block
of columns: one run from each channel, so one positioned read each. That reads every byte once and needs neither a copy
of the file nor calibrators for parts of the channels; a run has at least 64 elements, so that reads do not dominate.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

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


def _around(shape: tuple[int, ...], axis: int, n_before: int, n_after: int) -> tuple[int, ...]:
    """As many dimensions as `shape`, with the channels at `axis`."""
    n_inner = len(shape) - axis - 1
    before = (n_before,) + (1,) * (axis - 1) if axis else ()
    after = (1,) * (n_inner - 1) + (n_after,) if n_inner else ()
    return (*before, shape[axis], *after)

"""Decoders: what turns the codes of one tensor of a checkpoint into floats, any run of elements at a time.

A decoder reads the part of codes and scales that it needs, so that nothing of a tensor's size is held in memory. Those
of bitsandbytes' layout and of matrices that are stored transposed keep what they need for a few tensors.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from quantcore._base.arrays import ELEMENT_TYPES, ITEMSIZES

__all__ = ["Decoder", "Matrices", "TransposedDecoder", "keep_matrices", "remember"]

Bytes = NDArray[np.uint8]
Made = TypeVar("Made")
_MOST_MATRICES = 2


class Decoder(ABC):
    """What decodes a tensor.

    Attributes
    ----------
    shape : tuple of int
        The shape of the values.
    dtype : str
        The type of the values: "F32", "F16" or "BF16".
    kind : str
        What the codes are, such as "NF4" or "F8_E4M3".
    block_size : int
        Elements that are best decoded together.
    nbytes : int
        Bytes in the file, scales included.
    """

    shape: tuple[int, ...]
    dtype: str
    kind: str
    block_size: int
    nbytes: int

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        return ITEMSIZES[ELEMENT_TYPES[self.dtype]]

    def read_into(self, start: int, buffer: Bytes) -> None:
        """Fill a buffer with the values from byte `start` on: whole values."""
        self.decode(start // self.itemsize, buffer)

    @abstractmethod
    def decode(self, first: int, out: Bytes) -> None:
        """Fill `out` with the values from element `first` on."""


Matrices = Callable[[Decoder, int], NDArray[Any]]


def keep_matrices() -> Matrices:
    """A function that decodes a matrix of a decoder's stack, and keeps a few: decoders of a checkpoint share it."""
    return remember(_decode_matrix, _MOST_MATRICES)


class TransposedDecoder(Decoder):
    """The last two axes of another decoder's values exchanged.

    Parameters
    ----------
    inner : Decoder
    matrices : (Decoder, int) -> matrix
        What `keep_matrices` returns.
    """

    def __init__(self, inner: Decoder, matrices: Matrices) -> None:
        *self._stacked, self._rows, self._columns = inner.shape
        self.shape = (*self._stacked, self._columns, self._rows)
        self.dtype, self.kind, self.block_size, self.nbytes = inner.dtype, inner.kind, 1, inner.nbytes
        self._inner, self._matrices = inner, matrices

    def decode(self, first: int, out: Bytes) -> None:
        """Fill `out` with the values from element `first` on."""
        items = out.view(f"V{self.itemsize}")
        done = 0
        while done < items.size:
            index, position = divmod(first + done, self._rows * self._columns)
            column, skipped = divmod(position, self._rows)
            count = min(items.size - done, self._rows * self._columns - position)
            last = -(-(position + count) // self._rows)
            columns = self._matrices(self._inner, index)[:, column:last].T
            part = items[done : done + count]
            if skipped or count % self._rows:
                part[:] = columns.reshape(-1)[skipped : skipped + count]
            else:
                part.reshape(columns.shape)[:] = columns
            done += count


def _decode_matrix(decoder: Decoder, index: int) -> NDArray[Any]:
    rows, columns = decoder.shape[-2:]
    matrix = np.empty(rows * columns * decoder.itemsize, np.uint8)
    decoder.decode(index * rows * columns, matrix)
    return matrix.view(f"V{decoder.itemsize}").reshape(rows, columns)


def remember(make: Callable[..., Made], most: int) -> Callable[..., Made]:
    """A function that keeps the last results of another one; one thread at a time makes one, the others wait for it."""
    cached, lock = lru_cache(most)(make), Lock()

    def get(*arguments: Any) -> Made:
        with lock:
            return cached(*arguments)

    return get

"""Weights that a model stores as (inputs, outputs) and bitsandbytes packs as (outputs, inputs): `Conv1D` of GPT-2.

The codes run over the transposed matrix, so a slab of them is gathered from every row of the source.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcore.conversion.tensor_jobs import QuantizedWeight
from quantcore.models.decoded_checkpoint import DecodedCheckpoint

Bytes = NDArray[np.uint8]


@dataclass
class TransposedWeight(QuantizedWeight):
    """A float weight that is packed transposed; `start` counts in the bytes of the transposed matrix."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what is packed."""
        return self.source.shape[::-1]

    def read(self, checkpoint: DecodedCheckpoint, start: int, data: Bytes) -> None:
        """Gather a slab of the transposed matrix."""
        n_outputs, n_inputs = self.shape
        items = data.view(f"V{self._itemsize}")
        first = start // self._itemsize
        for row, column, part in _pieces(first, items, n_inputs):
            piece = np.empty(part.size, part.dtype)
            checkpoint.read_into(self.source, (row * n_outputs + column) * self._itemsize, piece.view(np.uint8))
            part[:] = piece


def _pieces(first: int, items: NDArray[np.void], n_inputs: int) -> Iterator[tuple[int, int, NDArray[np.void]]]:
    """The items from `first` on of a matrix (outputs, inputs), by inputs: its number, the first output, the items."""
    stop = first + items.size
    for row in range(min(n_inputs, stop)):
        column = max(0, -(-(first - row) // n_inputs))
        if column * n_inputs + row < stop:
            yield row, column, items[column * n_inputs + row - first :: n_inputs]

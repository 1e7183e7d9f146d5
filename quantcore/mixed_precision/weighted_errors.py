"""Errors weighted by the importance of the columns: `sum(w * (x - y)**2) / sum(w * x**2)`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base.arrays import Floats
from quantcore.ggml.importance import Importance

_ROWS_ELEMENTS = 1 << 16


class WeightedSums:
    """The weighted sums of the squares of errors and of values, added up part by part."""

    def __init__(self) -> None:
        self._noise = self._signal = 0.0

    def add_rows(self, sums: NDArray[np.float64], size: int) -> None:
        """Add the sums of a part of `size` elements, which are independent of that."""
        self._noise += float(sums[0])
        self._signal += float(sums[1])

    @property
    def relative_noise(self) -> float:
        """The weighted squares of errors over those of values; 0 if there are no errors, 1 if nothing counts."""
        return (self._noise / self._signal if self._signal else 1.0) if self._noise else 0.0


def sum_weighted(values: Floats, back: Floats, importance: Importance) -> NDArray[np.float64]:
    """The weighted sums of squares of errors and of values, shape (2,), of whole rows of one matrix."""
    weights: NDArray[Any] = importance.weights[0].astype(np.float64)
    columns = len(weights)
    sums = np.zeros(2)
    step = max(1, _ROWS_ELEMENTS // columns) * columns
    for start in range(0, values.size, step):
        stop = min(start + step, values.size)
        x = values.values(start, stop).reshape(-1, columns).astype(np.float64)
        y = back.values(start, stop).reshape(-1, columns).astype(np.float64)
        sums += (np.square(x - y).sum(0) @ weights, np.square(x).sum(0) @ weights)
    return sums

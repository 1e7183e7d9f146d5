"""What calibration remembers of the data: extremes and their moving average, of one or many channels.

Each record takes in batches (`observe`), other records of its kind (`merge`), and goes to JSON and back (`to_state`,
`restore`). A batch that is refused leaves a record as it was. Extremes, like the histograms of `histograms.py`, are
pure functions of the values seen: neither the order nor the grouping of batches and merges shows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays, affine
from quantcore._arrays import Floats
from quantcore.affine import Sharing
from quantcore.errors import InvalidValueError
from quantcore.tables import brief


class Extremes:
    """The smallest and the largest value of each channel, float32."""

    def __init__(self, n_channels: int) -> None:
        self.lowest = np.full(n_channels, np.inf, np.float32)
        self.highest = np.full(n_channels, -np.inf, np.float32)

    @property
    def n_channels(self) -> int:
        """How many channels there are."""
        return self.lowest.size

    def observe(self, source: Floats, sharing: Sharing, name: str, n_threads: int | None) -> None:
        """Take in a batch that is not empty."""
        self._take(*affine.extremes(source, sharing, name, n_threads))

    def merge(self, other: Self) -> None:
        """Take in what another record saw."""
        self._take(other.lowest, other.highest)

    def _take(self, lowest: NDArray[np.float32], highest: NDArray[np.float32]) -> None:
        self.lowest, self.highest = np.minimum(self.lowest, lowest + 0), np.maximum(self.highest, highest + 0)

    def to_state(self, listed: Callable[[NDArray[Any]], Any]) -> dict[str, Any]:
        """What was seen, as numbers and as arrays that `listed` turned into something else."""
        return {"lowest": self.lowest.tolist(), "highest": self.highest.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state; whatever does not fit together is refused."""
        self.lowest, self.highest = bounds_of(state, self.n_channels)


class MovingExtremes(Extremes):
    """The moving average of batches' extremes: `m += constant * (new - m)` in float32, the first batch as it is."""

    def __init__(self, n_channels: int, constant: float) -> None:
        super().__init__(n_channels)
        self.constant = np.float32(constant)

    def _take(self, lowest: NDArray[np.float32], highest: NDArray[np.float32]) -> None:
        if self.highest[0] < self.lowest[0]:
            self.lowest, self.highest = lowest + 0, highest + 0
        else:
            self.lowest, self.highest = self._moved(self.lowest, lowest), self._moved(self.highest, highest)

    def _moved(self, average: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            moved = average + self.constant * (new - average)
        difference = new.astype(np.float64) - average  # which float32 may not hold
        wide = average + np.float64(self.constant) * difference
        return np.where(np.isfinite(moved), moved, wide).astype(np.float32)


def sequence(state: Mapping[str, Any], key: str, n: int, prefix: str = "") -> Sequence[Any]:
    """A list of n entries of a state."""
    values = state.get(key)
    if not isinstance(values, list | tuple) or len(values) != n:
        got = f"{len(values)}" if isinstance(values, list | tuple) else brief(values)
        raise InvalidValueError(f"{prefix}{key}: expected a list of {n}, got {got}")
    return values


def bounds_of(
    state: Mapping[str, Any], n_channels: int, prefix: str = ""
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The extremes, checked: finite float32 numbers in order."""
    bounds = []
    for key in ("lowest", "highest"):
        for value in sequence(state, key, n_channels, prefix):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not abs(value) <= _arrays.F32_MAX or float(np.float32(value)) != value:
                raise InvalidValueError(f"{prefix}{key}: expected a finite float32, got {brief(value)}")
        bounds.append(np.array(state[key], np.float32))
    bad = np.flatnonzero(bounds[0] > bounds[1])
    if bad.size:
        low, high = (bound[bad[0]] for bound in bounds)
        raise InvalidValueError(f"{prefix}lowest: {low} is above {prefix}highest {high}")
    return bounds[0], bounds[1]

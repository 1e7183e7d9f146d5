"""The statistics of data that need no histogram: extremes and their moving average, of one or many channels.

Each record takes in batches (`observe`), other records of its kind (`merge`), and goes to JSON and back (`to_state`,
`restore`). Both give the record that has seen more, which may be the same one; what is refused leaves it as it was.
Extremes, like the histograms of `histograms.py`, are pure functions of the values seen: neither the order nor the
grouping of batches and merges shows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments
from quantcore._base.arrays import Floats
from quantcore._base.text import brief
from quantcore.affine import passes
from quantcore.affine.sharing import Sharing, sharing_of
from quantcore.calibration.totals import Totals
from quantcore.errors import InvalidTypeError, InvalidValueError


class Extremes:
    """The smallest and the largest value of each channel, float32. Never changed: what comes in gives a new record."""

    def __init__(self, n_channels: int) -> None:
        self.lowest = np.full(n_channels, np.inf, np.float32)
        self.highest = np.full(n_channels, -np.inf, np.float32)
        self.totals = Totals(0, 0)

    is_torn = False

    @property
    def n_channels(self) -> int:
        """The number of channels."""
        return self.lowest.size

    @property
    def num_batches(self) -> int:
        """How many batches were observed."""
        return self.totals.num_batches

    @property
    def nbytes(self) -> int:
        """Of memory."""
        return self.lowest.nbytes + self.highest.nbytes

    def packed(self) -> Self:
        """The record itself."""
        return self

    def observe(self, source: Floats, sharing: Sharing, name: str, n_threads: int | None) -> Self:
        """The record with a batch that is not empty."""
        lowest, highest = passes.extremes(source, sharing, name, n_threads)
        return self._with(lowest, highest, self.totals.plus(Totals(0, 1), name))

    def observe_channels(self, sources: Sequence[Floats], name: str, n_threads: int | None) -> Self:
        """The record with a batch of which the channels, none of them empty, hold different numbers of values."""
        bounds = [passes.extremes(source, sharing_of(source.shape), name, n_threads) for source in sources]
        lowest, highest = np.concatenate(bounds, axis=1)
        return self._with(lowest, highest, self.totals.plus(Totals(0, 1), name))

    def merge(self, other: Self) -> Self:
        """The record with what another one saw."""
        return self._with(other.lowest, other.highest, self.totals.plus(other.totals, "other"))

    def _with(self, lowest: NDArray[np.float32], highest: NDArray[np.float32], totals: Totals) -> Self:
        result = object.__new__(type(self))
        result.__dict__.update(self.__dict__)
        result.lowest, result.highest = self._join(lowest + 0, highest + 0)
        result.totals = totals
        return result

    def _join(
        self, lowest: NDArray[np.float32], highest: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.minimum(self.lowest, lowest), np.maximum(self.highest, highest)

    def to_state(self, listed: Callable[[NDArray[Any]], Any]) -> dict[str, Any]:
        """What was observed; `listed` converts arrays."""
        return {"lowest": self.lowest.tolist(), "highest": self.highest.tolist()}

    def restore(self, state: Mapping[str, Any], num_batches: int) -> None:
        """Take over a state; whatever does not fit together is refused."""
        self.lowest, self.highest = bounds_of(state, self.n_channels)
        self.totals = Totals(0, num_batches)


class MovingExtremes(Extremes):
    """The moving average of the extremes of batches, `m += constant * (new - m)` in float32, from the first batch."""

    def __init__(self, n_channels: int, constant: float) -> None:
        super().__init__(n_channels)
        self.constant = np.float32(constant)

    def _join(
        self, lowest: NDArray[np.float32], highest: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self.highest[0] < self.lowest[0]:
            return lowest, highest
        return self._move(self.lowest, lowest), self._move(self.highest, highest)

    def _move(self, average: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            moved = average + self.constant * (new - average)
        difference = new.astype(np.float64) - average  # which float32 may not hold
        wide = average + np.float64(self.constant) * difference
        return np.where(np.isfinite(moved), moved, wide).astype(np.float32)


def sequence(state: Mapping[str, Any], key: str, n: int, prefix: str = "") -> Sequence[Any]:
    """A list of n entries from a state, checked."""
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
            if not _is_float32(value):
                raise InvalidValueError(f"{prefix}{key}: expected a finite float32, got {brief(value)}")
        bounds.append(np.array(state[key], np.float32))
    bad = np.flatnonzero(bounds[0] > bounds[1])
    if bad.size:
        low, high = (bound[bad[0]] for bound in bounds)
        raise InvalidValueError(f"{prefix}lowest: {low} is above {prefix}highest {high}")
    return bounds[0], bounds[1]


def _is_float32(value: Any) -> bool:
    """Whether it is a number that float32 holds as it is."""
    try:
        return bool(arguments.float32(value, "value") == value)
    except (InvalidTypeError, InvalidValueError):
        return False

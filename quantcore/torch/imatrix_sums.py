"""Sums of squares while a model runs, by the place that they have in an importance matrix."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from quantcore.errors import InvalidValueError
from quantcore.gguf.imatrix import Imatrix, ImatrixEntry
from quantcore.torch import _tensors

__all__ = ["Place", "Sums"]

Place = tuple[str, int]
"""The name of a tensor, and the number of the matrix in it: of an expert, else 0."""


class Sums:
    """Sums of the squares of columns in float64, and the numbers of rows, by place.

    Layers that are given the same tensor one after the other, as queries, keys and values are, share its squares.
    """

    def __init__(self) -> None:
        self._squares: dict[Place, NDArray[np.float64]] = {}
        self._counts: dict[Place, int] = {}
        self._last: tuple[torch.Tensor, int, ImatrixEntry] | None = None

    def expect(self, places: Sequence[Place]) -> None:
        """Make places known, in the order in which entries will have them."""
        for place in places:
            self._counts.setdefault(place, 0)

    def add(self, places: Sequence[Place], x: torch.Tensor, where: str) -> None:
        """Add what a layer was given, of shape (..., cols); `where` names it in messages."""
        _tensors.take_floats(x, where)
        if not places or not x.numel():
            return
        part = self._sum_up(x, where)
        for place in places:
            known = self._squares.get(place)
            if known is not None and len(known) != part.sums.shape[1]:
                raise InvalidValueError(f"{where}: {part.sums.shape[1]} columns where there were {len(known)}")
            self._squares[place] = part.sums[0] if known is None else known + part.sums[0]
            self._counts[place] += int(part.counts[0])

    def entries(self) -> dict[str, ImatrixEntry]:
        """What was summed up, by tensor; those that were given nothing are left out."""
        self._last = None
        names = dict.fromkeys(name for name, _ in self._counts)
        used = {name for name, _ in self._squares}
        return {name: self._entry(name) for name in names if name in used}

    def _sum_up(self, x: torch.Tensor, where: str) -> ImatrixEntry:
        version = -1 if x.is_inference() else x._version
        if self._last is not None and self._last[0] is x and self._last[1] == version >= 0:
            return self._last[2]
        try:
            part = Imatrix.from_activations({where: _tensors.readable(x)}).entries[where]
        except InvalidValueError as error:
            raise InvalidValueError(f"{where}: {error}") from None
        self._last = x, version, part
        return part

    def _entry(self, name: str) -> ImatrixEntry:
        experts = [number for owner, number in self._counts if owner == name]
        widths = {len(self._squares[name, i]) for i in experts if (name, i) in self._squares}
        if len(widths) > 1:
            raise InvalidValueError(f"{name}: experts with different numbers of columns")
        nothing, numbers = np.zeros(widths.pop()), range(max(experts) + 1)
        sums = np.stack([self._squares.get((name, i), nothing) for i in numbers])
        return ImatrixEntry(sums, np.array([self._counts.get((name, i), 0) for i in numbers], np.int64))

"""Placement of labels so that none covers another: the first free place, tried in a fixed order."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Box", "place_labels"]

_RINGS = 9
_LINE_STEP = 2.0


class Box(NamedTuple):
    """A rectangle, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "Box") -> bool:
        """Whether two rectangles overlap."""
        is_beside = self.right <= other.left or other.right <= self.left
        return not is_beside and self.bottom < other.top and other.bottom < self.top


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    *,
    radius: float,
    line: Sequence[tuple[float, float]] = (),
) -> list[Box]:
    """A box beside each point, inside the frame if possible, clear of the others, of all points and of a line.

    Parameters
    ----------
    points : sequence of (x, y)
    sizes : sequence of (width, height)
        The sizes of the labels.
    frame : Box
    radius : float
        The radius of the mark of a point.
    line : sequence of (x, y)
        The corners of the line.
    """
    taken = list(_along(line))
    taken += [Box(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    boxes = []
    for point, size in zip(points, sizes, strict=True):
        candidates = list(_candidates(point, size, radius))
        free = (box for box in candidates if _is_inside(box, frame) and not any(box.meets(other) for other in taken))
        box = next(free, candidates[0])
        taken.append(box)
        boxes.append(box)
    return boxes


def _along(line: Sequence[tuple[float, float]]) -> Iterator[Box]:
    """Small boxes that cover a line."""
    for (x0, y0), (x1, y1) in itertools.pairwise(line):
        n = max(1, math.ceil(math.hypot(x1 - x0, y1 - y0) / _LINE_STEP))
        for i in range(n + 1):
            x, y = x0 + (x1 - x0) * i / n, y0 + (y1 - y0) * i / n
            yield Box(x - _LINE_STEP / 2, y - _LINE_STEP / 2, x + _LINE_STEP / 2, y + _LINE_STEP / 2)


def _candidates(point: tuple[float, float], size: tuple[float, float], radius: float) -> Iterator[Box]:
    """Right, left, above and below the point, then the same further and further away."""
    (x, y), (width, height) = point, size
    for ring in range(_RINGS):
        for level in (0, ring, -ring):
            bottom = y - height / 2 + level * height
            right, left = x + radius + 2 + 3 * ring, x - radius - 2 - 3 * ring - width
            yield Box(right, bottom, right + width, bottom + height)
            yield Box(left, bottom, left + width, bottom + height)
        for bottom in (y + radius + 1 + ring * height, y - radius - 1 - (ring + 1) * height):
            yield Box(x - width / 2, bottom, x + width / 2, bottom + height)


def _is_inside(box: Box, frame: Box) -> bool:
    return frame.left <= box.left and box.right <= frame.right and frame.bottom <= box.bottom and box.top <= frame.top

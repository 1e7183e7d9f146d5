"""How much a calibrator has seen: numbers that have a limit where states enter and where they join."""

from typing import NamedTuple

from quantcore.errors import InvalidValueError

MOST_VALUES = 1 << 62
"""Of a channel, and of batches: sums of as many counts stay within 64 bits."""

TORN = (
    "a batch is in some channels and not in others: observe is still at work in this thread, or an interrupted observe "
    "left it so; in that case reset() and begin anew"
)


class Totals(NamedTuple):
    """Values of each channel (0 where they are not counted) and batches."""

    n_values: int
    num_batches: int

    def plus(self, other: "Totals", name: str) -> "Totals":
        """Both together; refused, by the name of what is added, if they are more than can be counted."""
        total = Totals(self.n_values + other.n_values, self.num_batches + other.num_batches)
        for count, what in zip(total, ("values", "batches"), strict=True):
            if count > MOST_VALUES:
                raise InvalidValueError(f"{name}: makes {count} {what}, the limit of a calibrator is 2**62")
        return total

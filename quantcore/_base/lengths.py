"""How many values vectors have that come one by one, where nothing but they themselves tells it."""

import numpy as np
from numpy.typing import NDArray

from quantcore.errors import InvalidValueError

_MOST_SHOWN = 4


def common_length(lengths: NDArray[np.int64], rows: NDArray[np.int64], name: str) -> int:
    """The length that more than half of the vectors have; 0 if no vector has a value.

    The first vector does not decide, nor does a mere plurality: leaving out the rows of another length may cost most of
    the data, and what is left would fix the length of all later batches.

    Parameters
    ----------
    lengths, rows : ndarray of int64, shape (n,)
        The number of values of each vector, and its row for messages.
    name : str
        What messages call the vectors.

    Raises
    ------
    InvalidValueError
        The vectors have several lengths, none of which more than half of them have.
    """
    is_filled = lengths > 0
    if not is_filled.any():
        return 0
    found, firsts, counts = np.unique(lengths[is_filled], return_index=True, return_counts=True)
    best = int(np.argmax(counts))
    if 2 * counts[best] > counts.sum():
        return int(found[best])
    first_rows = rows[is_filled][firsts]
    order = np.argsort(first_rows)[:_MOST_SHOWN]
    shown = ", ".join(f"{found[i]} values in row {first_rows[i]}" for i in order)
    raise InvalidValueError(
        f"{name}: which length is right cannot be told, no one is that of more than half of the vectors: {shown}"
        f"{', ...' if found.size > _MOST_SHOWN else ''}"
    )

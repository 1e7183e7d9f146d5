"""Nearest neighbours by comparing all vectors, and the recall of a search in codes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["recall_at_k"]

_METRICS = ("l2", "ip", "cosine")
_QUERIES, _VECTORS = 256, 1 << 14


def nearest(base: NDArray[np.float32], queries: NDArray[np.float32], k: int, metric: str = "l2") -> NDArray[np.int64]:
    """The indices of the k nearest vectors of each query, nearest first, shape (n_queries, k).

    Of equally near ones the first. `metric`: "l2", "ip" (inner product) or "cosine".
    """
    metric = arguments.choice(metric, "metric", _METRICS)
    n = len(base)
    arguments.integer(k, "k", 1, n)
    found = np.empty((len(queries), k), np.int64)
    centre = base.mean(axis=0, dtype=np.float64) if metric == "l2" else np.float64(0)  # far from 0, digits would go
    for start in range(0, len(queries), _QUERIES):
        query = queries[start : start + _QUERIES] - centre
        scores: NDArray[Any] = np.empty((len(query), 0))
        indices: NDArray[Any] = np.empty((len(query), 0), np.int64)
        for first in range(0, n, _VECTORS):
            part = base[first : first + _VECTORS] - centre
            score = query @ part.T
            if metric == "l2":
                score = 2 * score - np.einsum("ij,ij->i", part, part)
            elif metric == "cosine":
                lengths = np.sqrt(np.einsum("ij,ij->i", part, part))
                score = score / np.where(lengths == 0, 1, lengths)
            scores = np.concatenate([scores, score], axis=1)
            indices = np.concatenate([indices, np.broadcast_to(np.arange(first, first + len(part)), score.shape)], 1)
            kept = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, indices = (np.take_along_axis(a, kept, axis=1) for a in (scores, indices))
        found[start : start + _QUERIES] = indices
    return found


def recall_at_k(exact: Any, found: Any) -> float:
    """The share of the exact nearest neighbours that a search found.

    Parameters
    ----------
    exact, found : ndarray of integers, shape (n_queries, k)
        Indices of neighbours, in any order. Negative ones are none: faiss fills up with -1 where there are fewer than
        k. An index counts once however often a row has it.

    Returns
    -------
    float
        From 0 to 1: the indices of all rows of `exact` that are in the same row of `found` as well, by all those of
        `exact`. 1 where the two are the same.

    Raises
    ------
    ValueError
        The shapes differ, or `exact` has no index that is not negative.
    TypeError
        An array does not hold integers.

    Examples
    --------
    >>> recall_at_k([[1, 2], [5, 6]], [[2, 1], [5, 7]])
    0.75
    """
    pair = []
    for name, values in (("exact", exact), ("found", found)):
        array = arrays.as_array(values, name)
        if array.dtype.kind not in "iu":
            raise InvalidTypeError(f"{name}: expected integers, got dtype {array.dtype}")
        pair.append(array)
    if pair[0].shape != pair[1].shape or pair[0].ndim != 2 or not pair[0].size:
        raise InvalidValueError(
            f"exact, found: expected the same shape (n_queries, k), got {pair[0].shape} and {pair[1].shape}"
        )
    wanted, given = ([{i for i in row if i >= 0} for row in array.tolist()] for array in pair)
    n_wanted = sum(map(len, wanted))
    if not n_wanted:
        raise InvalidValueError("exact: has no index of a neighbour, all are negative")
    return sum(len(a & b) for a, b in zip(wanted, given, strict=True)) / n_wanted

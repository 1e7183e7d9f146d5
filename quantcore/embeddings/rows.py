"""Rows of vectors at the boundary: taken once, and what is wrong with one is told by its row.

A row is bad if it is missing, has another length than the others, or holds NaN, inf or what is beyond float32.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore._base.arrays import FLOAT32, Floats
from quantcore.errors import InvalidTypeError, InvalidValueError

ERROR, DROP = "error", "drop"
_BLOCK = 1 << 20


def check_on_bad(on_bad: Any) -> str:
    """Check that it is "error" or "drop"."""
    return arguments.choice(on_bad, "on_bad", (ERROR, DROP))


def take_rows(values: Any, name: str, n_dimensions: int | None, on_bad: str) -> Floats:
    """Vectors as a matrix; with "drop", without its bad rows.

    Raises
    ------
    ValueError
        The array is not a matrix, its rows have another length than expected, or one of several lists has.
    TypeError
        The values are no floats.
    """
    on_bad = check_on_bad(on_bad)
    if on_bad == ERROR:
        return _take_matrix(values, name, n_dimensions, ERROR)[0]
    matrix, is_good = good_rows(values, name, n_dimensions)
    if is_good.all():
        return matrix
    kept = matrix.raw[is_good]
    return Floats(kept, matrix.element_type, kept.shape, kept)


def good_rows(values: Any, name: str, n_dimensions: int | None) -> tuple[Floats, NDArray[np.bool_]]:
    """All rows, with zeros where there is no vector of the right length; and which of them are good."""
    matrix, is_good = _take_matrix(values, name, n_dimensions, DROP)
    rows, width = matrix.shape
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        block = matrix.values(start * width, stop * width).reshape(stop - start, width)
        with np.errstate(invalid="ignore"):
            is_good[start:stop] &= (np.abs(block) <= arrays.F32_MAX).all(axis=1)
    return matrix, is_good


def _take_matrix(values: Any, name: str, n_dimensions: int | None, on_bad: str) -> tuple[Floats, NDArray[np.bool_]]:
    """The matrix, and which rows there are."""
    try:
        matrix = arrays.take_floats(values, name)
    except InvalidTypeError:
        rows = _separate_rows(values)
        if rows is None:
            raise
        return _join_rows(rows, name, n_dimensions, on_bad)
    if len(matrix.shape) != 2:
        raise InvalidValueError(f"{name}: expected a matrix, a vector in each row, got shape {matrix.shape}")
    if n_dimensions is not None and matrix.shape[1] != n_dimensions:
        raise InvalidValueError(f"{name}: expected vectors of {n_dimensions} values, got {matrix.shape[1]}")
    return matrix, np.ones(matrix.shape[0], bool)


def _separate_rows(values: Any) -> list[Any] | None:
    """The rows of a list of vectors, or of an array of objects as pandas has it; None: it is something else."""
    if isinstance(values, (list, tuple)):
        return list(values)
    try:
        array = np.asarray(values)
    except Exception:  # whatever the object's own code raises
        return None
    return list(array) if array.dtype == object and array.ndim == 1 else None


def _join_rows(rows: list[Any], name: str, n_dimensions: int | None, on_bad: str) -> tuple[Floats, NDArray[np.bool_]]:
    """Vectors one by one into a float32 matrix, zeros where one is missing or has another length."""
    vectors = [None if row is None else arrays.take_floats(row, f"{name}: row {i}") for i, row in enumerate(rows)]
    if n_dimensions is None:
        n_dimensions = next((vector.size for vector in vectors if vector is not None), 0)
    matrix, is_there = np.zeros((len(rows), n_dimensions), np.float32), np.ones(len(rows), bool)
    for i, vector in enumerate(vectors):
        if vector is not None and vector.shape == (n_dimensions,):
            with np.errstate(over="ignore"):
                matrix[i] = vector.values(0, n_dimensions)
            continue
        if on_bad == ERROR:
            got = "nothing" if vector is None else f"shape {vector.shape}"
            raise InvalidValueError(f"{name}: row {i}: expected a vector of {n_dimensions} values, got {got}")
        is_there[i] = False
    return Floats(matrix, FLOAT32, matrix.shape, matrix), is_there

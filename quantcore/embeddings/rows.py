"""Rows of vectors at the boundary: taken once, and what is wrong with one is told by its row.

A row is bad if it is missing (None or NaN instead of a vector), has another length than the others, or holds NaN, inf
or what is beyond float32. Where nothing is fitted yet, the length is that of more than half of the vectors.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore._base.arrays import FLOAT32, FLOAT64, STORAGE_DTYPES, Floats
from quantcore._base.lengths import common_length
from quantcore.errors import InvalidTypeError, InvalidValueError

ERROR, DROP = "error", "drop"
_BLOCK = 1 << 20


def check_on_bad(on_bad: Any) -> str:
    """Check that it is "error" or "drop"."""
    return arguments.choice(on_bad, "on_bad", (ERROR, DROP))


def take_rows(values: Any, name: str, n_dimensions: int | None, on_bad: str) -> Floats:
    """Vectors as a matrix; with "drop", without its bad rows. It has no columns if no vector tells how many.

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


def take_float32(values: Any, name: str, n_dimensions: int | None) -> NDArray[np.float32]:
    """Vectors, of which there must be one, as an array of float32; errors as for `take_rows`."""
    source = take_rows(values, name, n_dimensions, ERROR)
    if not source.size:
        raise InvalidValueError(f"{name}: must not be empty, got shape {source.shape}")
    return source.values(0, source.size).astype(np.float32).reshape(source.shape)


def good_rows(values: Any, name: str, n_dimensions: int | None) -> tuple[Floats, NDArray[np.bool_]]:
    """All rows, with zeros where there is no vector of the right length; and which of them are good."""
    matrix, is_good = _take_matrix(values, name, n_dimensions, DROP)
    rows, width = matrix.shape
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        block = matrix.values(start * width, stop * width).reshape(stop - start, width)
        is_good[start:stop] &= arrays.are_finite(block).all(axis=1)
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
    if len(matrix.shape) == 1 and not isinstance(values, np.ndarray) and np.isnan(matrix.values(0, matrix.size)).all():
        return _join_rows([None] * matrix.size, name, n_dimensions, on_bad)  # no row, or all of them missing
    if len(matrix.shape) != 2:
        raise InvalidValueError(f"{name}: expected a matrix, a vector in each row, got shape {matrix.shape}")
    n_rows, width = matrix.shape
    if width == (n_dimensions or width) and (width or not n_rows):
        return matrix, np.ones(n_rows, bool)
    if on_bad == DROP and isinstance(values, (list, tuple)):
        return _join_rows(list(values), name, n_dimensions, on_bad)
    wanted = "at least one value" if n_dimensions is None else f"{n_dimensions} values"
    raise InvalidValueError(f"{name}: expected vectors of {wanted}, got {width}")


def _separate_rows(values: Any) -> list[Any] | None:
    """The rows of a list of vectors, or of an array of objects as pandas has it; None: it is something else."""
    if isinstance(values, (list, tuple)):
        return list(values)
    try:
        array = np.asarray(values)
    except Exception:  # whatever the object's own code raises
        return None
    return list(array) if array.dtype == object and array.ndim == 1 else None


def _is_missing(row: Any) -> bool:
    """Whether there is None or NaN instead of a vector, as pandas has it."""
    return row is None or (isinstance(row, (float, np.floating)) and bool(np.isnan(row)))


def _join_rows(rows: list[Any], name: str, n_dimensions: int | None, on_bad: str) -> tuple[Floats, NDArray[np.bool_]]:
    """Vectors one by one into a matrix, zeros where one is missing or has another length."""
    vectors = [None if _is_missing(row) else arrays.take_floats(row, f"{name}: row {i}") for i, row in enumerate(rows)]
    if n_dimensions is None:
        lengths = {i: vector.size for i, vector in enumerate(vectors) if vector is not None and len(vector.shape) == 1}
        n_dimensions = common_length(np.array([*lengths.values()], np.int64), np.array([*lengths], np.int64), name)
    is_wide = any(vector is not None and vector.element_type == FLOAT64 for vector in vectors)
    element_type = FLOAT64 if is_wide else FLOAT32  # so that a message tells a value beyond float32
    matrix, is_there = np.zeros((len(rows), n_dimensions), STORAGE_DTYPES[element_type]), np.ones(len(rows), bool)
    for i, vector in enumerate(vectors):
        if vector is not None and n_dimensions and vector.shape == (n_dimensions,):
            matrix[i] = vector.values(0, n_dimensions)
            continue
        if on_bad == ERROR:
            wanted = f"a vector of {n_dimensions} values" if n_dimensions else "a vector"
            got = "nothing" if vector is None else f"shape {vector.shape}"
            raise InvalidValueError(f"{name}: row {i}: expected {wanted}, got {got}")
        is_there[i] = False
    return Floats(matrix, element_type, matrix.shape, matrix), is_there

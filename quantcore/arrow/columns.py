"""Columns at the boundary: rows of vectors or numbers as a matrix over Arrow's memory, and which rows there are.

A row is null, or good, or bad: it holds NaN, inf, what is beyond float32, a null, or another number of values. Where
neither the type of the column nor parameters tell the number, it is that of more than half of the vectors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quantcore._base import arguments
from quantcore._base.arrays import are_finite
from quantcore._base.lengths import common_length
from quantcore._base.text import brief
from quantcore.errors import InvalidTypeError, InvalidValueError

ERROR, NULL, DROP = "error", "null", "drop"
POLICIES = (ERROR, NULL, DROP)
_DTYPES = {"halffloat": np.float16, "float": np.float32, "double": np.float64, "int8": np.int8, "uint8": np.uint8}
_BLOCK = 1 << 20


@dataclass(slots=True)
class Rows:
    """An array at the boundary.

    Attributes
    ----------
    matrix : ndarray, shape (m, d), of numbers (m,)
        The rows of `is_kept`, over Arrow's own memory where they lie together.
    is_kept, is_null : ndarray of bool, shape (n,), or None
        Rows that are good, and rows that are null; None: all of them, and none.
    """

    n: int
    matrix: NDArray[Any]
    is_kept: NDArray[np.bool_] | None = None
    is_null: NDArray[np.bool_] | None = None

    @property
    def is_bad(self) -> NDArray[np.bool_]:
        """Rows that are neither null nor kept."""
        bad = np.zeros(self.n, bool) if self.is_kept is None else ~self.is_kept
        return bad if self.is_null is None else bad & ~self.is_null


def chunks_of(column: Any, name: str) -> tuple[list[pa.Array], pa.DataType, bool]:
    """The arrays of a column, their type, and whether they were chunked."""
    try:
        if not isinstance(column, (pa.Array, pa.ChunkedArray)):
            if hasattr(column, "__arrow_c_array__"):
                column = pa.array(column)
            elif hasattr(column, "__arrow_c_stream__"):
                column = pa.chunked_array(column)
            else:
                raise InvalidTypeError(f"{name}: expected an Arrow array, got {type(column).__name__}")
    except pa.ArrowException as error:
        raise InvalidTypeError(f"{name}: cannot be read as an Arrow array ({brief(str(error))})") from None
    is_chunked = isinstance(column, pa.ChunkedArray)
    return (list(column.chunks) if is_chunked else [column]), column.type, is_chunked


def check_on_bad(on_bad: Any) -> str:
    """Check that it is one of `POLICIES`."""
    return arguments.choice(on_bad, "on_bad", POLICIES)


def take_chunks(
    chunks: Sequence[pa.Array], kind: pa.DataType, name: str, n_dimensions: int | None, on_bad: str
) -> list[Rows]:
    """The rows of all arrays of a column of floats; bad ones are refused by their place in the column, or left out.

    Raises
    ------
    InvalidValueError
        A row is bad and `on_bad` is "error"; of lists, the number of values is not known and there is no row, or none
        that more than half of them have.
    InvalidTypeError
        The column does not hold floats or lists of floats.
    """
    storages = [_storage_of(chunk) for chunk in chunks]
    kind = getattr(kind, "storage_type", kind)
    vectors = is_list(kind)
    if (kind.value_type if vectors else kind) not in (pa.float16(), pa.float32(), pa.float64()):
        raise InvalidTypeError(f"{name}: expected floats or lists of floats, got {kind}")
    if n_dimensions is not None and not vectors:
        raise InvalidValueError(f"params: of vectors of {n_dimensions} values do not fit {name}, a column of numbers")
    if vectors and pa.types.is_fixed_size_list(kind):
        if n_dimensions is not None and n_dimensions != kind.list_size:
            raise InvalidValueError(f"{name}: expected vectors of {n_dimensions} values, got {kind}")
        n_dimensions = kind.list_size
    elif vectors and n_dimensions is None:
        n_dimensions = _length_of_most(storages, name)
    if vectors and not n_dimensions:
        raise InvalidValueError(f"{name}: expected vectors of at least one value, got {kind}")
    taken, first = [], 0
    for storage in storages:
        rows = _take_lists(storage, n_dimensions or 0) if vectors else _take_numbers(storage)
        if on_bad == ERROR:
            refuse_bad(rows.is_bad, first, name, lambda i, storage=storage: _problem(storage, i, n_dimensions))
        else:
            _leave_out_infinite(rows)
        taken.append(rows)
        first += rows.n
    return taken


def is_list(kind: pa.DataType) -> bool:
    """Whether it is one of the types of lists."""
    is_view = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return bool(is_view or pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def refuse_bad(is_bad: NDArray[np.bool_], first: int, name: str, problem: Any) -> None:
    """Refuse the first bad row, counted from `first`."""
    bad = np.flatnonzero(is_bad)
    if bad.size:
        raise InvalidValueError(f"{name}: row {first + int(bad[0])}: {problem(int(bad[0]))}")


def refuse_infinite(taken: Sequence[Rows], name: str) -> None:
    """Refuse the first row that is not finite: for what a kernel has refused."""
    first = 0
    for rows in taken:
        is_finite = _finite_rows(rows.matrix)
        bad = np.flatnonzero(~is_finite)
        if bad.size:
            row = int(bad[0]) if rows.is_kept is None else int(np.flatnonzero(rows.is_kept)[bad[0]])
            values = np.atleast_1d(rows.matrix[bad[0]])
            j = int(np.flatnonzero(~are_finite(values))[0])
            place = f", dimension {j}" if rows.matrix.ndim > 1 else ""
            raise InvalidValueError(f"{name}: row {first + row}{place}: must be a finite float32, got {values[j]}")
        first += rows.n


def flat_values(array: pa.Array) -> NDArray[Any]:
    """The values of an array of numbers as they lie in memory; those of nulls are whatever is there."""
    dtype = np.dtype(_DTYPES[str(array.type)])
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.empty(0, dtype)
    values = np.frombuffer(buffer, dtype, len(array), array.offset * dtype.itemsize)
    values.flags.writeable = False
    return values


def fixed_size_matrix(array: pa.Array) -> NDArray[Any]:
    """The values of lists of a fixed size, shape (n, size): a view, of nulls too."""
    size, child = array.type.list_size, array.values
    return flat_values(child.slice(array.offset * size, len(array) * size)).reshape(len(array), size)


def nulls_of(array: pa.Array) -> NDArray[np.bool_] | None:
    """Which rows are null; None: none of them."""
    return array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None


def _storage_of(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _take_numbers(array: pa.Array) -> Rows:
    values, is_null = flat_values(array), nulls_of(array)
    if is_null is None:
        return Rows(len(array), values)
    return Rows(len(array), values[~is_null], ~is_null, is_null)


def _take_lists(array: pa.Array, n_dimensions: int) -> Rows:
    n, is_null = len(array), nulls_of(array)
    if pa.types.is_fixed_size_list(array.type):
        starts = np.arange(array.offset, array.offset + n, dtype=np.int64) * n_dimensions
        is_good = np.ones(n, bool)
    else:
        starts, sizes = _places(array)
        is_good = sizes == n_dimensions
    if is_null is not None:
        is_good &= ~is_null
    child = array.values
    if child.null_count:
        holes = np.concatenate([[0], np.cumsum(child.is_null().to_numpy(zero_copy_only=False))])
        places = starts[is_good]
        is_good[is_good] = holes[places + n_dimensions] == holes[places]
    places = starts[is_good]
    values = flat_values(child)
    if np.array_equal(places, np.arange(places.size) * n_dimensions + (places[0] if places.size else 0)):
        first = int(places[0]) if places.size else 0
        matrix = values[first : first + places.size * n_dimensions].reshape(places.size, n_dimensions)
    else:
        matrix = values[places[:, None] + np.arange(n_dimensions)]
    return Rows(n, matrix, None if is_good.all() else is_good, is_null)


def _places(array: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each list begins in the values, and how many it has."""
    offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return offsets[:-1], np.diff(offsets)
    return offsets, array.sizes.to_numpy(zero_copy_only=False).astype(np.int64)


def _length_of_most(arrays: Sequence[pa.Array], name: str) -> int:
    """The number of values that more than half of the vectors have; 0 if they have none."""
    sizes, is_there = [np.empty(0, np.int64)], [np.empty(0, bool)]
    for array in arrays:
        is_null = nulls_of(array)
        sizes.append(_places(array)[1])
        is_there.append(np.ones(len(array), bool) if is_null is None else ~is_null)
    rows = np.flatnonzero(np.concatenate(is_there))
    if not rows.size:
        raise InvalidValueError(f"{name}: has no vector that tells how many values they have; params= does")
    return common_length(np.concatenate(sizes)[rows], rows, name)


def _problem(array: pa.Array, i: int, n_dimensions: int | None) -> str:
    if n_dimensions is not None and len(array[i]) != n_dimensions:
        return f"expected {n_dimensions} values, got {len(array[i])}"
    place = next(j for j, value in enumerate(array[i]) if not value.is_valid)
    return f"null in dimension {place}"


def _finite_rows(matrix: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows are finite in float32."""
    n = len(matrix)
    result = np.empty(n, bool)
    step = max(1, _BLOCK // max(1, matrix[:1].size))
    for start in range(0, n, step):
        fine = are_finite(matrix[start : start + step])
        result[start : start + step] = fine.reshape(len(fine), -1).all(axis=1)
    return result


def _leave_out_infinite(rows: Rows) -> None:
    is_finite = _finite_rows(rows.matrix)
    if is_finite.all():
        return
    is_kept = np.ones(rows.n, bool) if rows.is_kept is None else rows.is_kept.copy()
    is_kept[is_kept] = is_finite
    rows.is_kept, rows.matrix = is_kept, rows.matrix[is_finite]


def not_empty(taken: Sequence[Rows]) -> Iterator[NDArray[Any]]:
    """The matrices that have rows."""
    return (rows.matrix for rows in taken if rows.matrix.size)

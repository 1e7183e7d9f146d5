"""Columns of floats and of vectors in Parquet files as arrays, read from front to back. Needs the extra `arrow`.

A null, be it a row or a value, counts as NaN.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments
from quantcore._base.extras import missing_extra
from quantcore._base.text import brief
from quantcore.errors import FileFormatError

_ROWS_TOGETHER = 4096
_DTYPES = {"halffloat": np.float16, "float": np.float32, "double": np.float64}


class ParquetColumn:
    """A column of a Parquet file: `shape` is (rows,), or (rows, d) of vectors; `dtype` is None for other types."""

    def __init__(self, file: Any, field: Any, label: str) -> None:
        self._file, self.label, self.name = file, label, field.name
        self.dtype_name = str(field.type)
        is_list = hasattr(field.type, "value_type") and "list" in self.dtype_name
        kind = str(field.type.value_type if is_list else field.type)
        self.dtype = np.dtype(_DTYPES[kind]) if kind in _DTYPES else None
        n_rows = file.metadata.num_rows
        self.shape: tuple[int, ...] = (n_rows,)
        if is_list and self.dtype is not None:
            self.shape = n_rows, self._width(field.type)
        self._position, self._pieces, self._piece = self._beginning()

    def read_into(self, start: int, buffer: Any) -> None:
        """Fill a buffer with the bytes from `start` on, of the array in C order."""
        view = arguments.buffer(buffer, "buffer", is_written=True)
        if start < self._position:
            self._position, self._pieces, self._piece = self._beginning()
        done = 0
        while done < len(view):
            while start + done >= self._position + self._piece.nbytes:
                self._position += self._piece.nbytes
                self._piece = next(self._pieces)
            first = start + done - self._position
            part = self._piece[first : first + len(view) - done]
            view[done : done + part.nbytes] = part.data
            done += part.nbytes

    def _beginning(self) -> tuple[int, Iterator[NDArray[np.uint8]], NDArray[np.uint8]]:
        """Where the current piece begins, those after it, and the piece itself."""
        return 0, self._read(), np.empty(0, np.uint8)

    def _read(self) -> Iterator[NDArray[np.uint8]]:
        first = 0
        for batch in self._batches():
            values = self._matrix(batch, first)
            yield np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8)
            first += len(batch)
        raise FileFormatError(f"{self.label}: ends after {first} rows, expected {self.shape[0]}")

    def _batches(self) -> Iterator[Any]:
        from pyarrow import ArrowException

        batches = self._file.iter_batches(_ROWS_TOGETHER, columns=[self.name])
        while True:
            try:
                batch = next(batches, None)
            except (ArrowException, OSError) as error:
                raise FileFormatError(f"{self.label}: {brief(str(error), 200)}") from None
            if batch is None:
                return
            yield batch.column(0)

    def _width(self, kind: Any) -> int:
        """How many values a vector has: the type says it, or the first one."""
        if hasattr(kind, "list_size"):
            return int(kind.list_size)
        for array in self._batches():
            for row in array:
                if row.is_valid:
                    return len(row)
        return 0

    def _matrix(self, array: Any, first: int) -> NDArray[Any]:
        if len(self.shape) == 1:
            numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)
            return numbers
        is_valid = array.is_valid().to_numpy(zero_copy_only=False)
        kept = array.drop_null()
        sizes = np.array([len(row) for row in kept]) if not hasattr(array.type, "list_size") else np.empty(0)
        bad = np.flatnonzero(sizes != self.shape[1]) if sizes.size else sizes
        if bad.size:
            row = first + int(np.flatnonzero(is_valid)[bad[0]])
            raise FileFormatError(f"{self.label}: row {row}: expected {self.shape[1]} values, got {int(sizes[bad[0]])}")
        matrix = np.full((len(array), self.shape[1]), np.nan, self.dtype)
        matrix[is_valid] = kept.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.shape[1])
        return matrix


def read_columns(path: str, label: str) -> tuple[ParquetColumn, ...]:
    """The columns of a Parquet file.

    Raises
    ------
    FileFormatError
        The file is malformed.
    MissingExtraError
        pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_extra(f"{label}: a Parquet file", "pyarrow", error) from None
    try:
        file = pq.ParquetFile(path)
        return tuple(ParquetColumn(file, field, f"{label}: {field.name}") for field in file.schema_arrow)
    except (pa.ArrowException, OSError) as error:
        raise FileFormatError(f"{label}: Parquet: {brief(str(error), 200)}") from None

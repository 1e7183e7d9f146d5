"""Tensors of a GGUF file that are made of a checkpoint's tensors: rows in another order, stacked, transposed, shifted.

Each is a `StoredTensor` whose bytes are gathered where they are asked for, so that a slab of the result takes no more
memory than a few rows beside it.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base.text import quote
from quantcore.errors import FileFormatError
from quantcore.ggml.types import TYPES_BY_NAME
from quantcore.models.tensors import Origin, StoredTensor

Bytes = NDArray[np.uint8]
_WIDEST_SPAN = 3


def select_rows(source: StoredTensor, name: str, rows: NDArray[np.intp]) -> StoredTensor:
    """A tensor of some rows of another one, or of all in another order.

    Parameters
    ----------
    source : StoredTensor
        With n rows, which are what the first axis counts.
    name : str
    rows : ndarray of int, shape (m,)
        The row of the source that each row of the result is.
    """
    row_bytes = source.nbytes // source.shape[0]
    return replace(
        source,
        name=name,
        shape=(rows.size, *source.shape[1:]),
        nbytes=rows.size * row_bytes,
        read_into=partial(_read_rows, source, rows, row_bytes),
    )


def stack(sources: Sequence[StoredTensor], name: str) -> StoredTensor:
    """Tensors of one shape as one with another axis in front.

    Raises
    ------
    FileFormatError
        They differ in shape or type.
    """
    first = sources[0]
    for source in sources:
        if (source.shape, source.type) != (first.shape, first.type):
            raise FileFormatError(
                f"{first.file}: tensor {quote(source.name)}: {source.type} of shape {source.shape}, but "
                f"{quote(first.name)} is {first.type} of shape {first.shape}: they cannot be stacked"
            )
    return replace(
        first,
        name=name,
        shape=(len(sources), *first.shape),
        nbytes=len(sources) * first.nbytes,
        read_into=partial(_read_stacked, tuple(sources)),
    )


def transpose(source: StoredTensor, name: str) -> StoredTensor:
    """A matrix with rows and columns exchanged."""
    return replace(source, name=name, shape=source.shape[::-1], read_into=partial(_read_transposed, source))


def transpose_stack(source: StoredTensor, name: str) -> StoredTensor:
    """A stack of matrices, each with rows and columns exchanged."""
    parts = unstack(source, [source.name] * source.shape[0])
    return stack([transpose(part, part.name) for part in parts], name)


def shift(source: StoredTensor, name: str, amount: int) -> StoredTensor:
    """A vector plus a number: in float16 if it is that, else in float32, as llama.cpp's converter computes it."""
    size = source.size
    read_into = partial(_read_shifted, source, amount)
    if source.type == "F16":
        return replace(source, name=name, read_into=read_into)
    return replace(source, name=name, type="F32", ggml=TYPES_BY_NAME["F32"], nbytes=4 * size, read_into=read_into)


def unstack(source: StoredTensor, names: Sequence[str]) -> list[StoredTensor]:
    """The matrices of a tensor with an axis in front of theirs, in which blocks do not reach over rows."""
    each = source.nbytes // len(names)
    return [
        replace(source, name=name, shape=source.shape[1:], nbytes=each, read_into=partial(_read_part, source, i * each))
        for i, name in enumerate(names)
    ]


def decode(source: StoredTensor) -> StoredTensor:
    """A tensor of blocks or with factors as one of float32, to be read one by one; others as they are."""
    if source.block_size == 1 and source.factors is None:
        return source
    return replace(
        source,
        type="F32",
        ggml=TYPES_BY_NAME["F32"],
        nbytes=4 * source.size,
        read_into=partial(_read_decoded, source),
        origin=Origin(source.type, 8 * source.nbytes / source.size),
        factors=None,
    )


def constant(name: str, values: NDArray[np.float32], file: str) -> StoredTensor:
    """A tensor that is computed from the hyperparameters."""
    data = np.ascontiguousarray(values, np.float32).view(np.uint8)

    def read_into(start: int, buffer: Bytes) -> None:
        buffer[:] = data[start : start + buffer.size]

    return StoredTensor(name, values.shape, "F32", data.size, read_into, file, TYPES_BY_NAME["F32"])


def rotary_order(n_rows: int, n_heads: int) -> NDArray[np.intp]:
    """The rows of a query or key matrix as ggml rotates them: the two halves of each head interleaved."""
    halves = np.arange(n_rows).reshape(n_heads, 2, n_rows // n_heads // 2)
    return halves.swapaxes(1, 2).reshape(-1)


def _read_rows(source: StoredTensor, rows: NDArray[np.intp], row_bytes: int, start: int, buffer: Bytes) -> None:
    first, last = start // row_bytes, -(-(start + buffer.size) // row_bytes)
    wanted = rows[first:last]
    order = np.argsort(wanted, kind="stable")
    ordered = wanted[order]
    gathered = np.empty((wanted.size, row_bytes), np.uint8)
    skipped = start - first * row_bytes
    span = int(ordered[-1] - ordered[0]) + 1
    if span < _WIDEST_SPAN * wanted.size:  # few rows lie between them
        part = np.empty((span, row_bytes), np.uint8)
        source.read_into(int(ordered[0]) * row_bytes, part.reshape(-1))
        buffer[:] = part[wanted - ordered[0]].reshape(-1)[skipped : skipped + buffer.size]
        return
    for run in np.split(np.arange(wanted.size), np.flatnonzero(np.diff(ordered) != 1) + 1):
        part = np.empty((run.size, row_bytes), np.uint8)
        source.read_into(int(ordered[run[0]]) * row_bytes, part.reshape(-1))
        gathered[order[run]] = part
    buffer[:] = gathered.reshape(-1)[skipped : skipped + buffer.size]


def _read_stacked(sources: tuple[StoredTensor, ...], start: int, buffer: Bytes) -> None:
    each, done = sources[0].nbytes, 0
    while done < buffer.size:
        index, position = divmod(start + done, each)
        count = min(each - position, buffer.size - done)
        sources[index].read_into(position, buffer[done : done + count])
        done += count


def _read_transposed(source: StoredTensor, start: int, buffer: Bytes) -> None:
    n_rows, n_columns = source.shape
    itemsize = source.nbytes // source.size
    column_bytes = n_rows * itemsize
    first, last = start // column_bytes, -(-(start + buffer.size) // column_bytes)
    kind: np.dtype[Any] = np.dtype(f"V{itemsize}")
    columns = np.empty((last - first, n_rows), kind)
    part = np.empty(last - first, kind)
    for row in range(n_rows):
        source.read_into((row * n_columns + first) * itemsize, part.view(np.uint8))
        columns[:, row] = part
    skipped = start - first * column_bytes
    buffer[:] = columns.reshape(-1).view(np.uint8)[skipped : skipped + buffer.size]


def _read_shifted(source: StoredTensor, amount: int, start: int, buffer: Bytes) -> None:
    dtype: np.dtype[Any] = np.dtype(np.float16 if source.type == "F16" else np.float32)
    first = start // dtype.itemsize
    values = source.values(first, first + buffer.size // dtype.itemsize)
    buffer[:] = (values.astype(dtype) + dtype.type(amount)).view(np.uint8)


def _read_part(source: StoredTensor, offset: int, start: int, buffer: Bytes) -> None:
    source.read_into(offset + start, buffer)


def _read_decoded(source: StoredTensor, start: int, buffer: Bytes) -> None:
    block = source.block_size
    first, last = start // 4 // block * block, -(-(start + buffer.size) // 4 // block) * block
    with np.errstate(over="ignore"):  # whoever writes a float64 that is too large refuses inf
        values = source.values(first, last, n_threads=1).astype(np.float32, copy=False)
    buffer[:] = values.view(np.uint8)[start - 4 * first :][: buffer.size]

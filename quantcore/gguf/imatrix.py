"""Importance matrices of whole models: for each tensor the mean square of every input channel, as llama-imatrix
collects them. `imatrix_files` has the layouts of the files.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore._base.notebook import rows_table
from quantcore._base.text import brief, quote
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.gguf.imatrix_files import ImatrixEntry, ImatrixFile, read_imatrix, write_gguf, write_legacy

__all__ = ["Imatrix", "ImatrixEntry"]

_MOST_COUNT = (1 << 24) - 1
_PIECE = 1 << 20


@dataclass(frozen=True, eq=False, repr=False)
class Imatrix:
    """The importance of the input channels of a model's matrices.

    Attributes
    ----------
    entries : mapping of str to ImatrixEntry
        The sums by the name of the tensor, as the GGUF file of the model calls it.
    datasets : tuple of str
        What the activations were collected from.
    chunk_count, chunk_size : int
        How many chunks of text were run through the model, of how many tokens.
    path : str
        The file, as it was given to `load`; empty if there is none.

    Examples
    --------
    >>> import numpy as np
    >>> activations = np.array([[1.0, 2.0], [3.0, 0.0]], np.float32)
    >>> matrix = Imatrix.from_activations({"blk.0.attn_q.weight": activations})
    >>> matrix.weights("blk.0.attn_q.weight")
    array([[5., 2.]], dtype=float32)
    """

    entries: Mapping[str, ImatrixEntry]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    path: str = ""

    def __post_init__(self) -> None:
        for name, entry in arguments.mapping(self.entries, "entries", "from names to entries").items():
            if not arguments.text(name, "entries: name") or not isinstance(entry, ImatrixEntry):
                raise InvalidTypeError(f"entries: {quote(name)}: expected an ImatrixEntry, got {brief(entry)}")
        if not isinstance(self.datasets, tuple):
            raise InvalidTypeError(f"datasets: expected a tuple of names, got {brief(self.datasets)}")
        for dataset in self.datasets:
            arguments.text(dataset, "datasets")
        arguments.integer(self.chunk_count, "chunk_count", 0)
        arguments.integer(self.chunk_size, "chunk_size", 0)
        arguments.text(self.path, "path")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Imatrix":
        """Read a file of llama-imatrix: GGUF, or the older binary layout (`.dat`).

        Raises
        ------
        FileFormatError
            The file is malformed, or is a GGUF file of something else; sums are negative, NaN or inf.
        OSError
            It cannot be read.
        """
        found = read_imatrix(path)
        return cls(found.entries, found.datasets, found.chunk_count, found.chunk_size, os.fsdecode(path))

    @classmethod
    def from_activations(
        cls, activations: Mapping[str, Any], *, datasets: Iterable[str] = (), chunk_size: int = 512
    ) -> "Imatrix":
        """Sum up the squares of activations.

        Parameters
        ----------
        activations : mapping of str to array_like of shape (..., cols), or a list of such arrays
            What each matrix was multiplied with, by the matrix's name. Every row counts once. For stacked experts: a
            tuple with an array for each of them, of shape (rows, cols); one without rows was never used.
        datasets : iterable of str, optional
            What to call the source of the activations.
        chunk_size : int, default 512
            Rows that make a chunk, of which the file tells the number.

        Raises
        ------
        ValueError, TypeError
            Activations are not finite floats, or differ in their number of columns.
        """
        activations = arguments.mapping(activations, "activations", "from names to arrays")
        size = arguments.integer(chunk_size, "chunk_size", 1)
        names = tuple(arguments.text(name, "datasets") for name in arguments.entries(datasets, "datasets", "names"))
        entries = {arguments.text(name, "activations"): _sum_up(name, values) for name, values in activations.items()}
        most = max((int(entry.counts.max(initial=0)) for entry in entries.values()), default=0)
        return cls(entries, names, -(-most // size), size)

    def weights(self, name: str) -> NDArray[np.float32]:
        """The importance of a tensor's columns: mean squares, float32 of shape (experts, cols).

        An expert that was never used (its count is 0) has weights of 1. A file in the older layout knows no experts:
        there the shape is (1, experts * cols).

        Raises
        ------
        InvalidValueError
            There is no such tensor.
        """
        entry = self.entries.get(arguments.text(name, "name"))
        if entry is None:
            raise InvalidValueError(f"importance matrix: no tensor {quote(name)} among {len(self.entries)}")
        return entry.weights()

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know: the tensors with experts that were never used."""
        found = []
        for name, entry in self.entries.items():
            if n_unused := int((entry.counts <= 0).sum()):
                found.append(f"{name}: {n_unused} of {len(entry.counts)} matrices were never used: weights of 1")
        return tuple(found)

    def merge(self, *others: "Imatrix") -> "Imatrix":
        """This matrix and others together, as if one run had collected them: sums and counts are added.

        Sums are added in float64 in the order of their size, so that the result does not depend on the order of the
        matrices. Datasets are listed once, chunks are added.

        Raises
        ------
        InvalidValueError
            Two of them have different shapes for a tensor.
        """
        matrices = (self, *others)
        for other in others:
            if not isinstance(other, Imatrix):
                raise InvalidTypeError(f"others: expected an Imatrix, got {brief(other)}")
        names = dict.fromkeys(name for matrix in matrices for name in matrix.entries)
        entries = {name: _add(name, [m.entries[name] for m in matrices if name in m.entries]) for name in names}
        return Imatrix(
            entries,
            tuple(dict.fromkeys(dataset for matrix in matrices for dataset in matrix.datasets)),
            sum(matrix.chunk_count for matrix in matrices),
            max(matrix.chunk_size for matrix in matrices),
        )

    def select(self, *, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> "Imatrix":
        """The tensors whose names contain one of `include` (if there are any) and none of `exclude`.

        Raises
        ------
        InvalidValueError
            One of the words is in no name, or both are given.
        """
        wanted = arguments.entries(include, "include_weights", "parts of names")
        unwanted = arguments.entries(exclude, "exclude_weights", "parts of names")
        if wanted and unwanted:
            raise InvalidValueError("include_weights, exclude_weights: only one of them can be given")
        for word in (*wanted, *unwanted):
            if not isinstance(word, str) or not any(word in name for name in self.entries):
                which = "include_weights" if wanted else "exclude_weights"
                raise InvalidValueError(f"{which}: {brief(word)} is in no name of the importance matrix")
        entries = {
            name: entry
            for name, entry in self.entries.items()
            if (not wanted or any(word in name for word in wanted)) and not any(word in name for word in unwanted)
        }
        return Imatrix(entries, self.datasets, self.chunk_count, self.chunk_size, self.path)

    def save(self, path: str | os.PathLike[str], *, legacy: bool = False, force: bool = False) -> None:
        """Write a file that llama-quantize reads: GGUF, or with `legacy` the older binary layout.

        The older layout has one count for all experts of a tensor, to which their sums are scaled.

        Raises
        ------
        OSError
            The file exists and `force` is False; or it cannot be written.
        ValueError
            There is nothing to write.
        """
        if not self.entries:
            raise InvalidValueError("importance matrix: it has no tensors, so there is nothing to write")
        write = write_legacy if arguments.flag(legacy, "legacy") else write_gguf
        found = ImatrixFile(dict(self.entries), self.datasets, self.chunk_count, self.chunk_size)
        write(found, path, force=arguments.flag(force, "force"))

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Imatrix({len(self.entries)} tensors, {self.chunk_count} chunks, {brief(list(self.datasets))})"

    def _repr_html_(self) -> str:
        head = ("tensor", "matrices", "columns", "rows counted")
        rows = ((name, *e.sums.shape, int(e.counts.sum())) for name, e in self.entries.items())
        return rows_table(repr(self), head, rows, len(self), right=(1, 2, 3))


def _sum_up(name: str, values: Any) -> ImatrixEntry:
    experts = values if isinstance(values, tuple) else (values,)
    sums, counts = [], []
    for expert in experts:
        total, n_rows = None, 0
        for batch in expert if isinstance(expert, list) else [expert]:
            squares, n_more = _squares(batch, f"activations of {quote(name)}")
            if total is not None and len(total) != len(squares):
                raise InvalidValueError(
                    f"activations of {quote(name)}: {len(squares)} columns after batches of {len(total)}"
                )
            total, n_rows = squares if total is None else total + squares, n_rows + n_more
        if total is None:
            raise InvalidValueError(f"activations of {quote(name)}: no batches")
        sums.append(total)
        counts.append(n_rows)
    if len({len(total) for total in sums}) > 1:
        raise InvalidValueError(f"activations of {quote(name)}: experts with different numbers of columns")
    if max(counts) > _MOST_COUNT:
        raise InvalidValueError(f"activations of {quote(name)}: more than {_MOST_COUNT} rows cannot be counted")
    return ImatrixEntry(np.stack(sums), np.array(counts, np.int64))


def _squares(values: Any, name: str) -> tuple[NDArray[np.float64], int]:
    source = arrays.take_floats(values, name)
    cols = source.shape[-1]
    if cols == 0:
        raise InvalidValueError(f"{name}: no columns, got shape {source.shape}")
    n_rows = source.size // cols
    total = np.zeros(cols)
    step = max(1, _PIECE // cols)
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        rows = source.values(start * cols, stop * cols).reshape(stop - start, cols).astype(np.float64)
        if not np.isfinite(rows).all():
            at = int(np.flatnonzero(~np.isfinite(rows))[0])
            raise InvalidValueError(f"{name}: must be finite, got {rows.flat[at]} at flat index {start * cols + at}")
        total += np.einsum("ij,ij->j", rows, rows)
    return total, n_rows


def _add(name: str, entries: list[ImatrixEntry]) -> ImatrixEntry:
    shapes = {entry.sums.shape for entry in entries}
    if len(shapes) > 1:
        raise InvalidValueError(
            f"importance matrix: tensor {quote(name)} has sums of shapes {' and '.join(map(str, sorted(shapes)))}"
        )
    sums = _add_up([entry.sums for entry in entries])
    counts = np.sum([entry.counts for entry in entries], axis=0)
    firsts = [entry.first_sums for entry in entries if entry.first_sums is not None]
    return ImatrixEntry(sums, counts, _add_up(firsts) if len(firsts) == len(entries) else None)


def _add_up(arrays_: list[NDArray[np.floating]]) -> NDArray[np.float64]:
    """The sum of arrays in float64, in the order of the numbers' size."""
    ordered: NDArray[np.float64] = np.sort(np.stack(arrays_).astype(np.float64), axis=0)
    total: NDArray[np.float64] = ordered.sum(axis=0)
    return total

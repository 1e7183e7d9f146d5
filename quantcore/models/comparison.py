"""Comparison of two models: the error of each tensor of a quantized model against its reference.

Both files are read slab by slab, in several threads that decode and sum what they have read, so that models larger than
memory are compared as fast as their files are read.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quantcore._base.text import quote
from quantcore.analysis.sums import ErrorSums, rows_of_pairs
from quantcore.errors import InvalidValueError
from quantcore.files.streaming import Progress, Slab, cut, stream
from quantcore.models.comparison_results import ModelComparison, TensorComparison
from quantcore.models.tensors import MOST_ITEM_BYTES, READ_ELEMENTS, ModelTensor

__all__ = ["Comparable", "ModelComparison", "TensorComparison", "compare_opened"]

_ALIGNMENT = 64
_MOST_NAMES = 3
Bytes = NDArray[np.uint8]
Pair = tuple[ModelTensor, ModelTensor]


class Comparable(Protocol):
    """What is compared: an open model, or one whose tensors go by other names."""

    @property
    def label(self) -> str:
        """The path, for messages."""

    @property
    def is_gguf(self) -> bool:
        """Whether the tensors have the names of GGUF."""

    @property
    def tensors(self) -> dict[str, ModelTensor]:
        """The tensors by name."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of the files."""


def compare_opened(
    original: Comparable,
    other: Comparable,
    *,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelComparison:
    """Measure the error of each tensor of `other` against that of the same name: see `conversion.compare_models`."""
    pairs = _pairs(original, other)
    sums = _sum_errors(pairs, n_threads, Progress(sum(x.nbytes + y.nbytes for x, y in pairs), progress))
    tensors = [_compare(x, y, sums[x.name]) for x, y in pairs]
    total = ErrorSums()
    for t in tensors:
        if t.is_weight:
            total.merge(sums[t.name])
    common = original.tensors.keys() & other.tensors.keys()
    return ModelComparison(
        tensors=tuple(sorted(tensors, key=lambda t: (t.stats.sqnr_db, t.name))),
        total=total.stats(),
        reference_bytes=sum(x.nbytes for x, y in pairs if not _are_integers(x, y)),
        nbytes=sum(t.nbytes for t in tensors if t.is_weight),
        missing=tuple(name for name in original.tensors if name not in common),
        extra=tuple(name for name in other.tensors if name not in common),
        empty=tuple(name for name, x in original.tensors.items() if name in common and not x.size),
        notices=tuple(f"{model.label}: {notice}" for model in (original, other) for notice in model.notices),
    )


def _pairs(original: Comparable, other: Comparable) -> list[Pair]:
    """The tensors to compare, in the order of the reference, once both files are known to be readable."""
    pairs = [(x, other.tensors[name]) for name, x in original.tensors.items() if name in other.tensors]
    for x, y in pairs:
        if _core(x.shape) != _core(y.shape):
            raise InvalidValueError(
                f"tensor {quote(x.name)}: has shape {x.shape} in {original.label}, {y.shape} in {other.label}"
            )
        x.check()
        y.check()
    pairs = [(x, y) for x, y in pairs if x.size]
    if all(_are_integers(x, y) for x, y in pairs):
        checkpoints = [model for model in (original, other) if not model.is_gguf]
        hint = ""
        if len(checkpoints) == 1:
            hint = (
                f": a GGUF file has names of its own; compare with what quantize makes of {checkpoints[0].label} in F32"
            )
        raise InvalidValueError(
            f"{other.label}: no tensor of weights in common with {original.label} "
            f"({_some(other.tensors)}; {_some(original.tensors)}){hint}"
        )
    return pairs


def _sum_errors(pairs: list[Pair], n_threads: int | None, progress: Progress) -> dict[str, ErrorSums]:
    sums = {x.name: ErrorSums() for x, _ in pairs}

    def read(slab: Slab[Pair], buffer: Bytes) -> Bytes:
        """The bytes that both files hold; the second part begins at the next multiple of the alignment."""
        original, other = slab.item
        second = _padded(original.read(slab.start, slab.stop, buffer).size)
        return buffer[: second + other.read(slab.start, slab.stop, buffer[second:]).size]

    def compute(slab: Slab[Pair], data: Bytes, buffer: Bytes) -> NDArray[np.float64]:
        original, other = slab.item
        first = original.packed_bytes(slab.start, slab.stop)
        x = original.decode(data[:first], slab.start, buffer[: 4 * READ_ELEMENTS], 1)
        y = other.decode(data[_padded(first) :], slab.start, buffer[4 * READ_ELEMENTS :], 1)
        name = f"tensor {quote(original.name)}"
        names = (f"{name} of the reference", f"{name} of the quantized model")
        return rows_of_pairs(x, y, first=slab.start, n_threads=1, names=names)

    def take(slab: Slab[Pair], rows: NDArray[np.float64]) -> None:
        sums[slab.item[0].name].add_rows(rows, slab.size)

    stream(
        (slab for pair in pairs for slab in cut(pair, pair[0].size, READ_ELEMENTS)),
        read=read,
        compute=compute,
        take=take,
        buffer_bytes=(2 * MOST_ITEM_BYTES * READ_ELEMENTS + _ALIGNMENT, 8 * READ_ELEMENTS),
        n_threads=n_threads,
        progress=progress,
    )
    return sums


def _compare(x: ModelTensor, y: ModelTensor, sums: ErrorSums) -> TensorComparison:
    try:
        stats = sums.stats()
    except InvalidValueError as error:
        raise InvalidValueError(f"tensor {quote(x.name)}: {error}") from None
    return TensorComparison(x.name, y.shape, x.type, y.type, y.nbytes, not _are_integers(x, y), stats)


def _are_integers(x: ModelTensor, y: ModelTensor) -> bool:
    return x.is_integer and y.is_integer


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without outermost extents of 1, which a GGUF file may leave out."""
    first = next((i for i, extent in enumerate(shape) if extent != 1), len(shape))
    return shape[first:]


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _some(tensors: dict[str, ModelTensor]) -> str:
    names = [quote(name) for name in tensors][:_MOST_NAMES]
    return ", ".join([*names, "..."] if len(tensors) > _MOST_NAMES else names) or "no tensors"

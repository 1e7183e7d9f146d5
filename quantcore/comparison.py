"""Two models side by side: how far each tensor of a quantized model is from that of its reference.

Both files are read slab by slab, in several threads that decode and sum what they have read, so that models larger than
memory are compared as fast as their files are read.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcore import _parallel
from quantcore.comparison_records import ModelComparison, TensorComparison
from quantcore.error_sums import ErrorSums, rows_of_pairs
from quantcore.errors import InvalidValueError
from quantcore.model_values import MOST_ITEM_BYTES, SLAB_ELEMENTS, ModelValues, TensorValues
from quantcore.streaming import stream

__all__ = ["ModelComparison", "TensorComparison", "compare_models", "compare_opened"]

_ALIGNMENT = 64
_MOST_NAMES = 3
Bytes = NDArray[np.uint8]


def compare_models(
    reference: str | os.PathLike[str],
    quantized: str | os.PathLike[str],
    *,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelComparison:
    """Measure how far a quantized model is from its reference, tensor by tensor.

    Parameters
    ----------
    reference, quantized : path
        Two models, of the same kind or not: GGUF files of any type that has kernels; safetensors files, folders of
        shards or indices, plain or with weights that bitsandbytes packed. Tensors are matched by their names.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The figures do not depend on it.
    progress : callable, optional
        Called with (bytes done, bytes in all) of both files together.

    Returns
    -------
    ModelComparison

    Raises
    ------
    ValueError
        A file is malformed (FileFormatError); a tensor has another shape in the other model (outermost extents of 1
        do not count), a type that cannot be decoded, or holds NaN or inf; no tensor of weights is in both.
    OSError
        A file cannot be read.
    """
    _parallel.check_threads(n_threads)
    with ModelValues(reference) as original, ModelValues(quantized) as other:
        return compare_opened(original, other, n_threads=n_threads, progress=progress)


def compare_opened(
    original: ModelValues,
    other: ModelValues,
    *,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelComparison:
    """As `compare_models`, of models that are open."""
    pairs = _pairs(original, other)
    total_bytes, done = sum(x.nbytes + y.nbytes for x, y in pairs), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, total_bytes), total_bytes)

    sums = _summed(pairs, n_threads, advance)
    tensors = [_compared(x, y, sums[x.name]) for x, y in pairs]
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
    )


@dataclass(frozen=True, slots=True)
class _Slab:
    """Elements start to stop of a tensor in both models."""

    original: TensorValues
    other: TensorValues
    start: int
    stop: int


def _pairs(original: ModelValues, other: ModelValues) -> list[tuple[TensorValues, TensorValues]]:
    """The tensors to compare, in the order of the reference, once both files are known to be readable."""
    pairs = [(x, other.tensors[name]) for name, x in original.tensors.items() if name in other.tensors]
    for x, y in pairs:
        if _core(x.shape) != _core(y.shape):
            raise InvalidValueError(
                f"tensor {x.name!r}: has shape {x.shape} in {original.label}, {y.shape} in {other.label}"
            )
        x.check()
        y.check()
    pairs = [(x, y) for x, y in pairs if x.size]
    if all(_are_integers(x, y) for x, y in pairs):
        raise InvalidValueError(
            f"{other.label}: no tensor of weights in common with {original.label} "
            f"({_some(other.tensors)}; {_some(original.tensors)})"
        )
    return pairs


def _summed(
    pairs: list[tuple[TensorValues, TensorValues]], n_threads: int | None, progress: Callable[[int], None]
) -> dict[str, ErrorSums]:
    sums = {x.name: ErrorSums() for x, _ in pairs}

    def slabs() -> Iterator[_Slab]:
        for x, y in pairs:
            for start in range(0, x.size, SLAB_ELEMENTS):
                yield _Slab(x, y, start, min(start + SLAB_ELEMENTS, x.size))

    def read(slab: _Slab, buffer: Bytes) -> Bytes:
        """What both files hold, the second part from the next multiple of the alignment on."""
        first = slab.original.read(slab.start, slab.stop, buffer).size
        second = _padded(first)
        return buffer[: second + slab.other.read(slab.start, slab.stop, buffer[second:]).size]

    def compute(slab: _Slab, data: Bytes, buffer: Bytes) -> NDArray[np.float64]:
        first = slab.original.packed_bytes(slab.start, slab.stop)
        x = slab.original.decoded(data[:first], slab.start, buffer[: 4 * SLAB_ELEMENTS], 1)
        y = slab.other.decoded(data[_padded(first) :], slab.start, buffer[4 * SLAB_ELEMENTS :], 1)
        name = f"tensor {slab.original.name!r}"
        names = (f"{name} of the reference", f"{name} of the quantized model")
        return rows_of_pairs(x, y, first=slab.start, n_threads=1, names=names)

    def take(slab: _Slab, rows: NDArray[np.float64]) -> None:
        sums[slab.original.name].add_rows(rows, slab.stop - slab.start)

    stream(
        slabs(),
        read=read,
        compute=compute,
        take=take,
        buffer_bytes=(2 * MOST_ITEM_BYTES * SLAB_ELEMENTS + _ALIGNMENT, 8 * SLAB_ELEMENTS),
        n_threads=n_threads,
        progress=progress,
    )
    return sums


def _compared(x: TensorValues, y: TensorValues, sums: ErrorSums) -> TensorComparison:
    try:
        stats = sums.stats()
    except InvalidValueError as error:
        raise InvalidValueError(f"tensor {x.name!r}: {error}") from None
    return TensorComparison(x.name, y.shape, x.type, y.type, y.nbytes, not _are_integers(x, y), stats)


def _are_integers(x: TensorValues, y: TensorValues) -> bool:
    return x.is_integer and y.is_integer


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without outermost extents of 1, which GGUF files may or may not write."""
    first = next((i for i, extent in enumerate(shape) if extent != 1), len(shape))
    return shape[first:]


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _some(tensors: dict[str, TensorValues]) -> str:
    names = [repr(name[:80]) for name in tensors][:_MOST_NAMES]
    return ", ".join([*names, "..."] if len(tensors) > _MOST_NAMES else names) or "no tensors"

"""A type for each tensor of a model under a budget of bits a weight, and how to have `quantize_model` follow it.

The model is read slab by slab: each slab goes through every candidate type and back, and only the sums of the errors
stay.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays, _parallel, affine
from quantcore._arrays import Floats
from quantcore.bitsandbytes_jobs import ELEMENT_TYPES
from quantcore.costs import DEFAULT_TYPES, TypeCost
from quantcore.error_sums import ErrorSums, rows_of_pairs
from quantcore.errors import InvalidValueError
from quantcore.formats import dequantize_blocks, quantize_blocks, supported_format
from quantcore.ggml_types import GGML_TYPES, GGMLType, GGUFQuantType
from quantcore.gguf.rules import is_quantizable
from quantcore.gguf.sources import Source, SourceTensor
from quantcore.patterns import exactly
from quantcore.streaming import stream
from quantcore.suggestions import TensorSensitivity, TypeSuggestion, rank_sensitivity, suggest_types

__all__ = ["ModelSuggestion", "suggest_model_types"]

_SLAB_ELEMENTS = 1 << 18
_ITEM_BYTES = 8
Bytes = NDArray[np.uint8]
Rows = dict[GGMLType, NDArray[np.float64]]


@dataclass(frozen=True)
class ModelSuggestion:
    """What each tensor of a model should become.

    Attributes
    ----------
    suggestion : TypeSuggestion
        Of all tensors, those that are always kept included.
    sensitivities : tuple of TensorSensitivity
        Of the tensors that have a choice, in the order in which a larger type pays most.
    base : str
        The TYPE for `quantize_model`; `tensor_types` are the exceptions from it.
    tensor_types : tuple of (regex, type)
        Together with `base` and `pure=True`, `quantize_model` gives exactly the types and bytes of the suggestion.
    """

    suggestion: TypeSuggestion
    sensitivities: tuple[TensorSensitivity, ...]
    base: str
    tensor_types: tuple[tuple[str, str], ...]


def suggest_model_types(
    source: str | os.PathLike[str],
    bits_per_weight: float,
    types: Iterable[GGUFQuantType | str | int] = DEFAULT_TYPES,
    *,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelSuggestion:
    """Choose a type for each tensor of a model so that the relative errors add up to little within a budget.

    Parameters
    ----------
    source : path
        A model of floats: a GGUF file; or safetensors: a file, a folder of shards with its index, or the index.
    bits_per_weight : float
        The budget, over all tensors together: those that `quantize_model` never touches count as they are.
    types : iterable of GGUFQuantType, str or int
        The candidates.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The suggestion does not depend on it.
    progress : callable, optional
        Called with (bytes done, bytes in all).

    Returns
    -------
    ModelSuggestion

    Raises
    ------
    ValueError
        The file is malformed (FileFormatError), quantized already, or holds NaN or inf; there is nothing to choose; no
        candidate can hold a tensor; even the smallest types are beyond the budget.
    OSError
        The file cannot be read.
    """
    candidates = tuple(dict.fromkeys(supported_format(t, "types") for t in types))
    _parallel.check_threads(n_threads)
    with Source(source) as model:
        chosen = [t for t in model.tensors if _has_choice(t)]
        if not chosen:
            raise InvalidValueError(f"{model.label}: has no tensor that quantize would touch")
        measured = _costs(chosen, candidates, n_threads, progress)
        costs = {t.name: measured.get(t.name, {t.type.name: TypeCost(t.nbytes, 0.0)}) for t in model.tensors}
        size = sum(t.size for t in model.tensors)
    suggestion = suggest_types(costs, size, bits_per_weight)
    base = _base([suggestion.types[t.name] for t in chosen])
    exceptions = tuple((exactly(t.name), suggestion.types[t.name]) for t in chosen if suggestion.types[t.name] != base)
    return ModelSuggestion(suggestion, rank_sensitivity(measured), base, exceptions)


@dataclass(frozen=True, slots=True)
class _Slab:
    """Elements start to stop of a tensor."""

    tensor: SourceTensor
    start: int
    stop: int


class _Trial:
    """The error sums of one tensor in every candidate that can hold it so far."""

    def __init__(self, tensor: SourceTensor, candidates: Iterable[GGMLType]) -> None:
        self.name = f"tensor {tensor.name!r}"
        self.size = tensor.size
        self.sums = {fmt: ErrorSums() for fmt in candidates if tensor.shape[-1] % fmt.block_size == 0}

    def rows(self, values: Floats, packed: Bytes, decoded: Bytes) -> Rows:
        """The error sums of a slab in each type; without those that cannot hold it."""
        affine.refuse_not_finite(values, self.name, 1)
        floats = decoded[: 4 * values.size]
        back = Floats(floats, _arrays.FLOAT32, values.shape, floats)
        rows: Rows = {}
        for fmt in tuple(self.sums):
            blocks = packed[: values.size // fmt.block_size * fmt.bytes_per_block]
            try:
                quantize_blocks(values, fmt, blocks, 1, self.name)
            except InvalidValueError:  # a value is too large for it
                continue
            dequantize_blocks(blocks, fmt, floats, _arrays.FLOAT32, 1)
            rows[fmt] = rows_of_pairs(values, back, first=values.first, n_threads=1, names=(self.name, self.name))
        return rows

    def add(self, rows: Rows, size: int) -> None:
        for fmt in tuple(self.sums):
            if fmt in rows:
                self.sums[fmt].add_rows(rows[fmt], size)
            else:
                del self.sums[fmt]

    def costs(self) -> dict[str, TypeCost]:
        if not self.sums:
            raise InvalidValueError(f"{self.name}: none of the types can hold it")
        return {
            fmt.name: TypeCost(self.size // fmt.block_size * fmt.bytes_per_block, sums.relative_noise)
            for fmt, sums in self.sums.items()
        }


def _has_choice(tensor: SourceTensor) -> bool:
    if not is_quantizable(tensor.name, tensor.shape):
        return False
    if tensor.type.block_size > 1:
        raise InvalidValueError(
            f"tensor {tensor.name!r} is {tensor.type.name} already; suggest from the original model"
        )
    return tensor.type.name in ELEMENT_TYPES and tensor.size > 0


def _costs(
    tensors: list[SourceTensor],
    candidates: tuple[GGMLType, ...],
    n_threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, dict[str, TypeCost]]:
    trials = {t.name: _Trial(t, candidates) for t in tensors}
    total, done = sum(t.nbytes for t in tensors), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    def slabs() -> Iterator[_Slab]:
        for t in tensors:
            for start in range(0, t.size, _SLAB_ELEMENTS):
                yield _Slab(t, start, min(start + _SLAB_ELEMENTS, t.size))

    def read(slab: _Slab, buffer: Bytes) -> Bytes:
        itemsize = slab.tensor.type.bytes_per_block
        data = buffer[: (slab.stop - slab.start) * itemsize]
        slab.tensor.read_into(slab.start * itemsize, data)
        return data

    def compute(slab: _Slab, data: Bytes, buffer: Bytes) -> Rows:
        shape = (slab.stop - slab.start,)
        values = Floats(data, ELEMENT_TYPES[slab.tensor.type.name], shape, data, slab.start)
        packed, decoded = buffer[: 4 * _SLAB_ELEMENTS], buffer[4 * _SLAB_ELEMENTS :]
        return trials[slab.tensor.name].rows(values, packed, decoded)

    stream(
        slabs(),
        read=read,
        compute=compute,
        take=lambda slab, rows: trials[slab.tensor.name].add(rows, slab.stop - slab.start),
        buffer_bytes=(_ITEM_BYTES * _SLAB_ELEMENTS, 8 * _SLAB_ELEMENTS),
        n_threads=n_threads,
        progress=advance,
    )
    return {name: trial.costs() for name, trial in trials.items()}


def _base(types: list[str]) -> str:
    """The type that most tensors have. Exceptions are possible from a block type only."""
    counts = Counter(types)
    blocks = {t.name for t in GGML_TYPES.values() if t.block_size > 1}
    of_blocks = [name for name, _ in counts.most_common() if name in blocks]
    if of_blocks:
        return of_blocks[0]
    return types[0] if len(counts) == 1 else GGML_TYPES[GGUFQuantType.Q8_0].name

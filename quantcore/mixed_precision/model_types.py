"""A type for each tensor of a model under a budget of bits per weight or bytes, as options for `quantize_model`.

The model is read slab by slab: each slab is quantized to every candidate type and decoded, and only the sums of
the errors are kept.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays, parallel
from quantcore._base.arrays import ELEMENT_TYPES, Floats
from quantcore._base.notebook import rows_table
from quantcore._base.text import bytes_text, quote
from quantcore.affine import passes
from quantcore.analysis.sums import ErrorSums, rows_of_pairs
from quantcore.conversion.file_types import name_of_pure
from quantcore.conversion.gguf_pipeline import PlannedTensor, cut_planned, slab_importance
from quantcore.conversion.gguf_source import take_tensors
from quantcore.conversion.options import SLAB_ELEMENTS
from quantcore.conversion.rules import is_quantizable, unweighted_model_type
from quantcore.conversion.type_plan import column_weights, take_imatrix
from quantcore.errors import InvalidValueError
from quantcore.files.streaming import Progress, Slab, cut, stream
from quantcore.ggml.formats import dequantize_blocks, quantize_blocks, supported_format
from quantcore.ggml.importance import Importance
from quantcore.ggml.types import GGML_TYPES, TYPES_BY_NAME, GGMLType, GGUFQuantType, ImatrixUse
from quantcore.gguf.imatrix import Imatrix
from quantcore.mixed_precision.budget import TensorSensitivity, TypeSuggestion, rank_sensitivity, suggest_types
from quantcore.mixed_precision.costs import DEFAULT_TYPES, TypeCost
from quantcore.mixed_precision.name_patterns import group_names
from quantcore.mixed_precision.weighted_errors import WeightedSums, sum_weighted
from quantcore.models.opening import open_model
from quantcore.models.tensors import MOST_ITEM_BYTES, READ_ELEMENTS, StoredTensor, ggml_type

__all__ = ["ModelSuggestion", "suggest_model_types"]

Bytes = NDArray[np.uint8]
Rows = dict[GGMLType, NDArray[np.float64]]


@dataclass(frozen=True, repr=False)
class ModelSuggestion:
    """The suggested type of each tensor of a model.

    Attributes
    ----------
    suggestion : TypeSuggestion
        The types of all tensors, including those that are always kept.
    sensitivities : tuple of TensorSensitivity
        The sensitivities of the tensors that have a choice, in the order in which a larger type pays off most.
    base : str
        The type for `quantize_model`; `tensor_types` are the exceptions.
    tensor_types : tuple of (regex, type)
        Together with `base` and `pure=True`, `quantize_model` gives exactly the types and bytes of the suggestion.
        A pattern stands for one name, or for the layers that share a kind and a type.
    sizes : dict of str to int
        The bytes of each tensor in its type.
    notices : tuple of str
        What the user should know of the importance matrix.
    """

    suggestion: TypeSuggestion
    sensitivities: tuple[TensorSensitivity, ...]
    base: str
    tensor_types: tuple[tuple[str, str], ...]
    sizes: dict[str, int]
    notices: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"ModelSuggestion(base={self.base}, {len(self.tensor_types)} exceptions, {self.suggestion})"

    def _repr_html_(self) -> str:
        types = self.suggestion.types
        rows = ((name, type_, bytes_text(self.sizes[name])) for name, type_ in types.items())
        return rows_table(repr(self), ("tensor", "type", "size"), rows, len(types), right=(2,))


def suggest_model_types(
    source: str | os.PathLike[str],
    bits_per_weight: float | None = None,
    types: Iterable[GGUFQuantType | str | int] = DEFAULT_TYPES,
    *,
    max_bytes: int | None = None,
    imatrix: Imatrix | str | os.PathLike[str] | None = None,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelSuggestion:
    """Choose a type for each tensor of a model so that the sum of the relative errors is small within a budget.

    Parameters
    ----------
    source : path
        A model of floats: a GGUF file; or safetensors: a file, a folder of shards with its index, or the index.
    bits_per_weight : float, optional
        The budget for all tensors together; those that `quantize_model` never quantizes count with their own size.
    types : iterable of GGUFQuantType, str or int
        The candidates, of all types. Those that need importance are only taken for tensors that have some.
    max_bytes : int, optional
        The budget in bytes; one of the two is given.
    imatrix : Imatrix or path, optional
        Importance of the input channels: it goes into the quantization, and weighs the squares of errors and values.
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
        candidate can hold a tensor; even the smallest types exceed the budget.
    OSError
        The file cannot be read.
    """
    matrix = take_imatrix(imatrix, (), ())
    take_type = unweighted_model_type if matrix is None else supported_format
    candidates = tuple(dict.fromkeys(take_type(t, "types") for t in arguments.entries(types, "types", "types")))
    parallel.check_threads(n_threads)
    with open_model(source) as model:
        tensors, _ = take_tensors(model)
        chosen = [t for t in tensors if _has_choice(t)]
        if not chosen:
            raise InvalidValueError(f"{model.label}: has no tensor that quantize would touch")
        notices = [] if matrix is None else list(matrix.notices)
        plan = [_plan(t, matrix, notices) for t in chosen]
        measured = _costs(plan, candidates, n_threads, progress)
        costs = {t.name: measured.get(t.name, {t.type: TypeCost(t.nbytes, 0.0)}) for t in tensors}
        size = sum(t.size for t in tensors)
    suggestion = suggest_types(costs, size, bits_per_weight, max_bytes=max_bytes)
    base = _base([suggestion.types[t.name] for t in chosen])
    exceptions = {t.name: suggestion.types[t.name] for t in chosen if suggestion.types[t.name] != base}
    others = [t.name for t in tensors if t.name not in exceptions]
    sizes = {name: costs[name][type_].nbytes for name, type_ in suggestion.types.items()}
    return ModelSuggestion(
        suggestion,
        rank_sensitivity(measured),
        name_of_pure(TYPES_BY_NAME[base]),
        group_names(exceptions, others),
        sizes,
        tuple(notices),
    )


class _Trial:
    """The error sums of one tensor in every candidate that can hold it so far."""

    def __init__(self, planned: PlannedTensor, candidates: Iterable[GGMLType]) -> None:
        tensor = planned.source
        self.name = f"tensor {quote(tensor.name)}"
        self.size = tensor.size
        self.sums: dict[GGMLType, ErrorSums | WeightedSums] = {
            fmt: ErrorSums() if planned.weights is None else WeightedSums()
            for fmt in candidates
            if tensor.shape[-1] % fmt.block_size == 0
            and (planned.weights is not None or not fmt.needs_imatrix_in_models)
        }

    def rows(self, values: Floats, packed: Bytes, decoded: Bytes, importance: Importance | None) -> Rows:
        """The error sums of a slab in each type that can hold it."""
        passes.refuse_not_finite(values, self.name, 1)
        floats = decoded[: 4 * values.size]
        back = Floats(floats, arrays.FLOAT32, values.shape, floats)
        rows: Rows = {}
        for fmt in tuple(self.sums):
            blocks = packed[: values.size // fmt.block_size * fmt.bytes_per_block]
            used = None if fmt.imatrix is ImatrixUse.IGNORED else importance
            try:
                quantize_blocks(values, fmt, blocks, 1, self.name, used)
            except InvalidValueError:  # a value is too large for it
                continue
            dequantize_blocks(blocks, fmt, floats, arrays.FLOAT32, 1)
            if importance is None:
                rows[fmt] = rows_of_pairs(values, back, first=values.first, n_threads=1, names=(self.name, self.name))
            else:
                rows[fmt] = sum_weighted(values, back, importance)
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


def _plan(tensor: StoredTensor, matrix: Imatrix | None, notices: list[str]) -> PlannedTensor:
    weights = None if matrix is None else column_weights(matrix, tensor.name, tensor, notices)
    return PlannedTensor(tensor, ggml_type(tensor), weights)


def _has_choice(tensor: StoredTensor) -> bool:
    if not is_quantizable(tensor.name, tensor.shape):
        return False
    if tensor.block_size > 1:
        raise InvalidValueError(
            f"tensor {quote(tensor.name)} is {tensor.type} already; suggest from the original model"
        )
    return tensor.type in ELEMENT_TYPES and tensor.size > 0


def _costs(
    plan: list[PlannedTensor],
    candidates: tuple[GGMLType, ...],
    n_threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, dict[str, TypeCost]]:
    trials = {p.source.name: _Trial(p, candidates) for p in plan}
    most = max([READ_ELEMENTS, *(_weighted_elements(p) for p in plan)])

    def compute(slab: Slab[PlannedTensor], data: Bytes, buffer: Bytes) -> Rows:
        source = slab.item.source
        values = Floats(data, ELEMENT_TYPES[source.type], (slab.size,), data, slab.start)
        return trials[source.name].rows(values, buffer[: 4 * most], buffer[4 * most :], slab_importance(slab))

    def take(slab: Slab[PlannedTensor], rows: Rows) -> None:
        trials[slab.item.source.name].add(rows, slab.size)

    stream(
        (slab for planned in plan for slab in _cut(planned)),
        read=lambda slab, buffer: slab.item.source.read(slab.start, slab.stop, buffer),
        compute=compute,
        take=take,
        buffer_bytes=(MOST_ITEM_BYTES * most, 8 * most),
        n_threads=n_threads,
        progress=Progress(sum(p.source.nbytes for p in plan), progress),
    )
    return {name: trial.costs() for name, trial in trials.items()}


def _cut(planned: PlannedTensor) -> Iterator[Slab[PlannedTensor]]:
    """Slabs in which the sums of errors are exact; with importance, whole rows."""
    return cut(planned, planned.source.size, READ_ELEMENTS) if planned.weights is None else cut_planned(planned)


def _weighted_elements(planned: PlannedTensor) -> int:
    """Elements of the largest slab of a tensor with importance."""
    return 0 if planned.weights is None else max(SLAB_ELEMENTS, planned.weights.shape[1])


def _base(types: list[str]) -> str:
    """The type of most tensors, which must be a block type: only then are exceptions possible."""
    counts = Counter(types)
    blocks = {t.name for t in GGML_TYPES.values() if t.block_size > 1}
    of_blocks = [name for name, _ in counts.most_common() if name in blocks]
    if of_blocks:
        return of_blocks[0]
    return types[0] if len(counts) == 1 else GGML_TYPES[GGUFQuantType.Q8_0].name

"""A whole model through the kernels into its files, in slabs of whole blocks of a tensor, 2 MiB of float32.

A tensor with importance weights is cut into whole rows, since its kernels weigh the errors of a row together.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arrays
from quantcore._base.arrays import ELEMENT_TYPES
from quantcore._base.text import quote
from quantcore.conversion.options import SLAB_ELEMENTS, ConversionOptions
from quantcore.errors import InvalidValueError
from quantcore.files.disk import OutputFile, OutputFiles
from quantcore.files.streaming import Progress, Slab, cut, stream
from quantcore.ggml.formats import SUPPORTED_TYPES, dequantize_blocks, quantize_blocks
from quantcore.ggml.importance import Importance
from quantcore.ggml.types import GGMLType
from quantcore.gguf.layout import MAX_ALIGNMENT, count_bytes
from quantcore.gguf.values import KeyValue
from quantcore.gguf.writer import GGUFWriter
from quantcore.models.tensors import StoredTensor, ggml_type

Bytes = NDArray[np.uint8]
_WITH_KERNELS = frozenset(int(t) for t in SUPPORTED_TYPES)


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor and the type that it will have.

    Attributes
    ----------
    source : StoredTensor
    target : GGMLType
    weights : ndarray of float32, shape (matrices, columns), optional
        Importance of the columns of each stacked matrix.
    """

    source: StoredTensor
    target: GGMLType
    weights: NDArray[np.float32] | None = None

    @property
    def source_type(self) -> GGMLType:
        """The type that the tensor has."""
        return ggml_type(self.source)

    @property
    def nbytes(self) -> int:
        """Bytes in the output."""
        return count_bytes(self.source.size, self.target)


Take = Callable[[Slab[PlannedTensor], Bytes], None]
"""Writes a converted slab; slabs come in the order of the plan."""


class Output(Protocol):
    """A file to write: its path, its tensors, and how its writer takes them."""

    @property
    def path(self) -> str | os.PathLike[str]:
        """Where it goes."""
        ...

    @property
    def plan(self) -> list[PlannedTensor]:
        """Its tensors."""
        ...

    def begin(self, file: OutputFile, options: ConversionOptions) -> Take:
        """Write what comes before the tensors."""
        ...


@dataclass(frozen=True, slots=True)
class OutputPart:
    """A GGUF file to write: its path, metadata and tensors."""

    path: str | os.PathLike[str]
    kvs: tuple[KeyValue, ...]
    plan: list[PlannedTensor]

    def begin(self, file: OutputFile, options: ConversionOptions) -> Take:
        """Write metadata and the table of tensors."""
        tensors = ((p.source.name, p.source.shape, p.target) for p in self.plan)
        writer = GGUFWriter(file, self.kvs, tensors, long_names=options.long_names, keeps_ones=options.keeps_ones)

        def take(slab: Slab[PlannedTensor], data: Bytes) -> None:
            writer.write(data)
            if slab.stop == slab.item.source.size:
                writer.end_tensor()

        return take


def check_plan(plan: list[PlannedTensor], *, allow_requantize: bool) -> None:
    """Refuse conversions that cannot be computed, before anything is written."""
    for planned in plan:
        name, source, target = quote(planned.source.name), planned.source_type, planned.target
        if source == target or source.name in ELEMENT_TYPES:
            continue
        if source.id not in _WITH_KERNELS:
            raise InvalidValueError(f"tensor {name}: no kernels to decode {source.name}")
        if not allow_requantize and planned.source.origin is None:
            raise InvalidValueError(
                f"tensor {name} is {source.name} already; --allow-requantize (allow_requantize=True) "
                f"converts it to {target.name} anyway, at a loss of quality"
            )


def write_model(
    parts: Sequence[Output],
    options: ConversionOptions,
    inputs: tuple[str | os.PathLike[str], ...],
    *,
    compute: Callable[[Slab[PlannedTensor], Bytes, Bytes], Bytes] | None = None,
    texts: Mapping[Path, bytes] | None = None,
) -> None:
    """Write the files of the planned tensors, all of them or none; `compute` is `convert_slab` or `copy_slab`.

    `texts` are files that go with them, which are put in place last.
    """
    planned_tensors = [planned for part in parts for planned in part.plan]
    # Rows with weights are read whole, however long they are.
    most = max([SLAB_ELEMENTS, *(p.weights.shape[1] for p in planned_tensors if p.weights is not None)])
    with OutputFiles(force=options.force, inputs=inputs) as files:
        takes = [part.begin(files.open(part.path), options) for part in parts]
        convert = compute or partial(convert_slab, is_refined=options.is_refined)
        stream(
            (
                (take, slab)
                for take, part in zip(takes, parts, strict=True)
                for planned in part.plan
                for slab in cut_planned(planned)
            ),
            read=lambda work, buffer: work[1].item.source.read(work[1].start, work[1].stop, buffer),
            compute=lambda work, data, buffer: convert(work[1], data, buffer),
            take=lambda work, data: work[0](work[1], data),
            # Elements take 8 bytes at most, but tensors of unknown types have their padding as well.
            buffer_bytes=(8 * most + 2 * MAX_ALIGNMENT, 8 * most),
            n_threads=options.n_threads,
            progress=Progress(sum(p.source.nbytes for p in planned_tensors), options.progress),
        )
        for path, text in (texts or {}).items():
            files.open(path).write(text)


def copy_slab(slab: Slab[PlannedTensor], data: Bytes, buffer: Bytes) -> Bytes:
    """The slab's bytes as they are, whatever they stand for."""
    return data


def cut_planned(planned: PlannedTensor) -> Iterator[Slab[PlannedTensor]]:
    """Slabs of a tensor; with weights, each lies in one matrix and has whole rows."""
    size = planned.source.size
    if planned.weights is None:
        yield from cut(planned, size, SLAB_ELEMENTS)
        return
    n_matrices, columns = planned.weights.shape
    elements = max(1, SLAB_ELEMENTS // columns) * columns
    for first in range(0, size, size // n_matrices):
        for slab in cut(planned, size // n_matrices, elements):
            yield Slab(planned, first + slab.start, first + slab.stop)


def convert_slab(slab: Slab[PlannedTensor], data: Bytes, buffer: Bytes, *, is_refined: bool = False) -> Bytes:
    """The slab's bytes in the target type. Kept tensors pass through their kernel too, which finds NaN and inf."""
    source, target = slab.item.source_type, slab.item.target
    name = f"tensor {quote(slab.item.source.name)}"
    if source == target and source.name in ELEMENT_TYPES and _is_buffer(slab.item.source):
        floats = arrays.Floats(data, ELEMENT_TYPES[source.name], (slab.size,), data, slab.start)
        _check_mask(floats.values(0, slab.size), name, slab.start)
        return data
    after = buffer[: slab.size // target.block_size * target.bytes_per_block]
    if source.name in ELEMENT_TYPES and target.id in _WITH_KERNELS:
        floats = arrays.Floats(data, ELEMENT_TYPES[source.name], (slab.size,), data, slab.start)
        quantize_blocks(floats, target, after, 1, name, slab_importance(slab), is_refined)
        return after
    if source == target and source.id not in _WITH_KERNELS:
        if source.name == "F64":
            values = data.view(np.float64)
            _refuse_first(~np.isfinite(values), values, name, slab.start)
        return data
    decoded = buffer[buffer.size // 2 :][: 4 * slab.size]
    bad = dequantize_blocks(data, source, decoded, arrays.FLOAT32, 1)
    if bad >= 0:
        block = slab.start // source.block_size + bad
        raise InvalidValueError(f"{name}: block {block} of {source.name} has a scale that is inf or NaN")
    if source == target:
        return data
    if target.name == "F32":
        return decoded
    floats = arrays.Floats(decoded, arrays.FLOAT32, (slab.size,), decoded, slab.start)
    quantize_blocks(floats, target, after, 1, name, slab_importance(slab), is_refined)
    return after


def slab_importance(slab: Slab[PlannedTensor]) -> Importance | None:
    """The weights of a slab's rows."""
    weights = slab.item.weights
    if weights is None:
        return None
    n_matrices, columns = weights.shape
    matrix = slab.start // (slab.item.source.size // n_matrices)
    return Importance(weights[matrix : matrix + 1], slab.size // columns)


def _is_buffer(tensor: StoredTensor) -> bool:
    """Whether a tensor is no parameter by its name, such as a mask. GPT-2 calls its masks `bias`: matrices."""
    return not tensor.name.endswith("weight") and (not tensor.name.endswith("bias") or len(tensor.shape) > 1)


def _check_mask(values: NDArray[np.floating], name: str, first: int) -> None:
    """Refuse NaN and inf, but not the -inf with which masks and biases of positions exclude."""
    _refuse_first(~(values < np.inf), values, name, first)


def _refuse_first(is_bad: NDArray[np.bool_], values: NDArray[np.floating], name: str, first: int) -> None:
    if is_bad.any():
        bad = int(np.argmax(is_bad))
        raise InvalidValueError(f"{name}: must be finite, got {values[bad]} at flat index {first + bad}")

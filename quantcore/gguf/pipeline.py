"""A whole model through the kernels: reading, computing and writing overlap, slab by slab.

A slab is a run of whole blocks of one tensor, about 8 MiB of float32. While one is computed, the next is read and the
last two are written, each in buffers of its own, so that memory does not grow with the model or its largest tensor.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays
from quantcore._files import OutputFile
from quantcore.errors import InvalidValueError
from quantcore.formats import SUPPORTED_TYPES, dequantize_blocks, quantize_blocks
from quantcore.ggml_types import GGMLType
from quantcore.gguf.layout import KeyValue
from quantcore.gguf.sources import SourceTensor
from quantcore.gguf.writer import GGUFWriter

SLAB_ELEMENTS = 1 << 21
_N_SLOTS = 4
_ELEMENT_TYPES = {
    "F32": _arrays.FLOAT32,
    "F16": _arrays.FLOAT16,
    "BF16": _arrays.BFLOAT16,
    "F64": _arrays.FLOAT64,
}
_WITH_KERNELS = frozenset(int(t) for t in SUPPORTED_TYPES)


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor and the type that it is to have."""

    source: SourceTensor
    target: GGMLType

    @property
    def nbytes(self) -> int:
        """Bytes in the output."""
        return self.source.size // self.target.block_size * self.target.bytes_per_block


@dataclass(frozen=True, slots=True)
class _Slab:
    """Elements start to stop of a tensor, and the buffers for its bytes before and after."""

    tensor: PlannedTensor
    start: int
    stop: int
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]

    @property
    def is_last(self) -> bool:
        return self.stop == self.tensor.source.size


def check_plan(plan: list[PlannedTensor], *, allow_requantize: bool) -> None:
    """Refuse what cannot be computed, before anything is written."""
    for planned in plan:
        source, target = planned.source, planned.target
        if source.type == target or source.type.name in _ELEMENT_TYPES:
            continue
        if source.type.id not in _WITH_KERNELS:
            raise InvalidValueError(f"tensor {source.name!r}: no kernels to decode {source.type.name}")
        if not allow_requantize:
            raise InvalidValueError(
                f"tensor {source.name!r} is {source.type.name} already; --allow-requantize (allow_requantize=True) "
                f"makes it {target.name} all the same, at a loss of quality"
            )


def write_model(
    path: str | os.PathLike[str],
    kvs: tuple[KeyValue, ...],
    plan: list[PlannedTensor],
    *,
    force: bool,
    inputs: tuple[str | os.PathLike[str], ...],
    n_threads: int | None,
    progress: Callable[[int], None],
) -> None:
    """Write a GGUF file of the planned tensors. `progress` gets the numbers of input bytes as they are done."""
    with OutputFile(path, force=force, inputs=inputs) as file:
        writer = GGUFWriter(file, kvs, ((p.source.name, p.source.shape, p.target) for p in plan))
        with ThreadPoolExecutor(1, "quantcore-read") as reading, ThreadPoolExecutor(1, "quantcore-write") as writing:
            written: list[Future[None]] = []
            for slab, data in _read_ahead(_slabs(plan), reading):
                while len(written) > 1:
                    written.pop(0).result()
                written.append(writing.submit(_write, writer, _computed(slab, data, n_threads), slab.is_last))
                progress(data.size)
            for future in written:
                future.result()


def _slabs(plan: list[PlannedTensor]) -> Iterator[_Slab]:
    """All slabs in order. Buffers come round again after `_N_SLOTS`: one read, one computed, two written at a time."""
    slots = [(np.empty(8 * SLAB_ELEMENTS, np.uint8), np.empty(4 * SLAB_ELEMENTS, np.uint8)) for _ in range(_N_SLOTS)]
    count = 0
    for tensor in plan:
        for start in range(0, tensor.source.size, SLAB_ELEMENTS):
            before, after = slots[count % _N_SLOTS]
            yield _Slab(tensor, start, min(start + SLAB_ELEMENTS, tensor.source.size), before, after)
            count += 1


def _read_ahead(slabs: Iterator[_Slab], reading: ThreadPoolExecutor) -> Iterator[tuple[_Slab, NDArray[np.uint8]]]:
    """Each slab with its bytes; the next one is being read meanwhile."""
    pending: tuple[_Slab, Future[NDArray[np.uint8]]] | None = None
    for slab in slabs:
        upcoming = slab, reading.submit(_read, slab)
        if pending is not None:
            yield pending[0], pending[1].result()
        pending = upcoming
    if pending is not None:
        yield pending[0], pending[1].result()


def _read(slab: _Slab) -> NDArray[np.uint8]:
    start, stop = (_packed_size(slab.tensor.source.type, n) for n in (slab.start, slab.stop))
    data = slab.before[: stop - start]
    slab.tensor.source.read_into(start, data)
    return data


def _write(writer: GGUFWriter, data: NDArray[np.uint8], is_last: bool) -> None:
    writer.write(data)
    if is_last:
        writer.end_tensor()


def _computed(slab: _Slab, data: NDArray[np.uint8], n_threads: int | None) -> NDArray[np.uint8]:
    """The slab's bytes in the target type. Kept tensors go through their kernel too, which finds NaN and inf."""
    source, target = slab.tensor.source, slab.tensor.target
    name = f"tensor {source.name!r}"
    after = slab.after[: _packed_size(target, slab.stop - slab.start)]
    if source.type.name in _ELEMENT_TYPES and target.id in _WITH_KERNELS:
        shape = (slab.stop - slab.start,)
        floats = _arrays.Floats(data, _ELEMENT_TYPES[source.type.name], shape, data, slab.start)
        quantize_blocks(floats, target, after, n_threads, name)
        return after
    if source.type == target and source.type.id not in _WITH_KERNELS:
        if source.type.name == "F64":
            _check_finite(data.view(np.float64), name, slab.start)
        return data
    decoded = np.empty(slab.stop - slab.start, np.float32)
    bad = dequantize_blocks(data, source.type, _arrays.bytes_of(decoded), _arrays.FLOAT32, n_threads)
    if bad >= 0:
        block = slab.start // source.type.block_size + bad
        raise InvalidValueError(f"{name}: block {block} of {source.type.name} has a scale that is inf or NaN")
    if source.type == target:
        return data
    floats = _arrays.Floats(_arrays.bytes_of(decoded), _arrays.FLOAT32, decoded.shape, decoded, slab.start)
    quantize_blocks(floats, target, after, n_threads, name)
    return after


def _check_finite(values: NDArray[np.float64], name: str, first: int) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise InvalidValueError(f"{name}: must be finite, got {values[bad[0]]} at flat index {first + int(bad[0])}")


def _packed_size(type_: GGMLType, n_elements: int) -> int:
    return n_elements // type_.block_size * type_.bytes_per_block

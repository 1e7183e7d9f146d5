"""A whole model through the kernels into a GGUF file, in slabs of whole blocks of a tensor, 2 MiB of float32."""

import os
from collections.abc import Callable, Iterator
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
from quantcore.streaming import stream

SLAB_ELEMENTS = 1 << 19
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
    """Elements start to stop of a tensor."""

    tensor: PlannedTensor
    start: int
    stop: int


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

        def take(slab: _Slab, data: NDArray[np.uint8]) -> None:
            writer.write(data)
            if slab.stop == slab.tensor.source.size:
                writer.end_tensor()

        stream(
            _slabs(plan),
            read=_read,
            compute=_computed,
            take=take,
            buffer_bytes=(8 * SLAB_ELEMENTS, 8 * SLAB_ELEMENTS),
            n_threads=n_threads,
            progress=progress,
        )


def _slabs(plan: list[PlannedTensor]) -> Iterator[_Slab]:
    for tensor in plan:
        for start in range(0, tensor.source.size, SLAB_ELEMENTS):
            yield _Slab(tensor, start, min(start + SLAB_ELEMENTS, tensor.source.size))


def _read(slab: _Slab, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    start, stop = (_packed_size(slab.tensor.source.type, n) for n in (slab.start, slab.stop))
    data = buffer[: stop - start]
    slab.tensor.source.read_into(start, data)
    return data


def _computed(slab: _Slab, data: NDArray[np.uint8], buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The slab's bytes in the target type. Kept tensors go through their kernel too, which finds NaN and inf."""
    source, target = slab.tensor.source, slab.tensor.target
    name = f"tensor {source.name!r}"
    after = buffer[: _packed_size(target, slab.stop - slab.start)]
    if source.type.name in _ELEMENT_TYPES and target.id in _WITH_KERNELS:
        shape = (slab.stop - slab.start,)
        floats = _arrays.Floats(data, _ELEMENT_TYPES[source.type.name], shape, data, slab.start)
        quantize_blocks(floats, target, after, 1, name)
        return after
    if source.type == target and source.type.id not in _WITH_KERNELS:
        if source.type.name == "F64":
            _check_finite(data.view(np.float64), name, slab.start)
        return data
    decoded = buffer[4 * SLAB_ELEMENTS :][: 4 * (slab.stop - slab.start)]
    bad = dequantize_blocks(data, source.type, decoded, _arrays.FLOAT32, 1)
    if bad >= 0:
        block = slab.start // source.type.block_size + bad
        raise InvalidValueError(f"{name}: block {block} of {source.type.name} has a scale that is inf or NaN")
    if source.type == target:
        return data
    if target.name == "F32":
        return decoded
    floats = _arrays.Floats(decoded, _arrays.FLOAT32, (slab.stop - slab.start,), decoded, slab.start)
    quantize_blocks(floats, target, after, 1, name)
    return after


def _check_finite(values: NDArray[np.float64], name: str, first: int) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise InvalidValueError(f"{name}: must be finite, got {values[bad[0]]} at flat index {first + int(bad[0])}")


def _packed_size(type_: GGMLType, n_elements: int) -> int:
    return n_elements // type_.block_size * type_.bytes_per_block

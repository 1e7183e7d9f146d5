"""Jobs for single tensors of a checkpoint: keep, or quantize to bitsandbytes' layout.

A job lists the entries that are written for its tensor, converts slabs of its source into slabs of the result, and
returns the remaining entries at the end.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arrays
from quantcore._base.arrays import ELEMENT_TYPES
from quantcore._base.text import quote
from quantcore.blockwise.bitsandbytes import STATE_PREFIX, NestedState, PackedState
from quantcore.blockwise.codebooks import CODEBOOKS
from quantcore.blockwise.quantize import DOUBLE_QUANT_BLOCK_SIZE, dynamic_scales, quantize_into
from quantcore.conversion.options import SLAB_ELEMENTS
from quantcore.errors import InvalidValueError
from quantcore.models.decoded_checkpoint import DecodedCheckpoint
from quantcore.safetensors.reader import ITEM_BITS, SafetensorsInfo
from quantcore.safetensors.writer import SafetensorsWriter, TensorSpec

_SAFETENSORS_NAMES = {"float32": "F32", "uint8": "U8"}
_LONGEST_FLOAT = -1.2345678901234567e-100


class Job(ABC):
    """The job for one tensor; `source` is read slab by slab."""

    source: SafetensorsInfo

    @property
    @abstractmethod
    def target_type(self) -> str:
        """The type of the result, for the report."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""

    @property
    @abstractmethod
    def slab_bytes(self) -> int:
        """Bytes of the source in one slab."""

    @abstractmethod
    def specs(self) -> list[TensorSpec]:
        """The entries that are written; the first one consists of the converted slabs."""

    def read(self, checkpoint: DecodedCheckpoint, start: int, data: NDArray[np.uint8]) -> None:
        """Fill `data` with the slab that starts at byte `start` of the source."""
        checkpoint.read_into(self.source, start, data)

    def write(self, writer: SafetensorsWriter, start: int, data: NDArray[np.uint8]) -> None:
        """Write the result of the slab that starts at byte `start` of the source."""
        writer.write(self.source.name, self.offset(start), data)

    @abstractmethod
    def offset(self, start: int) -> int:
        """The offset in the result of the slab that starts at byte `start` of the source."""

    @abstractmethod
    def compute(
        self, start: int, data: NDArray[np.uint8], buffer: NDArray[np.uint8], n_threads: int | None
    ) -> NDArray[np.uint8]:
        """The result of a slab: its own bytes, or a part of `buffer`."""

    def rest(self) -> dict[str, NDArray[np.generic]]:
        """The other entries, once all slabs are computed."""
        return {}


@dataclass
class KeptTensor(Job):
    """A tensor that is kept as it is, whatever its values are: masks hold infinities."""

    source: SafetensorsInfo

    slab_bytes = 4 * SLAB_ELEMENTS

    @property
    def target_type(self) -> str:
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def specs(self) -> list[TensorSpec]:
        return [TensorSpec(self.source.name, self.source.dtype, self.source.shape)]

    def offset(self, start: int) -> int:
        return start

    def compute(
        self, start: int, data: NDArray[np.uint8], buffer: NDArray[np.uint8], n_threads: int | None
    ) -> NDArray[np.uint8]:
        return data


@dataclass
class QuantizedWeight(Job):
    """A float weight that is quantized to packed codes and their state."""

    source: SafetensorsInfo
    quant_type: str
    block_size: int
    is_double: bool
    storage: str = "U8"
    _scales: NDArray[np.float32] = field(init=False)
    _state_bytes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._scales = np.zeros(-(-self._size // self.block_size), np.float32)
        if (n_bytes := (self._size + 1) // 2) % (ITEM_BITS[self.storage] // 8):
            raise InvalidValueError(
                f"quant_storage: the {n_bytes} bytes of tensor {quote(self.source.name)} are not whole {self.storage}s"
            )

    @property
    def target_type(self) -> str:
        return self.quant_type.upper()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def slab_bytes(self) -> int:
        return SLAB_ELEMENTS * self._itemsize

    def specs(self) -> list[TensorSpec]:
        # The offset in the JSON is only known at the end, so room for the longest one is reserved.
        entries = self._entries(np.empty((self._size + 1) // 2, np.uint8), offset=_LONGEST_FLOAT)
        self._state_bytes = next(array.size for name, array in entries.items() if STATE_PREFIX in name)
        specs = [TensorSpec(n, _SAFETENSORS_NAMES[a.dtype.name], a.shape) for n, a in entries.items()]
        itemsize = ITEM_BITS[self.storage] // 8
        return [TensorSpec(self.source.name, self.storage, (specs[0].nbytes // itemsize, 1)), *specs[1:]]

    def offset(self, start: int) -> int:
        return start // self._itemsize // 2

    def compute(
        self, start: int, data: NDArray[np.uint8], buffer: NDArray[np.uint8], n_threads: int | None
    ) -> NDArray[np.uint8]:
        first = start // self._itemsize
        count = data.size // self._itemsize
        source = arrays.Floats(data, ELEMENT_TYPES[self.source.dtype], (count,), data, first)
        packed = buffer[: (count + 1) // 2]
        scales = self._scales[first // self.block_size :]
        name = f"tensor {quote(self.source.name)}"
        quantize_into(source, CODEBOOKS[self.quant_type], self.block_size, scales, packed, n_threads, name)
        return packed

    def rest(self) -> dict[str, NDArray[np.generic]]:
        entries = self._entries(np.empty(0, np.uint8), offset=None)
        del entries[self.source.name]
        return entries

    @property
    def _size(self) -> int:
        return self.source.nbytes // self._itemsize

    @property
    def _itemsize(self) -> int:
        return arrays.ITEMSIZES[ELEMENT_TYPES[self.source.dtype]]

    def _entries(self, data: NDArray[np.uint8], *, offset: float | None) -> dict[str, NDArray[np.generic]]:
        """All entries; with an `offset` given, placeholders of the same sizes."""
        absmax: NDArray[np.generic] = self._scales
        nested = None
        if self.is_double:
            # One thread suffices: the slabs take far longer.
            absmax, super_scales, mean = dynamic_scales(self._scales, 1)
            nested = NestedState(super_scales, mean if offset is None else offset, DOUBLE_QUANT_BLOCK_SIZE, "dynamic")
        # What bitsandbytes is to decode to; it has no float64.
        dtype = arrays.DTYPE_NAMES[ELEMENT_TYPES["F32" if self.source.dtype == "F64" else self.source.dtype]]
        state = PackedState(data, absmax, self.shape, self.block_size, self.quant_type, dtype, nested)
        return state.entries(self.source.name, state_bytes=self._state_bytes)

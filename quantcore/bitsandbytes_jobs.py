"""What is done to one tensor of a checkpoint: kept, quantized to bitsandbytes' layout, or decoded from it.

A job says what is written for its tensor, turns slabs of its source into slabs of its result, and in the end gives what
is known only then.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays
from quantcore.bitsandbytes_layout import STATE_PREFIX, NestedState, PackedState
from quantcore.blockwise import DOUBLE_QUANT_BLOCK_SIZE, decode_into, dynamic_scales, quantize_into
from quantcore.codebooks import CODEBOOKS
from quantcore.formats import quantize_blocks, supported_format
from quantcore.safetensors import SafetensorsInfo
from quantcore.safetensors_writer import TensorSpec

SLAB_ELEMENTS = 1 << 19  # a multiple of every block
ELEMENT_TYPES = {
    "F32": _arrays.FLOAT32,
    "F16": _arrays.FLOAT16,
    "BF16": _arrays.BFLOAT16,
    "F64": _arrays.FLOAT64,
}
"""Element types of the float dtypes of safetensors."""
DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float32"}
"""What bitsandbytes is to decode to."""
_FLOAT_FORMATS = {name: supported_format(name) for name in ("F32", "F16", "BF16")}
_SAFETENSORS_NAMES = {"float32": "F32", "uint8": "U8"}
_LONGEST_FLOAT = -1.2345678901234567e-100


class Job(ABC):
    """One tensor: `source` is what is read, slab by slab."""

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
        """What is written; the first one is made of the slabs."""

    @abstractmethod
    def offset(self, start: int) -> int:
        """Where in the result the slab belongs that starts at byte `start` of the source."""

    @abstractmethod
    def compute(
        self, start: int, data: NDArray[np.uint8], buffer: NDArray[np.uint8], n_threads: int | None
    ) -> NDArray[np.uint8]:
        """The result of a slab: its bytes as they are, or a part of `buffer`."""

    def rest(self) -> dict[str, NDArray[np.generic]]:
        """The other entries, once all slabs are computed."""
        return {}


@dataclass
class KeptTensor(Job):
    """A tensor that is copied."""

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
        fmt = _FLOAT_FORMATS.get(self.source.dtype)
        if fmt is None:
            return data
        # Through the kernel of the type itself, which finds NaN and inf.
        count = data.size // fmt.bytes_per_block
        source = _arrays.Floats(data, ELEMENT_TYPES[fmt.name], (count,), data, start // fmt.bytes_per_block)
        quantize_blocks(source, fmt, buffer[: data.size], n_threads, f"tensor {self.source.name!r}")
        return buffer[: data.size]


@dataclass
class QuantizedWeight(Job):
    """A float weight that becomes packed codes and their state."""

    source: SafetensorsInfo
    quant_type: str
    block_size: int
    is_double: bool
    _scales: NDArray[np.float32] = field(init=False)
    _state_bytes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._scales = np.zeros(-(-self._size // self.block_size), np.float32)

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
        # The offset in the JSON is only known in the end: room for the longest one is kept.
        entries = self._entries(np.empty((self._size + 1) // 2, np.uint8), offset=_LONGEST_FLOAT)
        self._state_bytes = next(array.size for name, array in entries.items() if STATE_PREFIX in name)
        return [TensorSpec(n, _SAFETENSORS_NAMES[a.dtype.name], a.shape) for n, a in entries.items()]

    def offset(self, start: int) -> int:
        return start // self._itemsize // 2

    def compute(
        self, start: int, data: NDArray[np.uint8], buffer: NDArray[np.uint8], n_threads: int | None
    ) -> NDArray[np.uint8]:
        first = start // self._itemsize
        count = data.size // self._itemsize
        source = _arrays.Floats(data, ELEMENT_TYPES[self.source.dtype], (count,), data, first)
        packed = buffer[: (count + 1) // 2]
        scales = self._scales[first // self.block_size :]
        name = f"tensor {self.source.name!r}"
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
        return _arrays.ITEMSIZES[ELEMENT_TYPES[self.source.dtype]]

    def _entries(self, data: NDArray[np.uint8], *, offset: float | None) -> dict[str, NDArray[np.generic]]:
        """All entries; with an `offset` given, those of placeholders of the same sizes."""
        absmax: NDArray[np.generic] = self._scales
        nested = None
        if self.is_double:
            # One thread will do: the slabs take far longer.
            absmax, super_scales, mean = dynamic_scales(self._scales, 1)
            nested = NestedState(super_scales, mean if offset is None else offset, DOUBLE_QUANT_BLOCK_SIZE, "dynamic")
        dtype = DTYPE_NAMES[self.source.dtype]
        state = PackedState(data, absmax, self.shape, self.block_size, self.quant_type, dtype, nested)
        return state.entries(self.source.name, state_bytes=self._state_bytes)


@dataclass
class DecodedWeight(Job):
    """Packed codes that become floats again."""

    source: SafetensorsInfo
    state: PackedState
    scales: NDArray[np.float32]
    dtype: str

    slab_bytes = SLAB_ELEMENTS // 2

    @property
    def target_type(self) -> str:
        return self.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.state.shape

    def specs(self) -> list[TensorSpec]:
        return [TensorSpec(self.source.name, self.dtype, self.shape)]

    def offset(self, start: int) -> int:
        return 2 * start * _arrays.ITEMSIZES[ELEMENT_TYPES[self.dtype]]

    def compute(
        self, start: int, data: NDArray[np.uint8], buffer: NDArray[np.uint8], n_threads: int | None
    ) -> NDArray[np.uint8]:
        element_type = ELEMENT_TYPES[self.dtype]
        itemsize = _arrays.ITEMSIZES[element_type]
        first = 2 * start
        size = self.specs()[0].nbytes // itemsize
        out = buffer[: min(2 * data.size, size - first) * itemsize]
        scales = self.scales[first // self.state.block_size :]
        decode_into(data, scales, self.state.block_size, self.state.quant_type, out, element_type, n_threads)
        return out

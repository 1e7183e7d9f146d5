"""The tensors of an open model: where their bytes are, and how they become floats, slab by slab.

Floats, integers and the blocks of every ggml type that has kernels lie in a file as they are (`StoredTensor`); other
weights lie there as codes with scales, and are decoded while they are read (`CodedTensor`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore._base.arrays import ELEMENT_TYPES, Floats
from quantcore._base.records import shown
from quantcore._base.text import quote
from quantcore.errors import InvalidValueError
from quantcore.files.streaming import cut
from quantcore.ggml.formats import SUPPORTED_TYPES, dequantize_blocks
from quantcore.ggml.types import GGML_TYPES, GGMLType
from quantcore.models.decoders import Decoder

__all__ = ["MOST_ITEM_BYTES", "READ_ELEMENTS", "CodedTensor", "ModelTensor", "Origin", "StoredTensor", "ggml_type"]

READ_ELEMENTS = 1 << 18
"""Elements of a tensor whose values are read at a time."""
"""Elements to read at a time: a multiple of every block, and of the chunks in which errors are summed."""
MOST_ITEM_BYTES = 8
"""Bytes that an element takes in a file, at most."""

Bytes = NDArray[np.uint8]
_WITH_KERNELS = {GGML_TYPES[t].name for t in SUPPORTED_TYPES}
_INTEGERS = {
    "BOOL": np.uint8, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
    "I32": np.int32, "U64": np.uint64, "I64": np.int64,
}  # fmt: skip


@dataclass(frozen=True)
class ModelTensor(ABC):
    """A tensor of an open model.

    Attributes
    ----------
    name : str
    shape : tuple of int
    type : str
        As the file calls it; of codes with scales what they are, such as "NF4" or "F8_E4M3".
    nbytes : int
        Bytes in the file, scales included.
    read_into : (start, buffer) -> None
        Fills a buffer with the tensor's bytes from byte `start` on; of codes with scales, with the floats.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int
    read_into: Callable[[int, Bytes], None] = field(repr=False)

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def is_integer(self) -> bool:
        """Whether it holds whole numbers, such as ids, rather than weights."""
        return False

    @property
    def block_size(self) -> int:
        """Elements that share a scale; 1 if none do."""
        return 1

    def values(self, start: int = 0, stop: int | None = None, *, n_threads: int | None = None) -> NDArray[np.floating]:
        """Decode elements `start` to `stop` of the flattened tensor.

        Parameters
        ----------
        start, stop : int
            Whole blocks: multiples of `block_size`, or the end (None).
        n_threads : int, optional
            Threads to use; None: `get_num_threads()`.

        Returns
        -------
        ndarray, shape (stop - start,)
            float64 for F64 and for integers, else float32.

        Raises
        ------
        ValueError
            The range is not one of whole blocks within the tensor; the type has no kernels; a scale is inf or NaN; the
            file ends before (FileFormatError).
        """
        self.check()
        stop = self.size if stop is None else arguments.integer(stop, "stop", 0, self.size)
        start = arguments.integer(start, "start", 0, stop)
        for name, end in (("start", start), ("stop", stop)):
            if end % self.block_size and end != self.size:
                raise InvalidValueError(f"{name}: expected a multiple of {self.block_size} elements, got {end}")
        if start == stop:
            return np.empty(0, np.float32)
        data = self.read(start, stop, np.empty(self.packed_bytes(start, stop), np.uint8))
        values = self.decode(data, start, np.empty(4 * (stop - start), np.uint8), n_threads)
        return values.values(0, values.size).astype(
            np.float64 if values.element_type == arrays.FLOAT64 else np.float32, copy=False
        )

    def slabs(self, *, n_threads: int | None = None) -> Iterator[NDArray[np.floating]]:
        """The values of one part of some megabytes after the other, as `values` gives them."""
        for slab in cut(self, self.size, READ_ELEMENTS):
            yield self.values(slab.start, slab.stop, n_threads=n_threads)

    @abstractmethod
    def check(self) -> None:
        """Refuse a type that cannot be decoded."""

    def read(self, start: int, stop: int, buffer: Bytes) -> Bytes:
        """What the file holds of elements start to stop (whole blocks, or the end), in the head of a buffer."""
        data = buffer[: self.packed_bytes(start, stop)]
        self.read_into(self.packed_bytes(0, start), data)
        return data

    @abstractmethod
    def packed_bytes(self, start: int, stop: int) -> int:
        """How many bytes `read` reads."""

    @abstractmethod
    def decode(self, data: Bytes, start: int, buffer: Bytes, n_threads: int | None) -> Floats:
        """The values of what was read from element `start` on; `buffer` takes 4 bytes for each, if need be."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a tensor is in the file, if it is decoded while it is read.

    Attributes
    ----------
    type : str
    bits : float
        Bits in the file for each value, scales included.
    """

    type: str
    bits: float


@shown()
@dataclass(frozen=True, repr=False)
class StoredTensor(ModelTensor):
    """A tensor as it lies in a file, or as if it did: floats, integers, or blocks of ggml.

    Attributes
    ----------
    file : str
        The path, for messages.
    ggml : GGMLType, optional
        The type in a GGUF file; None: GGUF has no such type.
    origin : Origin, optional
        What it is in the file, if it is decoded while it is read.
    factors : ndarray of float32, shape (n,), optional
        What `decode` multiplies the values by: all, or those of each of n parts of one size.
    """

    file: str
    ggml: GGMLType | None = field(repr=False)
    origin: Origin | None = None
    factors: NDArray[np.float32] | None = field(default=None, compare=False)

    @property
    def file_type(self) -> str:
        """The type in the file."""
        return self.type if self.origin is None else self.origin.type

    @property
    def file_bytes(self) -> int:
        """Bytes in the file."""
        return self.nbytes if self.origin is None else round(self.size * self.origin.bits / 8)

    @property
    def is_integer(self) -> bool:
        """Whether it holds whole numbers, such as ids, rather than weights."""
        return self.type in _INTEGERS

    @property
    def block_size(self) -> int:
        """Elements that share a scale; 1 if none do."""
        return 1 if self.ggml is None else self.ggml.block_size

    def check(self) -> None:
        """Refuse a type that cannot be decoded."""
        if self.type not in ELEMENT_TYPES and not self.is_integer and self.type not in _WITH_KERNELS:
            raise InvalidValueError(f"{self.file}: tensor {quote(self.name)}: no kernels to decode {self.type}")

    def packed_bytes(self, start: int, stop: int) -> int:
        """How many bytes `read` reads."""
        # The difference of two offsets, so that the parts of a type with one block for the whole tensor fit together.
        return stop * self.nbytes // self.size - start * self.nbytes // self.size

    def decode(self, data: Bytes, start: int, buffer: Bytes, n_threads: int | None) -> Floats:
        """The values of what was read from element `start` on; `buffer` takes 4 bytes for each, if need be."""
        values = self._decode(data, start, buffer, n_threads)
        if self.factors is None:
            return values
        is_double = values.element_type == arrays.FLOAT64
        floats: NDArray[np.floating] = values.values(0, values.size).astype(
            np.float64 if is_double else np.float32, copy=False
        )
        part = np.arange(start, start + values.size) // (self.size // self.factors.size)
        with np.errstate(over="ignore", invalid="ignore"):
            products = floats * self.factors[part]
        bad = np.flatnonzero(np.isfinite(floats) & ~np.isfinite(products))
        if bad.size:
            problem = f"value {start + bad[0]} times its scale is too large for {products.dtype}"
            raise InvalidValueError(f"{self.file}: tensor {quote(self.name)}: {problem}")
        return _flat(products.view(np.uint8), arrays.FLOAT64 if is_double else arrays.FLOAT32, start)

    def _decode(self, data: Bytes, start: int, buffer: Bytes, n_threads: int | None) -> Floats:
        if self.type in ELEMENT_TYPES:
            return _flat(data, ELEMENT_TYPES[self.type], start)
        if self.is_integer:
            return _flat(data.view(_INTEGERS[self.type]).astype(np.float64).view(np.uint8), arrays.FLOAT64, start)
        fmt = ggml_type(self)
        values = buffer[: data.size // fmt.bytes_per_block * fmt.block_size * 4]
        bad = dequantize_blocks(data, fmt, values, arrays.FLOAT32, n_threads)
        if bad >= 0:
            block = start // fmt.block_size + bad
            raise InvalidValueError(
                f"{self.file}: tensor {quote(self.name)}: block {block} of {fmt.name} has a scale that is inf or NaN"
            )
        return _flat(values, arrays.FLOAT32, start)


def ggml_type(tensor: StoredTensor) -> GGMLType:
    """The type of a tensor that can be in a GGUF file."""
    assert tensor.ggml is not None
    return tensor.ggml


@shown()
@dataclass(frozen=True, repr=False)
class CodedTensor(ModelTensor):
    """Codes with scales, decoded to float32 while they are read."""

    decoder: Decoder = field(repr=False)

    @property
    def block_size(self) -> int:
        """Elements that share a scale, if they are neighbours."""
        return self.decoder.block_size

    def check(self) -> None:
        """Nothing: codes and scales have been checked when the model was opened."""

    def packed_bytes(self, start: int, stop: int) -> int:
        """How many bytes `read` reads."""
        return 4 * (stop - start)

    def decode(self, data: Bytes, start: int, buffer: Bytes, n_threads: int | None) -> Floats:
        """The values of what was read from element `start` on."""
        return _flat(data, arrays.FLOAT32, start)


def _flat(data: Bytes, element_type: int, start: int) -> Floats:
    size = data.size // arrays.ITEMSIZES[element_type]
    return Floats(data, element_type, (size,), data, start)

"""Quantized tensors as records: the bytes of a block format together with the shape that they came from.

One class serves all formats; each has a subclass of its name, made from its row: `Q4_0`, `Q4_K`, `IQ4_XS`, ...
"""

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quantcore._base import arguments, arrays
from quantcore._base.records import Quantized, build, reduce, size_of, tabled
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.ggml.formats import dequantize, quantize_blocks, supported_format, take_effort
from quantcore.ggml.importance import take_importance
from quantcore.ggml.types import GGUFQuantType

__all__ = ["RECORDS", "Blocks"]


@dataclass(frozen=True, eq=False, repr=False)
class Blocks(Quantized):
    """A tensor in a GGUF block format. Immutable, comparable, picklable; construct it with `quantize` or `from_bytes`.

    Used through its subclasses, one per format: `quantcore.Q4_0.quantize(values)`.

    Attributes
    ----------
    data : ndarray of uint8, read-only
        ggml's bytes: shape (..., cols // block_size * bytes_per_block); for a 1-D tensor one row of whole blocks.
    shape : tuple of int
        The shape of the original values.

    Raises
    ------
    ValueError
        `data` does not have the bytes that `shape` needs.
    """

    data: NDArray[np.uint8]
    shape: tuple[int, ...]

    qtype: ClassVar[GGUFQuantType]

    @classmethod
    def quantize(
        cls, values: Any, *, imatrix: Any = None, effort: str = "reference", n_threads: int | None = None
    ) -> Self:
        """Quantize a float array (see `quantcore.quantize`).

        Parameters
        ----------
        values : array_like, shape (n,) or (..., cols)
            float32, float16, bfloat16 or float64, finite. A 1-D array of any length is padded with zeros to whole
            blocks; with more dimensions, `cols` must be a multiple of the block size.
        imatrix : array_like, shape (cols,), or (experts, cols) for values of shape (experts, rows, cols), optional
            Importance of each column, as for `quantcore.quantize`.
        effort : {"reference", "best"}, default "reference"
            As for `quantcore.quantize`.
        n_threads : int, optional
            Threads to use; None: `get_num_threads()`.

        Raises
        ------
        ValueError, TypeError
            As `quantcore.quantize`.
        """
        fmt = supported_format(cls._type())
        source = arrays.take_floats(values, "values")
        data_shape = cls._data_shape(source.shape, "values")
        is_refined = take_effort(effort)
        importance = take_importance(imatrix, fmt, source.shape, is_refined=is_refined)
        padding = data_shape[-1] // fmt.bytes_per_block * fmt.block_size - source.shape[-1]
        if importance is not None and padding:  # one row of whole blocks, in which what is filled up counts nothing
            filled = np.pad(source.values(0, source.size), (0, padding))
            filled_source = arrays.take_floats(filled, "values")
            importance = importance._replace(weights=np.pad(importance.weights, ((0, 0), (0, padding))))
        else:
            filled_source = source
        data = np.empty(data_shape, np.uint8)
        quantize_blocks(filled_source, fmt, data.reshape(-1), n_threads, importance=importance, is_refined=is_refined)
        return build(cls, data=arrays.seal(data), shape=source.shape)

    def dequantize(
        self, *, dtype: DTypeLike = np.float32, n_threads: int | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The values, of the original shape (see `quantcore.dequantize`)."""
        is_padded = len(self.shape) == 1 and self.shape[0] % self.qtype.block_size != 0
        if not is_padded:
            return dequantize(self.data, self.qtype, dtype=dtype, n_threads=n_threads, out=out)
        wanted, _ = arrays.float_dtype(dtype, "dtype")
        result = arrays.output(out, self.shape, wanted, self.data)
        result[:] = dequantize(self.data, self.qtype, dtype=dtype, n_threads=n_threads)[: self.shape[0]]
        return result if out is None else out

    @classmethod
    def from_bytes(cls, buffer: Any, shape: tuple[int, ...]) -> Self:
        """A record from ggml's bytes (copied if they can change) and the shape of the original values.

        Raises
        ------
        ValueError
            `shape` is not a shape of whole blocks, or `buffer` does not have the length that it needs.
        """
        shape = arguments.shape(shape)
        data_shape = cls._data_shape(shape, "shape")
        data = arrays.contiguous(arrays.take_bytes(buffer, "buffer")).reshape(-1)
        if data.size != prod(data_shape):
            raise InvalidValueError(
                f"buffer: {cls.__name__} of shape {shape} takes {prod(data_shape)} bytes, got {data.size}"
            )
        return cls(data.reshape(data_shape), shape)

    def to_bytes(self) -> bytes:
        """ggml's bytes, as in a GGUF file."""
        return self.data.tobytes()

    @property
    def scales(self) -> NDArray[Any]:
        """The scales as they stand in the blocks, a view of shape (num_blocks,), or (num_blocks, n) for n per block.

        float16: the `d` of a block or super-block; uint8 for MXFP4 (an exponent, E8M0) and NVFP4 (four of UE4M3).

        Raises
        ------
        ValueError
            The format spreads its scale over the bytes of a block (IQ1_M).
        """
        field = self.qtype.layout.scale
        if field is None:
            raise InvalidValueError(f"scales: {self.qtype.name} has none that stand in one place of a block")
        width = np.dtype(field.dtype).itemsize * field.count
        blocks = self.data.reshape(-1, self.qtype.bytes_per_block)
        scales = blocks[:, field.offset : field.offset + width].view(field.dtype)
        return scales[:, 0] if field.count == 1 else scales

    @property
    def num_blocks(self) -> int:
        """The number of blocks, including a padded last one."""
        return self.data.size // self.qtype.bytes_per_block

    @property
    def gguf_bytes(self) -> int:
        """Bytes that the tensor takes in a GGUF file."""
        return self.data.size

    @property
    def memory_bytes(self) -> int:
        """Bytes of `data`, all that the record holds; equals `gguf_bytes`, since `data` has the file's bytes."""
        return self.data.nbytes

    @property
    def compression_ratio(self) -> float:
        """Bytes as float32 over `memory_bytes`; 1.0 for an empty tensor."""
        return 4 * len(self) / self.memory_bytes if len(self) else 1.0

    def __len__(self) -> int:
        """The number of elements of the original tensor."""
        return prod(self.shape)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.data, other.data)

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        sizes = f"num_blocks={self.num_blocks}, memory_bytes={self.memory_bytes}"
        return f"{type(self).__name__}(shape={self.shape}, {sizes})"

    def _repr_html_(self) -> str:
        return tabled(self, "shape", "num_blocks", "memory_bytes", "compression_ratio")

    def __sizeof__(self) -> int:
        return size_of(self, self.data)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce(self, self.data, self.shape)

    def __post_init__(self) -> None:
        shape = arguments.shape(self.shape)
        data = arrays.take_bytes(self.data, "data")
        expected = self._data_shape(shape, "shape")
        if data.shape != expected:
            raise InvalidValueError(f"data: expected shape {expected} for values of shape {shape}, got {data.shape}")
        object.__setattr__(self, "data", arrays.freeze(data))
        object.__setattr__(self, "shape", shape)

    @classmethod
    def _type(cls) -> GGUFQuantType:
        """The type; `Blocks` itself has none."""
        found: GGUFQuantType | None = getattr(cls, "qtype", None)
        if found is None:
            raise InvalidTypeError(f"{cls.__name__}: has no type of its own; use Q8_0 or another record of a type")
        return found

    @classmethod
    def _data_shape(cls, shape: tuple[int, ...], name: str) -> tuple[int, ...]:
        qtype = cls._type()
        block_size, bytes_per_block = qtype.block_size, qtype.bytes_per_block
        if not shape:
            raise InvalidValueError(f"{name}: must have at least one dimension, got shape ()")
        if len(shape) > 1 and shape[-1] % block_size:
            raise InvalidValueError(
                f"{name}: last axis of shape {shape} is not a multiple of the {qtype.name} block size {block_size}"
            )
        return (*shape[:-1], -(-shape[-1] // block_size) * bytes_per_block)


def _define_record(qtype: GGUFQuantType) -> type[Blocks]:
    text = (
        f"{qtype.name}: blocks of {qtype.block_size} elements in {qtype.bytes_per_block} bytes "
        f"({qtype.bits_per_weight:g} bits per weight). See `Blocks`."
    )
    return type(qtype.name, (Blocks,), {"qtype": qtype, "__doc__": text, "__module__": __name__})


RECORDS: dict[str, type[Blocks]] = {t.name: _define_record(t) for t in GGUFQuantType if t.block_size > 1}
"""The record of each block format, by its name."""

globals().update(RECORDS)  # so that pickles find them

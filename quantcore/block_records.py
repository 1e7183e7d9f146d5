"""Q4_0 and Q8_0 as records: the quantized bytes together with the shape they came from."""

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quantcore import _arrays
from quantcore._records import made, reduced
from quantcore.errors import InvalidValueError
from quantcore.formats import dequantize, quantize_blocks
from quantcore.ggml_types import GGML_TYPES, GGUFQuantType

__all__ = ["Q4_0", "Q8_0", "BlockQuantized"]


@dataclass(frozen=True, eq=False, repr=False)
class BlockQuantized:
    """A tensor in a GGUF block format. Immutable, comparable and picklable; made by `quantize` or `from_bytes`.

    Attributes
    ----------
    data : ndarray of uint8, read-only
        ggml's bytes: shape (..., cols // 32 * bytes_per_block); for a 1-D tensor one row of whole blocks.
    shape : tuple of int
        The shape of the original values.

    Raises
    ------
    ValueError
        `data` is not what `shape` asks for.
    """

    data: NDArray[np.uint8]
    shape: tuple[int, ...]

    qtype: ClassVar[GGUFQuantType]

    @classmethod
    def quantize(cls, values: Any, *, n_threads: int | None = None) -> Self:
        """Quantize a float array (see `quantcore.quantize`).

        Parameters
        ----------
        values : array_like, shape (n,) or (..., cols)
            float32, float16, bfloat16 or float64, finite. 1-D of any length: filled up with zeros to whole blocks.
            Of more dimensions: `cols` must be a multiple of 32.
        n_threads : int, optional
            Threads to use; None: `get_num_threads()`.

        Raises
        ------
        ValueError, TypeError
            As `quantcore.quantize`.
        """
        source = _arrays.floats(values, "values")
        data = np.empty(cls._data_shape(source.shape, "values"), np.uint8)
        quantize_blocks(source, GGML_TYPES[cls.qtype], data.reshape(-1), n_threads)
        _arrays.given_away(data)
        return made(cls, data=data, shape=source.shape)

    def dequantize(
        self, *, dtype: DTypeLike = np.float32, n_threads: int | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The values, of the original shape (see `quantcore.dequantize`)."""
        is_padded = len(self.shape) == 1 and self.shape[0] % self.qtype.block_size != 0
        if not is_padded:
            return dequantize(self.data, self.qtype, dtype=dtype, n_threads=n_threads, out=out)
        wanted, _ = _arrays.float_dtype(dtype, "dtype")
        result = _arrays.output(out, self.shape, wanted, self.data)
        result[:] = dequantize(self.data, self.qtype, dtype=dtype, n_threads=n_threads)[: self.shape[0]]
        return result

    @classmethod
    def from_bytes(cls, buffer: Any, shape: tuple[int, ...]) -> Self:
        """A record from ggml's bytes (copied if they can change) and the shape of the original values.

        Raises
        ------
        ValueError
            `shape` is not a shape of whole blocks, or `buffer` has another length than it asks for.
        """
        shape = _arrays.shape(shape)
        data_shape = cls._data_shape(shape, "shape")
        data = _arrays.contiguous(_arrays.packed(buffer, "buffer")).reshape(-1)
        if data.size != prod(data_shape):
            raise InvalidValueError(
                f"buffer: {cls.__name__} of shape {shape} takes {prod(data_shape)} bytes, got {data.size}"
            )
        return cls(data.reshape(data_shape), shape)

    def to_bytes(self) -> bytes:
        """ggml's bytes, as they stand in a GGUF file."""
        return self.data.tobytes()

    @property
    def scales(self) -> NDArray[np.float16]:
        """The scale `d` of each block: float16, shape (num_blocks,), a view."""
        return self.data.reshape(-1, self.qtype.bytes_per_block)[:, :2].view("<f2")[:, 0]

    @property
    def num_blocks(self) -> int:
        """Blocks of 32 elements, a filled-up last one included."""
        return self.data.size // self.qtype.bytes_per_block

    @property
    def gguf_bytes(self) -> int:
        """Bytes that the tensor takes in a GGUF file."""
        return self.data.size

    @property
    def memory_bytes(self) -> int:
        """Bytes that the quantized data take in memory."""
        return self.data.nbytes

    @property
    def compression_ratio(self) -> float:
        """Bytes as float32 over `memory_bytes`; 1.0 for an empty tensor."""
        return 4 * len(self) / self.memory_bytes if len(self) else 1.0

    def __len__(self) -> int:
        """Elements of the original tensor."""
        return prod(self.shape)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.data, other.data)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        sizes = f"num_blocks={self.num_blocks}, memory_bytes={self.memory_bytes}"
        return f"{type(self).__name__}(shape={self.shape}, {sizes})"

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self, self.data, self.shape)

    def __post_init__(self) -> None:
        shape = _arrays.shape(self.shape)
        data = _arrays.packed(self.data, "data")
        expected = self._data_shape(shape, "shape")
        if data.shape != expected:
            raise InvalidValueError(f"data: expected shape {expected} for values of shape {shape}, got {data.shape}")
        object.__setattr__(self, "data", _arrays.frozen(data))
        object.__setattr__(self, "shape", shape)

    @classmethod
    def _data_shape(cls, shape: tuple[int, ...], name: str) -> tuple[int, ...]:
        block_size, bytes_per_block = cls.qtype.block_size, cls.qtype.bytes_per_block
        if not shape:
            raise InvalidValueError(f"{name}: must have at least one dimension, got shape ()")
        if len(shape) > 1 and shape[-1] % block_size:
            raise InvalidValueError(
                f"{name}: last axis of shape {shape} is not a multiple of the {cls.qtype.name} block size {block_size}"
            )
        return (*shape[:-1], -(-shape[-1] // block_size) * bytes_per_block)


@dataclass(frozen=True, eq=False, repr=False)
class Q4_0(BlockQuantized):
    """Q4_0: blocks of 32 elements in 18 bytes, an fp16 scale and 4-bit codes (4.5 bits a weight).

    Examples
    --------
    >>> import numpy as np
    >>> q = Q4_0.quantize(np.linspace(-1, 1, 100, dtype=np.float32))
    >>> q
    Q4_0(shape=(100,), num_blocks=4, memory_bytes=72)
    >>> bool(np.abs(q.dequantize() - np.linspace(-1, 1, 100)).max() < 0.13)
    True
    """

    qtype = GGUFQuantType.Q4_0


@dataclass(frozen=True, eq=False, repr=False)
class Q8_0(BlockQuantized):
    """Q8_0: blocks of 32 elements in 34 bytes, an fp16 scale and 8-bit codes (8.5 bits a weight).

    Examples
    --------
    >>> import numpy as np
    >>> Q8_0.quantize(np.ones((2, 64), np.float32)).scales
    array([0.00787, 0.00787, 0.00787, 0.00787], dtype=float16)
    """

    qtype = GGUFQuantType.Q8_0

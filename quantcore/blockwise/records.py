"""The results of 4-bit block-wise quantization: frozen, comparable, picklable, and checked on construction."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quantcore import _kernels
from quantcore._base import arguments, arrays, parallel
from quantcore._base.records import Quantized, reduce, size_of, tabled
from quantcore.blockwise.bitsandbytes import NestedState, PackedState, nested_map
from quantcore.blockwise.codebooks import check_block_size, check_scale_code, codebook_of
from quantcore.blockwise.decoding import decode_into
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["DoubleQuantized4Bit", "Quantized4Bit"]

_F32 = np.dtype(np.float32)
_U8 = np.dtype(np.uint8)
Keep = Callable[[NDArray[Any]], NDArray[Any]]


class _FourBit(Quantized):
    """The common part of both records."""

    data: NDArray[np.uint8]
    shape: tuple[int, ...]
    block_size: int
    quant_type: str

    _arrays_compared: tuple[str, ...]
    _values_compared: tuple[str, ...]

    @property
    def num_blocks(self) -> int:
        """The number of blocks, including a short last one."""
        return -(-len(self) // self.block_size)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the codes and of all scales."""
        return sum(getattr(self, name).nbytes for name in self._arrays_compared)

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
        return all(getattr(self, name) == getattr(other, name) for name in self._values_compared) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in self._arrays_compared
        )

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __sizeof__(self) -> int:
        return size_of(self, *(getattr(self, name) for name in self._arrays_compared))

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce(self, *(getattr(self, f.name) for f in fields(self)))  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(shape={self.shape}, quant_type={self.quant_type!r}, block_size={self.block_size}, "
            f"num_blocks={self.num_blocks}, memory_bytes={self.memory_bytes})"
        )

    def _repr_html_(self) -> str:
        names = "shape", "quant_type", "block_size", "num_blocks", "memory_bytes", "compression_ratio"
        return tabled(self, *names)

    def to_bitsandbytes(self, *, name: str = "weight", dtype: str = "float32") -> dict[str, NDArray[Any]]:
        """The entries of a safetensors checkpoint from which bitsandbytes restores the tensor.

        Parameters
        ----------
        name : str, default "weight"
            The name of the weight.
        dtype : {"float32", "float16", "bfloat16"}
            The type that bitsandbytes will decode to.

        Returns
        -------
        dict of str to ndarray
            `name`: the packed codes, uint8 of shape (n_bytes, 1); and under `name.` the keys `absmax`, `quant_map`,
            `quant_state.bitsandbytes__nf4` (or `__fp4`), for double quantization `nested_absmax`, `nested_quant_map`.

        Raises
        ------
        ValueError
            The type is "int4", which bitsandbytes does not have, or `dtype` is not one of the three.
        """
        return self._packed_state(dtype).entries(name)

    def dequantize(
        self, *, dtype: DTypeLike = np.float32, n_threads: int | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The values, of the original shape (see `quantcore.dequantize_4bit`)."""
        wanted, element_type = arrays.float_dtype(dtype, "dtype")
        held = (getattr(self, name) for name in self._arrays_compared)
        result = arrays.output(out, self.shape, wanted, *held)
        scales = self.decoded_scales(n_threads=n_threads)
        decode_into(self.data, scales, self.block_size, self.quant_type, result, element_type, n_threads)
        return result if out is None else out

    @abstractmethod
    def decoded_scales(self, *, n_threads: int | None = None) -> NDArray[np.float32]:
        """The scale of each block, shape (num_blocks,)."""

    @abstractmethod
    def _packed_state(self, dtype: str) -> PackedState:
        """The fields in bitsandbytes' terms."""

    def __post_init__(self) -> None:
        self._check(arrays.freeze)

    @abstractmethod
    def _check(self, keep: Keep) -> None:
        """Check all fields; `keep` gives arrays that the record can hold, read-only and C-contiguous."""

    def _check_codes(self, keep: Keep) -> None:
        """Check the fields that both records have."""
        set_field = object.__setattr__
        set_field(self, "shape", arguments.shape(self.shape))
        set_field(self, "block_size", check_block_size(self.block_size, "block_size"))
        set_field(self, "quant_type", codebook_of(self.quant_type).name)
        data = arrays.take_bytes(self.data, "data")
        set_field(self, "data", check_array(data, "data", (len(self) + 1) // 2, _U8, keep))


@dataclass(frozen=True, eq=False, repr=False)
class Quantized4Bit(_FourBit):
    """4-bit codes in blocks with one float32 scale per block.

    Attributes
    ----------
    scales : ndarray of float32, shape (num_blocks,)
        int4: absmax / 7 of each block; NF4 and FP4: absmax.
    data : ndarray of uint8, shape ((n + 1) // 2,)
        Two codes per byte, the first one in the high nibble.
    shape : tuple of int
        The shape of the original values.
    block_size : int
        The number of elements per scale.
    quant_type : {"int4", "nf4", "fp4"}

    Raises
    ------
    ValueError
        A field contradicts another one, or a scale is negative or not finite; the message names the field.
    """

    scales: NDArray[np.float32]
    data: NDArray[np.uint8]
    shape: tuple[int, ...]
    block_size: int
    quant_type: str

    _arrays_compared = ("scales", "data")
    _values_compared = ("shape", "block_size", "quant_type")

    def _check(self, keep: Keep) -> None:
        """The fields."""
        self._check_codes(keep)
        object.__setattr__(self, "scales", check_array(self.scales, "scales", self.num_blocks, _F32, keep))

    def decoded_scales(self, *, n_threads: int | None = None) -> NDArray[np.float32]:
        """`scales`, which are not coded."""
        return self.scales

    def _packed_state(self, dtype: str) -> PackedState:
        return PackedState(self.data, self.scales, self.shape, self.block_size, self.quant_type, dtype, None)


@dataclass(frozen=True, eq=False, repr=False)
class DoubleQuantized4Bit(_FourBit):
    """4-bit codes in blocks whose scales are 8-bit codes in super-blocks.

    Attributes
    ----------
    quantized_scales : ndarray of uint8, shape (num_blocks,)
    super_scales : ndarray of float32, shape (ceil(num_blocks / super_block_size),)
    offset : float
        The number added to every decoded scale; 0 for "linear".
    data, shape, block_size, quant_type
        As in `Quantized4Bit`.
    super_block_size : int
        The number of scales per super-scale.
    scale_code : {"linear", "dynamic"}
        A scale is `quantized_scale * super_scale`, or `dynamic_map[quantized_scale] * super_scale + offset`.

    Raises
    ------
    ValueError
        A field contradicts another one or is not finite; the message names the field.
    """

    quantized_scales: NDArray[np.uint8]
    super_scales: NDArray[np.float32]
    offset: float
    data: NDArray[np.uint8]
    shape: tuple[int, ...]
    block_size: int
    quant_type: str
    super_block_size: int
    scale_code: str

    _arrays_compared = ("quantized_scales", "super_scales", "data")
    _values_compared = ("offset", "shape", "block_size", "quant_type", "super_block_size", "scale_code")

    def _check(self, keep: Keep) -> None:
        """The fields."""
        set_field = object.__setattr__
        self._check_codes(keep)
        set_field(self, "super_block_size", check_block_size(self.super_block_size, "super_block_size"))
        set_field(self, "scale_code", check_scale_code(self.scale_code))
        set_field(self, "offset", arguments.float32(self.offset, "offset"))
        if self.scale_code == "linear" and self.offset != 0:
            raise InvalidValueError(f"offset: must be 0 for 'linear' scales, got {self.offset}")
        n_blocks = self.num_blocks
        n_super = -(-n_blocks // self.super_block_size)
        scales = arrays.take_bytes(self.quantized_scales, "quantized_scales")
        set_field(self, "quantized_scales", check_array(scales, "quantized_scales", n_blocks, _U8, keep))
        set_field(self, "super_scales", check_array(self.super_scales, "super_scales", n_super, _F32, keep))

    @property
    def double_quant_savings(self) -> int:
        """Bytes saved compared with one float32 scale per block."""
        return 4 * self.num_blocks - self.quantized_scales.nbytes - self.super_scales.nbytes

    def _packed_state(self, dtype: str) -> PackedState:
        nested = NestedState(self.super_scales, self.offset, self.super_block_size, self.scale_code)
        return PackedState(
            self.data, self.quantized_scales, self.shape, self.block_size, self.quant_type, dtype, nested
        )

    def decoded_scales(self, *, n_threads: int | None = None) -> NDArray[np.float32]:
        """The scale of each block.

        Parameters
        ----------
        n_threads : int, optional
            Threads to use; None: `get_num_threads()`.

        Returns
        -------
        ndarray of float32, shape (num_blocks,)
        """
        table = nested_map(self.scale_code)
        scales = np.empty(self.num_blocks, np.float32)
        parallel.run(
            _kernels.DequantizeScales(
                self.quantized_scales, self.super_block_size, self.super_scales, self.offset, table, scales
            ),
            scales.size,
            scales.itemsize,
            n_threads,
            unit=self.super_block_size,
        )
        return scales


def check_array(array: Any, name: str, size: int, dtype: np.dtype[Any], keep: Keep = arrays.freeze) -> NDArray[Any]:
    """A record's field as a flat array of `size` elements that nobody can change; float32 must be finite and >= 0."""
    array = arrays.as_array(array, name)
    if array.dtype != dtype:
        raise InvalidTypeError(f"{name}: expected dtype {dtype}, got {array.dtype}")
    if array.size != size:
        raise InvalidValueError(f"{name}: expected {size} elements for this shape and block size, got {array.size}")
    kept = keep(array)
    # The bits of negative floats are negative integers; so are those of -0, which the second look accepts.
    if dtype is _F32 and not _kernels.are_within(kept, 0, arrays.F32_MAX_BITS):
        bad = np.flatnonzero(~(np.isfinite(kept) & (kept >= 0)))
        if bad.size:
            found = f"{kept.reshape(-1)[bad[0]]} at index {bad[0]}"
            raise InvalidValueError(f"{name}: must be finite and >= 0, got {found}")
    return kept if kept.ndim == 1 else kept.reshape(-1)

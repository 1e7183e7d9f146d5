"""The results of 4-bit block-wise quantization: frozen, comparable, picklable, and checked once when they are made."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays, _kernels, _parallel
from quantcore._records import reduced
from quantcore.bitsandbytes_layout import NestedState, PackedState, finite_float32, nested_map
from quantcore.codebooks import CODEBOOKS, check_block_size
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.tables import brief

__all__ = ["DoubleQuantized4Bit", "Quantized4Bit"]

_F32 = np.dtype(np.float32)
_U8 = np.dtype(np.uint8)


class _FourBit(ABC):
    """What both records have in common."""

    data: NDArray[np.uint8]
    shape: tuple[int, ...]
    block_size: int
    quant_type: str

    _arrays_compared: tuple[str, ...]
    _values_compared: tuple[str, ...]

    @property
    def num_blocks(self) -> int:
        """Blocks, a short last one included."""
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
        """Elements of the original tensor."""
        return prod(self.shape)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._values_compared) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in self._arrays_compared
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self, *(getattr(self, f.name) for f in fields(self)))  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(shape={self.shape}, quant_type={self.quant_type!r}, block_size={self.block_size}, "
            f"num_blocks={self.num_blocks}, memory_bytes={self.memory_bytes})"
        )

    def to_bitsandbytes(self, *, name: str = "weight", dtype: str = "float32") -> dict[str, NDArray[Any]]:
        """The entries of a safetensors checkpoint from which bitsandbytes restores the tensor.

        Parameters
        ----------
        name : str, default "weight"
            The name of the weight.
        dtype : {"float32", "float16", "bfloat16"}
            What bitsandbytes is to decode to.

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

    @abstractmethod
    def _packed_state(self, dtype: str) -> PackedState:
        """The fields in bitsandbytes' terms."""

    def _check_codes(self) -> None:
        """The fields that both records have; arrays become read-only and C-contiguous."""
        set_field = object.__setattr__
        set_field(self, "shape", _arrays.shape(self.shape))
        set_field(self, "block_size", check_block_size(self.block_size, "block_size"))
        if not isinstance(self.quant_type, str) or self.quant_type not in CODEBOOKS:
            raise InvalidValueError(f"quant_type: expected one of {', '.join(CODEBOOKS)}, got {brief(self.quant_type)}")
        data = _arrays.packed(self.data, "data")
        set_field(self, "data", read_only(data, "data", (len(self) + 1) // 2, _U8))


@dataclass(frozen=True, eq=False, repr=False)
class Quantized4Bit(_FourBit):
    """4-bit codes in blocks with a float32 scale each.

    Attributes
    ----------
    scales : ndarray of float32, shape (num_blocks,)
        int4: absmax / 7 of each block; NF4 and FP4: absmax.
    data : ndarray of uint8, shape ((n + 1) // 2,)
        Two codes a byte, the first one in the high nibble.
    shape : tuple of int
        The shape of the original values.
    block_size : int
        Elements that share a scale.
    quant_type : {"int4", "nf4", "fp4"}

    Raises
    ------
    ValueError
        A field contradicts another one, or the scales are not finite or negative; the message names the field.
    """

    scales: NDArray[np.float32]
    data: NDArray[np.uint8]
    shape: tuple[int, ...]
    block_size: int
    quant_type: str

    _arrays_compared = ("scales", "data")
    _values_compared = ("shape", "block_size", "quant_type")

    def __post_init__(self) -> None:
        self._check_codes()
        object.__setattr__(self, "scales", read_only(self.scales, "scales", self.num_blocks, _F32))

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
        Added to every decoded scale: 0 for "linear".
    data, shape, block_size, quant_type
        As in `Quantized4Bit`.
    super_block_size : int
        Scales that share a super-scale.
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

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        self._check_codes()
        set_field(self, "super_block_size", check_block_size(self.super_block_size, "super_block_size"))
        if not isinstance(self.scale_code, str) or self.scale_code not in ("linear", "dynamic"):
            raise InvalidValueError(f"scale_code: expected 'linear' or 'dynamic', got {brief(self.scale_code)}")
        set_field(self, "offset", finite_float32(self.offset, "offset"))
        if self.scale_code == "linear" and self.offset != 0:
            raise InvalidValueError(f"offset: must be 0 for 'linear' scales, got {self.offset}")
        n_blocks = self.num_blocks
        n_super = -(-n_blocks // self.super_block_size)
        scales = _arrays.packed(self.quantized_scales, "quantized_scales")
        set_field(self, "quantized_scales", read_only(scales, "quantized_scales", n_blocks, _U8))
        set_field(self, "super_scales", read_only(self.super_scales, "super_scales", n_super, _F32))

    @property
    def double_quant_savings(self) -> int:
        """Bytes saved against one float32 scale a block."""
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
        _parallel.run(
            _kernels.DequantizeScales(
                self.quantized_scales, self.super_block_size, self.super_scales, self.offset, table, scales
            ),
            scales.size,
            scales.itemsize,
            n_threads,
            unit=self.super_block_size,
        )
        return scales


def read_only(array: Any, name: str, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A flat read-only view of a record's field, of that many elements; float32 must be finite and >= 0."""
    array = np.asarray(array)
    if array.dtype != dtype:
        raise InvalidTypeError(f"{name}: expected dtype {dtype}, got {array.dtype}")
    if array.size != size:
        raise InvalidValueError(f"{name}: expected {size} elements for this shape and block size, got {array.size}")
    kept = _arrays.frozen(array)
    # Seen as integers, what is negative is below 0; so is -0, which is looked at again.
    if dtype is _F32 and not _kernels.are_within(kept, 0, _arrays.F32_MAX_BITS):
        bad = np.flatnonzero(~(np.isfinite(kept) & (kept >= 0)))
        if bad.size:
            found = f"{kept.reshape(-1)[bad[0]]} at index {bad[0]}"
            raise InvalidValueError(f"{name}: must be finite and >= 0, got {found}")
    return kept if kept.ndim == 1 else kept.reshape(-1)

"""Arrays to affine codes and back with given parameters, and the record that holds codes and parameters together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quantcore import _kernels
from quantcore._base import arguments, arrays, parallel
from quantcore._base.records import Quantized, build, reduce, size_of, tabled
from quantcore.affine import passes
from quantcore.affine.from_extremes import calibrate_floats, empty_parameters, params_of_rows
from quantcore.affine.granularity import QuantGranularity, check_granularity
from quantcore.affine.modes import QuantMode, check_bits, check_mode, code_dtype, code_range
from quantcore.affine.params import QuantParams, check_params
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = [
    "QuantizedTensor",
    "dequantize_tensor",
    "dequantize_with_params",
    "quantize_tensor",
    "quantize_with_params",
]


def quantize_with_params(
    values: Any, params: QuantParams, *, n_threads: int | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Affine codes: `clip(rint(x * (1 / scale)) + zero_point, quant_min, quant_max)`, half to even, in float32.

    With offsets: `clip(rint((x - offset) * (1 / scale)), quant_min, quant_max)`.

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite.
    params : QuantParams
        With as many scales as its granularity asks for on the shape of `values`.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The codes do not depend on it.
    out : ndarray of int8 (symmetric) or uint8 (other modes), of the shape of `values`, optional
        Where to write the result.

    Returns
    -------
    ndarray of int8 or uint8, of the shape of `values`

    Raises
    ------
    ValueError
        `values` holds NaN or inf, `params` does not fit its shape, `out` does not fit.
    TypeError
        `values` is not a float array, `params` not a QuantParams.

    Notes
    -----
    torch's fake-quantize rounds the same way. `torch.quantize_per_tensor` on x86 (FBGEMM) adds the zero point before it
    rounds, so that about one code in 10**5 beside a tie differs from it by one; with zero point 0 they are equal.
    """
    params = check_params(params)
    source = arrays.take_floats(values, "values")
    result = arrays.output(out, source.shape, params.code_dtype, source.origin)
    if source.size:
        sharing = params.sharing(source.shape, "values")
        passes.quantize(source, sharing, params.rows_for(sharing), result, "values", n_threads)
    return result if out is None else out


@overload
def dequantize_with_params(
    codes: Any, params: QuantParams, *, dtype: type[np.float32] = ..., n_threads: int | None = ...
) -> NDArray[np.float32]: ...
@overload
def dequantize_with_params(
    codes: Any,
    params: QuantParams,
    *,
    dtype: DTypeLike = ...,
    n_threads: int | None = ...,
    out: NDArray[Any] | None = ...,
) -> NDArray[Any]: ...
def dequantize_with_params(
    codes: Any,
    params: QuantParams,
    *,
    dtype: DTypeLike = np.float32,
    n_threads: int | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Values of affine codes: `(q - zero_point) * scale`, or `q * scale + offset` with offsets, in float32.

    Parameters
    ----------
    codes : ndarray of int8 (symmetric) or uint8 (other modes)
        As `quantize_with_params` returns.
    params : QuantParams
        With as many scales as its granularity asks for on the shape of `codes`.
    dtype : dtype, default float32
        float32, float16 or bfloat16, rounded to nearest even from float32.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.
    out : ndarray of `dtype`, of the shape of `codes`, optional
        Where to write the result.

    Returns
    -------
    ndarray of `dtype`, of the shape of `codes`

    Raises
    ------
    ValueError
        `params` does not fit the shape of `codes`; `out` does not fit.
    TypeError
        `codes` has another dtype, `params` is not a QuantParams.
    """
    params = check_params(params)
    expected = f"dtype {params.code_dtype} ({params.mode.value})"
    array = arrays.as_array(codes, "codes", expected=expected)
    if array.dtype != params.code_dtype:
        raise InvalidTypeError(f"codes: expected {expected}, got {array.dtype}")
    if array.ndim == 0:
        raise InvalidValueError("codes: must have at least one dimension, got shape ()")
    wanted, element_type = arrays.float_dtype(dtype, "dtype")
    result = arrays.output(out, array.shape, wanted, array)
    if array.size:
        sharing = params.sharing(array.shape, "codes")
        array, is_signed = arrays.contiguous(array), params.mode is QuantMode.SYMMETRIC
        passes.dequantize(array, is_signed, sharing, params.rows_for(sharing), result, element_type, n_threads)
    return result if out is None else out


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedTensor(Quantized):
    """Affine codes with their parameters.

    Attributes
    ----------
    data : ndarray of int8 or uint8, read-only
        One code per element, in one byte each; codes of 4 bits and fewer are not packed (see `pack_nibbles`).
    params : QuantParams
    shape : tuple of int
        The shape of the values.

    Raises
    ------
    ValueError
        `data` and `params` contradict `shape`.
    """

    data: NDArray[Any]
    params: QuantParams
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        self._check(arrays.freeze)

    def _check(self, keep: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        """The fields; `keep` makes the array one that the record can hold."""
        params, shape = check_params(self.params), arguments.shape(self.shape)
        data = arrays.as_array(self.data, "data")
        if data.dtype != params.code_dtype:
            raise InvalidTypeError(f"data: expected dtype {params.code_dtype}, got {data.dtype}")
        if data.shape != shape:
            raise InvalidValueError(f"data: expected shape {shape}, got {data.shape}")
        if data.size:
            params.sharing(shape, "data")
        object.__setattr__(self, "data", keep(data))
        object.__setattr__(self, "shape", shape)

    @property
    def memory_bytes(self) -> int:
        """Bytes that the tensor holds in memory: `data` with one byte per code, scales, zero points and offsets."""
        held = (self.params.scales, self.params.zero_points, self.params.offsets)
        return self.data.nbytes + sum(array.nbytes for array in held if array is not None)

    @property
    def packed_bytes(self) -> int:
        """Bytes when packed: two codes per byte up to 4 bits, the scales, and zero points or offsets unless symmetric.

        The tensor itself is not packed; `memory_bytes` is what it holds.
        """
        return affine_bytes(self.data.size, self.params)

    @property
    def compression_ratio(self) -> float:
        """Bytes as float32 over `packed_bytes`; 1.0 for an empty tensor."""
        return 4 * self.data.size / self.packed_bytes if self.data.size else 1.0

    def dequantize(
        self, *, dtype: DTypeLike = np.float32, n_threads: int | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The values (see `dequantize_with_params`)."""
        return dequantize_with_params(self.data, self.params, dtype=dtype, n_threads=n_threads, out=out)

    def __len__(self) -> int:
        """The number of elements."""
        return int(self.data.size)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.params == other.params and np.array_equal(self.data, other.data)

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        params = self.params
        return (
            f"QuantizedTensor(shape={self.shape}, bits={params.bits}, {params.mode.value}, {params.granularity.name}, "
            f"num_groups={params.num_groups}, memory_bytes={self.memory_bytes})"
        )

    def _repr_html_(self) -> str:
        return tabled(self, "shape", "params", "memory_bytes", "packed_bytes", "compression_ratio")

    def __sizeof__(self) -> int:
        return size_of(self, self.data, self.params)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce(self, self.data, self.params, self.shape)


def affine_bytes(size: int, params: QuantParams) -> int:
    """Bytes of `size` packed codes with their scales, and with their zero points or offsets unless symmetric."""
    return ((size + 1) // 2 if params.bits <= 4 else size) + params.nbytes


def quantize_tensor(
    values: Any,
    granularity: QuantGranularity | str | None = None,
    mode: QuantMode | str = QuantMode.SYMMETRIC,
    bits: int = 8,
    *,
    n_threads: int | None = None,
) -> QuantizedTensor:
    """Calibrate on an array and quantize it.

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite. Not empty, unless there is no channel and no group either, such
        as in a batch of no vectors that have a scale each.
    granularity : QuantGranularity, "per_tensor" or "per_channel", optional
        None: per tensor.
    mode, bits, n_threads
        As for `calibrate_per_tensor`.

    Returns
    -------
    QuantizedTensor

    Raises
    ------
    ValueError, TypeError
        As `calibrate_per_tensor`.

    Examples
    --------
    >>> quantize_tensor(np.linspace(-1, 1, 256, dtype=np.float32).reshape(4, 64), QuantGranularity.per_channel())
    QuantizedTensor(shape=(4, 64), bits=8, symmetric, per_channel, num_groups=4, memory_bytes=288)
    """
    bits, mode, source = check_bits(bits), check_mode(mode), arrays.take_floats(values, "values")
    return quantize_floats(source, check_granularity(granularity), mode, bits, n_threads)


def quantize_floats(
    source: arrays.Floats, granularity: QuantGranularity, mode: QuantMode, bits: int, n_threads: int | None
) -> QuantizedTensor:
    """`quantize_tensor` of an array that passed the boundary."""
    parallel.check_threads(n_threads)
    sharing = granularity.sharing(source.shape)
    if sharing.is_scale_per_group and 0 < source.raw.nbytes <= parallel.INLINE_BYTES:
        data, limits = np.empty(source.shape, code_dtype(mode)), code_range(bits, mode)
        rows, zero_points = empty_parameters(sharing.n_scales, mode)
        place, symmetric = (source.raw, source.element_type, sharing.layout), mode is QuantMode.SYMMETRIC
        if _kernels.quantize_small(*place, symmetric, *limits, rows, zero_points, data):
            params = params_of_rows(rows, zero_points, granularity, bits, mode, limits)
            return build(QuantizedTensor, data=arrays.seal(data), params=params, shape=source.shape)
    params = calibrate_floats(source, granularity, bits, mode, True, n_threads, may_need_none=True)
    data = np.empty(source.shape, params.code_dtype)
    if source.size:
        passes.quantize(source, sharing, params.rows_for(sharing), data, "values", n_threads)
    return build(QuantizedTensor, data=arrays.seal(data), params=params, shape=data.shape)


@overload
def dequantize_tensor(
    q: QuantizedTensor, *, dtype: type[np.float32] = ..., n_threads: int | None = ...
) -> NDArray[np.float32]: ...
@overload
def dequantize_tensor(
    q: QuantizedTensor, *, dtype: DTypeLike = ..., n_threads: int | None = ..., out: NDArray[Any] | None = ...
) -> NDArray[Any]: ...
def dequantize_tensor(
    q: QuantizedTensor, *, dtype: DTypeLike = np.float32, n_threads: int | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """The values of a `QuantizedTensor` (see `dequantize_with_params`)."""
    if not isinstance(q, QuantizedTensor):
        raise InvalidTypeError(f"q: expected a QuantizedTensor, got {type(q).__name__}")
    return q.dequantize(dtype=dtype, n_threads=n_threads, out=out)

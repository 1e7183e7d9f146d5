"""Arrays to affine codes and back with given parameters, and the record that holds codes and parameters together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quantcore import _arrays, affine
from quantcore._records import made, reduced
from quantcore.affine_parameters import calibrate_per_channel, calibrate_per_tensor, calibrated
from quantcore.error_sums import ErrorSums
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.granularity import QuantGranularity, QuantMode, QuantParams, check_granularity, check_params

__all__ = [
    "QuantizedTensor",
    "compare_granularities",
    "dequantize_tensor",
    "dequantize_with_params",
    "quantization_mse",
    "quantize_tensor",
    "quantize_with_params",
]


def quantize_with_params(
    values: Any, params: QuantParams, *, n_threads: int | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Affine codes: `clip(rint(x * (1 / scale)) + zero_point, quant_min, quant_max)`, half to even, in float32.

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite.
    params : QuantParams
        With as many scales as its granularity asks for on the shape of `values`.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The codes do not depend on it.
    out : ndarray of int8 (symmetric) or uint8 (asymmetric), of the shape of `values`, optional
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
    source = _arrays.floats(values, "values")
    result = _arrays.output(out, source.shape, params.code_dtype, source.origin)
    if not source.size:
        return result
    sharing = params.sharing(source.shape, "values")
    affine.quantize(source, sharing, params.rows_for(sharing), result, "values", n_threads)
    return result


def dequantize_with_params(
    codes: Any,
    params: QuantParams,
    *,
    dtype: DTypeLike = np.float32,
    n_threads: int | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Values of affine codes: `(q - zero_point) * scale` in float32.

    Parameters
    ----------
    codes : ndarray of int8 (symmetric) or uint8 (asymmetric)
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
    array = np.asarray(codes)
    if array.dtype != params.code_dtype or isinstance(codes, np.ma.MaskedArray):
        raise InvalidTypeError(f"codes: expected dtype {params.code_dtype} ({params.mode.value}), got {array.dtype}")
    if array.ndim == 0:
        raise InvalidValueError("codes: must have at least one dimension, got shape ()")
    wanted, element_type = _arrays.float_dtype(dtype, "dtype")
    result = _arrays.output(out, array.shape, wanted, array)
    if not array.size:
        return result
    sharing = params.sharing(array.shape, "codes")
    array, is_signed = _arrays.contiguous(array), not params.is_asymmetric
    affine.dequantize(array, is_signed, sharing, params.rows_for(sharing), result, element_type, n_threads)
    return result


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedTensor:
    """Affine codes with their parameters.

    Attributes
    ----------
    data : ndarray of int8 or uint8, read-only
        One code an element.
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
        params, shape = check_params(self.params), _arrays.shape(self.shape)
        data = np.asarray(self.data)
        if data.dtype != params.code_dtype or isinstance(self.data, np.ma.MaskedArray):
            raise InvalidTypeError(f"data: expected dtype {params.code_dtype}, got {data.dtype}")
        if data.shape != shape:
            raise InvalidValueError(f"data: expected shape {shape}, got {data.shape}")
        if data.size:
            params.sharing(shape, "data")
        object.__setattr__(self, "data", _arrays.frozen(data))
        object.__setattr__(self, "shape", shape)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the codes (two a byte up to 4 bits), the scales, and the zero points if they are used."""
        return affine_bytes(self.data.size, self.params)

    @property
    def compression_ratio(self) -> float:
        """Bytes as float32 over `memory_bytes`; 1.0 for an empty tensor."""
        return 4 * self.data.size / self.memory_bytes if self.data.size else 1.0

    def dequantize(
        self, *, dtype: DTypeLike = np.float32, n_threads: int | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The values (see `dequantize_with_params`)."""
        return dequantize_with_params(self.data, self.params, dtype=dtype, n_threads=n_threads, out=out)

    def __len__(self) -> int:
        """Elements."""
        return int(self.data.size)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.params == other.params and np.array_equal(self.data, other.data)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        params = self.params
        return (
            f"QuantizedTensor(shape={self.shape}, bits={params.bits}, {params.mode.value}, {params.granularity.name}, "
            f"num_groups={params.num_groups}, memory_bytes={self.memory_bytes})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self, self.data, self.params, self.shape)


def affine_bytes(size: int, params: QuantParams) -> int:
    """Bytes of so many codes with their scales, and with their zero points if they are used."""
    codes = (size + 1) // 2 if params.bits <= 4 else size
    return codes + 4 * params.num_groups * (2 if params.is_asymmetric else 1)


def quantize_tensor(
    values: Any,
    granularity: QuantGranularity | None = None,
    mode: QuantMode = QuantMode.SYMMETRIC,
    bits: int = 8,
    *,
    n_threads: int | None = None,
) -> QuantizedTensor:
    """Calibrate on an array and quantize it.

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite, not empty.
    granularity : QuantGranularity, optional
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
    QuantizedTensor(shape=(4, 64), bits=8, symmetric, per_channel, num_groups=4, memory_bytes=272)
    """
    params = calibrated(values, check_granularity(granularity), bits, mode, True, n_threads)
    data = quantize_with_params(values, params, n_threads=n_threads)
    _arrays.given_away(data)
    return made(QuantizedTensor, data=data, params=params, shape=data.shape)


def dequantize_tensor(
    q: QuantizedTensor, *, dtype: DTypeLike = np.float32, n_threads: int | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """The values of a `QuantizedTensor` (see `dequantize_with_params`)."""
    if not isinstance(q, QuantizedTensor):
        raise InvalidTypeError(f"q: expected a QuantizedTensor, got {type(q).__name__}")
    return q.dequantize(dtype=dtype, n_threads=n_threads, out=out)


def quantization_mse(original: Any, dequantized: Any, *, n_threads: int | None = None) -> float:
    """The mean squared error, summed in float64.

    Parameters
    ----------
    original, dequantized : array_like of the same shape
        float32, float16, bfloat16 or float64, finite, not empty.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The figure does not depend on it.

    Raises
    ------
    ValueError
        The shapes differ, there is nothing to compare, or a value is NaN or inf.
    TypeError
        One of them is not a float array.
    """
    sums = ErrorSums()
    sums.add(original, dequantized, n_threads=n_threads, name="dequantized")
    return sums.stats().mse


def compare_granularities(
    values: Any, bits: int = 8, axis: int = 0, *, n_threads: int | None = None
) -> tuple[float, float]:
    """The mean squared errors of symmetric quantization: (per_tensor_mse, per_channel_mse).

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite, not empty.
    bits : int, default 8
        2 to 8.
    axis : int, default 0
        Of the channels.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The figures do not depend on it.

    Raises
    ------
    ValueError, TypeError
        As `calibrate_per_channel`.
    """
    per_tensor = ErrorSums()
    per_tensor.add_affine(values, calibrate_per_tensor(values, bits, n_threads=n_threads), n_threads=n_threads)
    per_channel = ErrorSums()
    params = calibrate_per_channel(values, bits, axis=axis, n_threads=n_threads)
    per_channel.add_affine(values, params, n_threads=n_threads)
    return per_tensor.stats().mse, per_channel.stats().mse

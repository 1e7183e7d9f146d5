"""Fake quantization: values as they would come back from affine codes, in one pass, and the gradients of that.

The gradient goes straight through the rounding (the straight-through estimator, Bengio et al. 2013, arXiv:1308.3432),
for every element or for those alone whose code is not clipped. `lsq` has the gradients of the scales,
`fake_quantizer` the class that finds parameters by itself.
"""

from __future__ import annotations  # those of functions made for each call would be evaluated each time

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays, _kernels, _parallel, affine
from quantcore._arrays import Floats
from quantcore.errors import InvalidValueError
from quantcore.granularity import QuantParams, check_params

__all__ = ["fake_quantize_backward", "fake_quantize_with_params", "ste_backward"]

FAKE_QUANTIZE, BACKWARD, LSQ = range(3)
"""Kinds of work, numbered as in `_kernels/table.pxd`."""

_NO_SUMS = np.zeros((2, 0))
_LEAST_ROWS = 16  # of columns that share a row of sums, which takes four times the memory of a row of float32


def fake_quantize_with_params(
    values: Any, params: QuantParams, *, n_threads: int | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Quantize and dequantize at once: `(clip(rint(x * (1 / scale)) + zero_point, qmin, qmax) - zero_point) * scale`.

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite.
    params : QuantParams
        With as many scales as its granularity asks for on the shape of `values`.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The result does not depend on it.
    out : ndarray of the result's dtype and shape, optional
        Where to write the result.

    Returns
    -------
    ndarray of the dtype and shape of `values`, float32 for float64

    Raises
    ------
    ValueError
        `values` holds NaN or inf, `params` does not fit its shape, `out` does not fit.
    TypeError
        `values` is not a float array, `params` not a QuantParams.

    Notes
    -----
    In float32, rounded half to even, to the last bit as `torch.fake_quantize_per_tensor_affine` and
    `torch.fake_quantize_per_channel_affine`; only that per channel torch takes the lowest code where x / scale is 2**63
    or more (its integers overflow), and this function the highest. float16 and bfloat16 are rounded to nearest even at
    the end.
    """
    return forward(values, params, "values", n_threads, out)


def fake_quantize_backward(
    grad: Any,
    values: Any,
    params: QuantParams,
    *,
    n_threads: int | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """The clipped straight-through gradient: that of the output where the unclipped code is in range, elsewhere zero.

    Parameters
    ----------
    grad : array_like, of the shape of `values`
        The gradient of the output: float32, float16, bfloat16 or float64. NaN and inf are passed on, as mixed-precision
        training needs; times zero they are NaN.
    values : array_like
        What was fake-quantized: float32, float16, bfloat16 or float64, finite.
    params : QuantParams
        With which it was.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The result does not depend on it.
    out : ndarray of the result's dtype and shape, optional
        Where to write the result.

    Returns
    -------
    ndarray of the dtype and shape of `grad`, float32 for float64
        `grad * (qmin <= rint(x * (1 / scale)) + zero_point <= qmax)`, equal to the gradient that torch computes.

    Raises
    ------
    ValueError
        `values` holds NaN or inf; the shapes differ; `params` or `out` does not fit.
    TypeError
        `grad` or `values` is not a float array, `params` not a QuantParams.
    """
    return backward(grad, values, params, "values", n_threads, out)


def ste_backward(grad: Any, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The plain straight-through gradient: a copy of the output's, as if nothing had been rounded or clipped.

    Parameters
    ----------
    grad : array_like
        float32, float16, bfloat16 or float64. NaN and inf are passed on.
    out : ndarray of the result's dtype and shape, optional
        Where to write the result.

    Returns
    -------
    ndarray of the dtype and shape of `grad`, float32 for float64
    """
    grads = _arrays.floats(grad, "grad")
    wanted, element_type = result_dtype(grads, "grad")
    result = _arrays.output(out, grads.shape, wanted, grads.origin)
    if element_type == grads.element_type:
        _arrays.bytes_of(result)[:] = grads.raw
    else:
        with np.errstate(over="ignore"):
            result.reshape(-1)[:] = grads.values(0, grads.size)
    return result


def forward(
    values: Any, params: QuantParams, name: str, n_threads: int | None, out: NDArray[Any] | None
) -> NDArray[Any]:
    """`fake_quantize_with_params` of values that the caller knows by this name."""
    params = check_params(params)
    source = _arrays.floats(values, name)
    wanted, element_type = result_dtype(source, name)
    result = _arrays.output(out, source.shape, wanted, source.origin)
    if source.size:
        run(FAKE_QUANTIZE, source, None, params, result, element_type, n_threads, name)
    return result


def backward(
    grad: Any, values: Any, params: QuantParams, name: str, n_threads: int | None, out: NDArray[Any] | None
) -> NDArray[Any]:
    """`fake_quantize_backward` of values that the caller knows by this name."""
    params = check_params(params)
    source, grads = pair(values, grad, name)
    wanted, element_type = result_dtype(grads, "grad")
    result = _arrays.output(out, source.shape, wanted, source.origin, grads.origin)
    if source.size:
        run(BACKWARD, source, grads, params, result, element_type, n_threads, name)
    return result


def result_dtype(source: Floats, name: str) -> tuple[np.dtype[Any], int]:
    """The dtype of what is computed from an array, and its element type."""
    names = {_arrays.FLOAT16: "float16", _arrays.BFLOAT16: "bfloat16"}
    return _arrays.float_dtype(names.get(source.element_type, np.float32), name)


def pair(values: Any, grad: Any, name: str) -> tuple[Floats, Floats]:
    """Values and the gradient of what became of them."""
    source, grads = _arrays.floats(values, name), _arrays.floats(grad, "grad")
    if grads.shape != source.shape:
        raise InvalidValueError(f"grad: expected the shape of {name} {source.shape}, got {grads.shape}")
    return source, grads


def run(
    work: int,
    source: Floats,
    grads: Floats | None,
    params: QuantParams,
    result: NDArray[Any],
    result_type: int,
    n_threads: int | None,
    name: str,
) -> NDArray[np.float64]:
    """Fake-quantize, or compute a gradient, into `result`.

    Returns, for LSQ alone, two sums for each scale: of its terms, and of the gradient where codes are out of range.
    They are float64, over groups or columns of fixed chunks, so that they do not depend on the number of threads.
    """
    sharing = params.sharing(source.shape, name)
    parameters = params.rows_for(sharing)
    out, out_itemsize = _arrays.bytes_of(result), result.itemsize
    sums_of_parts: list[NDArray[np.float64]] = []

    def sums_for(n_chunks: int, width: int, inner: int) -> NDArray[np.float64] | None:
        if work != LSQ:
            return None
        sums = np.zeros((2, n_chunks, width))
        sums_of_parts.append(sums.reshape(2, -1, sharing.n_scales, inner))
        return sums

    def groups(layout: affine.Layout) -> _parallel.Kernel:
        sums = sums_for(1, sharing.n_groups, layout[3])
        arrays = _input(source), _input(grads), (out, result_type), parameters, sums
        return lambda *turn: _kernels.fake_quantize_groups(work, *arrays, layout, *turn)

    def columns(start: int, stop: int, width: int) -> _parallel.Kernel:
        rows = affine.narrowed(parameters, width)
        n_chunks = -(-(stop - start) // width // _parallel.chunk_items(width * source.itemsize, _LEAST_ROWS))
        sums = sums_for(n_chunks, width, sharing.inner)
        target = out[start * out_itemsize : stop * out_itemsize], result_type
        arrays = _input(source, start, stop), _input(grads, start, stop), target, rows, sums
        return lambda *turn: _kernels.fake_quantize_columns(work, *arrays, *turn)

    together = _LEAST_ROWS if work == LSQ else 1
    if not affine.run(groups, columns, sharing, source.itemsize, n_threads, rows=together):
        affine.refuse_first(source, name)
    if work != LSQ:
        return _NO_SUMS
    return sum((sums.sum(axis=(1, 3)) for sums in sums_of_parts), np.zeros((2, sharing.n_scales)))


def _input(source: Floats | None, start: int = 0, stop: int | None = None) -> tuple[NDArray[np.uint8] | None, int]:
    """Elements of an array as the kernels take them: the bytes and their element type."""
    if source is None:
        return None, 0
    stop = source.size if stop is None else stop
    return source.raw[start * source.itemsize : stop * source.itemsize], source.element_type

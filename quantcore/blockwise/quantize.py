"""4-bit block-wise quantization for QLoRA: int4, NF4 and FP4, with single and double quantization.

Blocks run over the flattened tensor; the last one may be short. NF4 and FP4 give the bytes of bitsandbytes; the module
`bitsandbytes` has the layout of its checkpoints.
"""

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quantcore import _kernels
from quantcore._base import arrays, parallel
from quantcore._base.records import borrow, build
from quantcore.blockwise.bitsandbytes import PackedState, unpack
from quantcore.blockwise.codebooks import Codebook, check_block_size, check_scale_code, codebook_of, dynamic_cells
from quantcore.blockwise.decoding import unit_of
from quantcore.blockwise.records import DoubleQuantized4Bit, Quantized4Bit
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = [
    "BLOCK_SIZE",
    "DOUBLE_QUANT_BLOCK_SIZE",
    "dequantize_4bit",
    "dequantize_4bit_double",
    "from_bitsandbytes",
    "quantize_4bit",
    "quantize_4bit_double",
]

BLOCK_SIZE = 64
"""Elements that share a scale."""

DOUBLE_QUANT_BLOCK_SIZE = 256
"""Scales that share a super-scale."""

_SUMMED_RUN = 8192  # scales per run: NumPy sums float32 in float64 in runs of this length, so our mean equals its mean


def quantize_4bit(
    values: Any, *, block_size: int = BLOCK_SIZE, quant_type: str = "int4", n_threads: int | None = None
) -> Quantized4Bit:
    """Quantize to 4 bits with one float32 scale per block.

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite, of any shape with at least one dimension.
    block_size : int, default 64
        A power of two from 32 to 4096.
    quant_type : {"int4", "nf4", "fp4"}
        The code.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The result does not depend on it.

    Returns
    -------
    Quantized4Bit

    Raises
    ------
    ValueError
        `values` holds NaN or inf, or has no dimension; `block_size` or `quant_type` is not allowed.
    TypeError
        `values` is not a float array; `block_size` is not an integer.

    Notes
    -----
    int4: `scale = absmax / 7`, code `clip(rint(x / scale), -7, 7)`, so that |x - x̂| <= scale / 2 up to the rounding of
    float32.
    NF4, FP4: the scale is absmax, and `x * (1 / absmax)` in float32 is coded as the nearest value of the code's
    table, the lower one on a tie. Codes, scales and packed bytes are those of bitsandbytes' `quantize_4bit`, except for
    a short last block, which its CPU path divides by absmax; here it is multiplied as its GPU kernel does.

    Examples
    --------
    >>> import numpy as np
    >>> quantize_4bit(np.linspace(-1, 1, 128, dtype=np.float32), quant_type="nf4")
    Quantized4Bit(shape=(128,), quant_type='nf4', block_size=64, num_blocks=2, memory_bytes=72)
    """
    codebook = codebook_of(quant_type)
    block_size = check_block_size(block_size, "block_size")
    scales, data, shape = _quantize(values, codebook, block_size, n_threads)
    return build(Quantized4Bit, scales=scales, data=data, shape=shape, block_size=block_size, quant_type=codebook.name)


def _quantize(
    values: Any, codebook: Codebook, block_size: int, n_threads: int | None
) -> tuple[NDArray[np.float32], NDArray[np.uint8], tuple[int, ...]]:
    """Scales, packed codes and the shape of the values."""
    source = arrays.take_floats(values, "values")
    scales = np.empty(-(-source.size // block_size), np.float32)
    data = np.empty((source.size + 1) // 2, np.uint8)
    quantize_into(source, codebook, block_size, scales, data, n_threads)
    return arrays.seal(scales), arrays.seal(data), source.shape


def quantize_into(
    source: arrays.Floats,
    codebook: Codebook,
    block_size: int,
    scales: NDArray[np.float32],
    data: NDArray[np.uint8],
    n_threads: int | None,
    name: str = "values",
) -> None:
    """Quantize a flat run of elements that begins with a block."""
    bad = parallel.run(
        _kernels.QuantizeNibbles(
            source.raw, source.element_type, block_size, codebook.id, codebook.midpoints, scales, data
        ),
        source.size,
        source.itemsize,
        n_threads,
        unit=unit_of(block_size),
    )
    if bad >= 0:
        arrays.refuse_block(source, name, bad // block_size, block_size, codebook.name)


@overload
def dequantize_4bit(
    q: Quantized4Bit, *, dtype: type[np.float32] = ..., n_threads: int | None = ...
) -> NDArray[np.float32]: ...
@overload
def dequantize_4bit(
    q: Quantized4Bit, *, dtype: DTypeLike = ..., n_threads: int | None = ..., out: NDArray[Any] | None = ...
) -> NDArray[Any]: ...
def dequantize_4bit(
    q: Quantized4Bit, *, dtype: DTypeLike = np.float32, n_threads: int | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Decode a `Quantized4Bit`: `table[code] * scale` in float32.

    Parameters
    ----------
    q : Quantized4Bit
        What `quantize_4bit` returned.
    dtype : dtype, default float32
        float32, float16 or bfloat16, rounded to nearest even from float32.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.
    out : ndarray of `dtype` and of the original shape, optional
        Where to write the result.

    Returns
    -------
    ndarray of `dtype`, of the original shape

    Raises
    ------
    ValueError
        `out` does not fit.
    TypeError
        `q` is not a Quantized4Bit, or `dtype` is not one of the three.
    """
    if not isinstance(q, Quantized4Bit):
        raise InvalidTypeError(f"q: expected a Quantized4Bit, got {type(q).__name__}")
    return q.dequantize(dtype=dtype, n_threads=n_threads, out=out)


def quantize_4bit_double(
    values: Any,
    *,
    block_size: int = BLOCK_SIZE,
    quant_type: str = "int4",
    super_block_size: int = DOUBLE_QUANT_BLOCK_SIZE,
    scale_code: str = "linear",
    n_threads: int | None = None,
) -> DoubleQuantized4Bit:
    """Quantize to 4 bits, and the scales of the blocks to 8 bits.

    Parameters
    ----------
    values, block_size, quant_type, n_threads
        As for `quantize_4bit`.
    super_block_size : int, default 256
        Blocks whose scales share a super-scale, a power of two from 32 to 4096; 256 for "dynamic".
    scale_code : {"linear", "dynamic"}
        "linear": uint8 steps of the largest scale of the super-block; a block that is not all zeros keeps a non-zero
        scale, and the 4-bit codes are fitted to the scales as they will be decoded. "dynamic": bitsandbytes' nested
        statistics (`compress_statistics=True`).

    Returns
    -------
    DoubleQuantized4Bit

    Raises
    ------
    ValueError, TypeError
        As `quantize_4bit`.

    Notes
    -----
    "linear": `super_scale = max(scales) / 255`, code `max(1, rint(scale / super_scale))`, offset 0.
    "dynamic": `offset = mean(scales)`, `super_scale = max|scales - offset|` of 256 blocks, code the nearest value of
    the dynamic map to `(scales - offset) * (1 / super_scale)`; 4-bit codes as `quantize_4bit`'s. bitsandbytes' CPU path
    looks codes up in a table of 65,536 entries and is off by one code for about 0.2 % of them; these are the nearest.
    The offset is the mean rounded once; torch's sum in float32 may differ from it in the last bits.
    """
    codebook = codebook_of(quant_type)
    block_size = check_block_size(block_size, "block_size")
    super_block_size = check_block_size(super_block_size, "super_block_size")
    scale_code = check_scale_code(scale_code)
    if scale_code == "dynamic":
        if super_block_size != DOUBLE_QUANT_BLOCK_SIZE:
            raise InvalidValueError(
                f"super_block_size: must be {DOUBLE_QUANT_BLOCK_SIZE} for 'dynamic' scales, got {super_block_size}"
            )
        absmax, data, shape = _quantize(values, codebook, block_size, n_threads)
        scales, super_scales, offset = dynamic_scales(absmax, n_threads)
    else:
        scales, super_scales, data, shape = _quantize_linear(values, codebook, block_size, super_block_size, n_threads)
        offset = 0.0
    return build(
        DoubleQuantized4Bit,
        quantized_scales=scales,
        super_scales=super_scales,
        offset=offset,
        data=data,
        shape=shape,
        block_size=block_size,
        quant_type=codebook.name,
        super_block_size=super_block_size,
        scale_code=scale_code,
    )


def _quantize_linear(
    values: Any, codebook: Codebook, block_size: int, super_block_size: int, n_threads: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8], tuple[int, ...]]:
    """Scales, super-scales, packed codes and the shape of the values."""
    source = arrays.take_floats(values, "values")
    scales = np.empty(-(-source.size // block_size), np.uint8)
    super_scales = np.empty(-(-scales.size // super_block_size), np.float32)
    data = np.empty((source.size + 1) // 2, np.uint8)
    bad = parallel.run(
        _kernels.QuantizeNibblesLinear(
            source.raw,
            source.element_type,
            block_size,
            codebook.id,
            codebook.midpoints,
            super_block_size,
            scales,
            super_scales,
            data,
        ),
        source.size,
        source.itemsize,
        n_threads,
        unit=block_size * super_block_size,
    )
    if bad >= 0:
        arrays.refuse_block(source, "values", bad // block_size, block_size, codebook.name)
    return arrays.seal(scales), arrays.seal(super_scales), arrays.seal(data), source.shape


@overload
def dequantize_4bit_double(
    q: DoubleQuantized4Bit, *, dtype: type[np.float32] = ..., n_threads: int | None = ...
) -> NDArray[np.float32]: ...
@overload
def dequantize_4bit_double(
    q: DoubleQuantized4Bit, *, dtype: DTypeLike = ..., n_threads: int | None = ..., out: NDArray[Any] | None = ...
) -> NDArray[Any]: ...
def dequantize_4bit_double(
    q: DoubleQuantized4Bit,
    *,
    dtype: DTypeLike = np.float32,
    n_threads: int | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Decode a `DoubleQuantized4Bit`: its scales, then `table[code] * scale` in float32.

    Parameters
    ----------
    q : DoubleQuantized4Bit
        What `quantize_4bit_double` returned.
    dtype, n_threads, out
        As for `dequantize_4bit`.

    Returns
    -------
    ndarray of `dtype`, of the original shape

    Raises
    ------
    ValueError, TypeError
        As `dequantize_4bit`.
    """
    if not isinstance(q, DoubleQuantized4Bit):
        raise InvalidTypeError(f"q: expected a DoubleQuantized4Bit, got {type(q).__name__}")
    return q.dequantize(dtype=dtype, n_threads=n_threads, out=out)


def from_bitsandbytes(mapping: Mapping[str, Any], name: str | None = None) -> Quantized4Bit | DoubleQuantized4Bit:
    """Restore a record from what bitsandbytes stores of a weight.

    Parameters
    ----------
    mapping : mapping of str to array
        The packed codes under the weight's name ("weight" if the other keys have no prefix) and its state under that
        name and a dot: as `to_bitsandbytes` returns, or a checkpoint. Arrays or CPU tensors.
    name : str, optional
        The weight, if the mapping holds several.

    Returns
    -------
    Quantized4Bit or DoubleQuantized4Bit
        The latter if the statistics are nested.

    Raises
    ------
    ValueError
        An entry is missing, contradicts another one, or is not what bitsandbytes writes; the message names it. The
        mapping holds no 4-bit weight of this name, or several and no name is given.
    TypeError
        `mapping` is no mapping of strings, or `name` no string.
    """
    return record_of(unpack(mapping, name))


def record_of(state: PackedState, *, borrows: bool = False) -> Quantized4Bit | DoubleQuantized4Bit:
    """The record of a packed state; it may borrow the arrays of the state instead of copying them."""
    fields: dict[str, Any] = {
        "data": state.data,
        "shape": state.shape,
        "block_size": state.block_size,
        "quant_type": state.quant_type,
    }
    if state.nested is None:
        fields["scales"] = state.absmax
        return borrow(Quantized4Bit, **fields) if borrows else Quantized4Bit(**fields)
    fields |= {
        "quantized_scales": state.absmax,
        "super_scales": state.nested.absmax,
        "offset": state.nested.offset,
        "super_block_size": state.nested.block_size,
        "scale_code": state.nested.scale_code,
    }
    return borrow(DoubleQuantized4Bit, **fields) if borrows else DoubleQuantized4Bit(**fields)


def dynamic_scales(
    scales: NDArray[np.float32], n_threads: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.float32], float]:
    """bitsandbytes' nested statistics: codes of the dynamic map, absmax of each 256 scales, the subtracted mean."""
    size, itemsize = scales.size, scales.itemsize
    codes = np.empty(size, np.uint8)
    super_scales = np.empty(-(-size // DOUBLE_QUANT_BLOCK_SIZE), np.float32)
    offset = 0.0
    if size:
        sums = np.empty(-(-size // _SUMMED_RUN), np.float64)
        parallel.run(_kernels.SumRuns(scales, _SUMMED_RUN, sums), size, itemsize, n_threads, unit=_SUMMED_RUN)
        offset = float(np.float32(reduce(operator.add, sums.tolist()) / size))
        parallel.run(
            _kernels.QuantizeScales(scales, DOUBLE_QUANT_BLOCK_SIZE, offset, dynamic_cells(), codes, super_scales),
            size,
            itemsize,
            n_threads,
            unit=DOUBLE_QUANT_BLOCK_SIZE,
        )
    return arrays.seal(codes), arrays.seal(super_scales), offset

"""Products with a 4-bit weight, which is decoded block of rows by block of rows, forward and backward."""

from math import gcd
from typing import Any

import torch

from quantcore.blockwise import decoding
from quantcore.blockwise.records import DoubleQuantized4Bit, Quantized4Bit
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.torch import _tensors

__all__ = ["matmul_4bit"]

Record = Quantized4Bit | DoubleQuantized4Bit

BLOCK_ELEMENTS = 1 << 21
"""Elements that are decoded together: few enough for the cache, enough that threads seldom wait for each other."""


@_tensors.eager
def matmul_4bit(x: torch.Tensor, q: Record, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ W.T + bias` with a frozen 4-bit weight W, as `torch.nn.functional.linear`.

    Parameters
    ----------
    x : torch.Tensor, shape (..., in_features)
        On the CPU; float32, float16, bfloat16 or float64. The product is computed in its dtype.
    q : Quantized4Bit or DoubleQuantized4Bit, shape (out_features, in_features)
        What `quantize_4bit` or `quantize_4bit_double` returned. It has no gradient.
    bias : torch.Tensor, shape (out_features,), optional

    Returns
    -------
    torch.Tensor, shape (..., out_features)
        Differentiable with respect to `x` and `bias`.

    Raises
    ------
    ValueError
        `q` is not a matrix or does not fit `x`.
    TypeError
        `x` is not a dense float tensor on the CPU; `q` is not a 4-bit record.

    Notes
    -----
    The weight is decoded to float32, rounded to the dtype of `x`, a block of rows at a time (8 MiB in float32), and
    once more in the backward pass: no float copy of it is kept.
    """
    if not isinstance(q, Record):
        raise InvalidTypeError(f"q: expected a Quantized4Bit or a DoubleQuantized4Bit, got {type(q).__name__}")
    _tensors.take_floats(x, "x")
    if len(q.shape) != 2 or x.ndim == 0 or x.shape[-1] != q.shape[1]:
        raise InvalidValueError(
            f"q: expected a matrix with as many columns as x of shape {tuple(x.shape)}, got {q.shape}"
        )
    if bias is not None and tuple(_tensors.take_floats(bias, "bias").shape) != q.shape[:1]:
        raise InvalidValueError(f"bias: expected shape {q.shape[:1]}, got {tuple(bias.shape)}")
    y: torch.Tensor = _Matmul4bit.apply(x, q)
    return y if bias is None else y.add_(bias)


class _Matmul4bit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, q: Record) -> torch.Tensor:
        ctx.q = q
        rows = x.reshape(x.shape[:-1].numel(), q.shape[1])
        shape = (*x.shape[:-1], q.shape[0])
        y = x.new_empty(shape) if q.shape[1] else x.new_zeros(shape)
        columns = y.view(len(rows), q.shape[0])
        for start, weight in _RowBlocks(q, x.dtype):
            torch.mm(rows, weight.t(), out=columns[:, start : start + len(weight)])
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _MatmulTransposed.apply(grad, ctx.q), None


class _MatmulTransposed(torch.autograd.Function):
    """`grad @ W`, the gradient of `_Matmul4bit`, whose own gradient is `_Matmul4bit` again."""

    @staticmethod
    def forward(ctx: Any, grad: torch.Tensor, q: Record) -> torch.Tensor:
        ctx.q = q
        dtype = grad.dtype
        rows = grad.reshape(grad.shape[:-1].numel(), q.shape[0])
        is_short = dtype in (torch.float16, torch.bfloat16)
        # Summed over many blocks of rows, so not in the 8 or 11 bits of a half's mantissa.
        total = torch.zeros((len(rows), q.shape[1]), dtype=torch.float32 if is_short else dtype)
        for start, weight in _RowBlocks(q, dtype):
            part = rows[:, start : start + len(weight)]
            if is_short:
                total += part @ weight
            else:
                total.addmm_(part, weight)
        return total.to(dtype).view(*grad.shape[:-1], q.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Matmul4bit.apply(grad, ctx.q), None


class _RowBlocks:
    """The weight as blocks of rows: (first row, matrix); each block reuses the memory of the one before."""

    def __init__(self, q: Record, dtype: torch.dtype) -> None:
        self.q, self.dtype = q, dtype
        n_rows, n_columns = q.shape
        whole = q.block_size // gcd(max(n_columns, 1), q.block_size)  # rows after which a block of codes begins
        self.step = max(whole, BLOCK_ELEMENTS // max(n_columns, 1) // whole * whole)
        self.step = min(self.step, n_rows)

    def __iter__(self) -> Any:
        q, (n_rows, n_columns) = self.q, self.q.shape
        if not n_rows or not n_columns:
            return
        scales = q.scales if isinstance(q, Quantized4Bit) else q.decoded_scales()
        kernel_dtype = self.dtype if self.dtype in _tensors.ELEMENT_TYPES else torch.float32
        decoded = torch.empty((self.step, n_columns), dtype=kernel_dtype)
        out, element_type = _tensors.writable_bytes(decoded), _tensors.ELEMENT_TYPES[decoded.dtype]
        row_bytes = n_columns * decoded.itemsize
        for start in range(0, n_rows, self.step):
            stop = min(start + self.step, n_rows)
            first = start * n_columns
            decoding.decode_into(
                q.data[first // 2 :],
                scales[first // q.block_size :],
                q.block_size,
                q.quant_type,
                out[: (stop - start) * row_bytes],
                element_type,
                None,
            )
            yield start, decoded[: stop - start].to(self.dtype)

"""A linear layer with a frozen 4-bit weight and optional low-rank adapters: QLoRA on the CPU."""

import math
from typing import Any, Self

import torch
from torch import nn

from quantcore._base import arguments
from quantcore._base.arguments import flag
from quantcore._base.records import borrow
from quantcore._base.text import brief
from quantcore.blockwise.codebooks import check_block_size, check_scale_code, codebook_of
from quantcore.blockwise.quantize import (
    BLOCK_SIZE,
    DOUBLE_QUANT_BLOCK_SIZE,
    dequantize_4bit,
    dequantize_4bit_double,
    quantize_4bit,
    quantize_4bit_double,
)
from quantcore.blockwise.records import DoubleQuantized4Bit, Quantized4Bit
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.torch import _tensors
from quantcore.torch.matmul import Record, matmul_4bit

__all__ = ["Linear4bit"]

_MOST_FEATURES = 2**31 - 1
_STATE_VERSION = 1


class Linear4bit(_tensors.ChecksState, _tensors.KeepsDtypes, nn.Module):
    """`x @ W.T + bias`, W frozen in 4 bits, plus `alpha / rank * (dropout(x) @ A.T) @ B.T` of trainable adapters.

    Use `from_linear` or `from_quantized`; the constructor creates a layer of zeros for `load_state_dict` to fill.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool, default True
    quant_type : {"nf4", "fp4", "int4"}
    block_size : int, default 64
        Weights that share a scale (see `quantcore.quantize_4bit`).
    scale_code : {"linear", "dynamic"}, optional
        Double quantization (see `quantcore.quantize_4bit_double`); None: one float32 scale per block.
    rank : int, default 0
        The rank of the adapters; 0: no adapters.
    alpha : float, optional
        The adapters are scaled by `alpha / rank`; None: `rank`, so that they are added unscaled.
    dropout : float, default 0.0
        The dropout probability of the adapters' input in training.

    Attributes
    ----------
    record : Quantized4Bit or DoubleQuantized4Bit
        The weight, in the memory of the buffers.
    weight : torch.Tensor
        The weight without the adapters, float32, decoded at every access.
    lora_a, lora_b : torch.nn.Parameter or None
        A of shape (rank, in_features), B of shape (out_features, rank). A is initialised randomly, B with zeros.

    Raises
    ------
    ValueError, TypeError
        A parameter is not allowed; the message names it.

    Notes
    -----
    The weight is decoded 8 MiB at a time in forward and in backward (`matmul_4bit`). Only the adapters and the
    input get gradients. `.half()` and the like change the adapters and the bias, never the scales. Adapters compute in
    their own dtype. Source: Dettmers et al., QLoRA (2023); Hu et al., LoRA (2021).

    Examples
    --------
    >>> layer = Linear4bit.from_linear(nn.Linear(128, 64), rank=8)
    >>> layer(torch.zeros(2, 128)).shape
    torch.Size([2, 64])
    >>> [name for name, parameter in layer.named_parameters() if parameter.requires_grad]
    ['lora_a', 'lora_b']
    """

    codes: torch.Tensor
    scales: torch.Tensor
    quantized_scales: torch.Tensor
    super_scales: torch.Tensor
    offset: torch.Tensor
    lora_a: nn.Parameter | None
    lora_b: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        quant_type: str = "nf4",
        block_size: int = BLOCK_SIZE,
        scale_code: str | None = None,
        rank: int = 0,
        alpha: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_features = arguments.integer(in_features, "in_features", 1, _MOST_FEATURES)
        self.out_features = arguments.integer(out_features, "out_features", 1, _MOST_FEATURES)
        self.quant_type = codebook_of(quant_type).name
        self.block_size = check_block_size(block_size, "block_size")
        if scale_code is not None and not isinstance(scale_code, str):
            raise InvalidTypeError(f"scale_code: expected None or a name, got {brief(scale_code)}")
        self.scale_code = None if scale_code is None else check_scale_code(scale_code)
        self.rank = arguments.integer(rank, "rank", 0, _MOST_FEATURES)
        self.alpha = _positive(rank or 1 if alpha is None else alpha, "alpha")
        self.dropout = arguments.number(dropout, "dropout")
        if not 0 <= self.dropout < 1:
            raise InvalidValueError(f"dropout: expected a number in [0, 1), got {brief(dropout)}")
        has_bias = flag(bias, "bias")

        size = arguments.count(self.in_features * self.out_features, "in_features, out_features")
        n_blocks = -(-size // self.block_size)
        self.register_buffer("codes", torch.zeros((size + 1) // 2, dtype=torch.uint8))
        if scale_code is None:
            self._exact = ("scales",)
            self.register_buffer("scales", torch.zeros(n_blocks))
        else:
            self._exact = ("super_scales", "offset")
            n_super = -(-n_blocks // DOUBLE_QUANT_BLOCK_SIZE)
            self.register_buffer("quantized_scales", torch.zeros(n_blocks, dtype=torch.uint8))
            self.register_buffer("super_scales", torch.zeros(n_super))
            self.register_buffer("offset", torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(self.out_features), requires_grad=False) if has_bias else None
        self.lora_a = nn.Parameter(torch.empty(self.rank, self.in_features)) if rank else None
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, self.rank)) if rank else None
        if self.lora_a is not None:
            nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as nn.Linear's own weight

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        quant_type: str = "nf4",
        block_size: int = BLOCK_SIZE,
        scale_code: str | None = None,
        rank: int = 0,
        alpha: float | None = None,
        dropout: float = 0.0,
    ) -> Self:
        """Quantize the weight of a linear layer.

        Parameters
        ----------
        linear : torch.nn.Linear
            A layer on the CPU; it is not changed. The bias is copied.
        quant_type, block_size, scale_code, rank, alpha, dropout
            As for `Linear4bit`.

        Returns
        -------
        Linear4bit
        """
        weight = cls._take_weight(linear)
        q: Record
        if scale_code is None:
            q = quantize_4bit(weight, block_size=block_size, quant_type=quant_type)
        else:
            q = quantize_4bit_double(weight, block_size=block_size, quant_type=quant_type, scale_code=scale_code)
        return cls.from_quantized(q, linear.bias, rank=rank, alpha=alpha, dropout=dropout)

    @classmethod
    def _take_weight(cls, linear: Any) -> torch.Tensor:
        """The weight of a float layer, checked, of shape (out_features, in_features)."""
        if not isinstance(linear, nn.Linear):
            raise InvalidTypeError(f"linear: expected a torch.nn.Linear, got {type(linear).__name__}")
        return _tensors.take_floats(linear.weight, "linear.weight")

    @classmethod
    def from_quantized(
        cls,
        q: Record,
        bias: torch.Tensor | None = None,
        *,
        rank: int = 0,
        alpha: float | None = None,
        dropout: float = 0.0,
    ) -> Self:
        """Take a quantized weight, such as one from a checkpoint of bitsandbytes.

        Parameters
        ----------
        q : Quantized4Bit or DoubleQuantized4Bit, shape (out_features, in_features)
            The weight, which is copied.
        bias : torch.Tensor, shape (out_features,), optional
            The bias, which is copied.
        rank, alpha, dropout
            As for `Linear4bit`.

        Returns
        -------
        Linear4bit
        """
        if not isinstance(q, Record):
            raise InvalidTypeError(f"q: expected a Quantized4Bit or a DoubleQuantized4Bit, got {type(q).__name__}")
        if len(q.shape) != 2:
            raise InvalidValueError(f"q: expected a matrix, got shape {q.shape}")
        if bias is not None and tuple(_tensors.take_floats(bias, "bias").shape) != q.shape[:1]:
            raise InvalidValueError(f"bias: expected shape {q.shape[:1]}, got {tuple(bias.shape)}")
        scale_code = None
        if isinstance(q, DoubleQuantized4Bit):
            scale_code = q.scale_code
            if q.super_block_size != DOUBLE_QUANT_BLOCK_SIZE:
                raise InvalidValueError(
                    f"q: expected super-blocks of {DOUBLE_QUANT_BLOCK_SIZE}, got {q.super_block_size}"
                )
        options = {"quant_type": q.quant_type, "block_size": q.block_size, "scale_code": scale_code}
        adapters = {"rank": rank, "alpha": alpha, "dropout": dropout}
        layer = cls(q.shape[1], q.shape[0], bias is not None, **options, **adapters)  # type: ignore[arg-type]
        layer.codes = _tensors.tensor_of(q.data)
        if isinstance(q, DoubleQuantized4Bit):
            layer.quantized_scales = _tensors.tensor_of(q.quantized_scales)
            layer.super_scales = _tensors.tensor_of(q.super_scales)
            layer.offset = torch.tensor(q.offset)
        else:
            layer.scales = _tensors.tensor_of(q.scales)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        return layer

    @property
    def record(self) -> Record:
        """The weight as a record in the memory of the buffers, checked again at every access."""
        of_codes: dict[str, Any] = {
            "data": _tensors.array(self.codes, "codes"),
            "shape": (self.out_features, self.in_features),
            "block_size": self.block_size,
            "quant_type": self.quant_type,
        }
        if self.scale_code is None:
            scales = _tensors.array(self.scales, "scales")
            return borrow(Quantized4Bit, scales=scales, **of_codes)
        return borrow(
            DoubleQuantized4Bit,
            quantized_scales=_tensors.array(self.quantized_scales, "quantized_scales"),
            super_scales=_tensors.array(self.super_scales, "super_scales"),
            offset=float(self.offset),
            super_block_size=DOUBLE_QUANT_BLOCK_SIZE,
            scale_code=self.scale_code,
            **of_codes,
        )

    @property
    def weight(self) -> torch.Tensor:
        """The decoded weight without the adapters, float32 of shape (out_features, in_features)."""
        q = self.record
        values = dequantize_4bit(q) if isinstance(q, Quantized4Bit) else dequantize_4bit_double(q)
        return torch.from_numpy(values)

    @_tensors.eager
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to `x` of shape (..., in_features)."""
        _tensors.take_floats(x, "x")
        y = matmul_4bit(x, self.record, None if self.bias is None else self.bias.to(x.dtype))
        if self.lora_a is None or self.lora_b is None:
            return y
        inner = nn.functional.dropout(x, self.dropout, self.training).to(self.lora_a.dtype)
        update = nn.functional.linear(nn.functional.linear(inner, self.lora_a), self.lora_b)
        return y.add(update.to(y.dtype), alpha=self.alpha / self.rank)

    def merge(self) -> nn.Linear:
        """A plain float32 linear layer with the decoded weight plus the adapters.

        Returns
        -------
        torch.nn.Linear
            Its weight and bias are copies and take gradients.
        """
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        weight = self.weight
        if self.lora_a is not None and self.lora_b is not None:
            weight.addmm_(self.lora_b.detach().float(), self.lora_a.detach().float(), alpha=self.alpha / self.rank)
        linear.weight = nn.Parameter(weight)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().float().clone())
        return linear

    def to_peft(self) -> dict[str, torch.Tensor]:
        """The adapters by the names that PEFT has for them in a layer; `save_peft_adapter` writes those of a model.

        Returns
        -------
        dict of str to torch.Tensor
            `lora_A.weight` of shape (rank, in_features), `lora_B.weight` of shape (out_features, rank): copies. PEFT
            scales their product by `lora_alpha / r`, which are `alpha` and `rank` here.

        Raises
        ------
        InvalidValueError
            The layer has no adapters.
        """
        if self.lora_a is None or self.lora_b is None:
            raise InvalidValueError("rank: expected an integer >= 1, got 0: the layer has no adapters")
        adapters = {"lora_A.weight": self.lora_a, "lora_B.weight": self.lora_b}
        return {name: tensor.detach().clone().contiguous() for name, tensor in adapters.items()}

    def get_extra_state(self) -> torch.Tensor:
        """How to decode the codes, for `state_dict`."""
        return _tensors.pack_state(_STATE_VERSION, self._layout())

    def _checked_state(self, state: Any) -> Any:
        return _tensors.unpack_state(state, _STATE_VERSION, self._layout(), "Linear4bit")

    def extra_repr(self) -> str:
        """The text in the parentheses of `repr`."""
        scale_code = f", scale_code={self.scale_code!r}" if self.scale_code else ""
        adapters = f", rank={self.rank}, alpha={self.alpha:g}, dropout={self.dropout}" if self.rank else ""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"quant_type={self.quant_type!r}, block_size={self.block_size}{scale_code}{adapters}"
        )

    def _layout(self) -> dict[str, Any]:
        names = ("in_features", "out_features", "quant_type", "block_size", "scale_code")
        return {name: getattr(self, name) for name in names}


def _positive(value: Any, name: str) -> float:
    number = arguments.number(value, name)
    if number <= 0:
        raise InvalidValueError(f"{name}: expected a positive number, got {brief(value)}")
    return number

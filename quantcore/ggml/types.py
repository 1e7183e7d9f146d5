"""ggml's tensor types: every fact of a type once, in its row. The kernels are in `_kernels/formats`.

Whatever has to know the types (the enumeration, the supported ones, the records, what benchmarks and the demo try, the
file type of a model, the tables of the documentation) derives it from these rows. Sizes are sums of a block's fields,
so that the table documents the layouts (source: ggml's `ggml-common.h` and `ggml.h`, build b11739).
"""

import operator
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, IntEnum
from math import inf
from typing import Any, NoReturn

from quantcore._base.text import brief, did_you_mean
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["GGML_TYPES", "GGUF_BLOCK_SIZE", "Family", "GGMLType", "GGUFQuantType", "ImatrixUse", "as_ggml_type"]

GGUF_BLOCK_SIZE = 32
"""Elements in a block of Q4_0, Q8_0 and the other simple GGUF formats."""

_SUPER = 256


class ImatrixUse(Enum):
    """What an importance matrix does to a type."""

    IGNORED = "ignored"
    OPTIONAL = "optional"
    REQUIRED_IN_MODELS = "required in models"
    """ggml quantizes without one, but llama-quantize refuses to."""
    REQUIRED = "required"


class Family(Enum):
    """Types that are built alike."""

    FLOAT = "float"
    INTEGER = "integer"
    LEGACY = "legacy"
    K_QUANT = "K-quant"
    IQ = "IQ"
    TERNARY = "ternary"
    FLOAT4 = "4-bit float"
    LOW_BIT = "low-bit"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class ScaleField:
    """Where the scales stand in a block: `count` numbers of a NumPy dtype from byte `offset` on."""

    offset: int = 0
    dtype: str = "<f2"
    count: int = 1


@dataclass(frozen=True, slots=True)
class GGMLType:
    """A tensor type.

    Attributes
    ----------
    name : str
    id : int
        ggml's.
    block_size : int
        Elements in a block.
    bytes_per_block : int
        Bytes of a block, scales included.
    family : Family
    file_type : int, optional
        llama.cpp's `general.file_type` of a file that is mostly of this type; None: there is no such file.
    limit : float
        Blocks of smaller magnitudes can be stored without importance weights; with them, of about half.
    imatrix : ImatrixUse
    scale : ScaleField, optional
        None: a block has no scale, or one that is spread over its bytes.
    work : int
        How much longer than copying the quantization of an element takes, roughly: sets the size of chunks.
    fallback : str
        The name of the type that llama-quantize stores rows in which are no whole blocks of this one.
    """

    name: str
    id: int
    block_size: int
    bytes_per_block: int
    family: Family = Family.INTEGER
    file_type: int | None = None
    limit: float = inf
    imatrix: ImatrixUse = ImatrixUse.IGNORED
    scale: ScaleField | None = None
    work: int = 1
    fallback: str = "F16"

    @property
    def needs_imatrix_in_models(self) -> bool:
        """Whether llama-quantize refuses to quantize to this type without an importance matrix."""
        return self.imatrix in (ImatrixUse.REQUIRED_IN_MODELS, ImatrixUse.REQUIRED)

    @property
    def alignment(self) -> int:
        """The alignment in bytes that an array of this type needs: an element for plain types, 1 for block types."""
        return self.bytes_per_block if self.block_size == 1 else 1


class GGUFQuantType(IntEnum):
    """The types that quantcore quantizes to, with ggml's own type ids.

    Examples
    --------
    >>> GGUFQuantType.Q4_0.bits_per_weight
    4.5
    >>> round(GGUFQuantType.Q4_0.theoretical_compression, 2)
    7.11
    """

    layout: GGMLType

    def __new__(cls, layout: Any) -> "GGUFQuantType":
        """A member for a row."""
        member = int.__new__(cls, layout.id)
        member._value_ = layout.id
        member.layout = layout
        return member

    @classmethod
    def _missing_(cls, value: object) -> "GGUFQuantType | None":
        return cls(as_ggml_type(value).id) if isinstance(value, str) else None

    F32 = GGMLType("F32", 0, 1, 4, Family.FLOAT, 0)
    F16 = GGMLType("F16", 1, 1, 2, Family.FLOAT, 1, 65520.0)
    Q4_0 = GGMLType("Q4_0", 2, 32, 2 + 16, Family.LEGACY, 2, 524160.0, ImatrixUse.OPTIONAL, ScaleField())
    Q4_1 = GGMLType("Q4_1", 3, 32, 2 + 2 + 16, Family.LEGACY, 3, 65520.0, ImatrixUse.OPTIONAL, ScaleField())
    Q5_0 = GGMLType("Q5_0", 6, 32, 2 + 4 + 16, Family.LEGACY, 8, 1048320.0, ImatrixUse.OPTIONAL, ScaleField())
    Q5_1 = GGMLType("Q5_1", 7, 32, 2 + 2 + 4 + 16, Family.LEGACY, 9, 65520.0, ImatrixUse.OPTIONAL, ScaleField())
    Q8_0 = GGMLType("Q8_0", 8, 32, 2 + 32, Family.LEGACY, 7, 8321040.0, scale=ScaleField())
    Q2_K = GGMLType(
        "Q2_K", 10, _SUPER, 16 + 64 + 2 + 2, Family.K_QUANT, 10, 7e5, ImatrixUse.OPTIONAL, ScaleField(80), 32, "Q4_0"
    )
    Q3_K = GGMLType(
        "Q3_K", 11, _SUPER, 32 + 64 + 12 + 2, Family.K_QUANT, 12, 6e6, ImatrixUse.OPTIONAL, ScaleField(108), 16, "Q4_0"
    )
    Q4_K = GGMLType(
        "Q4_K", 12, _SUPER, 2 + 2 + 12 + 128, Family.K_QUANT, 15, 3.5e6, ImatrixUse.OPTIONAL, ScaleField(), 32, "Q5_0"
    )
    Q5_K = GGMLType(
        "Q5_K", 13, _SUPER, 2 + 2 + 12 + 32 + 128, Family.K_QUANT, 17, 3.5e6,
        ImatrixUse.OPTIONAL, ScaleField(), 32, "Q5_1",
    )  # fmt: skip
    Q6_K = GGMLType(
        "Q6_K", 14, _SUPER, 128 + 64 + 16 + 2, Family.K_QUANT, 18, 2.4e8,
        ImatrixUse.OPTIONAL, ScaleField(208), 16, "Q8_0",
    )  # fmt: skip
    IQ2_XXS = GGMLType(
        "IQ2_XXS", 16, _SUPER, 2 + 64, Family.IQ, 19, 5e6, ImatrixUse.REQUIRED, ScaleField(), 128, "IQ4_NL"
    )
    IQ2_XS = GGMLType(
        "IQ2_XS", 17, _SUPER, 2 + 64 + 8, Family.IQ, 20, 5e6, ImatrixUse.REQUIRED, ScaleField(), 128, "IQ4_NL"
    )
    IQ3_XXS = GGMLType(
        "IQ3_XXS", 18, _SUPER, 2 + 96, Family.IQ, 23, 1.5e7, ImatrixUse.REQUIRED_IN_MODELS, ScaleField(), 128, "IQ4_NL"
    )
    IQ1_S = GGMLType(
        "IQ1_S", 19, _SUPER, 2 + 32 + 16, Family.IQ, 24, 5e4, ImatrixUse.REQUIRED, ScaleField(), 64, "IQ4_NL"
    )
    IQ4_NL = GGMLType("IQ4_NL", 20, 32, 2 + 16, Family.IQ, 25, 7e6, ImatrixUse.OPTIONAL, ScaleField(), 32)
    IQ3_S = GGMLType(
        "IQ3_S", 21, _SUPER, 2 + 64 + 8 + 32 + 4, Family.IQ, 26, 1.5e7, ImatrixUse.OPTIONAL, ScaleField(), 128, "IQ4_NL"
    )
    IQ2_S = GGMLType(
        "IQ2_S", 22, _SUPER, 2 + 64 + 8 + 8, Family.IQ, 28, 5e6,
        ImatrixUse.REQUIRED_IN_MODELS, ScaleField(), 64, "IQ4_NL",
    )  # fmt: skip
    IQ4_XS = GGMLType(
        "IQ4_XS", 23, _SUPER, 2 + 2 + 4 + 128, Family.IQ, 30, 2e8, ImatrixUse.OPTIONAL, ScaleField(), 32, "IQ4_NL"
    )
    IQ1_M = GGMLType(
        "IQ1_M", 29, _SUPER, 32 + 16 + 8, Family.IQ, 31, 4e4, ImatrixUse.REQUIRED_IN_MODELS, None, 64, "IQ4_NL"
    )
    BF16 = GGMLType("BF16", 30, 1, 2, Family.FLOAT, 32, float.fromhex("0x1.FFp127"))
    TQ1_0 = GGMLType(
        "TQ1_0", 34, _SUPER, 48 + 4 + 2, Family.TERNARY, 36, 65520.0, scale=ScaleField(52), fallback="Q4_0"
    )
    TQ2_0 = GGMLType("TQ2_0", 35, _SUPER, 64 + 2, Family.TERNARY, 37, 65520.0, scale=ScaleField(64), fallback="Q4_0")
    MXFP4 = GGMLType("MXFP4", 39, 32, 1 + 16, Family.FLOAT4, 38, scale=ScaleField(dtype="u1"))
    NVFP4 = GGMLType("NVFP4", 40, 64, 4 + 32, Family.FLOAT4, 39, scale=ScaleField(dtype="u1", count=4), work=8)
    Q1_0 = GGMLType("Q1_0", 41, 128, 2 + 16, Family.LOW_BIT, 40, 65520.0, scale=ScaleField())
    Q2_0 = GGMLType("Q2_0", 42, 64, 2 + 16, Family.LOW_BIT, 41, 65520.0, scale=ScaleField(), fallback="Q4_0")

    @property
    def block_size(self) -> int:
        """The number of elements per block."""
        return self.layout.block_size

    @property
    def bytes_per_block(self) -> int:
        """Bytes per block, scales included."""
        return self.layout.bytes_per_block

    @property
    def bits(self) -> int:
        """Nominal bits of one code, without the block's scales: the number in the type's name."""
        return int("".join(c for c in self.name.split("_")[0] if c.isdigit()))

    @property
    def bits_per_weight(self) -> float:
        """Bits per element, scales included."""
        return 8 * self.bytes_per_block / self.block_size

    @property
    def theoretical_compression(self) -> float:
        """Size as float32 over size in this type, scales included."""
        return 32 / self.bits_per_weight


_READ_ONLY = (
    GGMLType("Q8_1", 9, 32, 2 + 2 + 32, Family.INTERNAL),
    GGMLType("Q8_K", 15, _SUPER, 4 + 256 + 32, Family.INTERNAL),
    GGMLType("I8", 24, 1, 1),
    GGMLType("I16", 25, 1, 2),
    GGMLType("I32", 26, 1, 4),
    GGMLType("I64", 27, 1, 8),
    GGMLType("F64", 28, 1, 8, Family.FLOAT),
)

GGML_TYPES: dict[int, GGMLType] = {t.id: t for t in (*(m.layout for m in GGUFQuantType), *_READ_ONLY)}
"""Every type id that a GGUF file may hold today, removed ones left out."""

REMOVED_TYPES = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip
"""Ids of types that ggml has removed, and their names."""

_ELSEWHERE = {
    "nf4": "see quantize_4bit(values, quant_type='nf4'), and quantize_checkpoint for a model",
    "fp4": "see quantize_4bit(values, quant_type='fp4'), and quantize_checkpoint for a model",
    "int4": "see quantize_4bit(values, quant_type='int4') and quantize_tensor(values, bits=4)",
    "int8": "see quantize_tensor(values, bits=8)",
    "uint8": "see quantize_tensor(values, mode='asymmetric', bits=8)",
}
"""What a name that is no type of ggml stands for, in lower case, and which functions have it."""

_MIXES = {
    "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "IQ2_M", "IQ3_XS", "IQ3_M",
    "MXFP4_MOE",
}  # fmt: skip
"""The names of llama-quantize that no type has."""

TYPES_BY_NAME = {t.name: t for t in GGML_TYPES.values()}


def as_ggml_type(qtype: object, name: str = "qtype") -> GGMLType:
    """The layout that a `GGUFQuantType`, its name in any case, or its id stands for."""
    by_name = GGUFQuantType.__members__
    member = by_name.get(qtype.upper()) if isinstance(qtype, str) else _BY_ID.get(_index(qtype, name))
    if member is None:
        refuse_type(qtype, name, by_name)
    return member.layout


def refuse_type(qtype: object, name: str, known: Collection[str]) -> NoReturn:
    """Say that a type is none of those that are known, and where it is to be found or what may have been meant."""
    hint = ""
    if isinstance(qtype, str):
        if elsewhere := _ELSEWHERE.get(qtype.lower()):
            raise InvalidValueError(f"{name}: {brief(qtype)} is no type of ggml; {elsewhere}")
        hint = did_you_mean(qtype, known)
        if qtype.upper() in _MIXES:
            raise InvalidValueError(f"{name}: {brief(qtype)} is a mix of types, for quantize_model{hint}")
    raise InvalidValueError(f"{name}: unknown type {brief(qtype)}; known: {', '.join(known)}{hint}")


def _index(qtype: object, name: str) -> int:
    try:
        if isinstance(qtype, bool):
            raise TypeError
        return operator.index(qtype)  # type: ignore[arg-type]
    except Exception:  # whatever an object raises; an array has an index if it holds a single integer
        raise InvalidTypeError(f"{name}: expected a GGUFQuantType, its name or its id, got {brief(qtype)}") from None


_BY_ID: dict[int, GGUFQuantType] = {int(t): t for t in GGUFQuantType}

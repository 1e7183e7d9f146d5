"""ggml's tensor types: ids and block layouts, as GGUF files name them. Facts only; the kernels are in `formats`.

Sizes are written as sums of a block's fields, so that the table documents the layouts (source: ggml's `ggml-common.h`).
"""

import operator
from dataclasses import dataclass
from enum import IntEnum

from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.tables import brief

__all__ = ["GGML_TYPES", "GGUF_BLOCK_SIZE", "GGMLType", "GGUFQuantType", "as_ggml_type"]

GGUF_BLOCK_SIZE = 32
"""Elements in a block of Q4_0, Q8_0 and the other simple GGUF formats."""

_SUPER = 256


@dataclass(frozen=True, slots=True)
class GGMLType:
    """A tensor type: `block_size` elements take `bytes_per_block` bytes."""

    name: str
    id: int
    block_size: int
    bytes_per_block: int

    @property
    def alignment(self) -> int:
        """Bytes that an array of this type must be aligned to: one element of a plain type, none of a block type."""
        return self.bytes_per_block if self.block_size == 1 else 1


GGML_TYPES: dict[int, GGMLType] = {
    t.id: t
    for t in (
        GGMLType("F32", 0, 1, 4),
        GGMLType("F16", 1, 1, 2),
        GGMLType("Q4_0", 2, 32, 2 + 16),
        GGMLType("Q4_1", 3, 32, 2 + 2 + 16),
        GGMLType("Q5_0", 6, 32, 2 + 4 + 16),
        GGMLType("Q5_1", 7, 32, 2 + 2 + 4 + 16),
        GGMLType("Q8_0", 8, 32, 2 + 32),
        GGMLType("Q8_1", 9, 32, 2 + 2 + 32),
        GGMLType("Q2_K", 10, _SUPER, 16 + 64 + 2 + 2),
        GGMLType("Q3_K", 11, _SUPER, 32 + 64 + 12 + 2),
        GGMLType("Q4_K", 12, _SUPER, 2 + 2 + 12 + 128),
        GGMLType("Q5_K", 13, _SUPER, 2 + 2 + 12 + 32 + 128),
        GGMLType("Q6_K", 14, _SUPER, 128 + 64 + 16 + 2),
        GGMLType("Q8_K", 15, _SUPER, 4 + 256 + 32),
        GGMLType("IQ2_XXS", 16, _SUPER, 2 + 64),
        GGMLType("IQ2_XS", 17, _SUPER, 2 + 64 + 8),
        GGMLType("IQ3_XXS", 18, _SUPER, 2 + 96),
        GGMLType("IQ1_S", 19, _SUPER, 2 + 32 + 16),
        GGMLType("IQ4_NL", 20, 32, 2 + 16),
        GGMLType("IQ3_S", 21, _SUPER, 2 + 64 + 8 + 32 + 4),
        GGMLType("IQ2_S", 22, _SUPER, 2 + 64 + 8 + 8),
        GGMLType("IQ4_XS", 23, _SUPER, 2 + 2 + 4 + 128),
        GGMLType("I8", 24, 1, 1),
        GGMLType("I16", 25, 1, 2),
        GGMLType("I32", 26, 1, 4),
        GGMLType("I64", 27, 1, 8),
        GGMLType("F64", 28, 1, 8),
        GGMLType("IQ1_M", 29, _SUPER, 32 + 16 + 8),
        GGMLType("BF16", 30, 1, 2),
        GGMLType("TQ1_0", 34, _SUPER, 48 + 4 + 2),
        GGMLType("TQ2_0", 35, _SUPER, 64 + 2),
        GGMLType("MXFP4", 39, 32, 1 + 16),
        GGMLType("NVFP4", 40, 64, 4 + 32),
        GGMLType("Q1_0", 41, 128, 2 + 16),
    )
}
"""Every type id that a GGUF file may hold today, removed ones left out."""


class GGUFQuantType(IntEnum):
    """The GGUF formats of quantcore, with ggml's own type ids.

    Examples
    --------
    >>> GGUFQuantType.Q4_0.bits_per_weight
    4.5
    >>> round(GGUFQuantType.Q4_0.theoretical_compression, 2)
    7.11
    """

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ4_NL = 20
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39

    @property
    def block_size(self) -> int:
        """Elements in a block."""
        return GGML_TYPES[self].block_size

    @property
    def bytes_per_block(self) -> int:
        """Bytes of a block, scales included."""
        return GGML_TYPES[self].bytes_per_block

    @property
    def bits(self) -> int:
        """Nominal bits of one code, without the block's scales: the number in the type's name."""
        return int("".join(c for c in self.name.split("_")[0] if c.isdigit()))

    @property
    def bits_per_weight(self) -> float:
        """Bits an element takes, scales included."""
        return 8 * self.bytes_per_block / self.block_size

    @property
    def theoretical_compression(self) -> float:
        """How many times smaller than float32, scales included."""
        return 32 / self.bits_per_weight


def as_ggml_type(qtype: object, name: str = "qtype") -> GGMLType:
    """The layout that a `GGUFQuantType`, its name in any case, or its id stands for."""
    if isinstance(qtype, str):
        member = GGUFQuantType.__members__.get(qtype.upper())
    elif isinstance(qtype, bool) or not hasattr(qtype, "__index__"):
        raise InvalidTypeError(f"{name}: expected a GGUFQuantType, its name or its id, got {brief(qtype)}")
    else:
        member = _QUANT_TYPES.get(operator.index(qtype))
    if member is None:
        raise InvalidValueError(f"{name}: unknown type {brief(qtype)}; known: {', '.join(GGUFQuantType.__members__)}")
    return GGML_TYPES[member]


_QUANT_TYPES: dict[int, GGUFQuantType] = {int(t): t for t in GGUFQuantType}

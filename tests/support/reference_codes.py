"""Naive oracle for codes with scales: each value by the definition of its format, in float64, rounded once."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np

DECODED = {"F32": (np.float32, 24, -149), "F16": (np.float16, 11, -24), "BF16": (np.uint16, 8, -133)}
"""Results: what NumPy reads them as, significant bits, and the exponent of the smallest subnormal."""


def minifloat(code: int, exponent_bits: int, mantissa_bits: int, bias: int) -> float:
    sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
    exponent, mantissa = code >> mantissa_bits & ((1 << exponent_bits) - 1), code & ((1 << mantissa_bits) - 1)
    fraction = Fraction(mantissa, 1 << mantissa_bits)
    if exponent == 0:
        return sign * float(fraction * Fraction(2) ** (1 - bias))
    return sign * float((1 + fraction) * Fraction(2) ** (exponent - bias))


def e4m3(code: int) -> float:
    return float("nan") if code & 0x7F == 0x7F else minifloat(code, 4, 3, 7)


def e5m2(code: int) -> float:
    if code & 0x7F >= 0x7C:
        return float("nan") if code & 3 else -float("inf") if code & 0x80 else float("inf")
    return minifloat(code, 5, 2, 15)


def e8m0(code: int) -> float:
    return float("nan") if code == 255 else 2.0 ** (code - 127)


def e2m1(code: int) -> float:
    return (-1.0 if code & 8 else 1.0) * (0, 0.5, 1, 1.5, 2, 3, 4, 6)[code & 7]


def int8(code: int) -> float:
    return float(code - 256 if code > 127 else code)


VALUES: dict[str, Callable[[int], float]] = {
    "F8_E4M3": e4m3, "F8_E5M2": e5m2, "F8_E8M0": e8m0, "U8": e8m0, "E2M1": e2m1, "I8": int8,
}  # fmt: skip


def values_of(codes: np.ndarray, kind: str) -> np.ndarray:
    """The values of an array of bytes; the float64 table is looked up, not computed with."""
    return np.array([VALUES[kind](code) for code in range(256)])[codes]


def unpacked(codes: np.ndarray) -> np.ndarray:
    """Codes of 4 bits, the low half of each byte first; the last axis doubles."""
    return np.stack((codes & 15, codes >> 4), axis=-1).reshape(*codes.shape[:-1], 2 * codes.shape[-1])


def spread(scales: np.ndarray, shape: tuple[int, ...], blocks: tuple[int, int]) -> np.ndarray:
    """Scales of rectangles of the last two axes, one for each element; the last rectangles may be smaller."""
    rows, columns = (np.arange(n) // block for n, block in zip(shape[-2:], blocks, strict=True))
    return scales[..., rows, :][..., columns]


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64 rounded once to nearest even; bfloat16 as its bits. What is too large becomes inf."""
    as_numpy, bits, lowest = DECODED[dtype]
    finite = np.where(np.isfinite(values), values, 0)
    quantum = np.ldexp(1.0, np.maximum(np.frexp(finite)[1] - bits, lowest))
    with np.errstate(over="ignore"):
        nearest = np.where(np.isfinite(values), np.copysign(np.rint(finite / quantum) * quantum, values), values)
        if dtype != "BF16":
            return nearest.astype(as_numpy)
        return (nearest.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)

"""The values of the small codes that checkpoints store weights and scales in, by their definitions.

E4M3FN, E5M2: "FP8 Formats for Deep Learning" (Micikevicius et al., 2022); the FNUZ variants: Noune et al., 2022; E2M1,
E8M0: the OCP Microscaling Formats (MX) Specification 1.0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CODES", "E8M0_BYTES", "SCALE_VALUES", "CodeType"]


def _minifloat(exponent_bits: int, mantissa_bits: int, bias: int) -> NDArray[np.float64]:
    """The values of all codes of a sign, an exponent and a mantissa, with subnormals and without special values."""
    codes = np.arange(1 << (1 + exponent_bits + mantissa_bits))
    mantissa = codes & ((1 << mantissa_bits) - 1)
    exponent = codes >> mantissa_bits & ((1 << exponent_bits) - 1)
    significand = np.where(exponent > 0, mantissa + (1 << mantissa_bits), mantissa)
    magnitude = np.ldexp(significand.astype(np.float64), np.maximum(exponent, 1) - bias - mantissa_bits)
    sign = np.where(codes >> (exponent_bits + mantissa_bits), -1.0, 1.0)
    return np.asarray(sign * magnitude, np.float64)


def _with(values: NDArray[np.float64], special: Mapping[int, float]) -> NDArray[np.float64]:
    for code, value in special.items():
        values[code] = value
    return values


_NAN, _INF = float("nan"), float("inf")
_E4M3 = _with(_minifloat(4, 3, 7), {0x7F: _NAN, 0xFF: _NAN})
_E5M2 = _with(
    _minifloat(5, 2, 15),
    {0x7C: _INF, 0xFC: -_INF} | {code: _NAN for sign in (0, 0x80) for code in range(sign + 0x7D, sign + 0x80)},
)
_E8M0 = _with(np.ldexp(1.0, np.arange(256) - 127), {0xFF: _NAN})


@dataclass(frozen=True, slots=True)
class CodeType:
    """A kind of code.

    Attributes
    ----------
    bits : int
        8, or 4: two codes a byte, the first of them in the low half.
    table : ndarray of float32, shape (2**bits,)
        The value of each code, which has 8 significant bits at most; NaN for codes that are no number.
    widening : int
        A faster way to these values than a look-up, as the kernel numbers them (`_kernels/passes/scaled_codes.pxd`);
        0: none.
    """

    bits: int
    table: NDArray[np.float32]
    widening: int = 0


_AS_E4M3, _AS_E5M2, _AS_INTEGERS = 1, 2, 3

CODES: Mapping[str, CodeType] = {
    "F8_E4M3": CodeType(8, _E4M3.astype(np.float32), _AS_E4M3),
    "F8_E5M2": CodeType(8, _E5M2.astype(np.float32), _AS_E5M2),
    "F8_E4M3FNUZ": CodeType(8, _with(_minifloat(4, 3, 8), {0x80: _NAN}).astype(np.float32)),
    "F8_E5M2FNUZ": CodeType(8, _with(_minifloat(5, 2, 16), {0x80: _NAN}).astype(np.float32)),
    "I8": CodeType(8, np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32), _AS_INTEGERS),
    "E2M1": CodeType(4, _minifloat(2, 1, 1).astype(np.float32)),
}
"""The codes of weights by the names of safetensors; E2M1 is the FP4 of MXFP4 and NVFP4, packed in U8."""

E8M0_BYTES = ("U8", "F8_E8M0")
"""How E8M0 scales are stored: 2**(code - 127)."""
SCALE_VALUES: Mapping[str, NDArray[np.float64]] = {"F8_E4M3": _E4M3, **dict.fromkeys(E8M0_BYTES, _E8M0)}
"""The values of scales that are codes themselves, by the dtype of the tensor."""

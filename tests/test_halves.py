"""IEEE halves to float32 and back at every CPU level: NumPy's bits, in whole vectors and in what is left over.

A gradient passes through both conversions, NaN included: it is widened, multiplied by one and rounded.
"""

import numpy as np
import pytest

from quantcore import _kernels, calibrate_per_tensor, dequantize, fake_quantize_backward, quantize
from tests.test_isa import python

HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
LENGTHS = [1, 7, 8, 9, 15, 16, 17, 33, 1 << 16]


def passed_on(grad: np.ndarray) -> np.ndarray:
    params = calibrate_per_tensor(np.ones(1, np.float32))
    return fake_quantize_backward(grad, np.zeros(grad.shape, np.float32), params)


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.dtype == expected.dtype and found.tobytes() == expected.tobytes()


def every_half_is_numpys() -> bool:
    """All of them, in arrays of lengths that end within a vector; a signalling NaN becomes a quiet one."""
    expected = HALVES.astype(np.float32).astype(np.float16)
    quiet = np.isnan(HALVES)
    expected.view(np.uint16)[quiet] |= 0x200
    pieces = ((n, start) for n in LENGTHS for start in range(0, HALVES.size, max(n, 64)))
    return all(same(passed_on(HALVES[start : start + n]), expected[start : start + n]) for n, start in pieces)


def finite_halves_are_exact() -> bool:
    finite = HALVES[np.isfinite(HALVES)]
    return same(dequantize(finite.view(np.uint8), "F16"), finite.astype(np.float32))


def floats_round_as_numpys() -> bool:
    """Every half, the ties between neighbours, and the floats on both sides of these."""
    halves = np.unique(HALVES[np.isfinite(HALVES)].astype(np.float32))
    ties = (halves[:-1] + halves[1:]) / 2
    floats = np.concatenate([halves, ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, -ties[-1])])
    return same(quantize(floats, "F16").view(np.float16), floats.astype(np.float16))


@pytest.mark.parametrize("level", _kernels.SUPPORTED_LEVELS)
@pytest.mark.parametrize("check", [every_half_is_numpys, finite_halves_are_exact, floats_round_as_numpys])
def test_every_level_converts_as_numpy(check, level):
    name = check.__name__
    child = python(f"from tests.test_halves import {name}; print({name}())", QUANTCORE_ISA=level)
    assert (child.returncode, child.stdout.strip()) == (0, "True"), child.stderr

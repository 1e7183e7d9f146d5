"""IEEE halves to float32 and back at every CPU level: NumPy's bits, in whole vectors and in the elements left over.

A gradient passes through both conversions, NaN included: it is widened, multiplied by one and rounded.
"""

import numpy as np
import pytest

from quantcore import _kernels, calibrate_per_tensor, dequantize, fake_quantize_backward, quantize
from tests.support.levels import at_level
from tests.support.marks import slow_but_first

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
    pieces = ((n, start) for n in LENGTHS for start in range(0, HALVES.size, max(n, 257)))
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


CHECKS = (every_half_is_numpys, finite_halves_are_exact, floats_round_as_numpys)


def all_checks() -> dict[str, bool]:
    return {check.__name__: check() for check in CHECKS}


@pytest.fixture(scope="module", params=slow_but_first(_kernels.SUPPORTED_LEVELS))
def checked(request: pytest.FixtureRequest) -> dict[str, bool]:
    """Which checks hold at a level."""
    return at_level(request.param, all_checks)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_every_level_converts_as_numpy(check, checked):
    assert checked[check.__name__]

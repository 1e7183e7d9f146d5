"""NF4 and FP4 codes at every CPU level where a search could go wrong.

That is about midpoints, about the borders of the cells that the search cuts the range into, about 0, over all
exponents, and above 1. Values stand alone among ones as well as side by side: at some levels a value next to a midpoint
changes how its neighbours are coded.
"""

import numpy as np
import pytest

from quantcore import _kernels, quantize_4bit, quantize_4bit_double
from tests.support import reference_blockwise as reference
from tests.support.levels import at_level
from tests.support.marks import slow_but_first

F32 = np.float32
BLOCK_SIZE = 64
NEIGHBOURS = np.arange(-40, 41, dtype=np.int32)


def with_neighbours(cuts: np.ndarray) -> np.ndarray:
    """Each float and the 40 on either side of it."""
    cuts = cuts[cuts != 0].astype(F32)
    return (cuts.view(np.int32)[:, None] + NEIGHBOURS).reshape(-1).view(F32)


def critical_values(quant_type: str) -> np.ndarray:
    """Values within -1 to 1, shuffled."""
    midpoints = np.array(reference.midpoints(np.sort(reference.TABLES[quant_type])), F32)
    # Values that 16 bits distinguish from a midpoint, and values that they do not.
    near = midpoints[:, None] + np.linspace(-4, 4, 33, dtype=F32) * F32(2.0**-15)
    borders = [np.arange(-n, n + 1) / np.float64(n) for n in (13, 16)]
    tiny = np.ldexp(F32(1), np.arange(-149, 0))
    zeros = np.array([0.0, -0.0], F32).repeat(40)
    every_so_many = np.arange(0, 0x3F800000, 99_991, dtype=np.int32).view(F32)
    signed = np.concatenate([tiny, every_so_many])
    parts = [with_neighbours(midpoints), near.reshape(-1), *map(with_neighbours, borders), zeros, signed, -signed]
    values = np.concatenate(parts)
    return np.random.default_rng(5).permutation(values[np.abs(values) <= 1])


def is_the_definition(values: np.ndarray, quant_type: str) -> bool:
    q = quantize_4bit(values, block_size=BLOCK_SIZE, quant_type=quant_type)
    return q.data.tobytes() == reference.quantize(values, BLOCK_SIZE, quant_type)[1].tobytes()


def side_by_side(quant_type: str) -> bool:
    """A scale of 1: each block of 64 begins with 1."""
    values = critical_values(quant_type)
    values = values[: values.size // (BLOCK_SIZE - 1) * (BLOCK_SIZE - 1)].reshape(-1, BLOCK_SIZE - 1)
    return is_the_definition(np.insert(values, 0, 1, axis=1), quant_type)


def alone(quant_type: str) -> bool:
    """One at each place of 32 in turn, between ones."""
    values = critical_values(quant_type)[::3]
    groups = np.ones((values.size, 32), F32)
    groups[np.arange(values.size), np.arange(values.size) % 32] = values
    return is_the_definition(groups, quant_type)


def above_one(quant_type: str) -> bool:
    """A scale of 1.4999 steps is coded as 1, so that values reach 1.4999 in magnitude."""
    rng = np.random.default_rng(6)
    values = rng.uniform(-1.4999, 1.4999, (64, 32)).astype(F32)
    values[::32, 0], values[1:32, 0], values[33:, 0] = 255, 1.4999, -1.4999
    q = quantize_4bit_double(values, block_size=32, super_block_size=32, quant_type=quant_type)
    decoded = reference.linear_decoded(q.quantized_scales, q.super_scales, 32)
    assert sorted(set(decoded.tolist())) == [1, 255]
    return q.data.tobytes() == reference.encode(values, decoded, 32, quant_type).tobytes()


CHECKS = (side_by_side, alone, above_one)
QUANT_TYPES = ("nf4", "fp4")


def all_checks() -> dict[str, bool]:
    return {f"{check.__name__} {name}": check(name) for check in CHECKS for name in QUANT_TYPES}


@pytest.fixture(scope="module", params=slow_but_first(_kernels.SUPPORTED_LEVELS))
def checked(request: pytest.FixtureRequest) -> dict[str, bool]:
    """Which checks hold at a level."""
    return at_level(request.param, all_checks)


@pytest.mark.slow
@pytest.mark.parametrize("quant_type", QUANT_TYPES)
@pytest.mark.parametrize("check", CHECKS)
def test_every_level_finds_the_code(check, quant_type, checked):
    assert checked[f"{check.__name__} {quant_type}"]

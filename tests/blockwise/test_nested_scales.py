"""Nested statistics of 4-bit codes: the look-up of the dynamic map, the mean, and several threads."""

import numpy as np
import pytest

from quantcore import DoubleQuantized4Bit, _kernels
from quantcore._base import parallel
from quantcore.blockwise.codebooks import dynamic_cells, dynamic_map
from quantcore.blockwise.quantize import dynamic_scales
from tests.support import reference_blockwise as reference
from tests.support.contract import F32

MIDPOINTS = np.array(reference.midpoints(reference.dynamic_map()), F32)


def codes_of(values: np.ndarray) -> np.ndarray:
    """The codes of values up to 1 as they are: beside a 1, the super-scale is 1."""
    scales = np.concatenate([values.reshape(-1, 255), np.ones((values.size // 255, 1))], axis=1, dtype=F32).reshape(-1)
    codes = np.empty(scales.size, np.uint8)
    super_scales = np.empty(scales.size // 256, F32)
    kernel = _kernels.QuantizeScales(scales, 256, 0.0, dynamic_cells(), codes, super_scales)
    parallel.run(kernel, scales.size, 4, 1, unit=256)
    assert set(super_scales.tolist()) == {1.0}
    assert set(codes[255::256].tolist()) == {255}
    return codes.reshape(-1, 256)[:, :-1].reshape(-1)


def test_codes_around_every_midpoint():
    steps = np.arange(-3, 4, dtype=np.int32)
    values = (MIDPOINTS.view(np.int32) + steps[:, None]).view(F32).reshape(-1)
    np.testing.assert_array_equal(codes_of(values), np.searchsorted(MIDPOINTS, values))
    np.testing.assert_array_equal(codes_of(MIDPOINTS), np.arange(255))


def test_codes_of_every_magnitude(rng):
    values = rng.choice([-1, 1], 255 * 400) * np.exp2(rng.uniform(-150, 0, 255 * 400))
    edges = [0.0, -0.0, 1.0, -1.0, 2.0**-149, -(2.0**-149), 2.0**-22, -(2.0**-22), 2.0**-126, -(2.0**-126)]
    values[: len(edges)] = edges
    np.testing.assert_array_equal(codes_of(values), np.searchsorted(MIDPOINTS, values.astype(F32)))


def test_no_cell_holds_two_midpoints():
    cells = dynamic_cells() >> 17
    assert (cells[0], cells[-1]) == (0, 255)
    assert set(np.diff(cells).tolist()) == {0, 1}
    assert np.unique(cells).tolist() == list(range(256))


@pytest.mark.parametrize("size", [1, 7, 8, 129, 255, 257, 8191, 8193, 20_000])
def test_the_mean_is_that_of_numpy(size, rng):
    scales = np.exp(8 * rng.standard_normal(size)).astype(F32)
    _, _, offset = dynamic_scales(scales, None)
    assert offset == F32(scales.mean(dtype=np.float64))


def test_any_number_of_threads_gives_the_same(rng):
    """More scales than are handed out at once; the last super-block and the last run are short."""
    scales = np.abs(rng.standard_normal(600_100, dtype=F32))
    codes, super_scales, offset = dynamic_scales(scales, 1)
    assert offset == F32(scales.mean(dtype=np.float64))
    for n_threads in (2, 3):
        again = dynamic_scales(scales, n_threads)
        assert [part.tobytes() for part in again[:2]] == [codes.tobytes(), super_scales.tobytes()]
        assert again[2] == offset
    data = np.zeros(16 * codes.size, np.uint8)
    q = DoubleQuantized4Bit(codes, super_scales, offset, data, (32 * codes.size,), 32, "nf4", 256, "dynamic")
    expected = dynamic_map()[codes] * super_scales.repeat(256)[: codes.size] + F32(offset)
    for n_threads in (1, 2, 3):
        np.testing.assert_array_equal(q.decoded_scales(n_threads=n_threads), expected)

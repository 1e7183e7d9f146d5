"""Codes times the scales of rectangles, at every CPU level: the float64 product, rounded once."""

import zlib
from itertools import product

import ml_dtypes
import numpy as np
import pytest

from quantcore import _kernels
from quantcore._base import parallel
from quantcore._base.arrays import ELEMENT_TYPES
from quantcore.models.code_tables import CODES, SCALE_VALUES
from tests.support.levels import at_level, every_other_level
from tests.support.reference_codes import DECODED, VALUES, rounded, spread, unpacked, values_of

KINDS = {"F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "E2M1": 4}
SHAPES = {
    "one for each matrix": ((3, 7, 66), (7, 66)),
    "rows": ((5, 130), (1, 130)),
    "rectangles": ((2, 200, 300), (128, 128)),
    "rectangles that divide nothing": ((19, 62), (4, 5)),
    "runs of 16": ((9, 160), (1, 16)),
    "runs of 32": ((70, 96), (1, 32)),
    "one column": ((64, 2), (16, 1)),
}
SCALES = {
    "float32": lambda rng, n: rng.lognormal(-5, 3, n).astype(np.float32).astype(np.float64),
    "bfloat16": lambda rng, n: rng.lognormal(-5, 3, n).astype(ml_dtypes.bfloat16).astype(np.float64),
    "powers of two": lambda rng, n: np.ldexp(1.0, rng.integers(-127, 100, n)),
    "float64": lambda rng, n: rng.lognormal(-5, 3, n),
    "subnormal results": lambda rng, n: np.ldexp(rng.random(n), rng.integers(-150, -10, n)),
    "ties": lambda rng, n: 1 + np.ldexp(rng.integers(0, 4, n) * 2.0 + 1, -rng.integers(8, 14, n)) + 2.0**-30,
}


def decoded(codes, kind, scales, layout, first, size, dtype, n_threads=1):
    """Elements `first` on, from the scales of their own rows on."""
    table, bits = CODES[kind].table, KINDS[kind]
    rows, row_block, scale_rows, columns = layout[1], layout[2], layout[4], layout[0]
    row = first // columns
    scale_row = row // rows * scale_rows + row % rows // row_block
    out = np.empty(size, DECODED[dtype][0])
    kernel = _kernels.DequantizeCodes(
        codes.reshape(-1)[first * bits // 8 :],
        bits,
        CODES[kind].widening,
        table,
        np.ascontiguousarray(scales.reshape(-1, layout[5])[scale_row:]),
        layout,
        first,
        scale_row,
        out,
        ELEMENT_TYPES[dtype],
    )
    parallel.run(kernel, size, out.itemsize, n_threads)
    return out


def case(kind, shape_name, scale_name, seed=0):
    """Codes, scales, their layout, and the values in float64."""
    (*stacked, rows, columns), blocks = SHAPES[shape_name]
    rng = np.random.default_rng([seed, zlib.crc32((kind + shape_name + scale_name).encode())])
    counts = [-(-n // block) for n, block in zip((rows, columns), blocks, strict=True)]
    scales = SCALES[scale_name](rng, int(np.prod([*stacked, *counts])))
    bits = KINDS[kind]
    codes = rng.integers(0, 256, (*stacked, rows, columns * bits // 8), dtype=np.uint8)
    plain = unpacked(codes) if bits == 4 else codes
    expected = values_of(plain, kind) * spread(scales.reshape(*stacked, *counts), (rows, columns), blocks)
    return codes, scales, (columns, rows, *blocks, *counts), expected.reshape(-1)


def same(found, expected):
    """The same bits, or both of them no number."""
    if found.dtype == np.uint16:
        return np.array_equal(found, expected) or all(
            a == b or (a & 0x7FFF) > 0x7F80 < (b & 0x7FFF)
            for a, b in zip(found.tolist(), expected.tolist(), strict=True)
        )
    return np.array_equal(found, expected, equal_nan=True) and np.array_equal(np.signbit(found), np.signbit(expected))


def fingerprints():
    """What this level makes of every case."""
    made = {}
    for names in product(KINDS, SHAPES, SCALES, DECODED):
        codes, scales, layout, expected = case(*names[:3])
        made[" ".join(names)] = zlib.crc32(
            decoded(codes, names[0], scales, layout, 0, expected.size, names[3]).tobytes()
        )
    return made


@pytest.mark.parametrize("dtype", DECODED)
@pytest.mark.parametrize("scale_name", SCALES)
@pytest.mark.parametrize("shape_name", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_product_is_rounded_once(kind, shape_name, scale_name, dtype):
    codes, scales, layout, expected = case(kind, shape_name, scale_name)
    with np.errstate(invalid="ignore"):
        found = decoded(codes, kind, scales, layout, 0, expected.size, dtype)
        assert same(found, rounded(expected, dtype))
        for first in (2, layout[0] * 3 + 4, expected.size - 6):
            part = expected[first : first + layout[0] + 3]
            assert same(decoded(codes, kind, scales, layout, first, part.size, dtype), rounded(part, dtype))


def test_rounding_twice_would_be_noticed():
    """The cases have products that float32 rounds onto a tie of bfloat16 and of float16."""
    _, _, _, values = case("F8_E4M3", "rectangles", "ties")
    values = values[np.isfinite(values)]
    for dtype in ("BF16", "F16"):
        assert not same(rounded(values.astype(np.float32).astype(np.float64), dtype), rounded(values, dtype))


@pytest.mark.slow
@every_other_level
def test_every_level_gives_the_same_bytes(level):
    assert at_level(level, fingerprints) == fingerprints()


def test_any_number_of_threads_gives_the_same_bytes(rng):
    codes = rng.integers(0, 256, (1 << 10, 1 << 11), dtype=np.uint8)
    scales = rng.lognormal(-5, 1, 8 * 16)
    layout = (1 << 11, 1 << 10, 128, 128, 8, 16)
    one, three = (decoded(codes, "F8_E4M3", scales, layout, 0, codes.size, "BF16", n) for n in (1, 3))
    assert one.tobytes() == three.tobytes()


@pytest.mark.parametrize(
    ("kind", "genuine"),
    [
        ("F8_E4M3", ml_dtypes.float8_e4m3fn),
        ("F8_E5M2", ml_dtypes.float8_e5m2),
        ("F8_E4M3FNUZ", ml_dtypes.float8_e4m3fnuz),
        ("F8_E5M2FNUZ", ml_dtypes.float8_e5m2fnuz),
        ("I8", np.int8),
        ("E2M1", ml_dtypes.float4_e2m1fn),
    ],
)
def test_values_of_codes_are_those_of_ml_dtypes(kind, genuine):
    table = CODES[kind].table
    assert table.size == 2 ** CODES[kind].bits
    expected = np.arange(table.size, dtype=np.uint8).view(genuine).astype(np.float32)
    assert np.array_equal(table, expected, equal_nan=True)
    if kind in VALUES:
        assert np.array_equal(table, values_of(np.arange(table.size), kind).astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_is_the_value_of_the_table_to_the_last_bit(kind):
    table = CODES[kind].table
    codes = np.arange(table.size, dtype=np.uint8)
    if CODES[kind].bits == 4:
        codes = codes[::2] | codes[1::2] << 4
    values = decoded(codes, kind, np.ones(1), (table.size, 1, 1, table.size, 1, 1), 0, table.size, "F32")
    assert np.array_equal(values.view(np.uint32), table.view(np.uint32))


@pytest.mark.parametrize(
    ("kind", "genuine"), [("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E8M0", ml_dtypes.float8_e8m0fnu)]
)
def test_values_of_scales_are_those_of_ml_dtypes(kind, genuine):
    expected = np.arange(256, dtype=np.uint8).view(genuine).astype(np.float64)
    assert np.array_equal(SCALE_VALUES[kind], expected, equal_nan=True)

"""effort="best": never a larger error in any block, the same formats, deterministic; near the best there is."""

import zlib

import numpy as np
import pytest
from hypothesis import given

import quantcore
from quantcore import InvalidValueError, dequantize, quantize
from quantcore.ggml import ImatrixUse
from tests.conftest import SEED
from tests.ggml.test_importance import WEIGHTS
from tests.support import ggml, reference_effort
from tests.support.contract import (
    BLOCK,
    DISTRIBUTIONS,
    F32,
    FORMATS,
    INPUT_DTYPES,
    Format,
    assert_same_bytes,
    assert_same_floats,
    beside_ggml,
    every_format,
    formats,
    samples,
)
from tests.support.levels import at_level, differences, every_other_level
from tests.support.reference_effort import error_of

LOSSLESS = ("F32", "F16", "BF16")
REFINED = tuple(f for f in FORMATS if f.has_blocks and f.name != "IQ1_M")
every_refined_format = pytest.mark.parametrize("fmt", REFINED, ids=str)


def errors(values: np.ndarray, data: np.ndarray, fmt: Format, weights: np.ndarray | None) -> np.ndarray:
    """The sum over weight * (value - decoded)**2 of each block, in float64."""
    squares = (values.astype(np.float64) - dequantize(data, fmt.id).reshape(values.shape)) ** 2
    if weights is not None:
        squares *= weights.astype(np.float64)
    return squares.reshape(-1, fmt.block_size).sum(axis=1)


def assert_never_worse(fmt: Format, values: np.ndarray, weights: np.ndarray | None = None) -> None:
    if weights is None:
        weights = fmt.needed_weights(values.shape[-1])
    reference = errors(values, quantize(values, fmt.id, imatrix=weights), fmt, weights)
    best = errors(values, quantize(values, fmt.id, imatrix=weights, effort="best"), fmt, weights)
    worse = np.flatnonzero(~(best <= reference))
    assert not worse.size, f"block {worse[0]}: {best[worse[0]]} > {reference[worse[0]]}"


# The error


@every_format
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_no_block_is_worse(fmt, kind, rng):
    assert_never_worse(fmt, fmt.draw(kind, rng, 64 if fmt.block_size < 256 else 16))


@every_format
@pytest.mark.parametrize("weigh", WEIGHTS.values(), ids=WEIGHTS)
def test_no_block_is_worse_by_its_weights(fmt, weigh, rng):
    for kind in ("gaussian", "cauchy", "sparse", "subnormal scales", "log-uniform scales"):
        values = fmt.in_range(fmt.draw(kind, rng, 8), 0.1).reshape(2, -1)
        assert_never_worse(fmt, values, weigh(rng, values.shape[1]))


@formats(has_blocks=True)
@given(sample=samples)
def test_no_block_of_any_values_is_worse(fmt, sample):
    assert_never_worse(fmt, sample.rows(fmt)[:8])


@every_refined_format
def test_blocks_do_improve(fmt, rng):
    """By far more than rounding, and more so where weights differ."""
    values = rng.standard_normal((8, 2048), dtype=F32)
    weights = WEIGHTS["of activations"](rng, 2048)
    for given_weights, at_most in ((None, 0.99), (weights, 0.97)):
        if given_weights is None and (fmt.name == "Q1_0" or fmt.imatrix is ImatrixUse.REQUIRED):
            continue  # the reference of Q1_0 is the best there is
        before = errors(values, quantize(values, fmt.id, imatrix=given_weights), fmt, given_weights)
        after = errors(values, quantize(values, fmt.id, imatrix=given_weights, effort="best"), fmt, given_weights)
        assert after.sum() < at_most * before.sum()


@pytest.mark.parametrize("name", LOSSLESS)
def test_floats_stay(name, rng):
    values, weights = rng.standard_normal((4, 64), dtype=F32), rng.random(64, F32)
    np.testing.assert_array_equal(quantize(values, name, effort="best", imatrix=weights), quantize(values, name))


def least_error(x: np.ndarray, levels: np.ndarray) -> float:
    """The least squared error that any fp16 scale gives."""
    scales = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    scales = scales[(scales > np.abs(x).max() / 400) & (scales < np.abs(x).max())]
    scales = np.concatenate([scales, -scales])
    values = scales[:, None, None] * levels[None, None, :]
    return float(((x[None, :, None] - values) ** 2).min(axis=2).sum(axis=1).min())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "IQ4_NL"])
def test_is_near_the_best_scale_there_is(name, rng):
    (fmt,) = (f for f in FORMATS if f.name == name)
    levels = np.array(reference_effort.FORMATS[name].levels, np.float64)
    values = rng.standard_normal((16, BLOCK), dtype=F32)
    found = errors(values, quantize(values, name, effort="best"), fmt, None)
    least = np.array([least_error(row.astype(np.float64), levels) for row in values])
    assert (found >= least * (1 - 1e-6)).all()
    assert found.sum() < 1.005 * least.sum()


@pytest.mark.parametrize("name", reference_effort.FORMATS)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_equals_a_naive_search(name, is_weighted, rng):
    (fmt,) = (f for f in FORMATS if f.name == name)
    kinds = ("gaussian", "cauchy", "sparse", "subnormal scales")
    values = np.concatenate([fmt.in_range(fmt.draw(kind, rng, 1), 0.1) for kind in kinds])
    weights = rng.random(BLOCK, F32) if is_weighted else None
    expected = quantize(values, name, imatrix=weights)
    w = np.ones(BLOCK, F32) if weights is None else weights
    for i, x in enumerate(values):
        with np.errstate(all="ignore"):
            found = np.frombuffer(reference_effort.refine(x, w, reference_effort.FORMATS[name]), np.uint8)
        if error_of(x, dequantize(found, name), w) < error_of(x, dequantize(expected[i], name), w) * (1 - 1e-9):
            expected[i] = found
    assert_same_bytes(quantize(values, name, imatrix=weights, effort="best"), expected, fmt, values)


# The same formats, and the same bytes however they are computed


@beside_ggml(REFINED)
def test_ggml_decodes_it(fmt, rng):
    values = fmt.draw("gaussian", rng, 32)
    data = quantize(values, fmt.id, effort="best", imatrix=fmt.needed_weights(fmt.row))
    assert_same_floats(ggml.dequantize(data, fmt.id), dequantize(data, fmt.id).reshape(-1))


@every_format
def test_threads_and_dtypes_change_nothing(fmt, rng):
    values = fmt.draw("gaussian", rng, 65536 // fmt.row).astype(np.float16).astype(F32).reshape(-1, 1024)
    weights = rng.random(1024, F32) + F32(0.01)
    for given_weights in (None, weights):
        if given_weights is None and fmt.imatrix is ImatrixUse.REQUIRED:
            continue
        expected = quantize(values, fmt.id, effort="best", imatrix=given_weights, n_threads=1)
        for n_threads in (2, 5):
            data = quantize(values, fmt.id, effort="best", imatrix=given_weights, n_threads=n_threads)
            np.testing.assert_array_equal(data, expected)
        for dtype in INPUT_DTYPES:
            if (values[:8].astype(dtype).astype(F32) == values[:8]).all():
                data = quantize(values[:8].astype(dtype), fmt.id, effort="best", imatrix=given_weights)
                np.testing.assert_array_equal(data, expected[:8])


def digests(seed: int) -> dict[str, int]:
    """A number for the bytes of every format."""
    found = {}
    for fmt in FORMATS:
        rng = np.random.default_rng(seed)
        for kind in DISTRIBUTIONS:
            values = fmt.in_range(fmt.draw(kind, rng, 8), 0.1)  # within the limit of weighted searches too
            for name, weights in (("plain", fmt.needed_weights(fmt.row)), ("weighted", rng.random(fmt.row, F32))):
                data = quantize(values, fmt.id, effort="best", imatrix=weights)
                found[f"{fmt} {kind} {name}"] = zlib.crc32(data.tobytes())
    return found


@pytest.mark.slow
@every_other_level
def test_every_level_gives_the_same_bytes(level, expected_digests):
    assert differences(at_level(level, digests, SEED), expected_digests) == set(), f"QUANTCORE_TEST_SEED={SEED}"


@every_format
def test_reference_is_the_default(fmt, rng):
    values = fmt.draw("gaussian", rng, 8)
    np.testing.assert_array_equal(fmt.quantize(values, effort="reference"), fmt.quantize(values))


# Calls


@every_refined_format
def test_records_take_it(fmt, rng):
    record = getattr(quantcore, fmt.name)
    values = fmt.draw("gaussian", rng, 8)
    for shaped in (values, values.reshape(-1)[: 5 * fmt.row - 3]) if fmt.imatrix is not ImatrixUse.REQUIRED else ():
        padded = np.pad(shaped.reshape(-1), (0, -shaped.size % fmt.block_size))
        data = record.quantize(shaped, effort="best").data
        np.testing.assert_array_equal(data.reshape(-1), quantize(padded, fmt.id, effort="best"))
    weights = rng.random(fmt.row, F32)
    expected = quantize(values, fmt.id, effort="best", imatrix=weights)
    np.testing.assert_array_equal(record.quantize(values, effort="best", imatrix=weights).data, expected)


@pytest.mark.parametrize("effort", ["", "bests", "worst", None, 1, True, b"best", ["best"]])
def test_unknown_effort_is_refused(effort):
    with pytest.raises(InvalidValueError, match=r"^effort: expected one of reference, best, got "):
        quantize(np.zeros(32, F32), "Q4_0", effort=effort)
    with pytest.raises(InvalidValueError, match=r"^effort: expected one of reference, best, got "):
        quantcore.Q4_0.quantize(np.zeros(32, F32), effort=effort)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_the_reference_refuses_is_refused(value):
    values = np.zeros((4, 32), F32)
    values[2, 5] = value
    with pytest.raises(InvalidValueError, match=r"^values"):
        quantize(values, "Q4_0", effort="best")

"""The codes of layouts equal the genuine libraries', and those of the definitions."""

import numpy as np
import pytest

from quantcore.embeddings import EmbeddingQuantizer
from tests.embeddings.peers import faiss_codes, genuine_quantize_embeddings, naive_faiss, naive_sentence_transformers

F32 = np.float32
FAISS = ["QT_8bit", "QT_6bit", "QT_4bit", "QT_8bit_uniform", "QT_4bit_uniform"]
SENTENCE_TRANSFORMERS = ["int8", "uint8", "binary", "ubinary"]
WIDTHS = [1, 2, 7, 31, 64, 100, 384, 1100]


def vectors(rng: np.random.Generator, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors for the ranges, with a constant dimension, and others, some beyond the ranges and some on their ends."""
    fitted = (rng.standard_normal((n, d)) * rng.uniform(0.01, 3, d) + rng.uniform(-20, 20, d)).astype(F32)
    if d > 3:
        fitted[:, 2] = 2.5
        fitted[:, 3] = 0
    others = (fitted * F32(1.3)).astype(F32)
    return fitted, np.concatenate([fitted, others, fitted.min(axis=0)[None], fitted.max(axis=0)[None]])


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("scheme", FAISS)
def test_faiss(scheme, d, rng):
    fitted, values = vectors(rng, 300, d)
    trained, codes, decoded = faiss_codes(scheme, fitted, values)
    quantizer = EmbeddingQuantizer(scheme.lower(), layout="faiss").fit(fitted)
    lows, highs = quantizer.ranges
    n_trained = trained.size // 2
    assert np.array_equal(np.concatenate([lows[:n_trained], (highs - lows)[:n_trained]]), trained)
    ours = quantizer.transform(values)
    assert ours.dtype == codes.dtype and np.array_equal(ours, codes)
    # Their own builds differ by so much: with AVX2 they multiply and add at once where d is a multiple of 8.
    np.testing.assert_allclose(quantizer.inverse_transform(ours), decoded, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("d", [1, 5, 40])
@pytest.mark.parametrize("scheme", FAISS)
def test_faiss_by_definition(scheme, d, rng):
    fitted, values = vectors(rng, 30, d)
    codes, decoded = naive_faiss(scheme, fitted, values)
    quantizer = EmbeddingQuantizer(scheme, layout="faiss").fit(fitted)
    assert np.array_equal(quantizer.transform(values), codes)
    np.testing.assert_allclose(quantizer.inverse_transform(codes), decoded, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("scheme", SENTENCE_TRANSFORMERS)
def test_sentence_transformers_by_definition(scheme, d, rng):
    fitted, values = vectors(rng, 200, d)
    ranges = np.stack([fitted.min(axis=0), fitted.max(axis=0)])
    codes = naive_sentence_transformers(scheme, ranges, values)
    quantizer = EmbeddingQuantizer(scheme, layout="sentence-transformers").fit(fitted)
    ours = quantizer.transform(values)
    assert ours.dtype == codes.dtype and np.array_equal(ours, codes)
    if "binary" in scheme:
        assert np.array_equal(quantizer.inverse_transform(ours), np.where(values > 0, F32(1), F32(-1)))
        return
    assert np.array_equal(quantizer.ranges, ranges)
    # Where the values lie within the ranges, the middle of what a code holds is at most half a step away.
    steps = (ranges[1] - ranges[0]) / 255
    error = np.abs(quantizer.inverse_transform(ours)[:200] - fitted)
    assert (error <= steps / 2 + 4e-6 * np.abs(ranges).max(axis=0)).all()


@pytest.mark.may_skip
@pytest.mark.parametrize("scheme", SENTENCE_TRANSFORMERS)
def test_sentence_transformers(scheme, rng):
    quantize_embeddings = genuine_quantize_embeddings()
    for d in WIDTHS:
        fitted, values = vectors(rng, 200, d)
        quantizer = EmbeddingQuantizer(scheme, layout="sentence-transformers").fit(fitted)
        if "binary" in scheme:
            theirs = quantize_embeddings(values, scheme)
        else:
            theirs = quantize_embeddings(values, scheme, ranges=quantizer.ranges)
            assert np.array_equal(theirs, quantize_embeddings(values, scheme, calibration_embeddings=fitted))
        ours = quantizer.transform(values)
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


@pytest.mark.parametrize(("layout", "scheme"), [("faiss", "QT_8bit"), ("sentence-transformers", "int8")])
def test_threads_and_dtypes_change_nothing(layout, scheme, rng):
    values = rng.standard_normal((9000, 384), F32)
    quantizer = EmbeddingQuantizer(scheme, layout=layout).fit(values, n_threads=1)
    assert np.array_equal(quantizer.ranges, EmbeddingQuantizer(scheme, layout=layout).fit(values, n_threads=3).ranges)
    codes = quantizer.transform(values, n_threads=1)
    assert np.array_equal(codes, quantizer.transform(values, n_threads=3))
    half = values[:500].astype(np.float16)
    assert np.array_equal(quantizer.transform(half), quantizer.transform(half.astype(F32)))
    assert np.array_equal(quantizer.transform(values[:500].astype(np.float64)), codes[:500])
    assert np.array_equal(quantizer.transform(np.asfortranarray(values[:500])), codes[:500])

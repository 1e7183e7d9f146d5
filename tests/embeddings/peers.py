"""faiss and sentence-transformers as the tests ask them, and what their codes are by definition."""

from typing import Any

import numpy as np
import pytest

F32 = np.float32


def faiss_codes(scheme: str, fitted: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`trained`, the bytes of the values, and what they decode to, by the genuine library."""
    faiss = pytest.importorskip("faiss")
    quantizer = faiss.ScalarQuantizer(fitted.shape[1], getattr(faiss.ScalarQuantizer, scheme))
    quantizer.train(fitted)
    codes = quantizer.compute_codes(values)
    return faiss.vector_to_array(quantizer.trained), codes, quantizer.decode(codes)


def naive_faiss(scheme: str, fitted: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes and the decoded values, value by value, from the definition."""
    bits = int(scheme.removeprefix("QT_")[0])
    levels, d = 2**bits - 1, values.shape[1]
    is_uniform = scheme.endswith("uniform")
    lows = [F32(fitted.min())] * d if is_uniform else list(fitted.min(axis=0))
    highs = [F32(fitted.max())] * d if is_uniform else list(fitted.max(axis=0))
    codes = np.zeros((len(values), (d * bits + 7) // 8), np.uint8)
    decoded = np.empty(values.shape, F32)
    for i, row in enumerate(values):
        for j, x in enumerate(row):
            width = highs[j] - lows[j]
            quotient = F32(0) if width == 0 else min(max((x - lows[j]) / width, F32(0)), F32(1))
            code = int(F32(255) * quotient) if bits == 8 else int(float(quotient) * levels)
            for bit in range(bits):
                place = j * bits + bit
                codes[i, place // 8] |= ((code >> bit) & 1) << (place % 8)
            decoded[i, j] = lows[j] + (F32(code) + F32(0.5)) / F32(levels) * width
    return codes, decoded


def naive_sentence_transformers(scheme: str, ranges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What `quantize_embeddings` of sentence-transformers 6.2 computes, from its documentation and the definition."""
    if scheme.endswith("binary"):
        bits = np.packbits(values > 0, axis=-1)
        return bits if scheme == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    steps = (ranges[1] - ranges[0]) / F32(255)
    steps[steps == 0] = 1
    codes = np.clip(np.floor((values - ranges[0]) / steps), 0, 255)
    return codes.astype(np.uint8) if scheme == "uint8" else (codes - 128).astype(np.int8)


def genuine_quantize_embeddings() -> Any:
    """`quantize_embeddings` itself."""
    return pytest.importorskip("sentence_transformers.util.quantization").quantize_embeddings

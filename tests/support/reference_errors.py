"""Error statistics once more, as their definitions read, in float64: the oracle of `ErrorSums` and `error_stats`."""

import math

import numpy as np


def stats(original: np.ndarray, reconstructed: np.ndarray, threshold: float | None = None) -> dict[str, float | None]:
    """All figures of `QuantErrorStats`."""
    x, y = (np.asarray(a).astype(np.float64).reshape(-1) for a in (original, reconstructed))
    error = np.abs(x - y)
    signal, noise = math.fsum(x * x), math.fsum(error * error)
    norms = math.sqrt(signal) * math.sqrt(math.fsum(y * y))
    sqnr = math.inf
    if noise:
        sqnr = 10 * math.log10(signal / noise) if signal else -math.inf
    return {
        "mse": noise / x.size,
        "mae": math.fsum(error) / x.size,
        "max_error": float(error.max()),
        "sqnr_db": sqnr,
        "outlier_rate": None if threshold is None else np.count_nonzero(error > threshold) / x.size,
        "num_samples": x.size,
        "cosine_similarity": math.fsum(x * y) / norms if norms else float(not x.any() and not y.any()),
    }

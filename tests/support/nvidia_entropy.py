"""The entropy search of NVIDIA's pytorch-quantization (`_compute_amax_entropy`), as naively as it reads.

It works on counts of |x| alone: the first bin takes its neighbour's count, levels are those of `linspace`, and every
distribution is built in full for every number of bins.
"""

import numpy as np

START_BIN = 128


def bins_kept(counts: np.ndarray, num_bits: int, *, unsigned: bool = False, stride: int = 1) -> tuple[int, list[float]]:
    """The number of bins that the toolkit keeps (the last of several), and the divergence of each number."""
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    n_levels = 1 << (num_bits - 1 + unsigned)
    divergences = []
    for i in range(START_BIN, len(bins) + 1, stride):
        level = np.digitize(np.arange(i), np.linspace(0, i, n_levels + 1)) - 1
        occupied = bins[:i] != 0
        density = np.zeros(n_levels)
        np.add.at(density, level[occupied], bins[:i][occupied])
        members = np.bincount(level[occupied], minlength=n_levels)
        quantized = np.where(occupied, (density / np.maximum(members, 1))[level], 0.0)
        reference = bins[:i].copy()
        reference[-1] += bins[i:].sum()
        divergences.append(_relative_entropy(reference, quantized))
    last = len(divergences) - 1 - int(np.argmin(divergences[::-1]))
    return last * stride + START_BIN, divergences


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> float:
    """`scipy.stats.entropy(p, q)`: both are normalised; infinite where q is 0 and p is not."""
    p, q = p / p.sum(), q / q.sum() if q.sum() else q
    if (q[p > 0] == 0).any():
        return float("inf")
    p, q = p[p > 0], q[p > 0]
    return float((p * np.log(p / q)).sum())

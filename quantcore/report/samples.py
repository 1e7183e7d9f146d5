"""A bounded random sample of two models for the figures: runs of elements at random places, from a seed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantcore._base.arrays import F32_MAX
from quantcore.gguf.layout import n_dimensions
from quantcore.models.comparison import Comparable
from quantcore.models.comparison_results import ModelComparison
from quantcore.models.tensors import ModelTensor

__all__ = ["RUN_ELEMENTS", "Sample", "sample_pairs"]

RUN_ELEMENTS = 1 << 12
"""Elements per read: whole blocks of every format."""
_MOST_RUNS = 1 << 8
_GGML_BLOCK = 32

Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """The sample of one tensor.

    Attributes
    ----------
    name, type : str
        The type is that of the quantized model.
    block_size : int
        Elements per scale in the quantized model; 1 if there are no scales.
    is_matrix : bool
        Whether it is a matrix whose rows are whole blocks, as quantizers need them.
    bits_per_weight : float
        Bits per weight in the quantized model.
    original, quantized : ndarray of float32, shape (n,)
        The same elements in both models, in runs of whole blocks.
    """

    name: str
    type: str
    block_size: int
    is_matrix: bool
    bits_per_weight: float
    original: Floats32
    quantized: Floats32


def sample_pairs(
    original: Comparable, other: Comparable, comparison: ModelComparison, *, seed: int, n_threads: int | None
) -> list[Sample]:
    """Draw up to about a million elements; each weight of the compared tensors has the same chance.

    Parameters
    ----------
    original, other : Comparable
        What was compared, still open.
    comparison : ModelComparison
        The comparison of the two models.
    seed : int
        The same seed draws the same elements.
    n_threads : int, optional
        Threads to use.
    """
    weights = {t.name: t for t in comparison.tensors if t.is_weight}
    pairs = [(x, other.tensors[name]) for name, x in original.tensors.items() if name in weights]
    ends = np.cumsum([-(-x.size // RUN_ELEMENTS) for x, _ in pairs])
    n_runs = int(ends[-1])
    drawn = np.arange(n_runs)
    if n_runs > _MOST_RUNS:
        drawn = np.sort(np.random.default_rng(seed).choice(n_runs, _MOST_RUNS, replace=False, shuffle=False))
    tensors = np.searchsorted(ends, drawn, side="right")
    samples = []
    for i in np.unique(tensors).tolist():
        x, y = pairs[i]
        first = int(ends[i - 1]) if i else 0
        runs = (drawn[tensors == i] - first).tolist()
        samples.append(
            Sample(
                name=x.name,
                type=y.type,
                block_size=y.block_size,
                is_matrix=n_dimensions(x.shape) > 1 and x.shape[-1] % _GGML_BLOCK == 0,
                bits_per_weight=weights[x.name].bits_per_weight,
                original=_values(x, runs, n_threads),
                quantized=_values(y, runs, n_threads),
            )
        )
    return samples


def _values(tensor: ModelTensor, runs: list[int], n_threads: int | None) -> Floats32:
    parts = []
    for run in runs:
        start = run * RUN_ELEMENTS
        values = tensor.values(start, min(start + RUN_ELEMENTS, tensor.size), n_threads=n_threads)
        # float64 may be beyond float32
        parts.append(np.clip(values, -F32_MAX, F32_MAX, dtype=np.float64).astype(np.float32))
    return np.concatenate(parts)

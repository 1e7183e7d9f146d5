"""Embeddings of 384 dimensions as works, beside faiss' scalar quantizer and sentence-transformers' operations.

sentence-transformers quantizes by NumPy expressions; those of its `quantize_embeddings` are timed, without the checks
around them.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np

from bench.work import Call, Work
from quantcore import Calibrator
from quantcore.embeddings import EmbeddingQuantizer

DIMENSIONS = 384
LEVELS = np.float32(255)


def embedding_works(n_elements: int) -> Iterator[Work]:
    """Encoding with known ranges, ranges and codes together, decoding, exact statistics of each dimension."""
    n_rows = n_elements // DIMENSIONS
    vectors = np.random.default_rng(0).standard_normal((n_rows, DIMENSIONS), dtype=np.float32)
    restored = np.zeros_like(vectors)
    for layout, scheme in (("affine", "uint8"), ("faiss", "QT_8bit"), ("affine", "uint4")):
        quantizer = EmbeddingQuantizer(scheme, layout=layout).fit(vectors)
        codes = quantizer.transform(vectors)
        faiss_scheme = {"uint8": "QT_8bit", "uint4": "QT_4bit"}.get(scheme, scheme)
        yield Work(
            f"embeddings {scheme} encode",
            vectors.size,
            vectors.nbytes + codes.nbytes,
            lambda n, q=quantizer, codes=codes: lambda: q.transform(vectors, n_threads=n, out=codes),
            _faiss_peers(faiss_scheme, vectors, is_encoding=True),
        )
        yield Work(
            f"embeddings {scheme} decode",
            vectors.size,
            vectors.nbytes + codes.nbytes,
            lambda n, q=quantizer, codes=codes: lambda: q.inverse_transform(codes, n_threads=n, out=restored),
            _faiss_peers(faiss_scheme, vectors, is_encoding=False),
        )
    for layout, method in (("affine", "min_max"), ("sentence-transformers", "min_max"), ("affine", "mse")):
        made = EmbeddingQuantizer("uint8", layout=layout, method=method)
        yield Work(
            f"embeddings uint8 of {layout}, {method}, ranges and codes",
            vectors.size,
            2 * vectors.nbytes + vectors.size,
            lambda n, q=made: lambda: q.fit(vectors, n_threads=n).transform(vectors, n_threads=n),
            {"sentence-transformers": lambda _: lambda: _ranges_and_codes(vectors)},
        )
    for name, calibrator in (("min-max", Calibrator.min_max(axis=1)), ("histogram", Calibrator.percentile(axis=1))):
        yield Work(
            f"embeddings {name} per dimension observe",
            vectors.size,
            vectors.nbytes,
            lambda n, c=calibrator: lambda: c.observe(vectors, n_threads=n),
        )


def _faiss_peers(scheme: str, vectors: np.ndarray, *, is_encoding: bool) -> dict[str, Callable[[int], Call]]:
    """faiss' ScalarQuantizer after its training, with OpenMP's threads."""
    if find_spec("faiss") is None:
        return {}
    import faiss

    quantizer = faiss.ScalarQuantizer(DIMENSIONS, getattr(faiss.ScalarQuantizer, scheme))
    quantizer.train(vectors)
    codes = quantizer.compute_codes(vectors)

    def call(n_threads: int) -> Call:
        faiss.omp_set_num_threads(n_threads)
        return (lambda: quantizer.compute_codes(vectors)) if is_encoding else (lambda: quantizer.decode(codes))

    return {"faiss": call}


def _ranges_and_codes(vectors: np.ndarray) -> np.ndarray:
    """The operations of `quantize_embeddings` with precision uint8 that finds its ranges."""
    low, high = np.vstack((np.min(vectors, axis=0), np.max(vectors, axis=0)))
    steps = (high - low) / LEVELS
    return np.clip(np.floor((vectors - low) / steps), 0, 255).astype(np.uint8)

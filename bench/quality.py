"""What each type costs and keeps of a real model: `python -m bench.quality MODEL [--tensors REGEX]`.

MODEL is a GGUF file or safetensors checkpoint in floats. Of the matrices whose names match and whose rows are whole
blocks of every type, all together: bits per weight, size, and SQNR. No importance matrix, but that all columns are
equally important for the types that need one.
"""

import argparse
import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import quantcore
from quantcore import ErrorSums
from quantcore.ggml import SUPPORTED_TYPES, ImatrixUse
from quantcore.models import open_model

LARGEST_BLOCK = max(t.block_size for t in SUPPORTED_TYPES)


def matrices(path: str, pattern: str) -> Iterator[NDArray[np.float32]]:
    """The matrices that every type can hold."""
    with open_model(path) as model:
        for name, tensor in model.tensors.items():
            if re.search(pattern, name) and len(tensor.shape) == 2 and tensor.shape[-1] % LARGEST_BLOCK == 0:
                yield tensor.values().reshape(tensor.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--tensors", default=".", help="regular expression of names")
    options = parser.parse_args()
    chosen = list(matrices(options.model, options.tensors))
    size = sum(values.size for values in chosen)
    print(f"{len(chosen)} matrices, {size:,} weights, {4 * size / 2**20:.2f} MiB as float32\n")
    print("| type | bits per weight | MiB | SQNR dB |\n|---|---|---|---|")
    for qtype in sorted(SUPPORTED_TYPES, key=lambda t: (-t.bits_per_weight, t.name)):
        sums, n_bytes = ErrorSums(), 0
        for values in chosen:
            is_needy = qtype.layout.imatrix is ImatrixUse.REQUIRED
            packed = quantcore.quantize(
                values, qtype, imatrix=np.ones(values.shape[1], np.float32) if is_needy else None
            )
            sums.add(values, quantcore.dequantize(packed, qtype))
            n_bytes += packed.nbytes
        sqnr = sums.stats().sqnr_db
        print(f"| {qtype.name} | {qtype.bits_per_weight:.4g} | {n_bytes / 2**20:.2f} | {sqnr:.1f} |", flush=True)


if __name__ == "__main__":
    main()

"""Rows about the same bytes: as ggml's, at every CPU level, with any number of threads."""

import hashlib

import numpy as np

from ci.race import TYPES
from ci.scoreboard.measuring import Figure, Scale, python
from quantcore import _kernels
from tests.support import golden
from tests.support.contract import DISTRIBUTIONS, FORMATS


def parity() -> Figure:
    """Blocks of every kind of data through genuine ggml and through quantcore."""
    n_blocks, different = 0, {}
    for fmt in (f for f in FORMATS if f.has_blocks):
        rng = np.random.default_rng(0)
        n_rows = max(1, Scale.of(fmt.n_in_full) // fmt.row // len(DISTRIBUTIONS))
        count = 0
        for kind in DISTRIBUTIONS:
            values = fmt.draw(kind, rng, n_rows)
            values = values[fmt.is_defined(values)]
            ours = fmt.quantize(values).reshape(-1)
            count += int(np.count_nonzero(ours != np.frombuffer(fmt.quantize_by_ggml(values), np.uint8)))
            n_blocks += len(ours) // fmt.bytes_per_block
        if count:
            different[fmt.name] = count
    figures = ", ".join(f"{name}: {count}" for name, count in different.items()) or "0"
    n_formats = sum(f.has_blocks for f in FORMATS)
    return f"differing bytes in {n_blocks:,} blocks of {n_formats} formats: {figures}", not different


HASHED = """
import hashlib
import numpy as np, quantcore
from ci.race import TYPES
values = np.random.default_rng(0).standard_normal((1 << 12, 1 << 11)).astype(np.float32)
for n_threads in range(1, 9):
    for name in TYPES:
        data = quantcore.quantize(values, name, n_threads=n_threads)
        print(name, hashlib.sha256(data).hexdigest(),
              hashlib.sha256(quantcore.dequantize(data, name, n_threads=n_threads)).hexdigest())
"""


def levels() -> Figure:
    """1 to 8 threads at every CPU level of this machine."""
    seen = {line for level in _kernels.SUPPORTED_LEVELS for line in python(HASHED, QUANTCORE_ISA=level).splitlines()}
    names = {line.split()[0] for line in seen}
    text = f"{len(seen)} results of {len(names)} formats at {', '.join(_kernels.SUPPORTED_LEVELS)}"
    return text, len(seen) == len(names) == len(TYPES)


def golden_vectors() -> Figure:
    formats = golden.list_formats()
    count = sum(len(golden.read_vectors(name)) for name in formats)
    digest = hashlib.sha256(b"".join(golden.path_of(name).read_bytes() for name in formats))
    return f"{count} vectors of {len(formats)} formats, {digest.hexdigest()[:12]}", count >= 100

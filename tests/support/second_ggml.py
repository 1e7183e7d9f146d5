"""A second genuine ggml, the older one of the wheel `pywhispercpp`: digests of what it writes and reads for each type.

Run as a module this prints them, in a process of its own: see `ggml.py`. The same functions make the data and the
digests in the tests' process.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support import ggml
from tests.support.contract import DISTRIBUTIONS, F32, FORMATS, Format

PACKAGE = "pywhispercpp"
UNKNOWN_THERE = ("Q2_0",)
CODED_OTHERWISE_THERE = ("IQ1_M",)
"""Of some blocks, above all of those with equal values, the older version has other codes; it decodes all alike."""
COLS = 1024


def digests(
    fmt: Format,
    seed: int,
    quantize: Callable[[np.ndarray, np.ndarray | None], Any],
    dequantize: Callable[[np.ndarray], np.ndarray],
) -> dict[str, str]:
    """SHA-256 of the bytes without and with importance, and of what random blocks stand for (NaNs as one of them).

    Not with "random bits" and weights of 0: where an extreme that counts nothing is 10**7 times the rest of its block,
    ggml's rounding leaves the range that it is made for (2**22), and its versions give that element different codes.
    """
    rng = np.random.default_rng([seed, fmt.id])
    kinds = [fmt.in_range(draw(rng, 3 * COLS), 0.5) for kind, draw in DISTRIBUTIONS.items() if kind != "random bits"]
    kinds.append(fmt.in_range(DISTRIBUTIONS["random bits"](rng, 3 * COLS), 0.5))
    rows = np.concatenate(kinds).reshape(-1, fmt.row)
    rows[~fmt.is_defined(rows)] = 0
    rows[np.abs(rows).max(axis=1) < 2.0**-124] = 0  # MXFP4's exponent would be negative, which ggml casts to a byte
    values = rows.reshape(-1, COLS)
    weights = rng.random(COLS, F32) + F32(1e-3)
    blocks = rng.integers(0, 256, (500, fmt.bytes_per_block), dtype=np.uint8)
    restored = dequantize(blocks)
    results = {
        "alone": quantize(values, fmt.needed_weights(COLS)),
        "with importance": quantize(values, weights),
        "with zeros among it": quantize(values[:-3], weights * (rng.random(COLS) < 0.8)),
        "decoded": np.where(np.isnan(restored), F32(np.nan), restored).tobytes(),
    }
    return {what: hashlib.sha256(bytes(data)).hexdigest() for what, data in results.items()}


def digests_of_ggml(fmt: Format, seed: int) -> dict[str, str]:
    """Those of the ggml of this process."""
    return digests(
        fmt,
        seed,
        lambda values, weights: ggml.quantize(values, fmt.id, weights),
        lambda blocks: ggml.dequantize(blocks, fmt.id),
    )


def digests_of_second_ggml(seed: int) -> tuple[str, dict[str, dict[str, str]]]:
    """The version of the second ggml, and its digests for each type that it knows."""
    command = [sys.executable, "-m", __name__, str(seed)]
    environment = os.environ | {"QUANTCORE_TEST_GGML": PACKAGE}
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    version, found = json.loads(child.stdout)
    return version, found


def main() -> None:
    seed = int(sys.argv[1])
    found = {fmt.name: digests_of_ggml(fmt, seed) for fmt in FORMATS if fmt.name not in UNKNOWN_THERE}
    print(json.dumps([ggml.version(), found]))


if __name__ == "__main__":
    main()

"""Every CPU level gives the same bytes and values, for any number of threads, and QUANTCORE_ISA chooses the level.

A level is chosen once, at import: each runs in a process of its own, which prints digests of what it computed.
"""

import os
import zlib

import ml_dtypes
import numpy as np
import pytest

import quantcore
from quantcore import _kernels
from tests.conftest import SEED
from tests.support.contract import DISTRIBUTIONS, FORMATS, THREADED_VALUES
from tests.support.levels import at_level, differences, python

FLOATS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def digests(seed: int) -> dict[str, int]:
    """A checksum of every result that a level might compute differently, by name."""
    rng = np.random.default_rng(seed)
    results: dict[str, int] = {}

    def add(name: str, array: np.ndarray) -> None:
        results[name] = zlib.crc32(array.view(np.uint8))

    large = np.concatenate([DISTRIBUTIONS[kind](rng, THREADED_VALUES // 2) for kind in ("gaussian", "half integers")])
    inputs = {name: large.astype(dtype) for name, dtype in FLOATS.items()} | {"float64": large.astype(np.float64)}
    for fmt in FORMATS:
        for kind in DISTRIBUTIONS:
            add(f"{fmt} {kind}", fmt.quantize(fmt.draw(kind, rng, 501)))
        blocks = rng.integers(0, 256, (THREADED_VALUES // fmt.block_size, fmt.bytes_per_block), dtype=np.uint8)
        for n_threads in (1, 2, 3, 8):
            for name, values in inputs.items():
                part = values[: fmt.n_threaded]
                add(f"{fmt} from {name}, {n_threads} threads", fmt.quantize(part, n_threads=n_threads))
            for name, dtype in FLOATS.items():
                decoded = quantcore.dequantize(blocks, fmt.id, dtype=dtype, strict=False, n_threads=n_threads)
                add(f"{fmt} to {name}, {n_threads} threads", one_nan(decoded))
    return results


def one_nan(values: np.ndarray) -> np.ndarray:
    """The values' bits, with those of NaN, which may differ, set to all ones."""
    bits = values.view(f"u{values.itemsize}")
    largest = np.array(np.inf, values.dtype).view(bits.dtype)
    return np.where(bits & np.iinfo(bits.dtype).max >> 1 > largest, np.iinfo(bits.dtype).max, bits)


@pytest.fixture(scope="module")
def expected() -> dict[str, int]:
    """What the level of this process computes: `test_formats.py` compares that with ggml."""
    return digests(SEED)


@pytest.mark.slow
@pytest.mark.parametrize("level", _kernels.SUPPORTED_LEVELS)
def test_every_level_gives_the_same(level, expected):
    assert differences(at_level(level, digests, SEED), expected) == set(), f"QUANTCORE_TEST_SEED={SEED}"


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same(expected):
    by_threads: dict[str, set[int]] = {}
    for name, digest in expected.items():
        if name.endswith(" threads"):
            by_threads.setdefault(name.rsplit(", ", 1)[0], set()).add(digest)
    assert len(by_threads) == len(FORMATS) * 7
    assert {name for name, values in by_threads.items() if len(values) > 1} == set()


def test_the_best_level_is_chosen():
    assert _kernels.SUPPORTED_LEVELS[0] == "baseline"
    child = python("import quantcore; print(quantcore.isa())", QUANTCORE_ISA="")
    assert (child.stdout.strip(), child.stderr) == (_kernels.SUPPORTED_LEVELS[-1], "")


@pytest.mark.parametrize("level", ["nonsense", "BASELINE", "x86_64_v5"])
def test_unknown_level_is_refused_by_name(level):
    child = python("import quantcore", QUANTCORE_ISA=level)
    assert child.returncode == 1
    message = child.stderr.splitlines()[-1]
    assert message.startswith("ImportError: ")
    assert all(word in message for word in (f"QUANTCORE_ISA={level!r}", *_kernels.SUPPORTED_LEVELS))


def test_isa_is_the_level_of_this_process():
    assert quantcore.isa() == _kernels.LEVEL == (os.environ.get("QUANTCORE_ISA") or _kernels.SUPPORTED_LEVELS[-1])

"""What every format must do, stated once: its facts, the data it is tried on, and what counts as equal or near.

`FORMATS` has one line for each format; `test_formats.py` runs every statement for every line.
"""

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

F32 = np.float32
BLOCK = 32
BF16 = np.dtype(ml_dtypes.bfloat16)
INPUT_DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BF16, np.dtype(np.float64)]
THREADED = 40_000  # blocks of 32: more than one chunk of work at every dtype, so that threads do start


@dataclass(frozen=True)
class Format:
    """The facts about a format that its tests need."""

    name: str
    id: int
    block_size: int
    bytes_per_block: int
    limit: float  # the smallest magnitude that is refused
    steps: int = 0  # the largest magnitude of a block over its scale
    sqnr_gaussian: float = np.inf  # in dB
    sqnr_uniform: float = np.inf

    def __str__(self) -> str:
        return self.name

    def nbytes(self, n_values: int) -> int:
        return n_values // self.block_size * self.bytes_per_block

    def in_range(self, values: np.ndarray) -> np.ndarray:
        """The values as finite float32, those that the format refuses replaced by zero."""
        values = values.astype(F32)
        return np.where(np.abs(values) < F32(self.limit), values, F32(0))

    def is_defined(self, blocks: np.ndarray) -> np.ndarray:
        """Whether ggml's result is defined, for each block of 32: not if the inverse of its scale is infinite."""
        if self.block_size == 1:
            return np.ones(len(blocks), bool)
        with np.errstate(divide="ignore", over="ignore"):
            d = np.abs(blocks).max(axis=1) / F32(self.steps)
            return (d == 0) | np.isfinite(F32(1) / d)

    def error_bound(self, blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The largest error each element may have: half a step, and what rounding d to fp16 adds."""
        s = np.abs(scales.astype(np.float64))[:, None]
        d_error = np.maximum(s * 2.0**-11, 2.0**-25)
        if self.name == "Q8_0":
            return s / 2 + 127 * d_error
        extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1).astype(np.float64)
        is_clipped = blocks * np.sign(extreme) < -7.5 / 8 * np.abs(extreme)  # codes end at +7 steps, not +8
        return np.where(is_clipped, s, s / 2) + 8 * d_error


FORMATS = (
    Format("F32", 0, 1, 4, limit=np.inf),
    Format("F16", 1, 1, 2, limit=65520.0),
    Format("BF16", 30, 1, 2, limit=float.fromhex("0x1.FFp127")),
    Format("Q4_0", 2, BLOCK, 2 + 16, limit=524160.0, steps=8, sqnr_gaussian=21.3, sqnr_uniform=23.7),
    Format("Q8_0", 8, BLOCK, 2 + 32, limit=8321040.0, steps=127, sqnr_gaussian=45.4, sqnr_uniform=48.5),
)
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=str)
every_block_format = pytest.mark.parametrize("fmt", [f for f in FORMATS if f.block_size > 1], ids=str)


def _gaussian(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal(n, dtype=F32)


def _from_bfloat16(rng: np.random.Generator, n: int) -> np.ndarray:
    return (_gaussian(rng, n).view(np.uint32) & np.uint32(0xFFFF0000)).view(F32)


def _scaled_blocks(rng: np.random.Generator, n: int, lowest: float, highest: float) -> np.ndarray:
    """Gaussian blocks of 32, each with a scale of its own: 2**lowest to 2**highest, log-uniform."""
    scales = np.exp2(rng.uniform(lowest, highest, -(-n // BLOCK)))
    return (_gaussian(rng, n) * scales.repeat(BLOCK)[:n]).astype(F32)


def _random_bits(rng: np.random.Generator, n: int) -> np.ndarray:
    values = rng.integers(0, 2**32, n, dtype=np.uint32).view(F32)
    return np.where(np.isfinite(values), values, F32(0))


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "gaussian": _gaussian,
    "uniform": lambda rng, n: rng.uniform(-1, 1, n).astype(F32),
    "from bfloat16": _from_bfloat16,
    "from float16": lambda rng, n: _gaussian(rng, n).astype(np.float16).astype(F32),
    "cauchy": lambda rng, n: rng.standard_cauchy(n).astype(F32),
    "small integers": lambda rng, n: rng.integers(-8, 9, n).astype(F32),
    "half integers": lambda rng, n: (rng.integers(-254, 255, n) / 2).astype(F32),
    "three values": lambda rng, n: rng.integers(-1, 2, n).astype(F32),
    "sparse": lambda rng, n: np.where(rng.random(n) < 0.97, F32(0), _gaussian(rng, n)),
    "zeros of both signs": lambda rng, n: np.where(rng.random(n) < 0.5, F32(0.0), F32(-0.0)),
    "subnormal scales": lambda rng, n: _scaled_blocks(rng, n, -28, -10),
    "log-uniform scales": lambda rng, n: _scaled_blocks(rng, n, -126, 22),
    "random bits": _random_bits,
}
"""Data of many kinds: (generator, number of values) to finite float32 values. Scales change every 32 values."""


@dataclass(frozen=True)
class Sample:
    """Data that Hypothesis draws by a few numbers instead of value by value."""

    kind: str
    seed: int
    n_blocks: int
    exponent: int

    def blocks(self, fmt: Format) -> np.ndarray:
        """float32 values that the format takes, shape (n_blocks, 32)."""
        values = DISTRIBUTIONS[self.kind](np.random.default_rng(self.seed), self.n_blocks * BLOCK)
        with np.errstate(over="ignore"):
            return fmt.in_range(np.ldexp(values, self.exponent)).reshape(-1, BLOCK)


samples = st.builds(
    Sample,
    kind=st.sampled_from(list(DISTRIBUTIONS)),
    seed=st.integers(0, 2**32 - 1),
    n_blocks=st.integers(1, 100),
    exponent=st.integers(-140, 20),
)


def assert_same_bytes(ours: np.ndarray, theirs: np.ndarray | bytes, fmt: Format, blocks: np.ndarray) -> None:
    """Equal bytes; otherwise show the first block that differs. `blocks` are the values, one row for each block."""
    if ours.tobytes() == bytes(theirs):
        return
    shape = (len(blocks), -1)
    our_rows, their_rows = ours.reshape(shape), np.frombuffer(bytes(theirs), np.uint8).reshape(shape)
    bad = np.flatnonzero((our_rows != their_rows).any(axis=1))
    first = bad[0]
    pytest.fail(
        f"{fmt}: {bad.size} of {len(blocks)} blocks differ; the first is {first}: {blocks[first].tolist()}\n"
        f"ours   {our_rows[first].tobytes().hex()}\ntheirs {their_rows[first].tobytes().hex()}"
    )


def assert_same_floats(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal to the last bit, the sign of zero included; a NaN is any NaN."""
    ours, theirs = ours.reshape(-1), theirs.reshape(-1)
    assert (ours.dtype, ours.size) == (theirs.dtype, theirs.size)
    bits = f"u{ours.itemsize}"
    bad = np.flatnonzero((ours.view(bits) != theirs.view(bits)) & ~(np.isnan(ours) & np.isnan(theirs)))
    assert not bad.size, f"{bad.size} differ, first {bad[0]}: ours {ours[bad[0]]!r}, theirs {theirs[bad[0]]!r}"

"""What every format must do, stated once: its facts, the data it is tried on, and what counts as equal or near.

`FORMATS` has one line for each format; `test_formats.py` runs every statement for every line.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

from quantcore import quantize
from quantcore.ggml import GGML_TYPES, Family, ImatrixUse
from tests.support import ggml

F32 = np.float32
BLOCK = 32
BF16 = np.dtype(ml_dtypes.bfloat16)
INPUT_DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BF16, np.dtype(np.float64)]
THREADED_VALUES = 40_000 * BLOCK  # more than one chunk of work at every dtype, so that threads do start


@dataclass(frozen=True)
class Format:
    """The facts about a format that its tests need.

    `limit`: blocks of smaller magnitudes can be stored (without weights); if `is_limit_exact`, one of this cannot.
    `scales`: where in a block an fp16 scale begins, in bytes. `steps`: the largest magnitude of a block over its scale,
    for formats whose one scale is the extreme's; `range_steps`: the range over it, for those with a minimum. SQNR in
    dB, of Gaussian and of uniform values. `is_fixed_point`: quantizing what was decoded changes nothing; `is_odd`: -x
    decodes to the opposite of x. `imatrix`: what importance weights do. `saturates_at`: larger magnitudes become this.
    """

    name: str
    id: int
    block_size: int
    bytes_per_block: int
    limit: float
    scales: tuple[int, ...] = (0,)
    steps: int = 0
    sqnr_gaussian: float = np.inf
    sqnr_uniform: float = np.inf
    range_steps: int = 0
    is_fixed_point: bool = False
    is_odd: bool = False
    imatrix: ImatrixUse = ImatrixUse.IGNORED
    is_limit_exact: bool = True
    saturates_at: float = np.inf

    def __str__(self) -> str:
        return self.name

    @property
    def has_blocks(self) -> bool:
        return self.block_size > 1

    @property
    def row(self) -> int:
        """The fewest elements that the tests take together: a block, or 32 for types without blocks."""
        return max(self.block_size, BLOCK)

    @property
    def n_in_full(self) -> int:
        """Elements that the full run compares with ggml, for each way to quantize: a million blocks of 32, 200,000
        super-blocks of a K-quant, 20,000 of an IQ type, whose reference is slow."""
        family = GGML_TYPES[self.id].family
        if family is Family.FLOAT:
            return 100_000 * BLOCK
        if self.block_size < 256:
            return 1_000_000 * BLOCK
        return 256 * (20_000 if family is Family.IQ else 200_000)

    def needed_weights(self, cols: int) -> np.ndarray | None:
        """Weights for a type that cannot do without, else None."""
        if self.imatrix is not ImatrixUse.REQUIRED:
            return None
        return F32(0.25) + np.arange(cols, dtype=F32) % F32(7)

    def quantize(self, values: np.ndarray, **options: Any) -> np.ndarray:
        """`quantcore.quantize`, with weights only where the type cannot do without."""
        cols = np.shape(values)[-1] if np.ndim(values) else 0
        return quantize(values, self.id, **({"imatrix": self.needed_weights(cols)} | options))

    def quantize_by_ggml(self, values: np.ndarray) -> bytes:
        """The same by ggml, of a 2-D float32 array."""
        return ggml.quantize(values, self.id, self.needed_weights(values.shape[-1]))

    @property
    def n_threaded(self) -> int:
        """Elements of which threads get several chunks each, at every dtype; fewer where an element takes long."""
        n = max(THREADED_VALUES // GGML_TYPES[self.id].work, 256 * self.row)
        return n // self.row * self.row

    def nbytes(self, n_values: int) -> int:
        return n_values // self.block_size * self.bytes_per_block

    def draw(self, kind: str, rng: np.random.Generator, n_rows: int) -> np.ndarray:
        """Values of a distribution that the format takes, shape (n_rows, row)."""
        return self.in_range(DISTRIBUTIONS[kind](rng, n_rows * self.row)).reshape(n_rows, self.row)

    def in_range(self, values: np.ndarray, share: float = 1) -> np.ndarray:
        """The values as finite float32, those beyond that share of the limit replaced by zero."""
        values = values.astype(F32)
        return np.where(np.abs(values) < F32(self.limit * share), values, F32(0))

    def is_defined(self, rows: np.ndarray) -> np.ndarray:
        """Whether ggml's result is defined, for each row: not if the inverse of its scale is infinite."""
        if self.name == "MXFP4":  # the exponent of such a block would be negative
            absmax = np.abs(rows.reshape(len(rows), -1, BLOCK)).max(axis=2)
            return ((absmax == 0) | (absmax >= F32(2.0**-125))).all(axis=1)
        if not self.steps and not self.range_steps:
            return np.ones(len(rows), bool)
        with np.errstate(divide="ignore", over="ignore"):
            spread = np.abs(rows).max(axis=1) if self.steps else rows.max(axis=1) - rows.min(axis=1)
            d = spread / F32(self.steps or self.range_steps)
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


_EXACT: Any = {"is_fixed_point": True, "is_odd": True}
_SEARCHED: Any = {"imatrix": ImatrixUse.OPTIONAL, "is_limit_exact": False}
_NEEDS_WEIGHTS: Any = {"imatrix": ImatrixUse.REQUIRED, "is_limit_exact": False}
FORMATS = (
    Format("F32", 0, 1, 4, np.inf, (2,), **_EXACT),
    Format("F16", 1, 1, 2, 65520.0, **_EXACT),
    Format("BF16", 30, 1, 2, float.fromhex("0x1.FFp127"), **_EXACT),
    Format("Q4_0", 2, BLOCK, 2 + 16, 524160.0, (0,), 8, 21.3, 23.7, **_EXACT, imatrix=ImatrixUse.OPTIONAL),
    Format("Q4_1", 3, BLOCK, 2 + 2 + 16, 65520.0, (0, 2), 0, 22.15, 24.35, 15, imatrix=ImatrixUse.OPTIONAL),
    Format("Q5_0", 6, BLOCK, 2 + 4 + 16, 1048320.0, (0,), 16, 27.4, 30.1, imatrix=ImatrixUse.OPTIONAL),
    Format("Q5_1", 7, BLOCK, 2 + 2 + 4 + 16, 65520.0, (0, 2), 0, 28.45, 30.65, 31, imatrix=ImatrixUse.OPTIONAL),
    Format("Q8_0", 8, BLOCK, 2 + 32, 8321040.0, (0,), 127, 45.4, 48.5, **_EXACT),
    Format("Q2_K", 10, 256, 16 + 64 + 2 + 2, 7e5, (80, 82), 0, 10.55, 12.65, **_SEARCHED),
    Format("Q3_K", 11, 256, 32 + 64 + 12 + 2, 6e6, (108,), 0, 16.45, 18.05, **_SEARCHED),
    Format("Q4_K", 12, 256, 2 + 2 + 12 + 128, 3.5e6, (0, 2), 0, 22.95, 25.25, **_SEARCHED),
    Format("Q5_K", 13, 256, 2 + 2 + 12 + 32 + 128, 3.5e6, (0, 2), 0, 28.85, 31.2, **_SEARCHED),
    Format("Q6_K", 14, 256, 128 + 64 + 16 + 2, 2.4e8, (208,), 0, 35.0, 37.55, **_SEARCHED),
    Format("IQ1_S", 19, 256, 2 + 32 + 16, 5e4, (0,), 0, 5.5, 6.45, **_NEEDS_WEIGHTS),
    Format("IQ1_M", 29, 256, 32 + 16 + 8, 4e4, (), 0, 4.7, 5.7, **_SEARCHED),
    Format("IQ2_XXS", 16, 256, 2 + 64, 5e6, (0,), 0, 8.6, 8.8, **_NEEDS_WEIGHTS),
    Format("IQ2_XS", 17, 256, 2 + 64 + 8, 5e6, (0,), 0, 9.6, 9.7, **_NEEDS_WEIGHTS),
    Format("IQ2_S", 22, 256, 2 + 64 + 8 + 8, 5e6, (0,), 0, 11.55, 12.3, **_SEARCHED),
    Format("IQ3_XXS", 18, 256, 2 + 96, 1.5e7, (0,), 0, 13.45, 14.35, **_SEARCHED),
    Format("IQ3_S", 21, 256, 2 + 64 + 8 + 32 + 4, 1.5e7, (0,), 0, 15.6, 16.9, **_SEARCHED),
    Format("IQ4_NL", 20, BLOCK, 2 + 16, 7e6, (0,), 0, 22.35, 23.9, **_SEARCHED),
    Format("IQ4_XS", 23, 256, 2 + 2 + 4 + 128, 2e8, (0,), 0, 22.3, 23.8, **_SEARCHED),
    Format("TQ1_0", 34, 256, 48 + 4 + 2, 65520.0, (52,), 1, 1.85, 6.1),
    Format("TQ2_0", 35, 256, 64 + 2, 65520.0, (64,), 1, 1.85, 6.1),
    Format("MXFP4", 39, BLOCK, 1 + 16, np.inf, (), 0, 18.8, 16.8, saturates_at=3e38),
    Format("NVFP4", 40, 64, 4 + 32, np.inf, (), 0, 20.45, 19.85, saturates_at=448.0 * 6),
    Format("Q1_0", 41, 128, 2 + 16, 65520.0, (0,), 0, 4.4, 6.05),
    Format("Q2_0", 42, 64, 2 + 16, 65520.0, (0,), 1, 2.9, 6.25),
)


def formats(**properties: bool) -> pytest.MarkDecorator:
    """Parametrizes a test by `fmt` over the formats whose properties are these: `has_blocks=True`, `is_odd=True`..."""
    chosen = [
        fmt
        for fmt in FORMATS
        if all(
            (fmt.block_size > 1 if name == "block" else bool(getattr(fmt, name))) == p for name, p in properties.items()
        )
    ]
    return pytest.mark.parametrize("fmt", chosen, ids=str)


def beside_ggml(chosen: Iterable[Format]) -> pytest.MarkDecorator:
    """Parametrizes a test that calls ggml: those types are slow for which ggml first makes tables for seconds."""
    slow = pytest.mark.slow
    cases = [pytest.param(f, marks=slow if f.name.startswith(("IQ1", "IQ2", "IQ3")) else (), id=f.name) for f in chosen]
    return pytest.mark.parametrize("fmt", cases)


every_format = formats()
every_block_format = formats(has_blocks=True)


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
    n_rows: int
    exponent: int

    def rows(self, fmt: Format) -> np.ndarray:
        """float32 values that the format takes, shape (n_rows, row)."""
        values = DISTRIBUTIONS[self.kind](np.random.default_rng(self.seed), self.n_rows * fmt.row)
        with np.errstate(over="ignore"):
            return fmt.in_range(np.ldexp(values, self.exponent)).reshape(-1, fmt.row)


samples = st.builds(
    Sample,
    kind=st.sampled_from(list(DISTRIBUTIONS)),
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(1, 100),
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

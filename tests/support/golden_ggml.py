"""Golden vectors of the GGUF formats: inputs of every distribution and at the edges, and what ggml makes of them.

`tests.support.make_golden` writes them to a file; see there.
"""

import base64
from collections.abc import Iterator

import numpy as np

from quantcore.ggml import ImatrixUse
from tests.support import ggml
from tests.support.contract import BLOCK, DISTRIBUTIONS, F32, FORMATS, Format

FIELDS = ["type", "name", "float32 values", "ggml's bytes", "float32 decoded", "float32 weights of columns"]
GOLDEN_FORMATS = tuple(fmt for fmt in FORMATS if fmt.name != "F32")  # F32 is the values themselves
SEED = 20260101


def encode(raw: bytes | np.ndarray) -> str:
    return base64.b64encode(raw).decode()


def decode(text: str) -> bytes:
    return base64.b64decode(text)


def _block(*values: float) -> np.ndarray:
    """A block of 32 that repeats the values."""
    return np.resize(np.array(values, F32), BLOCK)


def hand_picked(fmt: Format) -> dict[str, list[np.ndarray]]:
    """Blocks at the edges of a format: its limit, its ties, the smallest scales that it stores."""
    tiny, steps = 2.0**-24, fmt.steps or 1  # the smallest fp16
    below = float(np.nextafter(F32(min(fmt.limit, 3e38)), F32(0)))
    above_one = float(np.nextafter(F32(1), F32(2)))
    halfway = _block(steps, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 6.5, -6.5, 7.5, -7.5, 0.49999997)
    return {
        "zeros": [_block(0.0), _block(-0.0), _block(-0.0, 0.0)],
        "limit": [_block(below, -below / 3), _block(-below, below / 2, 1)],
        "extreme of both signs": [_block(1, -1), _block(-1, 1, 0.5), _block(0.25, -3, 3, 1)],
        "halfway codes": [halfway, -halfway],
        "halfway fp16": [_block(steps * (1 + 2.0**-11)), _block(steps * (1 + 3 * 2.0**-11)), _block(1 + 2.0**-11)],
        "halfway bfloat16": [_block(1 + 2.0**-8, 1 + 3 * 2.0**-8), _block(-1 - 2.0**-8, above_one)],
        "subnormal fp16 scale": [_block(steps * tiny, tiny), _block(-steps * tiny * 1.5, tiny), _block(tiny * 1023)],
        "scale underflows": [
            _block(steps * tiny / 2, tiny),
            _block(steps * tiny * 0.4999, -tiny),
            _block(1e-30, -2e-30),
        ],
        "one value": [_block(1, *[0] * 31), _block(*[0] * 31, -1), _block(*[0] * 16, 5e-4, *[0] * 15)],
        "ramp": [np.arange(-16, 16, dtype=F32), np.arange(-16, 16, dtype=F32)[::-1] / F32(3)],
    }


def draw_cases(fmt: Format) -> dict[str, np.ndarray]:
    """Flat inputs of a few whole blocks, by name."""
    size = fmt.row
    rng = np.random.default_rng([SEED, fmt.id])
    cases = {name: np.concatenate(blocks) for name, blocks in hand_picked(fmt).items()}
    cases = {name: np.resize(values, -(-values.size // size) * size) for name, values in cases.items()}
    n_rows = 2 if size == BLOCK else 1
    is_twice = size > BLOCK and fmt.imatrix is ImatrixUse.OPTIONAL  # quantized without weights and with
    n_draws = 1 if is_twice else 2  # keeps the files small
    cases |= {f"{kind} {i}": draw(rng, n_rows * size) for kind, draw in DISTRIBUTIONS.items() for i in range(n_draws)}
    cases = {name: fmt.in_range(values) for name, values in cases.items()}
    return {name: values for name, values in cases.items() if fmt.is_defined(values.reshape(-1, size)).all()}


def describe_maker() -> str:
    return f"ggml {ggml.version()} through ctypes (wheel xllamacpp), seed {SEED}"


def make_vectors(format_name: str) -> Iterator[list[str]]:
    """The vectors of one format, each with the fields `FIELDS`: without weights where it can do without, then with."""
    (fmt,) = (fmt for fmt in GOLDEN_FORMATS if fmt.name.lower() == format_name)
    rng = np.random.default_rng([SEED, fmt.id, 1])
    cases = draw_cases(fmt)
    if fmt.imatrix is not ImatrixUse.REQUIRED:
        for name, values in cases.items():
            yield _make_vector(fmt, name, values, None)
    if fmt.imatrix is not ImatrixUse.IGNORED:
        if fmt.row > BLOCK and fmt.imatrix is ImatrixUse.OPTIONAL:
            cases = {name: cases[name] for name in cases if name.endswith(" 0")}
        for i, (name, values) in enumerate(cases.items()):
            weights = rng.random(values.size, F32) + F32(0.01)
            weights[:: i % 5 + 3] = 0
            yield _make_vector(fmt, f"{name}, weighted", fmt.in_range(values, 0.5), weights)


def _make_vector(fmt: Format, name: str, values: np.ndarray, weights: np.ndarray | None) -> list[str]:
    data = ggml.quantize(values.reshape(1, -1), fmt.id, weights)
    parts = (values.tobytes(), data, ggml.dequantize(data, fmt.id).tobytes(), b"" if weights is None else weights)
    return [fmt.name, name, *map(encode, parts)]

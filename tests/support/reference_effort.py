"""effort="best" once more, as naively as its description reads: of the formats whose blocks have one scale.

Scales are Python loops over candidates, each of which takes the elements in order, in float32; nothing is shared with
quantcore but `dequantize` and the reference's bytes, which the caller has.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

F32 = np.float32
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class OneScale:
    """A format: its levels, the first top and the step of the scales that are tried first, and how it is packed.

    `n_tops`: how many of these scales. `has_minimum`: x = scale * level + minimum, with levels from 0 on.
    """

    levels: tuple[int, ...]
    pack: Callable[[list[int], float, float], bytes]
    first_top: float = 0
    step: float = 0
    n_tops: int = 64
    has_minimum: bool = False


def refine(x: np.ndarray, weights: np.ndarray, fmt: OneScale) -> bytes:
    """A block that fits x well, whatever the reference's is."""
    up = _power_below(np.abs(x).max())
    x, weights = x / up, weights / _power_below(weights.max())
    find = _find_range if fmt.has_minimum else _find_scale
    scale, minimum = find(x, weights, fmt, up)
    levels = [_nearest(fmt, v, scale, minimum) for v in x]
    stored = float(np.float16(scale * up)), float(np.float16(minimum * up))
    return fmt.pack([fmt.levels.index(level) for level in levels], *stored)


def error_of(x: np.ndarray, decoded: np.ndarray, weights: np.ndarray) -> float:
    """What effort="best" makes smaller."""
    return float((weights.astype(np.float64) * (x.astype(np.float64) - decoded) ** 2).sum())


def _power_below(largest: float) -> np.float32:
    return F32(2.0 ** min(max(math.frexp(largest)[1] - 1 if largest else -127, -100), 100))


def _nearest(fmt: OneScale, x: np.float32, scale: np.float32, minimum: np.float32) -> int:
    """The level nearest to x; of whole numbers, halfway the even one, and else the upper one."""
    v = (x - minimum) * (F32(1) / scale if abs(scale) > 2.0**-126 else F32(0))
    if len(fmt.levels) == fmt.levels[-1] - fmt.levels[0] + 1:
        return int(np.rint(min(max(v, fmt.levels[0]), fmt.levels[-1])))
    return max([fmt.levels[0]] + [b for a, b in zip(fmt.levels, fmt.levels[1:], strict=False) if v >= (a + b) / 2])


@dataclass
class _Tried:
    """A candidate, its error, and sums over weight * level, weight * level**2 and weight * x * level."""

    scale: np.float32
    minimum: np.float32
    error: np.float32
    level: np.float32
    level2: np.float32
    x_level: np.float32


def _try(x: np.ndarray, weights: np.ndarray, fmt: OneScale, scale: np.float32, minimum: float = 0) -> _Tried:
    tried = _Tried(F32(scale), F32(minimum), F32(0), F32(0), F32(0), F32(0))
    for v, w in zip(x, weights, strict=True):
        level = F32(_nearest(fmt, v, tried.scale, tried.minimum))
        difference = v - (tried.scale * level + tried.minimum)
        tried.level += w * level
        tried.level2 += w * level * level
        tried.x_level += w * level * v
        tried.error += w * difference * difference
    return tried


def _refit_scale(tried: _Tried) -> np.float32:
    """The best scale for the levels that a candidate has, if it has the candidate's sign."""
    scale = tried.x_level / tried.level2 if tried.level2 > 0 else F32(0)
    return scale if scale * tried.scale > 0 else tried.scale


def _sums(x: np.ndarray, weights: np.ndarray) -> tuple[np.float32, np.float32]:
    sum_w = sum_wx = F32(0)
    for v, w in zip(x, weights, strict=True):
        sum_w += w
        sum_wx += w * v
    return sum_w, sum_wx


def _refit_range(tried: _Tried, sum_w: np.float32, sum_wx: np.float32) -> tuple[np.float32, np.float32]:
    determinant = sum_w * tried.level2 - tried.level * tried.level
    if determinant > 0:
        scale = (sum_w * tried.x_level - sum_wx * tried.level) / determinant
        if scale > 0:
            return scale, (sum_wx - scale * tried.level) / sum_w
    return tried.scale, tried.minimum


def _halves_around(scale: np.float32, up: np.float32) -> list[np.float32]:
    """The 16 numbers of fp16 from 7 below to 8 above the nearest one, over `up`."""
    nearest = int(np.float16(abs(scale) * up).view(np.uint16))
    codes = np.clip(np.arange(min(nearest, 0x7BFF) - 7, min(nearest, 0x7BFF) + 9), 0, 0x7BFF).astype(np.uint16)
    return [half.astype(F32) / up * F32(math.copysign(1, scale)) for half in codes.view(np.float16)]


def _find_scale(x: np.ndarray, weights: np.ndarray, fmt: OneScale, up: np.float32) -> tuple[np.float32, np.float32]:
    largest, kept = np.abs(x).max(), None
    for sign in (1, -1) if fmt.levels[0] != -fmt.levels[-1] else (1,):
        candidates = []
        for i in range(fmt.n_tops):
            scale = F32(sign) * largest / (F32(fmt.first_top) + F32(fmt.step) * F32(i))
            for _turn in range(2):
                scale = _refit_scale(_try(x, weights, fmt, scale))
            candidates.append(_try(x, weights, fmt, scale))
        scale = min(candidates, key=lambda tried: tried.error).scale
        for _turn in range(2):
            stored = [_try(x, weights, fmt, s) for s in _halves_around(np.copysign(scale, sign), up)]
            best = min(stored, key=lambda tried: tried.error)
            if kept is None or best.error < kept.error:
                kept = best
            scale = _refit_scale(best)
    return kept.scale, F32(0)


def _find_range(x: np.ndarray, weights: np.ndarray, fmt: OneScale, up: np.float32) -> tuple[np.float32, np.float32]:
    low, high, (sum_w, sum_wx), kept = x.min(), x.max(), _sums(x, weights), None
    candidates = []
    for i in range(144):
        cut, other = F32(-0.8) + F32(0.3) * F32(i // 12), F32(0.3) * F32(i % 12)
        scale = (high - low) / (F32(fmt.levels[-1]) + cut + F32(-0.8) + other)
        minimum = low + cut * scale
        for _turn in range(2):
            scale, minimum = _refit_range(_try(x, weights, fmt, scale, minimum), sum_w, sum_wx)
        candidates.append(_try(x, weights, fmt, scale, minimum))
    best = min(candidates, key=lambda tried: tried.error)
    for _turn in range(2):
        stored = []
        for scale in _halves_around(best.scale, up):
            tried = _try(x, weights, fmt, scale, best.minimum)
            minimum = (sum_wx - scale * tried.level) / sum_w if sum_w > 0 else tried.minimum
            stored.append(_try(x, weights, fmt, scale, np.float16(minimum * up).astype(F32) / up))
        found = min(stored, key=lambda tried: tried.error)
        if kept is None or found.error < kept.error:
            kept = found
        scale, minimum = _refit_range(found, sum_w, sum_wx)
        best = _Tried(scale, minimum, *[F32(0)] * 4)
    return kept.scale, kept.minimum


def _half(number: float) -> bytes:
    return np.float16(number).tobytes()


def _nibbles(codes: list[int]) -> bytes:
    return bytes(codes[j] % 16 + codes[j + 16] % 16 * 16 for j in range(16))


def _fives(codes: list[int]) -> bytes:
    return sum((code // 16) << j for j, code in enumerate(codes)).to_bytes(4, "little") + _nibbles(codes)


FORMATS = {
    "Q4_0": OneScale(tuple(range(-8, 8)), lambda codes, d, m: _half(d) + _nibbles(codes), 6.6, 0.1),
    "Q4_1": OneScale(tuple(range(16)), lambda codes, d, m: _half(d) + _half(m) + _nibbles(codes), has_minimum=True),
    "Q5_0": OneScale(tuple(range(-16, 16)), lambda codes, d, m: _half(d) + _fives(codes), 12, 0.1),
    "Q5_1": OneScale(tuple(range(32)), lambda codes, d, m: _half(d) + _half(m) + _fives(codes), has_minimum=True),
    "Q8_0": OneScale(
        tuple(range(-127, 128)), lambda codes, d, m: _half(d) + bytes((c - 127) % 256 for c in codes), 112, 0.15, 128
    ),
    "IQ4_NL": OneScale(IQ4, lambda codes, d, m: _half(d) + _nibbles(codes), 105, 1.5),
}

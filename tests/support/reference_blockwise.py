"""4-bit block-wise codes as naively as their definitions read: the oracle that needs no other package.

All arithmetic is float32; nothing here is shared with quantcore. Values come as any finite float array, codes as arrays
of integers 0 to 15, scales as float32, one per block.
"""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np

F32 = np.float32
INT4 = np.array([0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1], F32)  # two's complement
# A sign and 0, 1/16, 8, 12, 4, 6, 2, 3 twelfths.
FP4 = np.array([sign * value for sign in (1, -1) for value in (0, 0.0625, 8, 12, 4, 6, 2, 3)], F32) / F32(12)
_NF4_NEGATIVE = (-1, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036)
_NF4_POSITIVE = (0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1)
NF4 = np.array([*_NF4_NEGATIVE, 0, *_NF4_POSITIVE], F32)
TABLES = {"int4": INT4, "nf4": NF4, "fp4": FP4}
SMALLEST_ABSMAX = F32(1e-38)  # smaller ones are divided by as if they were this


def blocks(values: np.ndarray, block_size: int) -> list[np.ndarray]:
    """The flattened values as float32, in blocks of which the last may be short."""
    flat = values.reshape(-1).astype(F32)
    return [flat[start : start + block_size] for start in range(0, flat.size, block_size)]


def scales(values: np.ndarray, block_size: int, quant_type: str) -> np.ndarray:
    """The scale of each block: the largest magnitude, for int4 a seventh of it."""
    absmax = np.array([np.abs(block).max() for block in blocks(values, block_size)], F32)
    return absmax / F32(7) if quant_type == "int4" else absmax


def codes(x: np.ndarray, scale: np.ndarray, quant_type: str) -> np.ndarray:
    """The code of each float32 value for a scale of its own."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if quant_type == "int4":
            return np.where(scale > 0, np.clip(np.rint(x / scale), -7, 7), 0).astype(int) % 16
        scaled = x * (F32(1) / np.maximum(scale, SMALLEST_ABSMAX))
    table = TABLES[quant_type]
    order = sorted(range(16), key=lambda code: table[code])  # stable: of FP4's two zeros 0 comes before 8
    rank = sum((scaled > midpoint).astype(int) for midpoint in midpoints(table[order]))
    return np.array(order)[rank]


def midpoints(ascending: np.ndarray) -> list[np.float32]:
    """The float32 between each two neighbours; a value equal to one belongs to the lower neighbour."""
    return [(low + high) / F32(2) for low, high in pairwise(ascending)]


def pack(all_codes: np.ndarray, quant_type: str) -> np.ndarray:
    """Two codes per byte, the first one high; a missing last one is the code of 0."""
    if all_codes.size % 2:
        all_codes = np.append(all_codes, TABLES[quant_type].tolist().index(0.0))
    return np.array([16 * high + low for high, low in all_codes.reshape(-1, 2).tolist()], np.uint8)


def unpack(data: np.ndarray, n: int) -> np.ndarray:
    """The first n codes of packed bytes."""
    return np.array([code for byte in data.tolist() for code in divmod(byte, 16)], int)[:n]


def encode(values: np.ndarray, block_scales: np.ndarray, block_size: int, quant_type: str) -> np.ndarray:
    """The packed codes of the values for given scales."""
    flat = values.reshape(-1).astype(F32)
    return pack(codes(flat, block_scales.repeat(block_size)[: flat.size], quant_type), quant_type)


def quantize(values: np.ndarray, block_size: int, quant_type: str) -> tuple[np.ndarray, np.ndarray]:
    """Scales and packed codes."""
    block_scales = scales(values, block_size, quant_type)
    return block_scales, encode(values, block_scales, block_size, quant_type)


def dequantize(data: np.ndarray, block_scales: np.ndarray, n: int, block_size: int, quant_type: str) -> np.ndarray:
    """n float32 values; inf where a scale was rounded up past the largest of them."""
    with np.errstate(over="ignore"):
        return TABLES[quant_type][unpack(data, n)] * block_scales.repeat(block_size)[:n]


def linear_scales(block_scales: np.ndarray, super_block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The scales as uint8 in steps of 1/255 of the largest of each super-block, and the steps."""
    scale_codes, steps = [], []
    for group in blocks(block_scales, super_block_size):
        step = group.max() / F32(255)
        steps.append(step)
        for scale in group:  # only a block of zeros has code 0, unless all scales are too small to have a step
            scale_codes.append(int(np.clip(np.rint(scale / step), 1, 255)) if scale > 0 and step > 0 else 0)
    return np.array(scale_codes, np.uint8), np.array(steps, F32)


def linear_decoded(scale_codes: np.ndarray, steps: np.ndarray, super_block_size: int) -> np.ndarray:
    """The scales of blocks as float32."""
    return scale_codes.astype(F32) * steps.repeat(super_block_size)[: scale_codes.size]


def dynamic_map() -> np.ndarray:
    """The signed 8-bit dynamic map: 0, 1, and decades whose number of equal parts doubles from one to the next.

    Each decade is cut into equal parts, and its values are their middles. The cuts are float32, counted in float32
    steps from the nearer end.
    """
    values = [0.0, 1.0]
    for decade in range(7):
        n_parts = 2**decade
        start, step = F32(0.1), (F32(1) - F32(0.1)) / F32(n_parts)
        cuts = [
            F32(float(Fraction(float(start)) + i * Fraction(float(step))))
            if i < (n_parts + 1) // 2
            else F32(float(1 - (n_parts - i) * Fraction(float(step))))
            for i in range(n_parts + 1)
        ]
        middles = [F32(10.0 ** (decade - 6)) * middle for middle in midpoints(np.array(cuts))]
        values += [float(sign * middle) for middle in middles for sign in (1, -1)]
    return np.array(sorted(values), F32)


def dynamic_scales(block_scales: np.ndarray, super_block_size: int = 256) -> tuple[np.ndarray, np.ndarray, float]:
    """The scales less their mean as nearest values of the dynamic map, the absmax of each super-block, the mean."""
    if not block_scales.size:
        return np.empty(0, np.uint8), np.empty(0, F32), 0.0
    offset = F32(math.fsum(block_scales.tolist()) / block_scales.size)
    cuts = midpoints(dynamic_map())
    super_scales = np.array([np.abs(group).max() for group in blocks(block_scales - offset, super_block_size)], F32)
    inverse = (F32(1) / np.maximum(super_scales, SMALLEST_ABSMAX)).repeat(super_block_size)[: block_scales.size]
    scaled = (block_scales - offset) * inverse
    return sum((scaled > cut).astype(np.uint8) for cut in cuts), super_scales, float(offset)


def dynamic_decoded(
    scale_codes: np.ndarray, super_scales: np.ndarray, offset: float, super_block_size: int = 256
) -> np.ndarray:
    """The scales of blocks as float32, none of them rounded up to inf."""
    with np.errstate(over="ignore"):
        decoded = dynamic_map()[scale_codes] * super_scales.repeat(super_block_size)[: scale_codes.size] + F32(offset)
    return np.minimum(decoded, np.finfo(F32).max)

"""The formats once more, as naively as their definitions read: the oracle that needs no other package.

Works block by block in float32; nothing here is shared with quantcore. `quantize` takes finite values in range,
`dequantize` takes any bytes. Both are flat: whole blocks in, whole blocks out.
"""

from collections.abc import Callable

import numpy as np

F32 = np.float32
TINY = F32(2.0**-128)  # up to here 1/d is infinite in float32, and ggml's result undefined; ours are codes for zero


def quantize(values: np.ndarray, type_name: str) -> np.ndarray:
    """The bytes of a flat float32 array in a format, as uint8."""
    assert values.dtype == F32 and values.ndim == 1
    block_size, _, encode, _ = FORMATS[type_name]
    blocks = [encode(block) for block in values.reshape(-1, block_size)]
    return np.frombuffer(b"".join(blocks), np.uint8)


def dequantize(data: np.ndarray, type_name: str) -> np.ndarray:
    """The float32 values of flat bytes."""
    _, bytes_per_block, _, decode = FORMATS[type_name]
    with np.errstate(invalid="ignore"):  # codes times a scale that is inf
        blocks = [decode(block.tobytes()) for block in data.reshape(-1, bytes_per_block)]
    return np.array(blocks, F32).reshape(-1)


def _inverse(d: np.float32) -> np.float32:
    return F32(1) / d if abs(d) > TINY else F32(0)


def _half(d: np.float32) -> bytes:
    return np.float16(d).tobytes()


def _encode_q4_0(x: np.ndarray) -> bytes:
    """Code 0 is the first value of largest magnitude; the low nibbles hold the first half of the block."""
    extreme = F32(max(x.tolist(), key=abs))
    d = extreme / F32(-8) if extreme else F32(-0.0)
    code = np.minimum(15, np.trunc(x * _inverse(d) + F32(8.5))).astype(int)
    return _half(d) + bytes(code[j] + 16 * code[j + 16] for j in range(16))


def _decode_q4_0(block: bytes) -> np.ndarray:
    d = F32(np.frombuffer(block[:2], np.float16)[0])
    code = [byte % 16 for byte in block[2:]] + [byte // 16 for byte in block[2:]]
    return np.array([c - 8 for c in code], F32) * d


def _encode_q8_0(x: np.ndarray) -> bytes:
    """The largest magnitude becomes +-127; halves round away from zero."""
    d = F32(np.abs(x).max()) / F32(127)
    scaled = (x * _inverse(d)).tolist()  # doubles from here on, so that adding one half is exact
    return _half(d) + np.array([int(v + 0.5) if v > 0 else int(v - 0.5) for v in scaled], np.int8).tobytes()


def _decode_q8_0(block: bytes) -> np.ndarray:
    d = F32(np.frombuffer(block[:2], np.float16)[0])
    return np.frombuffer(block[2:], np.int8).astype(F32) * d


def _encode_f16(x: np.ndarray) -> bytes:
    return np.float16(x[0]).tobytes()


def _decode_f16(block: bytes) -> np.ndarray:
    return F32(np.frombuffer(block, np.float16))


def _encode_bf16(x: np.ndarray) -> bytes:
    """The nearer of the two bfloat16 around x (they differ in the upper 16 bits); if both are as near, the even one."""
    lower = int(x.view(np.uint32)[0]) >> 16
    below, above = np.array([lower << 16, (lower + 1) << 16], np.uint32).view(F32).tolist()
    to_lower, to_upper = abs(below - float(x[0])), abs(above - float(x[0]))
    is_upper = to_upper < to_lower or (to_upper == to_lower and lower % 2 == 1)
    return (lower + is_upper).to_bytes(2, "little")


def _decode_bf16(block: bytes) -> np.ndarray:
    return np.frombuffer(b"\0\0" + block, F32)


def _encode_f32(x: np.ndarray) -> bytes:
    return x.tobytes()


def _decode_f32(block: bytes) -> np.ndarray:
    return np.frombuffer(block, F32)


_Encode = Callable[[np.ndarray], bytes]
_Decode = Callable[[bytes], np.ndarray]
FORMATS: dict[str, tuple[int, int, _Encode, _Decode]] = {
    "Q4_0": (32, 18, _encode_q4_0, _decode_q4_0),
    "Q8_0": (32, 34, _encode_q8_0, _decode_q8_0),
    "F32": (1, 4, _encode_f32, _decode_f32),
    "F16": (1, 2, _encode_f16, _decode_f16),
    "BF16": (1, 2, _encode_bf16, _decode_bf16),
}

"""Codes of 4 and 6 bits in the bytes of a row, in little-endian order: the first code in the lowest bits.

Codes that take whole bytes together (two of 4 bits, four of 6) are one integer, of which many codes move at once.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 14  # integers whose copies stay in the caches
# For each number of bits, the steps that join codes to pairs and pairs to fours: how far upper halves are moved down,
# the bits of the lower and those of the upper halves.
_STEPS = {4: ((4, 0x000F, 0x00F0),), 6: ((2, 0x003F003F, 0x0FC00FC0), (4, 0x00000FFF, 0x00FFF000))}


def pack_rows(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Bytes of shape (n, (d * bits + 7) // 8) from codes below 2**bits, C-contiguous, of shape (n, d)."""
    if bits == 8:
        return codes
    n, d = codes.shape
    width, together = _whole(d, bits)
    words = _widened(codes, width).reshape(-1).view(f"<u{together}")
    packed = np.empty((words.size, together * bits // 8), np.uint8)
    for part in _parts(words.size):
        word = words[part].copy()
        for shift, lower, upper in _STEPS[bits]:
            moved = word >> word.dtype.type(shift)
            moved &= word.dtype.type(upper)
            word &= word.dtype.type(lower)
            word |= moved
        for k in range(packed.shape[1]):
            packed[part, k] = word >> word.dtype.type(8 * k) if k else word
    return packed.reshape(n, width * bits // 8)[:, : (d * bits + 7) // 8]


def unpack_rows(packed: NDArray[np.uint8], bits: int, n_dimensions: int) -> NDArray[np.uint8]:
    """The codes, shape (n, n_dimensions), of bytes as `pack_rows` returns them."""
    if bits == 8:
        return packed
    width, together = _whole(n_dimensions, bits)
    groups = _widened(packed, width * bits // 8).reshape(-1, together * bits // 8)
    words = np.empty(len(groups), f"<u{together}")
    for part in _parts(len(words)):
        word = words[part]
        word[:] = groups[part, 0]
        for k in range(1, groups.shape[1]):
            word |= groups[part, k].astype(word.dtype) << word.dtype.type(8 * k)
        for shift, lower, upper in reversed(_STEPS[bits]):
            moved = word & word.dtype.type(upper)
            moved <<= word.dtype.type(shift)
            word &= word.dtype.type(lower)
            word |= moved
    return words.view(np.uint8).reshape(len(packed), width)[:, :n_dimensions]


def _whole(n_codes: int, bits: int) -> tuple[int, int]:
    """As many codes or a few more, which take whole bytes, and how many of them do so together."""
    together = 1 << len(_STEPS[bits])
    return -(-n_codes // together) * together, together


def _widened(rows: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Rows of this width, with zeros at the end."""
    if rows.shape[1] == width:
        return rows
    wide = np.zeros((len(rows), width), np.uint8)
    wide[:, : rows.shape[1]] = rows
    return wide


def _parts(n: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, n, _BLOCK))

"""Codes of 4 and 6 bits in the bytes of a row, in little-endian order: the first code in the lowest bits."""

import numpy as np
from numpy.typing import NDArray


def pack_rows(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Bytes of shape (n, (d * bits + 7) // 8) from codes of shape (n, d)."""
    if bits == 8:
        return codes
    n, d = codes.shape
    together = 8 // np.gcd(8, bits)  # codes that take whole bytes
    padded = np.zeros((n, -(-d // together) * together), np.uint8)
    padded[:, :d] = codes
    padded &= np.uint8(2**bits - 1)
    packed = np.zeros((n, padded.shape[1] * bits // 8), np.uint8)
    step = together * bits // 8
    for j in range(together):
        byte, shift = divmod(j * bits, 8)
        column = padded[:, j::together]
        packed[:, byte::step] |= column << np.uint8(shift)
        if shift + bits > 8:
            packed[:, byte + 1 :: step] |= column >> np.uint8(8 - shift)
    return packed[:, : (d * bits + 7) // 8]


def unpack_rows(packed: NDArray[np.uint8], bits: int, n_dimensions: int) -> NDArray[np.uint8]:
    """The codes, shape (n, n_dimensions), of bytes as `pack_rows` returns them."""
    if bits == 8:
        return packed
    n, together = len(packed), 8 // np.gcd(8, bits)
    step = together * bits // 8
    whole = np.zeros((n, -(-n_dimensions // together) * step), np.uint8)
    whole[:, : packed.shape[1]] = packed
    codes = np.empty((n, whole.shape[1] // step * together), np.uint8)
    for j in range(together):
        byte, shift = divmod(j * bits, 8)
        column = whole[:, byte::step] >> np.uint8(shift)
        if shift + bits > 8:
            column |= whole[:, byte + 1 :: step] << np.uint8(8 - shift)
        codes[:, j::together] = column & np.uint8(2**bits - 1)
    return codes[:, :n_dimensions]

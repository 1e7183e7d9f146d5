"""Two 4-bit codes per byte, in either order."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["pack_nibbles", "unpack_nibbles"]


def pack_nibbles(codes: Any, order: str) -> NDArray[np.uint8]:
    """Pack 4-bit codes, two to a byte.

    Parameters
    ----------
    codes : ndarray of int8 (-8 to 7) or uint8 (0 to 15), any shape
        Flattened in C order; an odd last code is paired with 0.
    order : {"high_first", "low_first"}
        Which nibble of a byte holds the first code of a pair.

    Returns
    -------
    ndarray of uint8, shape ((n + 1) // 2,)

    Raises
    ------
    ValueError
        A code does not fit 4 bits; `order` is something else.
    TypeError
        `codes` is neither int8 nor uint8.
    """
    array = arrays.as_array(codes, "codes")
    if array.dtype not in (np.int8, np.uint8):
        raise InvalidTypeError(f"codes: expected int8 or uint8, got dtype {array.dtype}")
    lowest, highest = (-8, 7) if array.dtype == np.int8 else (0, 15)
    bad = np.flatnonzero((array < lowest) | (array > highest))
    if bad.size:
        raise InvalidValueError(
            f"codes: expected {lowest} to {highest}, got {array.reshape(-1)[bad[0]]} at flat index {bad[0]}"
        )
    nibbles = np.zeros((array.size + 1) // 2 * 2, np.uint8)
    nibbles[: array.size] = array.reshape(-1).view(np.uint8) & 15
    first, second = (0, 1) if _is_high_first(order) else (1, 0)
    packed: NDArray[np.uint8] = nibbles[first::2] << np.uint8(4) | nibbles[second::2]
    return packed


def unpack_nibbles(data: Any, size: int, order: str, *, signed: bool = True) -> NDArray[Any]:
    """Unpack 4-bit codes.

    Parameters
    ----------
    data : ndarray of uint8
        As `pack_nibbles` returns.
    size : int
        The number of codes.
    order : {"high_first", "low_first"}
        As for `pack_nibbles`.
    signed : bool, default True
        Whether the codes are in two's complement.

    Returns
    -------
    ndarray of int8 (signed) or uint8, shape (size,)

    Raises
    ------
    ValueError
        `data` has another number of bytes than `size` asks for; `order` is something else.
    """
    packed = arrays.contiguous(arrays.take_bytes(data, "data")).reshape(-1)
    size = arguments.count(size, "size")
    if packed.size != (size + 1) // 2:
        raise InvalidValueError(f"data: {size} codes take {(size + 1) // 2} bytes, got {packed.size}")
    nibbles = np.empty((packed.size, 2), np.uint8)
    first, second = (0, 1) if _is_high_first(order) else (1, 0)
    nibbles[:, first] = packed >> 4
    nibbles[:, second] = packed & 15
    codes = nibbles.reshape(-1)[:size]
    return (((codes ^ 8) - 8).view(np.int8)) if arguments.flag(signed, "signed") else codes


def _is_high_first(order: Any) -> bool:
    return arguments.choice(order, "order", ("high_first", "low_first")) == "high_first"

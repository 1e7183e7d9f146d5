"""A strict reader of the header of a .npy file, which builds nothing from a hostile one.

`numpy.lib.format` builds whatever dtype a header names, warns or raises a dozen kinds of errors, and allows bytes after
the array. Here a header is a literal of at most 10,000 bytes with three entries, its dtype a plain one, and the
array takes exactly the rest of the file. Source of the layout: the docstring of `numpy.lib.format`.
"""

import ast
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from quantcore._base.arguments import MOST_DIMENSIONS
from quantcore._base.text import brief, printable
from quantcore.errors import FileFormatError

MAGIC = b"\x93NUMPY"
_LENGTHS = {(1, 0): "<H", (2, 0): "<I"}
_MOST_HEADER_BYTES = 10_000
_FLOAT = re.compile("[<>]f[248]")
_OTHER = re.compile(r"[<>|](?:[biu][1248]|c8|c16|[SU]\d{1,6})")  # plain, and no floats


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """The fields of a header; the array's data begin at `offset`. Not every dtype is one of floats."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool
    offset: int

    @property
    def is_float(self) -> bool:
        """Whether the elements are float16, float32 or float64."""
        return self.dtype.kind == "f"


def read_header(read: Callable[[int, int], bytes | bytearray], size: int, label: str) -> NpyHeader:
    """Read and check a header.

    Parameters
    ----------
    read : (offset, count) -> bytes
        Reads a part of the file; never called for more bytes than there are.
    size : int
        Bytes of the file.
    label : str
        Names the file in messages.

    Raises
    ------
    FileFormatError
        The header is malformed, the dtype is neither of floats nor of integers, bools, complex numbers or texts, or the
        array does not end with the file.
    """
    head = read(0, min(size, 12))
    if not head.startswith(MAGIC):
        raise FileFormatError(f"{label}: magic: expected {MAGIC!r}, got {bytes(head[:6])!r}")
    version = tuple(head[6:8])
    length_format = _LENGTHS.get(version)  # type: ignore[arg-type]
    if length_format is None:
        known = " or ".join(map(str, _LENGTHS))
        raise FileFormatError(f"{label}: version: expected {known} for an array of floats, got {version}")
    start = 8 + struct.calcsize(length_format)
    if size < start:
        raise FileFormatError(f"{label}: header length: takes {start - 8} bytes at offset 8, the file has {size}")
    (length,) = struct.unpack(length_format, head[8:start])
    limit = min(_MOST_HEADER_BYTES, size - start)
    if length > limit:
        raise FileFormatError(f"{label}: header length: {length} bytes at offset {start}, the limit is {limit}")
    header = _literal(bytes(read(start, length)), label)
    dtype = _dtype(header["descr"], label)
    is_fortran = header["fortran_order"]
    if not isinstance(is_fortran, bool):
        raise FileFormatError(f"{label}: fortran_order: expected True or False, got {brief(is_fortran, 40)}")
    shape = header["shape"]
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        raise FileFormatError(f"{label}: shape: expected a tuple of non-negative integers, got {brief(shape, 60)}")
    if len(shape) > MOST_DIMENSIONS:
        raise FileFormatError(f"{label}: shape: {len(shape)} dimensions, the limit is {MOST_DIMENSIONS}")
    stop = start + length + prod(shape) * dtype.itemsize
    if stop != size:
        raise FileFormatError(
            f"{label}: shape: {brief(shape, 60)} of {dtype} ends at offset {brief(stop, 30)}, the file has {size} bytes"
        )
    return NpyHeader(shape, dtype, is_fortran, start + length)


def _literal(header: bytes, label: str) -> dict[str, Any]:
    try:
        literal = ast.literal_eval(header.decode("latin1").strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        problem = printable(" ".join(str(error).split())[:80])
        raise FileFormatError(f"{label}: header: not a Python literal ({problem})") from None
    if not isinstance(literal, dict) or set(literal) != {"descr", "fortran_order", "shape"}:
        raise FileFormatError(f"{label}: header: must have exactly descr, fortran_order and shape")
    return literal


def _dtype(descr: object, label: str) -> np.dtype[Any]:
    if isinstance(descr, str) and (_FLOAT.fullmatch(descr) or _OTHER.fullmatch(descr)):
        try:
            return np.dtype(descr)
        except TypeError:  # such as '<b2'
            pass
    if isinstance(descr, str) and re.fullmatch(r"[<>|=]?O\d*", descr):
        raise FileFormatError(f"{label}: descr: an object array is a pickle, which is never opened")
    raise FileFormatError(f"{label}: descr: expected float16, float32 or float64, got {brief(descr, 60)}")

"""The boundary: what a user passes becomes a contiguous, aligned buffer of a known element type, once.

Every public function takes its arrays through here; nothing behind it checks again. A float array is handed on as its
raw bytes and an element type, so that bfloat16 needs no NumPy dtype and float16 no buffer format.
"""

import math
import operator
import sys
from dataclasses import dataclass
from numbers import Real
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.tables import brief

FLOAT32, FLOAT16, BFLOAT16, FLOAT64 = range(4)
"""Element types, numbered as in `_kernels/floats.pxd`."""

_NAMES = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16, "float64": FLOAT64}
_ELEMENT_TYPES: dict[np.dtype[Any], int] = {}  # of dtypes that were seen, since a dtype's name takes long to make
ITEMSIZES = {FLOAT32: 4, FLOAT16: 2, BFLOAT16: 2, FLOAT64: 8}
_F32 = np.dtype(np.float32)
_U8 = np.dtype(np.uint8)
_U16 = np.dtype(np.uint16)
_MOST_ELEMENTS = (1 << 60) - 1  # of 8 bytes, numpy can still count them
_MOST_DIMENSIONS = 64
F32_MAX = float(np.finfo(np.float32).max)
F32_MAX_BITS = 0x7F7FFFFF
"""Of its bits; those of positive finite float32 are the integers from 1 on."""


@dataclass(slots=True)
class Floats:
    """A user's float array at the boundary: `raw` holds its bytes in C order, native byte order and aligned.

    `origin` is the array that was passed, which `raw` may be a copy of. `first` is the flat index of the first element
    where this is a part of something larger, for messages.
    """

    raw: NDArray[Any]
    element_type: int
    shape: tuple[int, ...]
    origin: NDArray[Any]
    first: int = 0

    @property
    def itemsize(self) -> int:
        return ITEMSIZES[self.element_type]

    @property
    def size(self) -> int:
        return self.raw.nbytes // self.itemsize

    def values(self, start: int, stop: int) -> NDArray[np.floating[Any]]:
        """Elements start to stop of the flattened array, widened for an error message."""
        part = bytes_of(self.raw)[start * self.itemsize : stop * self.itemsize]
        if self.element_type == BFLOAT16:
            return (part.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return part.view({FLOAT32: np.float32, FLOAT16: np.float16, FLOAT64: np.float64}[self.element_type])


def floats(values: Any, name: str) -> Floats:
    """Take a float32, float16, bfloat16 or float64 array of at least one dimension, copying only where it must."""
    if type(values) is np.ndarray and values.dtype is _F32:
        array, element_type, is_native = values, FLOAT32, True
    else:
        array, element_type = _as_float_array(values, name)
        is_native = array.dtype.isnative
    shape = array.shape
    if not shape:
        raise InvalidValueError(f"{name}: must have at least one dimension, got shape ()")
    flags, origin = array.flags, array
    if not (is_native and flags.c_contiguous and flags.aligned):
        array = np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "A"])
    return Floats(array, element_type, shape, origin)


def _as_float_array(values: Any, name: str) -> tuple[NDArray[Any], int]:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        values, bits_name = from_torch(values, name, torch)
    else:
        bits_name = None
    if isinstance(values, np.ma.MaskedArray):
        raise InvalidTypeError(f"{name}: masked arrays are not accepted; use .filled() or .data")
    array = _as_array(values, name)
    if bits_name is not None:
        return array, _NAMES[bits_name]
    element_type = _element_type(array.dtype)
    if element_type is None:
        raise InvalidTypeError(f"{name}: expected float32, float16, bfloat16 or float64, got dtype {array.dtype}")
    if element_type == BFLOAT16:
        array = array.view(_U16 if array.dtype.isnative else _U16.newbyteorder())
    return array, element_type


def _element_type(dtype: np.dtype[Any]) -> int | None:
    element_type = _ELEMENT_TYPES.get(dtype)
    if element_type is None:
        element_type = _NAMES.get(dtype.name)
        if element_type is not None:
            _ELEMENT_TYPES[dtype] = element_type
    return element_type


def from_torch(tensor: Any, name: str, torch: Any) -> tuple[Any, str | None]:
    """A CPU tensor as something NumPy reads without copying; bfloat16, which NumPy lacks, as its bits."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        raise InvalidTypeError(f"{name}: expected a dense CPU tensor, got {tensor.layout} on device {tensor.device}")
    tensor = tensor.detach().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy(), "bfloat16"
    return tensor.resolve_conj().numpy() if tensor.dtype.is_complex else tensor.numpy(), None


def _as_array(values: Any, name: str) -> NDArray[Any]:
    try:
        if not hasattr(values, "__array__") and hasattr(values, "__dlpack__"):
            return np.from_dlpack(values)
        return np.asarray(values)
    except (ValueError, TypeError, BufferError, RuntimeError) as error:
        raise InvalidTypeError(f"{name}: cannot be read as an array ({type(values).__name__}: {error})") from error


def packed(data: Any, name: str) -> NDArray[np.uint8]:
    """Take a uint8 array of quantized bytes, or any bytes-like object, as it is."""
    if isinstance(data, np.ma.MaskedArray):
        raise InvalidTypeError(f"{name}: masked arrays are not accepted (the mask would be lost)")
    if isinstance(data, (bytes, bytearray)):
        data = np.frombuffer(data, _U8)
    array = _as_array(data, name)
    if array.dtype != _U8:
        raise InvalidTypeError(f"{name}: expected uint8, got dtype {array.dtype}")
    if array.ndim == 0:
        raise InvalidValueError(f"{name}: must have at least one dimension, got shape ()")
    return array


def contiguous(array: NDArray[np.uint8], *, alignment: int = 1) -> NDArray[np.uint8]:
    """The array itself or a copy that is C-contiguous and aligned as asked."""
    if not array.flags.c_contiguous or (alignment > 1 and array.ctypes.data % alignment):
        return array.copy(order="C")
    return array


def output(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], *sources: NDArray[Any], alignment: int = 1
) -> NDArray[Any]:
    """`out` if the result can be written to it, or a new array if it is None.

    Raises
    ------
    InvalidTypeError
        `out` is not a NumPy array.
    InvalidValueError
        `out` has another dtype or shape, is read-only, not C-contiguous, misaligned, or shares memory with a source.
    """
    if out is None:
        return np.empty(shape, dtype)
    if type(out) is not np.ndarray and (not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray)):
        raise InvalidTypeError(f"out: expected a numpy.ndarray, got {type(out).__name__}")
    if out.dtype != dtype:
        raise InvalidValueError(f"out: expected dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise InvalidValueError(f"out: expected shape {shape}, got {out.shape}")
    flags = out.flags
    if not flags.writeable:
        raise InvalidValueError("out: is read-only")
    if not flags.c_contiguous:
        raise InvalidValueError(f"out: must be C-contiguous, got strides {out.strides}")
    if not flags.aligned or (alignment > 1 and out.ctypes.data % alignment):
        raise InvalidValueError(f"out: must be aligned to {max(alignment, dtype.alignment)} bytes")
    for source in sources:
        if not _kernels.are_apart(out, source) and _overlaps(out, source):
            raise InvalidValueError("out: shares memory with the input")
    return out


def _overlaps(out: NDArray[Any], source: NDArray[Any]) -> bool:
    try:
        if not np.may_share_memory(out, source):
            return False
        return np.shares_memory(out, source, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The raw bytes of a C-contiguous array, as one flat view."""
    return np.ndarray((array.nbytes,), _U8, array)


def float_dtype(dtype: Any, name: str) -> tuple[np.dtype[Any], int]:
    """An output dtype (float32, float16 or bfloat16) and its element type."""
    if dtype is np.float32:
        return _F32, FLOAT32
    try:
        wanted = np.dtype(_bfloat16() if isinstance(dtype, str) and dtype == "bfloat16" else dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise InvalidTypeError(f"{name}: {dtype!r} is not a dtype") from error
    element_type = _element_type(wanted)
    if element_type is None or element_type == FLOAT64:
        raise InvalidTypeError(f"{name}: expected float32, float16 or bfloat16, got {wanted}")
    return wanted.newbyteorder("=") if not wanted.isnative else wanted, element_type


def _bfloat16() -> Any:
    try:
        import ml_dtypes
    except ImportError as error:
        raise InvalidTypeError("dtype: 'bfloat16' needs the package ml_dtypes (pip install quantcore[cli])") from error
    return ml_dtypes.bfloat16


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A C-contiguous array that nobody can change: a copy if it is writable, since someone else may hold it."""
    if array.flags.writeable or not array.flags.c_contiguous:
        array = array.copy(order="C")
        array.setflags(write=False)
    return array


def given_away(*arrays: NDArray[Any]) -> None:
    """Make arrays read-only that were just made for a record, so that it need not copy them."""
    for array in arrays:
        array.setflags(write=False)


def power_of_two(value: Any, name: str, lowest: int, highest: int) -> int:
    """An integer that is a power of two in [lowest, highest]."""
    number = integer(value, name, lowest, highest)
    if number & (number - 1):
        raise InvalidValueError(f"{name}: expected a power of two from {lowest} to {highest}, got {number}")
    return number


def integer(value: Any, name: str, lowest: int, highest: int | None = None) -> int:
    """An integer in [lowest, highest]; a bool or a float is refused even if it is whole."""
    if type(value) is int and lowest <= value and (highest is None or value <= highest):
        return value
    allowed = f"an integer >= {lowest}" if highest is None else f"an integer from {lowest} to {highest}"
    if isinstance(value, (bool, np.bool_)):
        raise InvalidTypeError(f"{name}: expected {allowed}, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidTypeError(f"{name}: expected {allowed}, got {brief(value)}") from None
    if number < lowest or (highest is not None and number > highest):
        raise InvalidValueError(f"{name}: expected {allowed}, got {brief(number)}")
    return number


def number(value: Any, name: str) -> float:
    """A finite real number; a bool is refused."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise InvalidTypeError(f"{name}: expected a number, got {brief(value)}")
    try:
        result = float(value)
    except OverflowError:  # an integer beyond float64
        result = math.inf
    if not math.isfinite(result):
        raise InvalidValueError(f"{name}: expected a finite number, got {result}")
    return result


def flag(value: Any, name: str) -> bool:
    """True or False, and nothing that only counts as one."""
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidTypeError(f"{name}: expected a bool, got {brief(value)}")
    return bool(value)


def shape(value: Any, name: str = "shape") -> tuple[int, ...]:
    """A shape of at least one dimension."""
    try:
        extents = tuple(value)
    except TypeError:
        raise InvalidTypeError(f"{name}: expected a tuple of integers, got {brief(value)}") from None
    if not extents:
        raise InvalidValueError(f"{name}: must have at least one dimension, got ()")
    if len(extents) > _MOST_DIMENSIONS:
        raise InvalidValueError(f"{name}: expected at most {_MOST_DIMENSIONS} dimensions, got {brief(extents)}")
    extents = tuple(integer(extent, name, 0, _MOST_ELEMENTS) for extent in extents)
    size = 1
    for extent in extents:
        if extent and (size := size * extent) > _MOST_ELEMENTS:
            raise InvalidValueError(f"{name}: {brief(extents)} has more than 2**60 - 1 elements")
    return extents


def refuse_block(values: Floats, name: str, block: int, block_size: int, type_name: str) -> NoReturn:
    """Say why the kernel could not take a block: its first NaN or inf, or a value too large for the format."""
    refuse_range(values, name, block * block_size, min((block + 1) * block_size, values.size), block_size, type_name)


def refuse_range(
    values: Floats, name: str, start: int, stop: int, block_size: int = 1, type_name: str = "float32"
) -> NoReturn:
    """Say why elements from start to stop were refused: the first NaN or inf, or else the value that is too large."""
    part = values.values(start, stop)
    infinite = np.flatnonzero(~np.isfinite(part))
    worst = int(infinite[0]) if infinite.size else int(np.argmax(np.abs(part)))
    what = f"{part[worst]} at flat index {values.first + start + worst}"
    if infinite.size:
        raise InvalidValueError(f"{name}: must be finite, got {what}")
    if abs(float(part[worst])) > F32_MAX:
        raise InvalidValueError(f"{name}: {what} is beyond the range of float32 (±{F32_MAX:.9g})")
    in_block = f" (block {(values.first + start) // block_size})" if block_size > 1 else ""
    raise InvalidValueError(f"{name}: {what}{in_block} is too large for {type_name}")

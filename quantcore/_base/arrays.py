"""The boundary: what a user passes becomes a contiguous, aligned buffer of a known element type, once.

Every public function takes its arrays through here; nothing behind it checks again. A float array is handed on as its
raw bytes and an element type, so that bfloat16 needs no NumPy dtype and float16 no buffer format.
"""

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels
from quantcore._base.extras import missing_extra
from quantcore._base.text import brief, reason
from quantcore.errors import InvalidTypeError, InvalidValueError, QuantcoreError

FLOAT32, FLOAT16, BFLOAT16, FLOAT64 = range(4)
"""Element types, numbered as in `_kernels/common/floats.pxd`."""

ELEMENT_TYPES = {"F32": FLOAT32, "F16": FLOAT16, "BF16": BFLOAT16, "F64": FLOAT64}
"""Element types by the names that GGUF and safetensors files have for them."""
DTYPE_NAMES = {FLOAT32: "float32", FLOAT16: "float16", BFLOAT16: "bfloat16", FLOAT64: "float64"}
STORAGE_DTYPES = {FLOAT32: np.float32, FLOAT16: np.float16, BFLOAT16: np.uint16, FLOAT64: np.float64}
"""What NumPy reads the elements as: bfloat16, which it lacks, as bits."""
ITEMSIZES = {FLOAT32: 4, FLOAT16: 2, BFLOAT16: 2, FLOAT64: 8}
_OF_DTYPE_NAMES = {name: element_type for element_type, name in DTYPE_NAMES.items()}
_OF_DTYPES: dict[np.dtype[Any], int] = {}  # of dtypes that were seen, since a dtype's name takes long to make
_F32 = np.dtype(np.float32)
_U8 = np.dtype(np.uint8)
_SIGNED_BYTES = (np.dtype(np.int8), np.dtype("S1"))
"""How NumPy sees memory that Arrow, or a memoryview of chars, hands out."""
_U16 = np.dtype(np.uint16)
F32_MAX = float(np.finfo(np.float32).max)
BEYOND_FLOAT32 = f"beyond the range of float32 (±{F32_MAX:.9g})"
"""What a message says of a float64."""
F32_MAX_BITS = 0x7F7FFFFF
"""The bits of `F32_MAX`. The bits of the positive finite float32 are the integers from 1 to this."""


@dataclass(slots=True)
class Floats:
    """A user's float array at the boundary: `raw` holds its bytes in C order, native byte order and aligned.

    `origin` is the array that was passed, which `raw` may be a copy of. `first` is the flat index of the first element
    where this is a part of a larger array; messages count from there.
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
        return widen_bfloat16(part.view(STORAGE_DTYPES[self.element_type]))


def widen_bfloat16(values: NDArray[Any]) -> NDArray[Any]:
    """Floats as they are; the bits of bfloat16, which uint16 stands for, as float32."""
    return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == _U16 else values


def are_finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which floats, of a dtype of NumPy's own, are finite in float32: not NaN, inf or beyond its range.

    Only float64 is compared with that range: in float16 the end of it would itself be inf.
    """
    with np.errstate(invalid="ignore"):
        result: NDArray[np.bool_] = np.isfinite(values) if values.dtype.itemsize <= 4 else np.abs(values) <= F32_MAX
    return result


def take_floats(values: Any, name: str) -> Floats:
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
    given, bits_name = values, None
    if type(values) is not np.ndarray and (torch := torch_of(values)) is not None:
        values, bits_name = from_torch(values, name, torch)
    array = as_array(values, name)
    if bits_name is not None and array.dtype == _U16:
        return array, _OF_DTYPE_NAMES[bits_name]
    element_type = _element_type(array.dtype)
    if element_type is None:
        is_array = hasattr(given, "__array__") or isinstance(given, list | tuple) or array.dtype.kind in "biu"
        got = f"dtype {array.dtype}{_conversion(given, array.dtype)}" if is_array else brief(given)
        raise InvalidTypeError(f"{name}: expected float32, float16, bfloat16 or float64, got {got}")
    if element_type == BFLOAT16:
        array = array.view(_U16 if array.dtype.isnative else _U16.newbyteorder())
    return array, element_type


def _conversion(values: Any, dtype: np.dtype[Any]) -> str:
    """How to make floats of numbers that are none, or too wide: what a refusal ends with."""
    is_wide, is_castable = dtype.kind == "f" and dtype.itemsize > 8, hasattr(values, "astype")
    if not (is_wide or dtype.kind in "biu" or (dtype.kind == "O" and is_castable)):
        return ""
    wanted = "float64" if is_wide else "float32"
    if torch_of(values) is not None:
        return f"; use .to(torch.{wanted})"
    return f"; use .astype(np.{wanted})" if is_castable else f"; use np.array(..., np.{wanted})"


def _element_type(dtype: np.dtype[Any]) -> int | None:
    element_type = _OF_DTYPES.get(dtype)
    if element_type is None:
        element_type = _OF_DTYPE_NAMES.get(dtype.name)
        if element_type is not None:
            _OF_DTYPES[dtype] = element_type
    return element_type


def torch_of(values: Any) -> ModuleType | None:
    """torch, if that is whose tensor this is.

    Another thread may be in the midst of importing torch, or a stub may stand in for it: then nothing is a tensor.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    try:
        return torch if isinstance(values, torch.Tensor) else None
    except Exception:  # whatever a half-imported module or a stub raises
        return None


def from_torch(tensor: Any, name: str, torch: Any) -> tuple[Any, str | None]:
    """A CPU tensor as something NumPy reads without copying; bfloat16, which NumPy lacks, as its bits."""
    try:
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            is_meta, is_dense = tensor.device.type == "meta", tensor.layout == torch.strided
            hint = "; it has no values" if is_meta else "; use .cpu()" if is_dense else "; use .cpu().to_dense()"
            raise InvalidTypeError(
                f"{name}: expected a dense CPU tensor, got {tensor.layout} on device {tensor.device}{hint}"
            )
        tensor = tensor.detach().resolve_neg()
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.uint16).numpy(), "bfloat16"
        return tensor.resolve_conj().numpy() if tensor.dtype.is_complex else tensor.numpy(), None
    except (InvalidTypeError, MemoryError):
        raise
    except Exception as error:  # such as a dtype that NumPy lacks, or a subclass that is no tensor after all
        dtype = getattr(tensor, "dtype", None)
        if getattr(dtype, "is_floating_point", False):
            expected = "expected float32, float16, bfloat16 or float64"
            raise InvalidTypeError(f"{name}: {expected}, got {dtype}; use .to(torch.float32)") from error
        raise _unreadable(tensor, name, error) from error


def as_array(values: Any, name: str, *, expected: str | None = None) -> NDArray[Any]:
    """Whatever NumPy can read, as an array of NumPy's own class: a subclass may lie about its shape.

    Reading runs code of the object's own, which may raise anything.
    """
    try:
        if isinstance(values, np.ma.MaskedArray):
            problem = f"expected {expected}, got a masked array" if expected else "masked arrays are not accepted"
            raise InvalidTypeError(f"{name}: {problem}; use .filled() or .data")
        if not hasattr(values, "__array__") and hasattr(values, "__dlpack__"):
            return np.from_dlpack(values)
        array: NDArray[Any] = np.asarray(values)
        return array
    except (InvalidTypeError, MemoryError):
        raise
    except Exception as error:
        raise _unreadable(values, name, error) from error


def _unreadable(values: Any, name: str, error: Exception) -> InvalidTypeError:
    return InvalidTypeError(f"{name}: cannot be read as an array ({type(values).__name__}: {reason(error)})")


def _is_memory(data: Any) -> bool:
    """Whether an object hands out its memory, and is no array of something else."""
    try:
        memoryview(data)
    except Exception:  # whatever the object's own code raises
        return False
    return not hasattr(data, "__array__")


def take_bytes(data: Any, name: str) -> NDArray[np.uint8]:
    """Take a uint8 array of quantized bytes, or any bytes-like object, as it is."""
    if isinstance(data, (bytes, bytearray)):
        data = np.frombuffer(data, _U8)
    array = as_array(data, name)
    if array.dtype in _SIGNED_BYTES and not isinstance(data, np.ndarray) and _is_memory(data):
        array = array.view(_U8)
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

    What is checked and returned is an array of NumPy's own class over the memory of `out`: a subclass may lie about its
    shape. Functions return `out` itself.

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
    plain: NDArray[Any] = out if type(out) is np.ndarray else as_array(out, "out")
    if plain.dtype != dtype:
        raise InvalidValueError(f"out: expected dtype {dtype}, got {plain.dtype}")
    if plain.shape != shape:
        raise InvalidValueError(f"out: expected shape {shape}, got {plain.shape}")
    flags = plain.flags
    if not flags.writeable:
        raise InvalidValueError("out: is read-only")
    if not flags.c_contiguous:
        raise InvalidValueError(f"out: must be C-contiguous, got strides {out.strides}")
    if not flags.aligned or (alignment > 1 and plain.ctypes.data % alignment):
        raise InvalidValueError(f"out: must be aligned to {max(alignment, dtype.alignment)} bytes")
    for source in sources:
        if not _kernels.are_apart(plain, source) and _overlaps(plain, source):
            raise InvalidValueError("out: shares memory with the input")
    return plain


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
    if type(dtype).__module__ == "torch":  # one of torch's, whose names are those of NumPy
        dtype = str(dtype).removeprefix("torch.")
    try:
        wanted = np.dtype(_bfloat16(name) if isinstance(dtype, str) and dtype == "bfloat16" else dtype)
    except (MemoryError, QuantcoreError):
        raise
    except Exception as error:  # a dtype may be a string that is parsed, or an object with a `dtype` of its own
        raise InvalidTypeError(f"{name}: expected float32, float16 or bfloat16, got {brief(dtype)}") from error
    element_type = _element_type(wanted)
    if element_type is None or element_type == FLOAT64:
        raise InvalidTypeError(f"{name}: expected float32, float16 or bfloat16, got {wanted}")
    return wanted.newbyteorder("=") if not wanted.isnative else wanted, element_type


def _bfloat16(name: str) -> Any:
    try:
        import ml_dtypes
    except ImportError as error:
        raise missing_extra(f"{name}: 'bfloat16'", "ml_dtypes", error) from None
    return ml_dtypes.bfloat16


def seal(array: NDArray[Any]) -> NDArray[Any]:
    """An array that was just made, C-contiguous, for a record: nobody can change it from now on, nor shorten it."""
    return np.asarray(_kernels.Sealed(array))


def freeze(array: NDArray[Any]) -> NDArray[Any]:
    """A C-contiguous array that nobody can change: a copy unless its memory is that of bytes or of another record.

    An array that is only read-only does not suffice: it may be a view of memory that somebody else writes to, and its
    owner can make it writable again.
    """
    if array.flags.c_contiguous and not array.flags.writeable and _is_immutable(array):
        return array.view()
    return seal(array.copy(order="C"))


def borrow(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view, or copy if it must be contiguous: for records that live no longer than the array's owner."""
    view = array.view() if array.flags.c_contiguous else array.copy(order="C")
    view.setflags(write=False)
    return view


def _is_immutable(array: NDArray[Any]) -> bool:
    owner: Any = array
    while type(owner) is np.ndarray:
        owner = owner.base
    if type(owner) is memoryview:
        owner = owner.obj
    return type(owner) in (bytes, _kernels.Sealed)


def refuse_block(values: Floats, name: str, block: int, block_size: int, type_name: str) -> NoReturn:
    """Say why the kernel could not take a block: its first NaN or inf, or a value too large for the format."""
    refuse_range(values, name, block * block_size, min((block + 1) * block_size, values.size), block_size, type_name)


def place_of(values: Floats, i: int) -> str:
    """Where element i of a whole matrix is, as a message ends: its row and column, or its index in more dimensions."""
    if values.first or len(values.shape) < 2:
        return ""
    index = ", ".join(str(int(j)) for j in np.unravel_index(i, values.shape))
    return f" (row {index.replace(', ', ', column ')})" if len(values.shape) == 2 else f" (index {index})"


def refuse_range(
    values: Floats, name: str, start: int, stop: int, block_size: int = 1, type_name: str = "float32"
) -> NoReturn:
    """Say why elements from start to stop were refused: the first NaN or inf, or else the value that is too large."""
    part = values.values(start, stop)
    infinite = np.flatnonzero(~np.isfinite(part))
    worst = int(infinite[0]) if infinite.size else int(np.argmax(np.abs(part)))
    what, place = f"{part[worst]} at flat index {values.first + start + worst}", place_of(values, start + worst)
    if infinite.size:
        raise InvalidValueError(f"{name}: must be finite, got {what}{place}")
    if abs(float(part[worst])) > F32_MAX:
        raise InvalidValueError(f"{name}: {what} is {BEYOND_FLOAT32}{place}")
    in_block = f" (block {(values.first + start) // block_size})" if block_size > 1 else ""
    raise InvalidValueError(f"{name}: {what}{in_block} is too large for {type_name}")

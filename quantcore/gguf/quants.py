"""A drop-in for `gguf.quants` of gguf-py, with ggml's bytes for every type: `from quantcore.gguf import quants`.

The functions have the calls, shapes, dtypes and exceptions of gguf-py, take its `GGMLQuantizationType` and work on its
lazy tensors; gguf-py itself is not imported. Each block type is a class here as well: `quants.Q4_K.quantize(array)`.
It may also be put in the place of the module: `gguf.quants = quantcore.gguf.quants`.

What differs: the K-quants, the IQ types that need no importance matrix, Q1_0 and Q2_0 are quantized too; a block of
zeros has the sign that ggml gives it; and values that a block type cannot hold (NaN, inf, beyond its scale) are refused
by `QuantError`, upon which gguf-py's converters store the tensor as F16. Decoding does not refuse scales that are inf
or NaN.
"""

import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from quantcore import ggml
from quantcore._base import arguments
from quantcore._base.text import brief, reason
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.ggml import GGML_TYPES, SUPPORTED_TYPES, GGMLType, GGUFQuantType, ImatrixUse

__all__ = ["QuantError", "dequantize", "quant_shape_from_byte_shape", "quant_shape_to_byte_shape", "quantize"]

_ShapeRule = Callable[[Sequence[int]], tuple[int, ...]]
_PLAIN: dict[int, type[np.floating[Any]]] = {GGUFQuantType.F32: np.float32, GGUFQuantType.F16: np.float16}


class QuantError(InvalidValueError):
    """A tensor cannot be quantized to the type. Where gguf-py is loaded, what is raised is its `QuantError` as well."""


class UnsupportedTypeError(InvalidValueError, NotImplementedError):
    """There is no quantization to the type, or none of it to floats."""


class UnknownTypeError(InvalidValueError, KeyError):
    """The sizes of the type are not known."""

    __str__ = Exception.__str__  # KeyError's shows the text in quotes


def quant_shape_to_byte_shape(shape: Sequence[int], quant_type: int) -> tuple[int, ...]:
    """The shape of the bytes for values of a shape.

    Parameters
    ----------
    shape : sequence of int
    quant_type : gguf.GGMLQuantizationType, GGUFQuantType or int

    Raises
    ------
    ValueError
        A row is not a whole number of blocks.
    KeyError
        The type is unknown.
    """
    layout = _layout(quant_type)
    *rows, row = arguments.shape(shape)
    if row % layout.block_size:
        raise InvalidValueError(
            f"Quantized tensor row size ({row}) is not a multiple of {layout.name} block size ({layout.block_size})"
        )
    return (*rows, row // layout.block_size * layout.bytes_per_block)


def quant_shape_from_byte_shape(shape: Sequence[int], quant_type: int) -> tuple[int, ...]:
    """The shape of the values for bytes of a shape.

    Parameters
    ----------
    shape : sequence of int
    quant_type : gguf.GGMLQuantizationType, GGUFQuantType or int

    Raises
    ------
    ValueError
        A row is not a whole number of blocks.
    KeyError
        The type is unknown.
    """
    layout = _layout(quant_type)
    *rows, row = arguments.shape(shape)
    if row % layout.bytes_per_block:
        raise InvalidValueError(
            f"Quantized tensor bytes per row ({row}) is not a multiple of {layout.name} type size "
            f"({layout.bytes_per_block})"
        )
    return (*rows, row // layout.bytes_per_block * layout.block_size)


def quantize(data: Any, qtype: int) -> NDArray[Any]:
    """Quantize an array, or a lazy tensor when it is needed.

    Parameters
    ----------
    data : ndarray or gguf.LazyNumpyTensor, shape (..., cols)
        Any real dtype.
    qtype : gguf.GGMLQuantizationType, GGUFQuantType or int

    Returns
    -------
    ndarray or gguf.LazyNumpyTensor
        float32 or float16 of the same shape for F32 and F16, else uint8 of shape
        (..., cols // block_size * bytes_per_block).

    Raises
    ------
    QuantError
        `cols` is not a whole number of blocks, or a value cannot be stored.
    NotImplementedError
        The type is not one that `quantcore.quantize` takes, or it needs an importance matrix.
    """
    data = _tensor(data)
    if (dtype := _PLAIN.get(_index(qtype))) is not None:
        with _plainly(dtype):
            values: NDArray[Any] = data.astype(dtype, copy=False)
            return values
    return _class_of(qtype, "Quantization").quantize(data)


def dequantize(data: Any, qtype: int) -> NDArray[Any]:
    """Decode an array of bytes, or a lazy tensor when it is needed.

    Parameters
    ----------
    data : ndarray of uint8 or gguf.LazyNumpyTensor, shape (..., n_bytes)
    qtype : gguf.GGMLQuantizationType, GGUFQuantType or int

    Returns
    -------
    ndarray of float32 or gguf.LazyNumpyTensor, shape (..., n_bytes // bytes_per_block * block_size)
        A view of `data` for F32.

    Raises
    ------
    ValueError
        A row is not a whole number of blocks.
    NotImplementedError
        The type is not one that `quantcore.dequantize` takes.
    """
    data = _tensor(data)
    if (dtype := _PLAIN.get(_index(qtype))) is not None:
        with _plainly(dtype):
            values: NDArray[Any] = data.view(dtype).astype(np.float32, copy=False)
            return values
    return _class_of(qtype, "Dequantization").dequantize(data)


class BlockType:
    """A type as gguf-py has it: a class of its name, not meant for instances.

    Attributes
    ----------
    qtype : GGUFQuantType
        Equal to gguf-py's member.
    block_size, type_size : int
        Elements and bytes of a block.
    """

    qtype: ClassVar[GGUFQuantType]
    block_size: ClassVar[int]
    type_size: ClassVar[int]

    @classmethod
    def can_quantize(cls, tensor: Any) -> bool:
        """Whether the rows are whole blocks."""
        tensor = _tensor(tensor)
        return len(tensor.shape) > 0 and tensor.shape[-1] % cls.block_size == 0

    @classmethod
    def quantize(cls, tensor: Any) -> NDArray[np.uint8]:
        """Quantize an array or a lazy tensor (see `quantize` of the module)."""
        if not cls.can_quantize(tensor):
            raise _quant_error(f"Can't quantize tensor with shape {tensor.shape} to {cls.qtype.name}")
        packed: NDArray[np.uint8] = _apply(cls.quantize_rows, tensor, np.uint8, cls._byte_shape)
        return packed

    @classmethod
    def dequantize(cls, tensor: Any) -> NDArray[np.float32]:
        """Decode an array or a lazy tensor (see `dequantize` of the module)."""
        values: NDArray[np.float32] = _apply(cls.dequantize_rows, _tensor(tensor), np.float32, cls._value_shape)
        return values

    @classmethod
    def quantize_rows(cls, rows: Any) -> NDArray[np.uint8]:
        """Quantize an array of whole rows."""
        if cls.qtype.layout.imatrix is ImatrixUse.REQUIRED:
            raise UnsupportedTypeError(
                f"Quantization for {cls.qtype.name} needs an importance matrix: quantcore.quantize(..., imatrix=...)"
            )
        if _tensor(rows).dtype.kind in "iub":
            rows = rows.astype(np.float32)
        try:
            return ggml.quantize(rows, cls.qtype)
        except InvalidValueError as error:
            raise _quant_error(f"Can't quantize to {cls.qtype.name}: {error}") from error

    @classmethod
    def dequantize_rows(cls, rows: Any) -> NDArray[np.float32]:
        """Decode an array of whole rows of bytes."""
        cls._value_shape(_tensor(rows).shape)  # for gguf-py's message
        return ggml.dequantize(rows.view(np.uint8), cls.qtype, strict=False)

    @classmethod
    def quantize_blocks(cls, blocks: NDArray[Any]) -> NDArray[np.uint8]:
        """Quantize blocks: shape (n, block_size) to (n, type_size)."""
        return cls.quantize_rows(blocks)

    @classmethod
    def dequantize_blocks(cls, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Decode blocks: shape (n, type_size) to (n, block_size)."""
        return cls.dequantize_rows(blocks)

    @classmethod
    def _byte_shape(cls, shape: Sequence[int]) -> tuple[int, ...]:
        return quant_shape_to_byte_shape(shape, cls.qtype)

    @classmethod
    def _value_shape(cls, shape: Sequence[int]) -> tuple[int, ...]:
        return quant_shape_from_byte_shape(shape, cls.qtype)


def _tensor(data: Any) -> Any:
    """An array, or a lazy tensor of gguf-py; anything else is refused."""
    if not isinstance(data, np.ndarray) and not hasattr(type(data), "_wrap_fn"):
        raise InvalidTypeError(f"data: expected an array or a lazy tensor, got {brief(data)}")
    return data


@contextmanager
def _plainly(dtype: type[np.floating[Any]]) -> Iterator[None]:
    """Let what NumPy says of a conversion between plain types be an error of ours."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"data: {reason(error)} ({dtype.__name__})") from None


def _apply(function: Callable[[Any], NDArray[Any]], tensor: Any, dtype: Any, shape_of: _ShapeRule) -> Any:
    """The function of an array at once; of a lazy tensor another one, whose dtype and shape are known beforehand."""
    wrap = getattr(type(tensor), "_wrap_fn", None)
    return function(tensor) if wrap is None else wrap(function, meta_noop=(dtype, shape_of))(tensor)


def _layout(qtype: int) -> GGMLType:
    type_id = _index(qtype)
    if type_id not in GGML_TYPES:
        raise UnknownTypeError(f"quant_type: unknown type {brief(qtype)}")
    return GGML_TYPES[type_id]


def _class_of(qtype: int, what: str) -> type[BlockType]:
    found = _CLASSES.get(_index(qtype))
    if found is None:
        raise UnsupportedTypeError(f"{what} for {getattr(qtype, 'name', brief(qtype))} is not yet implemented")
    return found


def _index(qtype: int) -> int:
    try:
        return operator.index(qtype)
    except Exception:  # whatever the object's own code raises
        raise InvalidTypeError(f"qtype: expected a GGMLQuantizationType or its value, got {brief(qtype)}") from None


def _quant_error(text: str) -> QuantError:
    """An error that `except gguf.QuantError` catches too, as the converters of gguf-py have it."""
    return _error_class(getattr(sys.modules.get("gguf"), "QuantError", QuantError))(text)


@cache
def _error_class(theirs: type[Exception]) -> type[QuantError]:
    return QuantError if issubclass(QuantError, theirs) else type("QuantError", (QuantError, theirs), {})


def _define_class(qtype: GGUFQuantType) -> type[BlockType]:
    sizes = {"qtype": qtype, "block_size": qtype.block_size, "type_size": qtype.bytes_per_block}
    text = f"{qtype.name}: blocks of {qtype.block_size} in {qtype.bytes_per_block} bytes. See `BlockType`."
    return type(qtype.name, (BlockType,), {**sizes, "__doc__": text, "__module__": __name__})


_CLASSES: dict[int, type[BlockType]] = {int(t): _define_class(t) for t in SUPPORTED_TYPES if t not in _PLAIN}

globals().update({found.__name__: found for found in _CLASSES.values()})
__all__ += [found.__name__ for found in _CLASSES.values()]


def __getattr__(name: str) -> Any:
    if name == "_type_traits":  # gguf-py's registry, by which its own test lists the types
        theirs = getattr(sys.modules.get("gguf"), "GGMLQuantizationType", GGUFQuantType)
        known = {int(member): member for member in theirs}
        return {known[i]: found for i, found in _CLASSES.items() if i in known}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

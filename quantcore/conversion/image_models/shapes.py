"""Shapes that ggml does not have: the tensor lies folded in the file, and a key has its shape.

ComfyUI-GGUF reads `comfy.gguf.orig_shape.NAME`, an array of INT32, and gives the tensor that shape.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import prod

from quantcore.gguf.layout import MAX_DIMENSIONS
from quantcore.gguf.values import KeyValue
from quantcore.models.tensors import StoredTensor

_PREFIX = "comfy.gguf.orig_shape."
ROW = 256
"""Columns of a matrix that is made of a convolution."""
_LEAST = 512
_MOST_EXTENT = (1 << 31) - 1


def fold(tensors: Iterable[StoredTensor]) -> tuple[list[StoredTensor], tuple[KeyValue, ...]]:
    """Tensors of more dimensions than ggml has as matrices, and the keys with their shapes."""
    return _reshape((tensor, _matrix(tensor.shape)) for tensor in tensors)


def make_rows(tensors: Iterable[StoredTensor]) -> tuple[list[StoredTensor], tuple[KeyValue, ...]]:
    """Convolutions and other tensors without whole rows of 256 as matrices of those, and the keys with their shapes."""
    return _reshape((tensor, _rows(tensor.shape)) for tensor in tensors)


def unfold(tensors: Iterable[StoredTensor], kvs: Iterable[KeyValue]) -> list[StoredTensor]:
    """The tensors in the shapes that the keys have for them, if those have as many elements."""
    shapes = {kv.key.removeprefix(_PREFIX): kv for kv in kvs if kv.key.startswith(_PREFIX)}
    return [replace(t, shape=_shape(shapes[t.name], t.shape)) if t.name in shapes else t for t in tensors]


def _reshape(
    pairs: Iterable[tuple[StoredTensor, tuple[int, ...]]],
) -> tuple[list[StoredTensor], tuple[KeyValue, ...]]:
    tensors, kvs = [], []
    for tensor, shape in pairs:
        if shape == tensor.shape or max(tensor.shape) > _MOST_EXTENT:
            tensors.append(tensor)
        else:
            tensors.append(replace(tensor, shape=shape))
            kvs.append(KeyValue.array(_PREFIX + tensor.name, tensor.shape, "int32"))
    return tensors, tuple(kvs)


def _matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) <= MAX_DIMENSIONS else (shape[0], prod(shape[1:]))


def _rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    size = prod(shape)
    is_possible = len(shape) > 1 and size >= _LEAST and size % ROW == 0
    return (size // ROW, ROW) if is_possible and shape[-1] % ROW else shape


def _shape(kv: KeyValue, own: tuple[int, ...]) -> tuple[int, ...]:
    found = kv.value
    if isinstance(found, list) and all(type(extent) is int and extent > 0 for extent in found):
        shape = tuple(found)
        return shape if prod(shape) == prod(own) else own
    return own

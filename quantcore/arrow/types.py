"""Extension types of quantized columns: equal where their parameters are, so that columns of others do not mix.

Arrow asks the types of what it joins whether they are equal: arrays, chunks, tables, files of a folder. The metadata of
a field it does not ask: if the parameters were there, those of the first of two tables would silently stay.
"""

import dataclasses
import json
from typing import Any, Self

import numpy as np
import pyarrow as pa

from quantcore._base import arguments
from quantcore._base.text import brief
from quantcore.affine import QuantGranularity, QuantMode, QuantParams
from quantcore.errors import InvalidTypeError, InvalidValueError, QuantcoreError
from quantcore.files.strict_json import parse_text
from quantcore.ggml import GGUFQuantType

__all__ = ["AffineType", "BlockType"]

_VERSION = 1
_MOST_DIMENSIONS = (1 << 31) - 1
_AXES = (None, 0, 1)
CODES, SCALE, OFFSET = "codes", "scale", "offset"
"""The fields of a vector that has parameters of its own."""


class _QuantizedType(pa.ExtensionType):  # type: ignore[misc]
    """What both types share: a state in JSON, by which they are compared."""

    def __init__(self, storage: pa.DataType, name: str, state: dict[str, Any]) -> None:
        self._text = json.dumps({"version": _VERSION, **state}, sort_keys=True, separators=(",", ":"), allow_nan=False)
        super().__init__(storage, name)

    def __arrow_ext_serialize__(self) -> bytes:
        return self._text.encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Self:
        try:
            state = parse_text(bytes(serialized))
            if type(state.get("version")) is not int or state.pop("version") != _VERSION:
                raise InvalidValueError(f"version: is unknown; known: {_VERSION}")
            found = cls._from_state(state)
        except (QuantcoreError, ValueError, KeyError) as error:
            raise InvalidValueError(f"{cls.__name__}: the parameters of the column are damaged: {error}") from None
        if not _have_same_layout(found.storage_type, storage_type):
            raise InvalidValueError(f"{cls.__name__}: expected {found.storage_type}, got {storage_type}")
        return found

    @classmethod
    def _from_state(cls, state: dict[str, Any]) -> Self:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._text == self._text

    def __ne__(self, other: object) -> bool:  # Arrow's own does not ask the parameters
        return not self == other

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._text))


class AffineType(_QuantizedType):
    """The type `quantcore.affine` of a column of affine codes.

    Parameters
    ----------
    params : QuantParams
        Per channel of axis 1: a scale for each dimension. Per tensor: one for all. Per channel of axis 0, of which only
        mode and bits count: each vector has its own, beside its codes.
        An axis may be counted from the end.
    n_dimensions : int or None
        The codes of a vector; None: the column holds numbers, not vectors.

    Notes
    -----
    The storage is `fixed_size_list<int8 or uint8>[n_dimensions]`, of numbers int8 or uint8; with parameters per vector
    a struct of these `codes`, a float32 `scale` and, where there are offsets, a float32 `offset`.
    """

    params: QuantParams
    n_dimensions: int | None
    is_per_vector: bool

    def __init__(self, params: QuantParams, n_dimensions: int | None = None) -> None:
        if not isinstance(params, QuantParams):
            raise InvalidTypeError(f"params: expected a QuantParams, got {brief(params)}")
        if n_dimensions is not None:
            n_dimensions = arguments.integer(n_dimensions, "n_dimensions", 1, _MOST_DIMENSIONS)
        granularity = params.granularity if n_dimensions is None else params.granularity.from_front(2)
        if granularity.group_size is not None or granularity.axis not in ((None,) if n_dimensions is None else _AXES):
            wanted = "one scale" if n_dimensions is None else "one scale, or one per vector (axis 0) or dimension (1)"
            raise InvalidValueError(f"params: a column takes {wanted}, got {granularity}")
        self.is_per_vector = granularity.axis == 0
        if self.is_per_vector:
            limits = params.quant_min, params.quant_max
            params = QuantParams.without_scales(granularity, params.mode, params.bits, *limits)
        elif granularity.axis == 1 and params.num_groups != n_dimensions:
            raise InvalidValueError(f"params: {params.num_groups} scales for vectors of {n_dimensions} values")
        elif granularity != params.granularity:
            params = dataclasses.replace(params, granularity=granularity)
        self.params, self.n_dimensions = params, n_dimensions
        super().__init__(self._storage(), "quantcore.affine", {"dimensions": n_dimensions, "params": params.to_dict()})

    def _storage(self) -> pa.DataType:
        codes = pa.from_numpy_dtype(self.params.code_dtype)
        if self.n_dimensions is None:
            return codes
        vectors = pa.list_(codes, self.n_dimensions)
        if not self.is_per_vector:
            return vectors
        fields = [(CODES, vectors), (SCALE, pa.float32())]
        return pa.struct([*fields, (OFFSET, pa.float32())] if self.params.has_offsets else fields)

    @classmethod
    def _from_state(cls, state: dict[str, Any]) -> Self:
        return cls(QuantParams.from_dict(state["params"]), state["dimensions"])

    def __repr__(self) -> str:
        what = "numbers" if self.n_dimensions is None else f"vectors of {self.n_dimensions}"
        return f"AffineType({what}, {self.params.bits} bits, {self.params.mode.value}, {self.params.granularity.name})"


class BlockType(_QuantizedType):
    """The type `quantcore.block` of a column of vectors in a block format of ggml.

    Parameters
    ----------
    qtype : GGUFQuantType
        The format.
    n_dimensions : int
        The values of a vector, whole blocks.

    Notes
    -----
    The storage is `fixed_size_binary[row bytes]`, the bytes of `quantcore.quantize`.
    """

    qtype: GGUFQuantType
    n_dimensions: int

    def __init__(self, qtype: GGUFQuantType, n_dimensions: int) -> None:
        if not isinstance(qtype, GGUFQuantType):
            raise InvalidTypeError(f"qtype: expected a GGUFQuantType, got {brief(qtype)}")
        n_dimensions = arguments.integer(n_dimensions, "n_dimensions", 1, _MOST_DIMENSIONS)
        n_blocks, rest = divmod(n_dimensions, qtype.block_size)
        if rest:
            raise InvalidValueError(
                f"n_dimensions: {n_dimensions} is not a multiple of {qtype.name}'s block size {qtype.block_size}"
            )
        self.qtype, self.n_dimensions = qtype, n_dimensions
        state = {"dimensions": n_dimensions, "type": qtype.name}
        super().__init__(pa.binary(n_blocks * qtype.bytes_per_block), "quantcore.block", state)

    @classmethod
    def _from_state(cls, state: dict[str, Any]) -> Self:
        if state["type"] not in GGUFQuantType.__members__:
            raise InvalidValueError(f"type: {brief(state['type'])} is unknown")
        return cls(GGUFQuantType[state["type"]], state["dimensions"])

    def __repr__(self) -> str:
        return f"BlockType({self.qtype.name}, vectors of {self.n_dimensions})"


def _have_same_layout(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two storages are the same but for the names of what is in a list, which files may change."""
    if pa.types.is_fixed_size_list(one) and pa.types.is_fixed_size_list(other):
        return bool(one.list_size == other.list_size and one.value_type == other.value_type)
    if pa.types.is_struct(one) and pa.types.is_struct(other) and one.num_fields == other.num_fields:
        pairs = [(one.field(i), other.field(i)) for i in range(one.num_fields)]
        return all(a.name == b.name and _have_same_layout(a.type, b.type) for a, b in pairs)
    return bool(one == other)


def from_serialized(serialized: bytes, storage: pa.DataType) -> AffineType | BlockType:
    """The type whose state is mirrored in the metadata of a field."""
    kind = BlockType if pa.types.is_fixed_size_binary(storage) else AffineType
    return kind.__arrow_ext_deserialize__(storage, serialized)


_ONE = QuantParams(
    np.ones(1, np.float32), np.zeros(1, np.int32), QuantGranularity.per_tensor(), QuantMode.SYMMETRIC, 8, -127, 127
)
for _example in (AffineType(_ONE), BlockType(GGUFQuantType.Q8_0, 32)):
    pa.register_extension_type(_example)

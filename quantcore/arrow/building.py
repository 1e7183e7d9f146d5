"""Arrow arrays over NumPy's memory, without copying it."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def spread(values: NDArray[Any], is_kept: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Rows at their places, zeros at the others; as they are if all are kept."""
    if is_kept is None:
        return values
    whole = np.zeros((is_kept.size, *values.shape[1:]), values.dtype)
    whole[is_kept] = values
    return whole


def array_of(kind: pa.DataType, values: NDArray[Any], is_kept: NDArray[np.bool_] | None) -> pa.Array:
    """Numbers, lists of a fixed size, or binaries of a fixed size; rows that are not kept are null."""
    n, validity = len(values), validity_of(is_kept)
    memory = pa.py_buffer(np.ascontiguousarray(values))
    if not pa.types.is_fixed_size_list(kind):
        return pa.Array.from_buffers(kind, n, [validity, memory])
    child = pa.Array.from_buffers(kind.value_type, values.size, [None, memory])
    return pa.Array.from_buffers(kind, n, [validity], children=[child])


def struct_of(kind: pa.DataType, fields: list[NDArray[Any]], is_kept: NDArray[np.bool_] | None) -> pa.Array:
    """A struct of such arrays."""
    children = [array_of(kind.field(i).type, values, None) for i, values in enumerate(fields)]
    return pa.Array.from_buffers(kind, len(fields[0]), [validity_of(is_kept)], children=children)


def validity_of(is_kept: NDArray[np.bool_] | None) -> pa.Buffer | None:
    """The bits that Arrow has for rows that are not null."""
    return None if is_kept is None else pa.py_buffer(np.packbits(is_kept, bitorder="little"))

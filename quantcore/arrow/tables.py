"""Columns of tables and record batches to codes and back: one function for every engine that hands out Arrow."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from quantcore._base import arguments
from quantcore._base.text import brief
from quantcore.affine import QuantParams
from quantcore.arrow import columns as boundary
from quantcore.arrow.coding import quantize_column
from quantcore.arrow.decoding import dequantize
from quantcore.arrow.types import AffineType, BlockType
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["dequantize_table", "quantize_table"]

_MIRROR = b"quantcore"
Params = QuantParams | AffineType | BlockType


def quantize_table(
    table: Any,
    columns: str | Iterable[str] | Mapping[str, Params],
    scheme: str = "uint8",
    *,
    granularity: str | None = None,
    on_bad: str = "error",
    n_threads: int | None = None,
) -> Any:
    """A table with some of its columns quantized: `quantize` for each of them.

    With a mapping, it is a pure function of a batch, for `map_batches` of Ray Data, `mapInArrow` of Spark, `map` of
    Hugging Face datasets and partitions of Dask: `functools.partial(quantize_table, columns={"embedding": params})`.

    Parameters
    ----------
    table : Table, RecordBatch, or anything with `__arrow_c_stream__`
        The latter becomes a Table.
    columns : str, iterable of str, or mapping of str to QuantParams, AffineType or BlockType
        Names of columns; with a mapping, the parameters of each, else they are found in this table.
    scheme, granularity, on_bad, n_threads
        As for `quantize`; with "drop", rows that are bad in one of the columns are left out of all.

    Returns
    -------
    Table or RecordBatch
        As it was given. The parameters are in the columns' types, and as JSON in the fields' metadata under the key
        "quantcore" for engines that drop such types (see `params_of`).

    Raises
    ------
    ValueError, TypeError
        As `quantize`, with the column's name; there is no such column.

    Examples
    --------
    >>> table = pa.table({"id": [1, 2], "embedding": [[0.0, 280.0], [1.0, 300.0]]})
    >>> quantized = quantize_table(table, "embedding")
    >>> dequantize_table(quantized)["embedding"].to_pylist()
    [[0.0, 280.0], [1.0, 300.0]]
    """
    table = _as_table(table)
    on_bad = boundary.check_on_bad(on_bad)
    given: dict[str, Params | None] = _by_name(columns)
    policy = boundary.NULL if on_bad == boundary.DROP else on_bad
    is_bad = np.zeros(table.num_rows, bool)
    for name, params in given.items():
        place = _place_of(table, name)
        settings = ("uint8", None) if params is not None else (scheme, granularity)
        label = f"column {brief(name)}"
        found, bad = quantize_column(table.column(place), label, settings[0], params, settings[1], policy, n_threads)
        is_bad |= bad
        field = table.schema.field(place)
        metadata = {**(field.metadata or {}), _MIRROR: found.type.__arrow_ext_serialize__()}
        nullable = field.nullable or bool(bad.any())
        table = table.set_column(place, pa.field(name, found.type, nullable, metadata), found)
    if on_bad == boundary.DROP and is_bad.any():
        table = table.filter(pa.array(~is_bad))
    return table


def dequantize_table(table: Any, columns: str | Iterable[str] | None = None, *, n_threads: int | None = None) -> Any:
    """A table with its quantized columns decoded: `dequantize` for each of them.

    Parameters
    ----------
    table : Table, RecordBatch, or anything with `__arrow_c_stream__`
        As `quantize_table` returns.
    columns : str or iterable of str, optional
        Names of columns; None: all that have an extension type of quantcore.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.

    Returns
    -------
    Table or RecordBatch
        As it was given.

    Raises
    ------
    ValueError
        There is no such column, or it has no parameters.
    """
    table = _as_table(table)
    if columns is None:
        names = [field.name for field in table.schema if isinstance(field.type, (AffineType, BlockType))]
    else:
        names = list(_by_name(columns))
    for name in names:
        place = _place_of(table, name)
        try:
            found = dequantize(table.column(place), n_threads=n_threads)
        except InvalidValueError as error:
            raise InvalidValueError(f"column {brief(name)}: {error}") from None
        field = table.schema.field(place)
        metadata = {key: value for key, value in (field.metadata or {}).items() if key != _MIRROR}
        table = table.set_column(place, pa.field(name, found.type, field.nullable, metadata or None), found)
    return table


def _as_table(table: Any) -> Any:
    if isinstance(table, (pa.Table, pa.RecordBatch)):
        return table
    if not hasattr(table, "__arrow_c_stream__"):
        raise InvalidTypeError(f"table: expected an Arrow table or record batch, got {type(table).__name__}")
    return pa.table(table)


def _by_name(columns: Any) -> dict[str, Any]:
    if isinstance(columns, str):
        return {columns: None}
    if isinstance(columns, Mapping):
        return dict(columns)
    return {arguments.text(name, "columns"): None for name in arguments.entries(columns, "columns", "names of columns")}


def _place_of(table: Any, name: Any) -> int:
    arguments.utf_8(name, "columns")
    places = table.schema.get_all_field_indices(name)
    if len(places) != 1:
        names = ", ".join(table.schema.names)
        raise InvalidValueError(f"columns: expected one of {brief(names, 200)}, got {brief(name)}")
    return int(places[0])

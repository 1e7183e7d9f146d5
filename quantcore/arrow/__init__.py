"""Arrow columns of vectors or numbers to codes and back, with the parameters in the type of the column.

Needs the extra `arrow`. Nothing else in the package imports it.

Modules
-------
types : the extension types `quantcore.affine` and `quantcore.block`.
columns : columns at the boundary: rows as a matrix, nulls, what is wrong with a row.
building : arrays from NumPy's memory.
coding : a column to codes; statistics of a column.
decoding : codes back to values, and what they are.
tables : columns of tables and record batches.
"""

from quantcore._base.extras import missing_extra as _missing_extra

try:
    import pyarrow as _pyarrow  # noqa: F401  (to say what is missing)
except ImportError as _error:
    raise _missing_extra("quantcore.arrow", "pyarrow", _error) from None

from quantcore.arrow.coding import calibrate, quantize
from quantcore.arrow.decoding import dequantize, params_of, to_numpy
from quantcore.arrow.tables import dequantize_table, quantize_table
from quantcore.arrow.types import AffineType, BlockType

__all__ = [
    "AffineType",
    "BlockType",
    "calibrate",
    "dequantize",
    "dequantize_table",
    "params_of",
    "quantize",
    "quantize_table",
    "to_numpy",
]

"""Codes with scales in a checkpoint (`scaled_layouts`): found, checked against their scales, and decoded.

x = value of the code * scale, or value * (scale * global scale), or value * (scale / global scale), in float64 and
rounded once.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _kernels
from quantcore._base import parallel
from quantcore._base.arrays import ELEMENT_TYPES, STORAGE_DTYPES, widen_bfloat16
from quantcore._base.text import quote
from quantcore.errors import FileFormatError
from quantcore.models.code_tables import CODES, SCALE_VALUES
from quantcore.models.decoders import Bytes, Decoder
from quantcore.models.scaled_layouts import ScaledLayout
from quantcore.safetensors.reader import ITEM_BITS, Checkpoint, SafetensorsInfo

__all__ = ["ScaledDecoder", "Spread", "find_spread"]

_LARGEST = {"F32": float(np.finfo(np.float32).max), "F16": 65504.0, "BF16": float.fromhex("0x1.fep127")}
Scales = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spread:
    """How scales spread over stacked matrices.

    Attributes
    ----------
    rows, columns : int
        Of a matrix.
    row_block, column_block : int
        Elements that share a scale.
    scale_rows, scale_columns : int
        Of the scales of a matrix.
    """

    rows: int
    columns: int
    row_block: int
    column_block: int
    scale_rows: int
    scale_columns: int

    def scale_row(self, row: int) -> int:
        """The row of all scales that a row of the stacked matrices uses."""
        matrix, row = divmod(row, self.rows)
        return matrix * self.scale_rows + row // self.row_block


def find_spread(
    shape: tuple[int, ...],
    scales: tuple[int, ...],
    layout: ScaledLayout,
    rectangles: tuple[tuple[int, int], ...],
    *,
    is_strict: bool = False,
) -> Spread | None:
    """How scales of a shape spread over values of a shape; None if they do not fit.

    Parameters
    ----------
    shape, scales : tuple of int
    layout : ScaledLayout
    rectangles : tuple of (int, int)
        What a rectangle of a weight may be, by the configuration or by the layout.
    is_strict : bool
        Whether it must be one of these.
    """
    if not shape or prod(shape) == 0:
        return None
    *stacked, rows, columns = shape if len(shape) > 1 else (1, *shape)
    if layout.block:
        is_fitting = columns % layout.block == 0 and scales == (*shape[:-1], columns // layout.block)
        return Spread(rows, columns, 1, layout.block, rows, columns // layout.block) if is_fitting else None
    for row_block, column_block in rectangles:
        if scales == (*shape[:-2], -(-rows // row_block), -(-columns // column_block)):
            return Spread(rows, columns, row_block, column_block, *scales[-2:])
    if is_strict:
        return None
    if prod(scales) == 1:
        rows *= prod(stacked)
        return Spread(rows, columns, rows, columns, 1, 1)
    if stacked and scales in ((*stacked,), (*stacked, 1), (*stacked, 1, 1)):
        return Spread(rows, columns, rows, columns, 1, 1)
    if scales == (*stacked, rows):
        scales = (*scales, 1)
    if len(scales) != len(shape) or scales[:-2] != (*stacked,):
        return None
    if scales[-2] == rows and columns % scales[-1] == 0:
        return Spread(rows, columns, 1, columns // scales[-1], *scales[-2:])
    return None


class ScaledDecoder(Decoder):
    """Codes with a scale for each rectangle.

    Parameters
    ----------
    checkpoint : Checkpoint
    codes : SafetensorsInfo
    scale, global_scale : SafetensorsInfo or None
        The scales and the second one of a layout; without them, the values of the codes are the values.
    shape : tuple of int
        Of the values.
    spread : Spread
    layout : ScaledLayout or None
    dtype : str
        The type of the values.

    Raises
    ------
    FileFormatError
        The second scale is not a positive number.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        codes: SafetensorsInfo,
        scale: SafetensorsInfo | None,
        global_scale: SafetensorsInfo | None,
        shape: tuple[int, ...],
        spread: Spread,
        layout: ScaledLayout | None,
        dtype: str,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self.block_size = layout.block if layout and layout.block else 1
        self.kind = layout.name.split()[0] if layout and layout.packed else codes.dtype
        self.nbytes = sum(info.nbytes for info in (codes, scale, global_scale) if info is not None)
        self.spread = spread
        self._checkpoint, self._codes, self._scale, self._layout = checkpoint, codes, scale, layout
        self._code = CODES[layout.packed if layout and layout.packed else codes.dtype]
        self._global = None if global_scale is None else read_positive(checkpoint, global_scale).astype(np.float64)
        finite = self._code.table[np.isfinite(self._code.table)]
        self._largest_scale = _LARGEST[dtype] / float(np.abs(finite).max())

    def decode(self, first: int, out: Bytes) -> None:
        """Fill `out` with the values from element `first` on."""
        bits, spread = self._code.bits, self.spread
        n = out.size // self.itemsize
        skipped = first % 2 if bits == 4 else 0
        start = first - skipped
        target = np.empty(out.size + self.itemsize, np.uint8) if skipped else out
        codes = np.empty(((n + skipped) * bits + 7) // 8, np.uint8)
        self._checkpoint.read_into(self._codes, start * bits // 8, codes)
        first_scale_row = spread.scale_row(start // spread.columns)
        last = spread.scale_row((first + n - 1) // spread.columns)
        scales = self.scales(first_scale_row, last + 1)
        layout = (
            spread.columns, spread.rows, spread.row_block, spread.column_block, spread.scale_rows, spread.scale_columns
        )  # fmt: skip
        kernel = _kernels.DequantizeCodes(
            codes, bits, self._code.widening, self._code.table, scales, layout, start, first_scale_row, target,
            ELEMENT_TYPES[self.dtype],
        )  # fmt: skip
        parallel.run(kernel, n + skipped, self.itemsize, 1)
        if skipped:
            out[:] = target[self.itemsize :]
        if np.abs(scales).max() > self._largest_scale:
            self._refuse_infinite(codes, first, skipped, out)

    def scales(self, start: int, stop: int) -> Scales:
        """The rows start to stop of all scales, joined with the second one.

        Raises
        ------
        FileFormatError
            One of them is NaN or inf.
        """
        width = self.spread.scale_columns
        if self._scale is None:
            return np.ones((stop - start) * width)
        values = read_floats(self._checkpoint, self._scale, start * width, stop * width)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise self._error(self._scale, f"scale {start * width + bad[0]} is {values[bad[0]]}, expected a number")
        if self._global is not None:
            matrices = np.arange(start, stop) // self.spread.scale_rows
            factors = self._global if self._global.size == 1 else np.repeat(self._global[matrices], width)
            values = values / factors if self._layout and self._layout.is_divided else values * factors
        return values

    def read_packed(self, first: int, stop: int) -> tuple[Bytes, Bytes]:
        """The bytes of codes and of scales of whole blocks, elements first to stop.

        Raises
        ------
        FileFormatError
            A scale is negative or NaN.
        """
        assert self._scale is not None
        block = self.block_size
        codes = np.empty((stop - first) // 2, np.uint8)
        scales = np.empty((stop - first) // block, np.uint8)
        self._checkpoint.read_into(self._codes, first // 2, codes)
        self._checkpoint.read_into(self._scale, first // block, scales)
        values = SCALE_VALUES[self._scale.dtype][scales]
        bad = np.flatnonzero(~(values >= 0))
        if bad.size:
            raise self._error(self._scale, f"scale {first // block + bad[0]} is {values[bad[0]]}, expected at least 0")
        return codes, scales

    def _refuse_infinite(self, codes: Bytes, first: int, skipped: int, out: Bytes) -> None:
        """Refuse values that became infinite although their codes are not."""
        if self._code.bits == 4:
            codes = np.stack((codes & 15, codes >> 4), axis=1).reshape(-1)
        element_type = ELEMENT_TYPES[self.dtype]
        values = widen_bfloat16(out.view(STORAGE_DTYPES[element_type]))
        finite = np.isfinite(self._code.table)[codes[skipped : skipped + values.size]]
        bad = np.flatnonzero(finite & ~np.isfinite(values))
        if bad.size:
            raise self._error(self._codes, f"value {first + bad[0]} times its scale is too large for {self.dtype}")

    def _error(self, info: SafetensorsInfo, problem: str) -> FileFormatError:
        return FileFormatError(f"{self._checkpoint.path}: tensor {quote(info.name)}: {problem}")


def read_positive(checkpoint: Checkpoint, info: SafetensorsInfo, *, is_inverse: bool = False) -> NDArray[np.float32]:
    """The scales of whole weights, or what the file has the inverses of, in float32.

    Raises
    ------
    FileFormatError
        One of them is not a positive number.
    """
    stored = read_floats(checkpoint, info, 0, prod(info.shape))
    with np.errstate(over="ignore", divide="ignore"):
        values = stored.astype(np.float32)
        values = np.float32(1) / values if is_inverse else values
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if bad.size:
        expected = "a positive number" + " with an inverse in float32" * is_inverse
        problem = f"is {stored[bad[0]]}, expected {expected}"
        raise FileFormatError(f"{checkpoint.path}: tensor {quote(info.name)}: {problem}")
    return values


def read_floats(checkpoint: Checkpoint, info: SafetensorsInfo, start: int, stop: int) -> Scales:
    """Elements start to stop of a tensor of floats, or of codes that stand for scales, as float64."""
    itemsize = ITEM_BITS[info.dtype] // 8
    data = np.empty((stop - start) * itemsize, np.uint8)
    checkpoint.read_into(info, start * itemsize, data)
    if info.dtype in SCALE_VALUES:
        return SCALE_VALUES[info.dtype][data]
    values: NDArray[Any] = data.view(STORAGE_DTYPES[ELEMENT_TYPES[info.dtype]])
    return widen_bfloat16(values).astype(np.float64)

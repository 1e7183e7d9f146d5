"""Types of the compiled kernels; one stub serves every CPU level."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

HISTOGRAM_BINS: int
LEVEL: str
SUPPORTED_LEVELS: tuple[str, ...]

_Bytes = NDArray[Any]
_Counts = NDArray[np.uint32] | NDArray[np.uint64]
_Floats = NDArray[np.float32]
_Integers = NDArray[np.int32]
_Layout = tuple[int, int, int, int]
_Sums = NDArray[np.float64]

class Kernel:
    def hand_out(self, total: int, size: int, goes_on: bool = False) -> None: ...
    def run_whole(self, total: int, size: int, goes_on: bool = False) -> int: ...
    def run(self, most: int) -> None: ...
    def cancel(self) -> None: ...
    def let_go(self) -> None: ...
    @property
    def first_bad(self) -> int: ...
    @property
    def is_done(self) -> bool: ...

class Sealed:
    def __new__(cls, array: _Bytes) -> Sealed: ...
    def __buffer__(self, flags: int) -> memoryview: ...

class QuantizeBlocks(Kernel):
    def __init__(
        self,
        type_id: int,
        values: _Bytes,
        dtype: int,
        out: NDArray[np.uint8],
        weights: NDArray[np.float32] | None = None,
        cols: int = 0,
        rows_per_group: int = 1,
        is_refined: bool = False,
    ) -> None: ...

class DequantizeBlocks(Kernel):
    def __init__(self, type_id: int, data: NDArray[np.uint8], out: _Bytes, dtype: int) -> None: ...

class QuantizeNibbles(Kernel):
    def __init__(
        self,
        values: _Bytes,
        dtype: int,
        block_size: int,
        quant_type: int,
        midpoints: _Floats,
        scales: _Floats,
        out: NDArray[np.uint8],
    ) -> None: ...

class QuantizeNibblesLinear(Kernel):
    def __init__(
        self,
        values: _Bytes,
        dtype: int,
        block_size: int,
        quant_type: int,
        midpoints: _Floats,
        super_block_size: int,
        scales: NDArray[np.uint8],
        super_scales: _Floats,
        out: NDArray[np.uint8],
    ) -> None: ...

class DequantizeNibbles(Kernel):
    def __init__(
        self, data: NDArray[np.uint8], block_size: int, scales: _Floats, table: _Floats, out: _Bytes, dtype: int
    ) -> None: ...

class DequantizeCodes(Kernel):
    def __init__(
        self,
        codes: NDArray[np.uint8],
        bits: int,
        widening: int,
        table: _Floats,
        scales: _Sums,
        layout: tuple[int, int, int, int, int, int],
        first: int,
        first_scale_row: int,
        out: _Bytes,
        dtype: int,
    ) -> None: ...

class SumRuns(Kernel):
    def __init__(self, scales: _Floats, run_size: int, sums: _Sums) -> None: ...

class QuantizeScales(Kernel):
    def __init__(
        self,
        scales: _Floats,
        super_block_size: int,
        offset: float,
        cells: _Integers,
        codes: NDArray[np.uint8],
        super_scales: _Floats,
    ) -> None: ...

class DequantizeScales(Kernel):
    def __init__(
        self,
        codes: NDArray[np.uint8],
        super_block_size: int,
        super_scales: _Floats,
        offset: float,
        table: _Floats,
        scales: _Floats,
    ) -> None: ...

class ExtremesOfGroups(Kernel):
    def __init__(self, values: _Bytes, dtype: int, layout: _Layout, keys: _Integers) -> None: ...

class ExtremesOfColumns(Kernel):
    def __init__(self, values: _Bytes, dtype: int, first: int, width: int, keys: _Integers) -> None: ...

class QuantizeGroups(Kernel):
    def __init__(self, values: _Bytes, dtype: int, layout: _Layout, parameters: _Floats, out: _Bytes) -> None: ...

class QuantizeColumns(Kernel):
    def __init__(
        self, values: _Bytes, dtype: int, first: int, width: int, parameters: _Floats, out: _Bytes
    ) -> None: ...

class FloorColumns(Kernel):
    def __init__(
        self,
        values: _Bytes,
        dtype: int,
        first: int,
        width: int,
        ranges: _Floats,
        most: float,
        factor: float,
        is_wide: bool,
        out: _Bytes,
    ) -> None: ...

class DequantizeGroups(Kernel):
    def __init__(
        self, codes: _Bytes, is_signed: bool, layout: _Layout, parameters: _Floats, out: _Bytes, dtype: int
    ) -> None: ...

class DequantizeColumns(Kernel):
    def __init__(
        self, codes: _Bytes, is_signed: bool, first: int, width: int, parameters: _Floats, out: _Bytes, dtype: int
    ) -> None: ...

class FakeQuantizeGroups(Kernel):
    def __init__(
        self,
        work: int,
        values: _Bytes,
        dtype: int,
        grads: _Bytes | None,
        grad_dtype: int,
        out: _Bytes,
        out_dtype: int,
        parameters: _Floats,
        sums: _Sums | None,
        layout: _Layout,
    ) -> None: ...

class FakeQuantizeColumns(Kernel):
    def __init__(
        self,
        work: int,
        first: int,
        width: int,
        values: _Bytes,
        dtype: int,
        grads: _Bytes | None,
        grad_dtype: int,
        out: _Bytes,
        out_dtype: int,
        parameters: _Floats,
        sums: _Sums | None,
    ) -> None: ...

class CountValues(Kernel):
    def __init__(self, values: _Bytes, dtype: int) -> None: ...
    def count(self, grids: _Integers, counts: NDArray[np.uint64], most: int) -> None: ...

class CountRuns(Kernel):
    def __init__(
        self, values: _Bytes, dtype: int, outer: int, inner: int, grids: _Integers, counts: _Counts
    ) -> None: ...

class CountColumns(Kernel):
    def __init__(
        self, values: _Bytes, dtype: int, outer: int, inner: int, grids: _Integers, counts: _Counts
    ) -> None: ...

class ColumnTables:
    def __new__(cls, n_channels: int) -> Self: ...

class CountRows(Kernel):
    def __init__(
        self, values: _Bytes, dtype: int, channels: int, inner: int, first: int, n: int, grids: _Integers
    ) -> None: ...
    def count(self, tables: ColumnTables, most: int) -> bool: ...

class AddTables(Kernel):
    def __init__(self, tables: ColumnTables, grids: _Integers, counts: _Counts) -> None: ...

class ClipHistograms(Kernel):
    def __init__(
        self,
        grids: _Integers,
        counts: _Counts,
        method: int,
        is_symmetric: bool,
        has_offset: bool,
        bits: int,
        quant_min: int,
        quant_max: int,
        ends: _Sums,
    ) -> None: ...

class CountHalves(Kernel):
    def __init__(self, values: _Bytes, dtype: int) -> None: ...
    def count(self, uppers: NDArray[np.uint32], counts: NDArray[np.uint32], most: int) -> bool: ...

class ErrorsOfPairs(Kernel):
    def __init__(self, x: _Bytes, x_dtype: int, y: _Bytes, y_dtype: int, threshold: float, sums: _Sums) -> None: ...

class ErrorsOfAffine(Kernel):
    def __init__(
        self,
        values: _Bytes,
        dtype: int,
        layout: _Layout,
        is_in_columns: bool,
        parameters: _Floats,
        threshold: float,
        sums: _Sums,
    ) -> None: ...

def add_errors(figures: tuple[float, ...], rows: _Sums) -> tuple[float, ...]: ...
def are_apart(first: _Bytes, second: _Bytes) -> bool: ...
def are_within(array: _Integers | _Floats, lowest: int, highest: int) -> bool: ...
def block_sizes() -> dict[int, tuple[int, int]]: ...
def clear_histograms(grids: _Integers) -> None: ...
def coding_rows(
    scales: _Floats, zero_points: _Integers, offsets: _Floats | None, qmin: int, qmax: int, rows: _Floats
) -> None: ...
def error_chunk() -> int: ...
def join_extremes(parts: list[tuple[_Integers, int, int]], bounds: _Integers) -> bool: ...
def first_infinite(rows: _Sums) -> int: ...
def lsq_gradients(
    parts: list[tuple[_Sums, int, int]],
    scales: _Floats,
    count: int,
    tail_count: int,
    per_row: int,
    quant_max: float,
    factor: float,
    totals: _Sums,
    gradients: _Floats,
) -> None: ...
def widen_histograms(grids: _Integers, counts: _Counts, keys: _Integers) -> None: ...
def merge_histograms(grids: _Integers, counts: _Counts, other_grids: _Integers, other_counts: _Counts) -> None: ...
def parameters_between(
    bounds: _Floats, symmetric: bool, qmin: int, qmax: int, rows: _Floats, zero_points: _Integers | None
) -> int: ...
def quantize_small(
    values: _Bytes,
    dtype: int,
    layout: _Layout,
    symmetric: bool,
    qmin: int,
    qmax: int,
    rows: _Floats,
    zero_points: _Integers | None,
    out: _Bytes,
) -> bool: ...
def walk_strings(buffer: bytes | bytearray, offset: int, n_strings: int) -> tuple[int, int]: ...

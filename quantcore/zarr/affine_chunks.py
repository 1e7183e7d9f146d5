"""A chunk of floats as affine codes in bytes, and the configuration that says how.

The bytes of a chunk, all little-endian:

* uint8 version (1), uint8 order (0: C, 1: Fortran), uint8 number of dimensions, uint8 0;
* uint64 per dimension: the extents of the part that is coded; what lies beyond holds the array's fill value. Chunks at
  the border of an array are filled up with it, which would otherwise widen their range, or be NaN;
* with parameters of its own: float32 scales, then int32 zero points (asymmetric) or float32 offsets (offset);
* the codes, int8 or uint8 in C order; of 4 bits and fewer two to a byte, the first one in the low nibble.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quantcore._base.arguments import MOST_DIMENSIONS
from quantcore._base.text import brief
from quantcore.affine import (
    QuantGranularity,
    QuantMode,
    QuantParams,
    dequantize_with_params,
    pack_nibbles,
    quantize_with_params,
    unpack_nibbles,
)
from quantcore.affine.from_extremes import calibrate
from quantcore.affine.granularity import check_granularity
from quantcore.affine.modes import check_bits, check_mode, code_dtype, code_range
from quantcore.affine.params import check_params
from quantcore.errors import FileFormatError, InvalidValueError
from quantcore.zarr.kernel_calls import ONE_THREAD, decoded_dtype
from quantcore.zarr.metadata import VERSION, check_fields

_HEAD = struct.Struct("<4B")
_ORDER = "low_first"


@dataclass(frozen=True)
class AffineChunks:
    """How chunks become affine codes: with parameters that are given, or with those of each chunk."""

    params: QuantParams | None
    granularity: QuantGranularity
    mode: QuantMode
    bits: int

    @classmethod
    def of(cls, params: Any, granularity: Any, mode: Any, bits: Any) -> Self:
        """From the arguments of a codec, checked."""
        if params is None:
            mode = check_mode("offset" if mode is None else mode)
            return cls(None, check_granularity(granularity), mode, check_bits(8 if bits is None else bits))
        if not (granularity is None and mode is None and bits is None):
            raise InvalidValueError("params: goes without granularity, mode and bits, which the parameters have")
        params = check_params(params)
        code_dtype = params.code_dtype  # refuses more than 8 bits
        if not params.num_groups:
            raise InvalidValueError(f"params: has no scales for codes of {code_dtype}")
        if params.granularity.group_size is not None:
            raise InvalidValueError("params: scales per group belong to one chunk; give granularity= instead")
        return cls(params, params.granularity, params.mode, params.bits)

    @classmethod
    def of_configuration(cls, configuration: Mapping[str, Any]) -> Self:
        """From what `configuration` gave.

        Raises
        ------
        ValueError, TypeError
            A field is missing, unknown, out of range or contradicts another one.
        """
        fields = {"version", "params"} if "params" in configuration else {"version", *_OWN}
        check_fields(configuration, fields)
        if "params" in configuration:
            return cls.of(QuantParams.from_dict(configuration["params"]), None, None, None)
        granularity = QuantGranularity(configuration["axis"], configuration["group_size"])
        return cls.of(None, granularity, configuration["mode"], configuration["bits"])

    @property
    def configuration(self) -> dict[str, Any]:
        """The state for JSON."""
        if self.params is not None:
            return {"version": VERSION, "params": self.params.to_dict()}
        axis, group_size = self.granularity.axis, self.granularity.group_size
        own = {"mode": self.mode.value, "bits": self.bits, "axis": axis, "group_size": group_size}
        return {"version": VERSION, **own}

    def encode(self, values: NDArray[Any], fill_value: Any = None) -> NDArray[np.uint8]:
        """The bytes of a chunk; `fill_value` is the array's, None if it is not known."""
        is_fortran = values.flags.f_contiguous and not values.flags.c_contiguous
        coded = self._coded_shape(values, fill_value)
        part = values[tuple(slice(n) for n in coded)]
        params = self.params
        if part.size and params is None:
            params = calibrate(part, self.granularity, self.bits, self.mode, True, ONE_THREAD)
        head = [_HEAD.pack(VERSION, is_fortran, values.ndim, 0), np.array(coded, "<u8").tobytes()]
        if params is None or not part.size:
            return np.frombuffer(b"".join(head), np.uint8)
        if self.params is None:
            head += [array.astype(array.dtype.newbyteorder("<")).tobytes() for array in _own_arrays(params)]
        start = sum(map(len, head))
        data = np.empty(start + self._code_bytes(part.size), np.uint8)
        data[:start] = np.frombuffer(b"".join(head), np.uint8)
        if self.bits > 4:
            codes = data[start:].view(params.code_dtype).reshape(part.shape)
            quantize_with_params(part, params, n_threads=ONE_THREAD, out=codes)
        else:
            data[start:] = pack_nibbles(quantize_with_params(part, params, n_threads=ONE_THREAD), _ORDER)
        return data

    def decode(
        self,
        data: NDArray[np.uint8],
        dtype: np.dtype[Any],
        shape: tuple[int, ...] | None = None,
        fill_value: Any = None,
    ) -> NDArray[Any]:
        """The values of a chunk, of the shape that it must have, or that its bytes tell.

        Raises
        ------
        FileFormatError
            The bytes are not those of such a chunk.
        """
        is_fortran, coded, position = _read_head(data)
        if shape is None:
            shape = coded
        elif len(coded) != len(shape) or any(n > most for n, most in zip(coded, shape, strict=True)):
            raise FileFormatError(f"chunk: has shape {coded}, which is not within {shape}")
        size = prod(coded)
        if size > 2 * data.size:  # before anything is allocated
            raise FileFormatError(f"chunk: {data.size} bytes are too few for shape {brief(coded)}")
        params = self.params
        if size and params is None:
            params, position = self._read_params(data, coded, position)
        wanted = position + (self._code_bytes(size) if size else 0)
        if data.size != wanted:
            raise FileFormatError(f"chunk: {wanted} bytes are expected for shape {coded}, got {data.size}")
        if not size or params is None:
            return np.full(shape, fill_value, dtype) if size < prod(shape) else np.empty(shape if size else 0, dtype)
        code = code_dtype(self.mode)
        codes = data[position:]
        if self.bits <= 4:
            codes = unpack_nibbles(codes, size, _ORDER, signed=code == np.int8)
        values = dequantize_with_params(
            codes.view(code).reshape(coded), params, dtype=decoded_dtype(dtype), n_threads=ONE_THREAD
        )
        if coded != shape:
            whole = np.full(shape, fill_value, dtype)
            whole[tuple(slice(n) for n in coded)] = values
            return whole
        values = values.astype(dtype, copy=False)
        return np.asfortranarray(values) if is_fortran else values

    def _coded_shape(self, values: NDArray[Any], fill_value: Any) -> tuple[int, ...]:
        """The shape of the part that is not fill value only: planes at the end of each axis may be left out."""
        if fill_value is None or not values.size:
            return values.shape
        kept = self.granularity.axis if self.params is not None else None  # it has as many indices as scales
        shape = list(values.shape)
        for axis in range(values.ndim):
            if kept is not None and axis == kept % values.ndim:
                continue
            part = values[tuple(slice(n) for n in shape)]
            if _is_fill(part.take(-1, axis), fill_value).all():
                others = tuple(i for i in range(values.ndim) if i != axis)
                used = np.flatnonzero(~_is_fill(part, fill_value).all(axis=others))
                shape[axis] = int(used[-1]) + 1 if used.size else 0
                if not used.size:
                    return (0,) * values.ndim
        return tuple(shape)

    def _read_params(self, data: NDArray[np.uint8], coded: tuple[int, ...], position: int) -> tuple[QuantParams, int]:
        """A chunk's own parameters, and where its codes begin."""
        n = self.granularity.sharing(coded).n_scales
        dtypes = {QuantMode.SYMMETRIC: ("<f4",), QuantMode.ASYMMETRIC: ("<f4", "<i4"), QuantMode.OFFSET: ("<f4", "<f4")}
        arrays = []
        for dtype in dtypes[self.mode]:
            part = data[position : position + 4 * n]
            if part.size != 4 * n:
                raise FileFormatError(f"chunk: {data.size} bytes are too few for {n} scales")
            little = np.dtype(dtype)
            arrays.append(np.frombuffer(part.tobytes(), little).astype(little.newbyteorder("=")))
            position += 4 * n
        scales = arrays[0]
        zero_points = arrays[1] if self.mode is QuantMode.ASYMMETRIC else np.zeros(n, np.int32)
        offsets = arrays[1] if self.mode is QuantMode.OFFSET else None
        limits = code_range(self.bits, self.mode)
        try:
            params = QuantParams(scales, zero_points, self.granularity, self.mode, self.bits, *limits, offsets)
        except InvalidValueError as error:
            raise FileFormatError(f"chunk: {error}") from None
        return params, position

    def _code_bytes(self, size: int) -> int:
        return (size + 1) // 2 if self.bits <= 4 else size


_OWN = ("mode", "bits", "axis", "group_size")


def _own_arrays(params: QuantParams) -> list[NDArray[Any]]:
    arrays: list[NDArray[Any]] = [params.scales]
    if params.is_asymmetric:
        arrays.append(params.zero_points)
    if params.offsets is not None:
        arrays.append(params.offsets)
    return arrays


def _is_fill(values: NDArray[Any], fill_value: Any) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.isnan(values) if np.isnan(fill_value) else values == fill_value
    return found


def _read_head(data: NDArray[np.uint8]) -> tuple[bool, tuple[int, ...], int]:
    """Whether the order is Fortran's, the shape of what is coded, and where the head ends."""
    if data.size < _HEAD.size:
        raise FileFormatError(f"chunk: its head takes {_HEAD.size} bytes, got {data.size}")
    version, order, n_dims, zero = _HEAD.unpack(data[: _HEAD.size].tobytes())
    if version != VERSION or order > 1 or zero or not 1 <= n_dims <= MOST_DIMENSIONS:
        raise FileFormatError(f"chunk: its head {(version, order, n_dims, zero)} is unknown")
    end: int = _HEAD.size + 8 * n_dims
    if data.size < end:
        raise FileFormatError(f"chunk: its head takes {end} bytes, got {data.size}")
    return bool(order), tuple(np.frombuffer(data[_HEAD.size : end].tobytes(), "<u8").tolist()), end

"""Codecs of numcodecs, for `filters=` of a zarr v2 array.

A filter sees a chunk, but not the array's fill value. When it decodes, it knows neither dtype nor shape: the one is in
its configuration, the other in the chunk's bytes.
"""

import re
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_contiguous_ndarray
from numpy.typing import DTypeLike, NDArray

from quantcore._base import arguments, arrays
from quantcore._base.text import brief, reason
from quantcore.affine import QuantGranularity, QuantMode, QuantParams
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.ggml import GGUFQuantType
from quantcore.zarr.affine_chunks import AffineChunks
from quantcore.zarr.block_chunks import BlockChunks
from quantcore.zarr.metadata import AFFINE, BLOCK, check_dtype, configured

__all__ = ["AffineFilter", "BlockFilter"]

_FLOAT = re.compile("[<>|=]?f[248]")


class _Filter(Codec):
    """What both filters share."""

    codec_id: str
    _chunks: AffineChunks | BlockChunks
    _dtype: np.dtype[Any]

    def get_config(self) -> dict[str, Any]:
        """The filter's entry in the metadata of an array."""
        return {"id": self.codec_id, "dtype": self._dtype.str, **self._chunks.configuration}

    @classmethod
    def _restored(cls, kind: Any, config: Mapping[str, Any]) -> Self:
        made = cls.__new__(cls)
        config = arguments.mapping(config, cls.codec_id, "from names to values")
        dtype = config.get("dtype")
        if not isinstance(dtype, str) or not _FLOAT.fullmatch(dtype):  # NumPy builds whatever else a text describes
            raise InvalidTypeError(f"{cls.codec_id}: dtype: expected a float such as '<f4', got {brief(dtype)}")
        made._dtype = _check_dtype(cls.codec_id, dtype)
        rest = {name: value for name, value in config.items() if name not in ("id", "dtype")}
        made._chunks = configured(cls.codec_id, kind, rest)
        return made

    def _values(self, buf: Any) -> NDArray[Any]:
        values = arrays.as_array(buf, f"{self.codec_id}: chunk")
        if values.dtype != self._dtype:
            raise InvalidTypeError(f"{self.codec_id}: dtype: is {self._dtype.str}, got a chunk of {values.dtype.str}")
        return values

    def _decoded(self, data: Any, out: Any) -> NDArray[Any]:
        found = self._bytes(data, "chunk")
        try:
            values = self._chunks.decode(found, self._dtype)
        except InvalidValueError as error:
            raise type(error)(f"{self.codec_id}: {error}") from None
        if out is None:
            return values
        result = self._bytes(out, "out")
        if result.size != values.nbytes:
            raise InvalidValueError(f"{self.codec_id}: out: has {result.size} bytes, the chunk {values.nbytes}")
        if not result.flags.writeable:
            raise InvalidValueError(f"{self.codec_id}: out: is read-only")
        result.view(self._dtype)[...] = values.reshape(-1, order="A")
        return np.asarray(out)

    def _bytes(self, data: Any, name: str) -> NDArray[np.uint8]:
        """The bytes of a buffer in one piece, in whichever order its elements lie."""
        try:
            return np.asarray(ensure_contiguous_ndarray(data)).reshape(-1).view(np.uint8)
        except Exception as error:  # whatever the object's own code raises
            raise InvalidTypeError(f"{self.codec_id}: {name}: {reason(error)}") from None

    def encode(self, buf: Any) -> NDArray[np.uint8]:
        """The bytes of a chunk."""
        values = self._values(buf)
        try:
            return self._encode(values)
        except InvalidValueError as error:
            # zarr does not tell the fill value, so that it cannot be told apart from the data.
            hint = "; NaN may be the array's fill value, with which zarr fills chunks at its border up"
            raise InvalidValueError(f"{self.codec_id}: {error}{hint if 'got nan' in str(error) else ''}") from None

    def _encode(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        raise NotImplementedError

    def decode(self, buf: Any, out: Any = None) -> NDArray[Any]:
        """The values of a chunk."""
        return self._decoded(buf, out)


class AffineFilter(_Filter):
    """Affine codes of a zarr v2 array of floats; `AffineCodec` is the same for v3, where the arguments are described.

    Parameters
    ----------
    params, granularity, mode, bits
        As for `AffineCodec`.
    dtype : dtype, default "<f4"
        That of the array: float16, float32 or float64, with its byte order.

    Notes
    -----
    zarr fills chunks at the border of an array up with the fill value, which a filter does not know: unless the
    parameters are given, it widens the range of such a chunk.
    """

    codec_id = AFFINE
    _chunks: AffineChunks

    def __init__(
        self,
        params: QuantParams | None = None,
        *,
        granularity: QuantGranularity | str | None = None,
        mode: QuantMode | str | None = None,
        bits: int | None = None,
        dtype: DTypeLike = "<f4",
    ) -> None:
        self._dtype = _check_dtype(self.codec_id, dtype)
        self._chunks = AffineChunks.of(params, granularity, mode, bits)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """From the entry in the metadata of an array; ValueError or TypeError names the field that is wrong."""
        return cls._restored(AffineChunks, config)

    def _encode(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        return self._chunks.encode(values)

    def __repr__(self) -> str:
        return f"AffineFilter({self._chunks.bits} bits, {self._chunks.mode.value}, {self._dtype.str})"


class BlockFilter(_Filter):
    """A block format of a zarr v2 array of floats; `BlockCodec` is the same for v3, where the arguments are described.

    Parameters
    ----------
    format, block_size
        As for `BlockCodec`.
    dtype : dtype, default "<f4"
        That of the array: float16, float32 or float64, with its byte order.

    Notes
    -----
    Of arrays in Fortran order, the blocks lie along the first axis, whose elements are neighbours.
    """

    codec_id = BLOCK
    _chunks: BlockChunks

    def __init__(self, format: str | GGUFQuantType, *, block_size: int | None = None, dtype: DTypeLike = "<f4") -> None:
        self._dtype = _check_dtype(self.codec_id, dtype)
        self._chunks = BlockChunks.of(format, block_size)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """From the entry in the metadata of an array; ValueError or TypeError names the field that is wrong."""
        return cls._restored(BlockChunks, config)

    def _encode(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        is_fortran = values.flags.f_contiguous and not values.flags.c_contiguous
        return self._chunks.encode(values.T if is_fortran else values)

    def __repr__(self) -> str:
        return f"BlockFilter({self._chunks.format!r}, {self._dtype.str})"


def _check_dtype(name: str, dtype: Any) -> np.dtype[Any]:
    try:
        found: np.dtype[Any] = np.dtype(dtype if dtype is not None else object)
    except Exception:  # NumPy's errors are of many classes, and an object has code of its own
        raise InvalidTypeError(f"{name}: dtype: expected a dtype, got {brief(dtype)}") from None
    check_dtype(name, found)
    return found

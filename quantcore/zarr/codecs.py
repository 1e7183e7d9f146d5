"""Codecs of zarr v3 from an array to bytes, for `serializer=` of `zarr.create_array`; compressors may follow them.

A codec gets a whole chunk, and what is not its own fault in it: chunks at the border of an array are filled up with the
array's fill value. zarr does not tell a codec where its chunk lies.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec

from quantcore._base import arguments
from quantcore.affine import QuantGranularity, QuantMode, QuantParams
from quantcore.errors import InvalidValueError
from quantcore.ggml import GGUFQuantType
from quantcore.zarr.affine_chunks import AffineChunks
from quantcore.zarr.block_chunks import BlockChunks
from quantcore.zarr.metadata import AFFINE, BLOCK, check_dtype, configured

__all__ = ["AffineCodec", "BlockCodec"]


class _Codec(ArrayBytesCodec):
    """What both codecs share: a configuration, by which they are compared, and work in threads."""

    name: str
    is_fixed_size = False
    _chunks: AffineChunks | BlockChunks

    def to_dict(self) -> dict[str, Any]:
        """The codec's entry in the metadata of an array."""
        return {"name": self.name, "configuration": self._chunks.configuration}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the codec's entry in the metadata of an array.

        Raises
        ------
        ValueError, TypeError
            The entry is malformed; the message names the field.
        """
        made = cls.__new__(cls)
        made._chunks = configured(
            cls.name, cls._kind(), arguments.mapping(data, cls.name, "from names to values").get("configuration")
        )
        return made

    @classmethod
    def _kind(cls) -> type[AffineChunks] | type[BlockChunks]:
        raise NotImplementedError

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse an array that the codec cannot take; ValueError or TypeError says why."""
        check_dtype(self.name, dtype.to_native_dtype())
        if not shape:
            raise InvalidValueError(f"{self.name}: shape: must have at least one dimension, got ()")
        chunk_shape = getattr(chunk_grid, "chunk_shape", None)
        if chunk_shape is not None:
            self._check_chunks(tuple(chunk_shape))

    def _check_chunks(self, shape: tuple[int, ...]) -> None:
        raise NotImplementedError

    def _encode(self, values: NDArray[Any], fill_value: Any) -> NDArray[np.uint8]:
        raise NotImplementedError

    def _decode(self, data: NDArray[np.uint8], dtype: np.dtype[Any], shape: Any, fill_value: Any) -> NDArray[Any]:
        raise NotImplementedError

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Chunks take different numbers of bytes."""
        raise NotImplementedError

    def _encode_sync(self, chunk_array: Any, chunk_spec: Any) -> Any:
        values, fill_value = chunk_array.as_numpy_array(), chunk_spec.fill_value
        try:
            data = self._encode(values, fill_value)
        except InvalidValueError as error:
            hint = ""
            if not np.isfinite(fill_value) and "finite" in str(error):
                hint = (
                    f"; the array's fill value is {fill_value}, with which zarr fills chunks at its border and "
                    "what was not written: fill_value= takes another one"
                )
            raise InvalidValueError(f"{self.name}: {error}{hint}") from None
        return chunk_spec.prototype.buffer.from_array_like(data)

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        data = chunk_bytes.as_numpy_array().reshape(-1).view(np.uint8)
        dtype = chunk_spec.dtype.to_native_dtype()
        try:
            values = self._decode(data, dtype, chunk_spec.shape, chunk_spec.fill_value)
        except InvalidValueError as error:
            raise type(error)(f"{self.name}: {error}") from None
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values)

    async def _encode_single(self, chunk_array: Any, chunk_spec: Any) -> Any:
        return await asyncio.to_thread(self._encode_sync, chunk_array, chunk_spec)

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.to_dict() == self.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self.to_dict()))


class AffineCodec(_Codec):
    """Affine codes of a zarr v3 array of floats: int8 or uint8, or two codes in a byte up to 4 bits.

    Parameters
    ----------
    params : QuantParams, optional
        The parameters of all chunks, such as `Calibrator.compute().params`, per tensor or per channel; a chunk then
        holds all channels. None: each chunk has its own, found in its values and stored before its codes.
    granularity : QuantGranularity, "per_tensor" or "per_channel", optional
        Without `params`: what has a scale of its own within a chunk. None: the whole chunk has one.
    mode : QuantMode or its name, optional
        Without `params`; None: OFFSET, the range of the data as it is.
    bits : int, optional
        Without `params`; 2 to 8; None: 8.

    Raises
    ------
    ValueError, TypeError
        The parameters are per group, have more than 8 bits or come with what only goes without them; an argument is out
        of its range. When a chunk is written: it holds NaN or inf, or does not fit the parameters.

    Notes
    -----
    The codes are those of `quantize_with_params`, the values those of `dequantize_with_params` in the dtype of the
    array (float16, float32 or float64). The end of a chunk that holds nothing but the array's fill value is not coded
    and comes back as it is, also NaN. A chunk that is written in parts is decoded and coded again: with its own
    parameters its values then move, so write whole chunks. The layout is described in the module `affine_chunks`.

    Examples
    --------
    >>> import zarr
    >>> temperatures = np.linspace(270, 300, 400, dtype=np.float32).reshape(20, 20)
    >>> array = zarr.create_array({}, data=temperatures, chunks=(10, 20), serializer=AffineCodec(bits=8))
    >>> bool(np.abs(array[:] - temperatures).max() < 0.03)
    True
    """

    name = AFFINE
    _chunks: AffineChunks

    def __init__(
        self,
        params: QuantParams | None = None,
        *,
        granularity: QuantGranularity | str | None = None,
        mode: QuantMode | str | None = None,
        bits: int | None = None,
    ) -> None:
        self._chunks = AffineChunks.of(params, granularity, mode, bits)

    @classmethod
    def _kind(cls) -> type[AffineChunks]:
        return AffineChunks

    @property
    def params(self) -> QuantParams | None:
        """The parameters of all chunks; None: each has its own."""
        return self._chunks.params

    def __repr__(self) -> str:
        chunks = self._chunks
        whose = "own" if chunks.params is None else f"{chunks.params.num_groups} given"
        return f"AffineCodec({chunks.bits} bits, {chunks.mode.value}, {chunks.granularity.name}, {whose})"

    def _check_chunks(self, shape: tuple[int, ...]) -> None:
        try:
            if self.params is not None:
                self.params.sharing(shape, "chunks")
            else:
                self._chunks.granularity.sharing(shape)
        except InvalidValueError as error:
            raise InvalidValueError(f"{self.name}: {error}") from None

    def _encode(self, values: NDArray[Any], fill_value: Any) -> NDArray[np.uint8]:
        return self._chunks.encode(np.ascontiguousarray(values), fill_value)

    def _decode(self, data: NDArray[np.uint8], dtype: np.dtype[Any], shape: Any, fill_value: Any) -> NDArray[Any]:
        return self._chunks.decode(data, dtype, shape, fill_value)


class BlockCodec(_Codec):
    """A block format of a zarr v3 array of floats: one of ggml's, or int4, NF4 or FP4.

    Parameters
    ----------
    format : str or GGUFQuantType
        A type of ggml that needs no importance matrix, such as "Q8_0" or "Q4_K"; or "int4", "nf4" or "fp4".
    block_size : int, optional
        Of the latter three: a power of two from 32 to 4096; None: 64.

    Raises
    ------
    ValueError, TypeError
        The format is unknown or needs an importance matrix; `block_size` is out of range. When a chunk is written: it
        holds NaN or inf, or is not whole blocks: of ggml's formats the last axis of the chunks, of the 4-bit formats
        their number of elements.

    Notes
    -----
    The bytes of a chunk are those of `quantize`, or the scales and then the codes of `quantize_4bit`.

    Examples
    --------
    >>> import quantcore
    >>> import zarr
    >>> weights = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(16, 256)
    >>> array = zarr.create_array({}, data=weights, chunks=(4, 256), serializer=BlockCodec("Q8_0"), compressors=None)
    >>> bool(np.array_equal(array[:4], quantcore.dequantize(quantcore.quantize(weights[:4], "Q8_0"), "Q8_0")))
    True
    """

    name = BLOCK
    _chunks: BlockChunks

    def __init__(self, format: str | GGUFQuantType, *, block_size: int | None = None) -> None:
        self._chunks = BlockChunks.of(format, block_size)

    @classmethod
    def _kind(cls) -> type[BlockChunks]:
        return BlockChunks

    @property
    def format(self) -> str:
        """The name of the format."""
        return self._chunks.format

    def __repr__(self) -> str:
        return f"BlockCodec({self.format!r}, block_size={self._chunks.block_size})"

    def _check_chunks(self, shape: tuple[int, ...]) -> None:
        try:
            self._chunks.check_shape(shape)
        except InvalidValueError as error:
            raise InvalidValueError(f"{self.name}: {error}") from None

    def _encode(self, values: NDArray[Any], fill_value: Any) -> NDArray[np.uint8]:
        return self._chunks.encode(values)

    def _decode(self, data: NDArray[np.uint8], dtype: np.dtype[Any], shape: Any, fill_value: Any) -> NDArray[Any]:
        return self._chunks.decode(data, dtype, shape)

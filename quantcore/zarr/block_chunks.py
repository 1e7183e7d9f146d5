"""A chunk of floats in a block format, and the configuration that says which.

Of a format of ggml the bytes are those of `quantcore.quantize`: rows along the last axis in whole blocks. Of the 4-bit
formats, whose blocks run over the whole chunk, they are the scales, little-endian float32, and then the packed codes,
as `quantcore.quantize_4bit` gives both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quantcore._base.text import brief
from quantcore.blockwise import BLOCK_SIZE, Quantized4Bit, dequantize_4bit, quantize_4bit
from quantcore.blockwise.codebooks import CODEBOOKS, check_block_size
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError
from quantcore.ggml import GGUFQuantType, formats
from quantcore.zarr.kernel_calls import ONE_THREAD, decoded_dtype
from quantcore.zarr.metadata import VERSION, check_fields

_F4 = np.dtype("<f4")


@dataclass(frozen=True)
class BlockChunks:
    """How chunks become blocks: `format` is the name of a type of ggml, or one of `CODEBOOKS`."""

    format: str
    block_size: int
    bytes_per_block: int

    @classmethod
    def of(cls, format: Any, block_size: Any = None) -> Self:
        """From the arguments of a codec, checked."""
        if isinstance(format, str) and format.lower() in CODEBOOKS:
            size = check_block_size(BLOCK_SIZE if block_size is None else block_size, "block_size")
            return cls(format.lower(), size, _F4.itemsize + size // 2)
        if block_size is not None:
            raise InvalidValueError(f"block_size: goes with {', '.join(CODEBOOKS)} only, got {brief(block_size)}")
        layout = formats.unweighted_format(format, "format")
        return cls(layout.name, layout.block_size, layout.bytes_per_block)

    @classmethod
    def of_configuration(cls, configuration: Mapping[str, Any]) -> Self:
        """From what `configuration` gave; ValueError or TypeError says which field is wrong."""
        name = configuration.get("format")
        if not isinstance(name, str):
            raise InvalidTypeError(f"format: expected the name of a format, got {brief(name)}")
        is_four_bit = name in CODEBOOKS
        check_fields(configuration, {"version", "format", "block_size"} if is_four_bit else {"version", "format"})
        return cls.of(name, configuration["block_size"] if is_four_bit else None)

    @property
    def configuration(self) -> dict[str, Any]:
        """The state for JSON."""
        state = {"version": VERSION, "format": self.format}
        return state | {"block_size": self.block_size} if self.is_four_bit else state

    @property
    def is_four_bit(self) -> bool:
        """Whether it is a 4-bit format, whose blocks run over the whole chunk."""
        return self.format in CODEBOOKS

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse chunks that are not whole blocks."""
        size, what = (prod(shape), "elements") if self.is_four_bit else (shape[-1] if shape else 1, "the last axis")
        if size % self.block_size:
            raise InvalidValueError(
                f"chunks: {what} of {shape} are not whole blocks of {self.block_size}, which {self.format} needs"
            )

    def encode(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """The bytes of a chunk."""
        self.check_shape(values.shape)
        if not self.is_four_bit:
            return formats.quantize(values, self.format, n_threads=ONE_THREAD).reshape(-1)
        found = quantize_4bit(values, block_size=self.block_size, quant_type=self.format, n_threads=ONE_THREAD)
        return np.concatenate([np.frombuffer(found.scales.astype(_F4).tobytes(), np.uint8), found.data])

    def decode(
        self, data: NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...] | None = None
    ) -> NDArray[Any]:
        """The values of a chunk, flat if its shape is not known; FileFormatError if the bytes do not fit."""
        n_blocks, rest = divmod(data.size, self.bytes_per_block)
        size = n_blocks * self.block_size
        if rest or (shape is not None and size != prod(shape)):
            wanted = "whole blocks" if shape is None else f"shape {shape}"
            raise FileFormatError(f"chunk: {data.size} bytes are not {wanted} in {self.format}")
        if shape is None:
            shape = (size,)
        narrow = decoded_dtype(dtype)
        if not self.is_four_bit:
            values = formats.dequantize(data, GGUFQuantType[self.format], dtype=narrow, n_threads=ONE_THREAD)
        else:
            scales = np.frombuffer(data[: 4 * n_blocks].tobytes(), _F4).astype(np.float32)
            try:
                record = Quantized4Bit(scales, data[4 * n_blocks :], (size,), self.block_size, self.format)
            except InvalidValueError as error:
                raise FileFormatError(f"chunk: {error}") from None
            values = dequantize_4bit(record, dtype=narrow, n_threads=ONE_THREAD)
        return values.astype(dtype, copy=False).reshape(shape)

"""MXFP4 of a checkpoint as the blocks of ggml: the same codes and scales in another order, so that nothing is lost.

A block of ggml is the scale and 16 bytes, of which byte j has the codes of elements j and j + 16; in a checkpoint, it
has those of elements 2 j and 2 j + 1.
"""

from dataclasses import dataclass

import numpy as np

from quantcore.models.decoders import Bytes
from quantcore.models.scaled_tensors import ScaledDecoder

__all__ = ["MXFP4", "BlockRepacker"]

MXFP4 = "MXFP4"
_BLOCK, _HALF, _BYTES = 32, 8, 17


@dataclass(frozen=True, slots=True)
class BlockRepacker:
    """A tensor whose bytes are blocks of ggml's MXFP4."""

    decoder: ScaledDecoder

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        rows, columns = self.decoder.spread.rows, self.decoder.spread.columns
        stacked = int(np.prod(self.decoder.shape[:-2]))
        return stacked * rows * columns // _BLOCK * _BYTES

    def read_into(self, start: int, buffer: Bytes) -> None:
        """Fill a buffer with the bytes from `start` on."""
        first, last = start // _BYTES, -(-(start + buffer.size) // _BYTES)
        codes, scales = self.decoder.read_packed(first * _BLOCK, last * _BLOCK)
        halves = codes.reshape(-1, 2, _HALF)
        blocks = np.empty((last - first, _BYTES), np.uint8)
        blocks[:, 0] = scales
        blocks[:, 1::2] = halves[:, 0] & 15 | halves[:, 1] << 4
        blocks[:, 2::2] = halves[:, 0] >> 4 | halves[:, 1] & 0xF0
        skipped = start - first * _BYTES
        buffer[:] = blocks.reshape(-1)[skipped : skipped + buffer.size]

"""MXFP4 and NVFP4 of a checkpoint as the blocks of ggml: the same codes and scales in another order, so that nothing is
lost.

A block of ggml is the scales of one or more runs of elements, and then the codes of each run: its byte j has those of
element j and of the one half a run further on. In a checkpoint, it has those of elements 2 j and 2 j + 1. The second
scale of NVFP4 has no place in a block: it is a tensor of its own (`WeightScale`).
"""

from dataclasses import dataclass

import numpy as np

from quantcore.models.decoders import Bytes
from quantcore.models.scaled_tensors import ScaledDecoder, read_positive
from quantcore.safetensors.reader import Checkpoint, SafetensorsInfo

__all__ = ["BLOCKS", "MXFP4", "NVFP4", "BlockRepacker", "WeightScale"]

MXFP4, NVFP4 = "MXFP4", "NVFP4"


@dataclass(frozen=True, slots=True)
class BlockForm:
    """How a block of ggml is made.

    Attributes
    ----------
    run : int
        Elements that share a scale.
    scales : int
        Runs in a block.
    scale_bits : int
        What is kept of the byte of a scale.
    """

    run: int
    scales: int
    scale_bits: int = 0xFF

    @property
    def elements(self) -> int:
        """Elements of a block."""
        return self.run * self.scales

    @property
    def nbytes(self) -> int:
        """Bytes of a block."""
        return self.scales + self.elements // 2


BLOCKS: dict[str, BlockForm] = {MXFP4: BlockForm(32, 1), NVFP4: BlockForm(16, 4, 0x7F)}
"""The forms of blocks by the kind of code; E4M3 loses its sign in a block of NVFP4."""


@dataclass(frozen=True, slots=True)
class BlockRepacker:
    """A tensor whose bytes are blocks of ggml, of the decoder's kind; rows are whole blocks."""

    decoder: ScaledDecoder

    @property
    def form(self) -> BlockForm:
        """How the blocks are made."""
        return BLOCKS[self.decoder.kind]

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        rows, columns = self.decoder.spread.rows, self.decoder.spread.columns
        stacked = int(np.prod(self.decoder.shape[:-2]))
        return stacked * rows * columns // self.form.elements * self.form.nbytes

    def read_into(self, start: int, buffer: Bytes) -> None:
        """Fill a buffer with the bytes from `start` on."""
        form = self.form
        first, last = start // form.nbytes, -(-(start + buffer.size) // form.nbytes)
        codes, scales = self.decoder.read_packed(first * form.elements, last * form.elements)
        halves = codes.reshape(last - first, form.scales, 2, form.run // 4)
        blocks = np.empty((last - first, form.nbytes), np.uint8)
        blocks[:, : form.scales] = scales.reshape(-1, form.scales) & form.scale_bits
        runs = blocks[:, form.scales :].reshape(last - first, form.scales, form.run // 2)
        runs[..., 0::2] = halves[:, :, 0] & 15 | halves[:, :, 1] << 4
        runs[..., 1::2] = halves[:, :, 0] >> 4 | halves[:, :, 1] & 0xF0
        skipped = start - first * form.nbytes
        buffer[:] = blocks.reshape(-1)[skipped : skipped + buffer.size]


@dataclass(frozen=True, slots=True)
class WeightScale:
    """A scale of a whole weight as one float32, or the inverse of what the file holds."""

    checkpoint: Checkpoint
    info: SafetensorsInfo
    is_inverse: bool

    def read_into(self, start: int, buffer: Bytes) -> None:
        """Fill a buffer with the bytes from `start` on."""
        value = read_positive(self.checkpoint, self.info, is_inverse=self.is_inverse)
        buffer[:] = value.view(np.uint8)[start : start + buffer.size]

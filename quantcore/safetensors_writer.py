"""A writer of safetensors files: all sizes are known from the start, the tensors come in any order and in parts."""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from quantcore._files import OutputFile
from quantcore.errors import InvalidValueError
from quantcore.safetensors import ITEM_BITS

_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written; `dtype` as the format names it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BITS[self.dtype] // 8


class SafetensorsWriter:
    """Writes the header at once and each part of a tensor where it belongs.

    Tensors lie in the order of the `safetensors` library, wider types first, so that all of them are aligned.

    Parameters
    ----------
    file : OutputFile
        Where to write, open.
    tensors : iterable of TensorSpec
    metadata : mapping of str to str
        `__metadata__`; left out if empty.
    """

    def __init__(self, file: OutputFile, tensors: Iterable[TensorSpec], metadata: Mapping[str, str]) -> None:
        ordered = sorted(tensors, key=lambda t: (-ITEM_BITS[t.dtype], t.name))
        self._file = file
        self._offsets: dict[str, int] = {}
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        end = 0
        for tensor in ordered:
            if tensor.name in header:
                raise InvalidValueError(f"tensor {tensor.name!r}: there are two of this name")
            start, end = end, end + tensor.nbytes
            self._offsets[tensor.name] = start
            header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        text += b" " * (-len(text) % _ALIGNMENT)
        self._data_start = 8 + len(text)
        self.remaining = end
        file.write_at(0, struct.pack("<Q", len(text)) + text)

    def write(self, name: str, start: int, data: Any) -> None:
        """Bytes of a tensor from byte `start` on."""
        self._file.write_at(self._data_start + self._offsets[name] + start, data)
        self.remaining -= memoryview(data).nbytes

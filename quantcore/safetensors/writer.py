"""A writer of safetensors files: all sizes are known in advance; the tensors may come in any order and in parts.

What it writes, the reader accepts.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from quantcore._base import arguments
from quantcore._base.text import brief, quote
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.files.disk import OutputFile
from quantcore.safetensors.folders import MAX_HEADER_BYTES
from quantcore.safetensors.reader import ITEM_BITS

_ALIGNMENT = 8
_METADATA = "__metadata__"
_MOST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written; `dtype` is the format's name for its type."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BITS[self.dtype] // 8


class SafetensorsWriter:
    """Writes the header first, then each part of a tensor at its offset.

    Tensors are in the order of the `safetensors` library, wider types first, so that all of them are aligned.

    Parameters
    ----------
    file : OutputFile
        The open output. It gets its name only if all bytes of all tensors were written.
    tensors : iterable of TensorSpec
    metadata : mapping of str to str
        `__metadata__`; left out if empty.

    Raises
    ------
    TypeError, ValueError
        The reader would refuse the file: a name is there twice or is `__metadata__`, text is not UTF-8, a type is not
        one of the format, a shape has no whole number of bytes or more than 2**63 bits, the header is too long.
    """

    def __init__(self, file: OutputFile, tensors: Iterable[TensorSpec], metadata: Mapping[str, str]) -> None:
        if not isinstance(file, OutputFile):
            raise InvalidTypeError(f"file: expected an OutputFile, got {brief(file)}")
        _check_metadata(metadata)
        specs = [_check_spec(spec) for spec in arguments.entries(tensors, "tensors", "TensorSpec")]
        ordered = sorted(specs, key=lambda t: (-ITEM_BITS[t.dtype], t.name))
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}
        self._written: dict[str, int] = {}
        header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
        end = 0
        for tensor in ordered:
            if tensor.name in self._places:
                raise InvalidValueError(f"tensor {quote(tensor.name)}: there are two of this name")
            start, end = end, end + tensor.nbytes
            self._places[tensor.name] = start, tensor.nbytes
            self._written[tensor.name] = 0
            header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        text += b" " * (-len(text) % _ALIGNMENT)
        if len(text) > MAX_HEADER_BYTES or end > _MOST:
            raise InvalidValueError(
                f"tensors: the header takes {len(text)} bytes, the limit is {MAX_HEADER_BYTES}; the tensors take {end}"
            )
        self._data_start = 8 + len(text)
        file.write_at(0, struct.pack("<Q", len(text)) + text)
        file.require(self.close)

    def write(self, name: str, start: int, data: Any) -> None:
        """Write the bytes of a tensor from its byte `start` on, where the last part of it ended; 0 at first."""
        if arguments.text(name, "name") not in self._places:
            raise InvalidValueError(f"name: {quote(name)} is none of the tensors that were declared")
        data, start = arguments.buffer(data, "data"), arguments.integer(start, "start", 0, _MOST)
        count = data.nbytes
        offset, size = self._places[name]
        if start != self._written[name] or start + count > size:
            written = f"{self._written[name]} of the {size} bytes of tensor {quote(name)} are written"
            raise InvalidValueError(f"start: {count} bytes from {start} on; {written}, and the next part follows them")
        self._file.write_at(self._data_start + offset + start, data)
        self._written[name] = start + count

    def close(self) -> None:
        """Make sure that all tensors are complete; the output calls it before it gets its name."""
        for name, (_, size) in self._places.items():
            if missing := size - self._written[name]:
                raise InvalidValueError(f"tensor {quote(name)} lacks {missing} of its {size} bytes")


def _check_spec(spec: TensorSpec) -> TensorSpec:
    if not isinstance(spec, TensorSpec):
        raise InvalidTypeError(f"tensors: expected TensorSpec, got {brief(spec)}")
    arguments.utf_8(spec.name, "name of a tensor")
    field = f"tensor {quote(spec.name)}"
    if spec.name == _METADATA:
        raise InvalidValueError(f"{field}: the format keeps this name for the metadata")
    if not isinstance(spec.dtype, str) or spec.dtype not in ITEM_BITS:
        raise InvalidValueError(f"{field}: unknown dtype {brief(spec.dtype)}; known: {', '.join(ITEM_BITS)}")
    if not isinstance(spec.shape, (tuple, list)):
        raise InvalidTypeError(f"{field}: expected a tuple of integers as its shape, got {brief(spec.shape)}")
    shape = tuple(arguments.integer(extent, f"shape of {field}", 0, _MOST) for extent in spec.shape)
    bits = ITEM_BITS[spec.dtype] * prod(extent or 1 for extent in shape)
    if bits > _MOST:
        raise InvalidValueError(f"{field}: {spec.dtype} of shape {brief(shape)} has more than 2**63 bits")
    if 0 not in shape and bits % 8:
        raise InvalidValueError(f"{field}: {spec.dtype} of shape {brief(shape)} has no whole number of bytes")
    return TensorSpec(spec.name, spec.dtype, shape)


def _check_metadata(metadata: Mapping[str, str]) -> None:
    for key, value in arguments.mapping(metadata, "metadata", "from strings to strings").items():
        arguments.utf_8(key, "metadata: key")
        arguments.utf_8(value, f"metadata: value of {quote(key)}")

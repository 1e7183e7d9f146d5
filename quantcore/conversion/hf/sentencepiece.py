"""A reader of SentencePiece's `tokenizer.model`: the pieces with their scores and types.

The file is a protocol buffer: fields of a number, a wire type and bytes. Source: `sentencepiece_model.proto` (the
model's field 1 are the pieces; a piece's fields 1, 2 and 3 are text, score and type), the encoding of protocol buffers.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quantcore.errors import FileFormatError
from quantcore.files.disk import InputFile

MODEL_FILE = "tokenizer.model"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""The types of pieces; llama.cpp numbers its own in the same way."""
_MOST_BYTES = 1 << 28
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary."""

    text: bytes
    score: float
    type: int


def read_pieces(path: Path) -> list[Piece]:
    """The pieces of a file in the order of their ids.

    Raises
    ------
    FileFormatError
        The file is damaged, or has no pieces.
    OSError
        It cannot be read.
    """
    with InputFile(path) as file:
        data = bytes(file.read_whole(_MOST_BYTES))
        try:
            pieces = [
                _parse_piece(value) for number, value in _fields(data) if number == 1 and isinstance(value, bytes)
            ]
        except (ValueError, struct.error, IndexError):
            raise FileFormatError(f"{file.label}: not a model of SentencePiece, or damaged") from None
        if not pieces:
            raise FileFormatError(f"{file.label}: has no pieces: not a model of SentencePiece")
        return pieces


def _parse_piece(data: bytes) -> Piece:
    text, score, kind = b"", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            value.decode("utf-8")
            text = value
        elif number == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            kind = value
    if kind not in range(NORMAL, BYTE + 1):
        raise ValueError
    return Piece(text, score, kind)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        wire = key & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError
        if position + size > len(data):
            raise ValueError
        yield key >> 3, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError

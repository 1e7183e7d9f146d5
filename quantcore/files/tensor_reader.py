"""What the readers of files of tensors share, whatever the format."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol, Self, cast, runtime_checkable

from quantcore._base.notebook import rows_table
from quantcore._base.text import brief, bytes_text, shorten
from quantcore.errors import InvalidTypeError
from quantcore.files.inputs import InputFile


@runtime_checkable
class Placed(Protocol):
    """A tensor that lies in one piece in its file."""

    @property
    def offset(self) -> int:
        """The first byte, from the start of the file."""
        ...

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        ...


class TensorFiles(ABC):
    """Open files, closed at the end of a `with` block, that have a `path` for messages and a table of `tensors`."""

    @abstractmethod
    def close(self) -> None:
        """Close all files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        files: Any = self
        return f"<{type(self).__name__} {shorten(files.path)}: {len(files.tensors)} tensors>"

    def _repr_html_(self) -> str:
        tensors = cast("Any", self).tensors
        rows = ((t.name, "x".join(map(str, t.shape)), t.stored_type, bytes_text(t.nbytes)) for t in tensors)
        return rows_table(repr(self)[1:-1], ("tensor", "shape", "type", "size"), rows, len(tensors), right=(3,))


class TensorReader(TensorFiles):
    """The head of one file, parsed when it is opened, and positioned access to its tensors."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = InputFile(path)
        try:
            self._parse()
        except BaseException:
            self._file.close()
            raise

    @abstractmethod
    def _parse(self) -> None:
        """Read the head of `_file`; FileFormatError for anything malformed."""

    @property
    def path(self) -> str:
        """The path, for messages."""
        return self._file.label

    @property
    def file_path(self) -> Path:
        """The file."""
        return self._file.path

    def read_into(self, tensor: Placed, start: int, buffer: Any) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start`; ValueError beyond the tensor's end."""
        if not isinstance(tensor, Placed):
            raise InvalidTypeError(f"tensor: expected one of the file's tensors, got {brief(tensor)}")
        self._file.read_part(tensor.offset, tensor.nbytes, start, buffer)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

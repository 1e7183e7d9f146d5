"""What the readers of files of tensors share, whatever the format."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol, Self

from quantcore.files.inputs import InputFile


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


class TensorReader(ABC):
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
        self._file.read_part(tensor.offset, tensor.nbytes, start, buffer)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

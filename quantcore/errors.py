"""The errors of quantcore: each derives from `QuantcoreError` and from the built-in exception it refines."""

__all__ = [
    "FileFormatError",
    "InvalidStateError",
    "InvalidTypeError",
    "InvalidValueError",
    "MissingExtraError",
    "OutputFileError",
    "QuantcoreError",
]


class QuantcoreError(Exception):
    """Base class of every error that quantcore raises on purpose."""


class InvalidValueError(QuantcoreError, ValueError):
    """An argument has the right type and a value that is not allowed."""


class InvalidTypeError(QuantcoreError, TypeError):
    """An argument has a type or dtype that is not accepted."""


class InvalidStateError(QuantcoreError, RuntimeError):
    """Asked for too early: nothing was observed or calibrated yet."""


class FileFormatError(InvalidValueError):
    """A file is not what its format says: names the file, the field, the offset and the limit it breaks."""


class MissingExtraError(QuantcoreError, ImportError):
    """A package is not installed that this one function needs: names the extra that brings it."""


class OutputFileError(QuantcoreError, OSError):
    """An output file cannot be put in its place: it exists already, is the input, or another process is writing it."""

"""The errors of quantcore: each derives from `QuantcoreError` and from the built-in exception it refines.

What the operating system refuses stays the `OSError` that Python makes of it, such as `FileNotFoundError`.
"""

__all__ = [
    "FileFormatError",
    "InvalidStateError",
    "InvalidTypeError",
    "InvalidValueError",
    "MissingExtraError",
    "OutputBusyError",
    "OutputFileError",
    "QuantcoreError",
]


class QuantcoreError(Exception):
    """Base class of every error that quantcore raises on purpose; those of the operating system stay `OSError`."""


class InvalidValueError(QuantcoreError, ValueError):
    """An argument has the right type and a value that is not allowed."""


class InvalidTypeError(QuantcoreError, TypeError):
    """An argument has a type or dtype that is not accepted."""


class InvalidStateError(QuantcoreError, RuntimeError):
    """Something was requested too early: nothing was observed or calibrated yet."""


class FileFormatError(InvalidValueError):
    """A file violates its format; the message names the file, the field, the offset and the limit."""


class MissingExtraError(QuantcoreError, ImportError):
    """A function needs an optional package that is not installed; the message says how to install it."""


class OutputFileError(QuantcoreError, OSError):
    """An output file cannot be written: it exists already, is an input, or another process is writing it."""


class OutputBusyError(OutputFileError):
    """Another process is writing the same output file."""

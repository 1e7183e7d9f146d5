"""Paths as users give them: what is no local path is refused, and a path becomes text for messages."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from quantcore._base.text import brief, printable, quote
from quantcore.errors import InvalidTypeError, InvalidValueError, QuantcoreError

# pathlib makes one slash of two, so that a Path of a URL has only one.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:)/")


def label(path: str | os.PathLike[str]) -> str:
    """A path as text for a one-line message."""
    return printable(_text(path))


def _text(path: str | os.PathLike[str]) -> str:
    try:
        return os.fsdecode(path)
    except Exception:  # whatever the object's own code raises
        raise InvalidTypeError(f"path: expected a str or os.PathLike, got {brief(path)}") from None


def local_path(path: str | os.PathLike[str]) -> Path:
    """A path of the local file system.

    Raises
    ------
    InvalidValueError
        The path is a URL such as s3://bucket/name (unless a folder is named like its scheme), or holds a NUL, or
        half of a surrogate pair.
    InvalidTypeError
        It is no path.
    """
    text = _text(path)
    if "\0" in text:
        raise InvalidValueError(f"path: must not hold a NUL, got {brief(text)}")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise InvalidValueError(f"path: {quote(text)} has half of a surrogate pair, which no file name has") from None
    scheme = _URL.match(text)
    if scheme and not os.path.isdir(scheme[1]):
        raise InvalidValueError(f"{label(text)}: is a URL; only paths of the local file system are read and written")
    return Path(text)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let errors of the operating system name this file: those of a descriptor name none, some name a temporary."""
    try:
        yield
    except OSError as error:
        if isinstance(error, QuantcoreError) or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fsdecode(path)) from None

"""Pickles of records: a version and the fields, which go through the record's own checks when they come back."""

from collections.abc import Callable
from typing import Any

from quantcore.errors import InvalidValueError

VERSION = 1


def reduced(record: Any, *values: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What `__reduce__` returns for a record that is made again from these values."""
    return restored, (VERSION, type(record), *values)


def restored(version: int, cls: type, *values: Any) -> Any:
    """A record from its pickle."""
    if version != VERSION:
        raise InvalidValueError(f"pickle of {cls.__name__}: version {version!r} is unknown; known: {VERSION}")
    return cls(*values)

"""Frozen records: made without their checks, and pickled as a version and fields that are checked on the way back."""

from collections.abc import Callable
from typing import Any, TypeVar

from quantcore.errors import InvalidValueError

VERSION = 1
Record = TypeVar("Record")


def made(cls: type[Record], **fields: Any) -> Record:
    """A record of fields that are right as they come from a kernel, so that small calls do not pay for its checks."""
    record = object.__new__(cls)
    record.__dict__.update(fields)
    return record


def reduced(record: Any, *values: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What `__reduce__` returns for a record that is made again from these values."""
    return restored, (VERSION, type(record), *values)


def restored(version: int, cls: type, *values: Any) -> Any:
    """A record from its pickle."""
    if version != VERSION:
        raise InvalidValueError(f"pickle of {cls.__name__}: version {version!r} is unknown; known: {VERSION}")
    return cls(*values)

"""Frozen records: made without their checks, shown for reading, and pickled as a version and fields that are checked
on the way back.

What holds quantized values is a `Quantized`, so that `quantcore.dequantize` knows it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields
from sys import getsizeof
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quantcore._base import arrays
from quantcore._base.notebook import fields_table
from quantcore._base.text import literal
from quantcore.errors import InvalidValueError

VERSION = 1
Record = TypeVar("Record")


class Quantized(ABC):
    """Quantized values that know their format and shape, and so how they are decoded."""

    @abstractmethod
    def dequantize(
        self, *, dtype: DTypeLike = np.float32, n_threads: int | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The values, of the original shape."""


def build(cls: type[Record], **fields: Any) -> Record:
    """A record without its checks: for fields that come from a kernel and are valid, so that small calls stay fast."""
    record = object.__new__(cls)
    record.__dict__.update(fields)
    return record


def borrow(cls: type[Record], **fields: Any) -> Record:
    """A record, checked, over arrays that it does not copy although somebody may write to them: their owner's own."""
    record = build(cls, **fields)
    record._check(arrays.borrow)  # type: ignore[attr-defined]
    return record


def describe(record: Any, *names: str) -> str:
    """A repr of some fields, with figures rounded for reading; an array is told by its dtype and shape, and a short one
    by its values.
    """
    texts = (f"{name}={literal(getattr(record, name))}" for name in names)
    return f"{type(record).__name__}({', '.join(texts)})"


def tabled(record: Any, *names: str) -> str:
    """What notebooks show of a record: a table of some fields and properties."""
    return fields_table(type(record).__name__, {name: getattr(record, name) for name in names})


def shown(*more: str) -> Callable[[type[Record]], type[Record]]:
    """A decorator of dataclasses and named tuples: their repr has rounded figures, and notebooks show a table of the
    fields, and of the properties named here.
    """

    def decorate(cls: Any) -> Any:
        names = cls._fields if issubclass(cls, tuple) else [f.name for f in fields(cls) if f.repr]
        cls.__repr__ = lambda record: describe(record, *names)
        cls._repr_html_ = lambda record: tabled(record, *names, *more)
        return cls

    return decorate


def size_of(record: Any, *parts: Any) -> int:
    """What `__sizeof__` returns: bytes of a record and of what it holds, which Dask goes by when it spills."""
    held = sum(part.nbytes if isinstance(part, np.ndarray) else getsizeof(part) for part in parts)
    return object.__sizeof__(record) + held


def reduce(record: Any, *values: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What `__reduce__` returns for a record that is rebuilt from these values."""
    return restore, (VERSION, type(record), *values)


def restore(version: int, cls: type, *values: Any) -> Any:
    """A record from its pickle."""
    if version != VERSION:
        raise InvalidValueError(f"pickle of {cls.__name__}: version {version!r} is unknown; known: {VERSION}")
    return cls(*values)

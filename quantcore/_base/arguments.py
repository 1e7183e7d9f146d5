"""Checks of arguments that are not arrays: integers, numbers, flags, shapes, states. A refusal names the parameter."""

import itertools
import math
import operator
from collections.abc import Collection, Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np

from quantcore._base.text import brief, did_you_mean, quote
from quantcore.errors import InvalidTypeError, InvalidValueError

MOST_DIMENSIONS = 64
"""The limit of an array of NumPy."""
_MOST_ELEMENTS = (1 << 60) - 1  # NumPy can still count the bytes of so many elements of 8 bytes
_F32_MAX = float(np.finfo(np.float32).max)


def power_of_two(value: Any, name: str, lowest: int, highest: int) -> int:
    """An integer that is a power of two in [lowest, highest]."""
    number = integer(value, name, lowest, highest)
    if number & (number - 1):
        raise InvalidValueError(f"{name}: expected a power of two from {lowest} to {highest}, got {number}")
    return number


def integer(value: Any, name: str, lowest: int, highest: int | None = None) -> int:
    """An integer in [lowest, highest]; a bool or a float is refused even if it is whole."""
    if type(value) is int and lowest <= value and (highest is None or value <= highest):
        return value
    allowed = f"an integer >= {lowest}" if highest is None else f"an integer from {lowest} to {highest}"
    if isinstance(value, (bool, np.bool_)):
        raise InvalidTypeError(f"{name}: expected {allowed}, got {value!r}")
    try:
        number = operator.index(value)
    except Exception:  # whatever the object's own code raises
        raise InvalidTypeError(f"{name}: expected {allowed}, got {brief(value)}") from None
    if number < lowest or (highest is not None and number > highest):
        raise InvalidValueError(f"{name}: expected {allowed}, got {brief(number)}")
    return number


def is_number(value: Any) -> bool:
    """Whether it is a real number, and not a bool."""
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))


def number(value: Any, name: str) -> float:
    """A finite real number; a bool is refused."""
    result = _widen(value, name)
    if not math.isfinite(result):
        raise InvalidValueError(f"{name}: expected a finite number, got {result}")
    return result


def float32(value: Any, name: str) -> float:
    """A real number, rounded to float32 and finite there; a bool is refused."""
    result = _widen(value, name)
    if not abs(result) <= _F32_MAX:
        raise InvalidValueError(f"{name}: must be finite in float32, got {brief(value)}")
    return float(np.float32(result))


def _widen(value: Any, name: str) -> float:
    if not is_number(value):
        raise InvalidTypeError(f"{name}: expected a number, got {brief(value)}")
    try:
        return float(value)
    except OverflowError:  # an integer beyond float64
        return math.inf


def count(value: Any, name: str) -> int:
    """How many elements an array has."""
    n = integer(value, name, 0)
    if n > _MOST_ELEMENTS:
        raise InvalidValueError(f"{name}: {brief(n)} are more than 2**60 - 1 elements")
    return n


def figure(value: Any, name: str) -> float:
    """A real number, also an infinite one; NaN and a bool are refused."""
    if isinstance(value, float) and math.isinf(value):
        return float(value)
    return number(value, name)


def integer_of_either_sign(value: Any, name: str) -> int:
    """Check an integer that may be negative, such as an axis or a code."""
    return integer(value, name, -(1 << 31), 1 << 31)


def flag(value: Any, name: str) -> bool:
    """True or False; anything else is refused, even if it is truthy or falsy."""
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidTypeError(f"{name}: expected a bool, got {brief(value)}")
    return bool(value)


def choice(value: Any, name: str, choices: Collection[str], expected: str = "one of") -> str:
    """One of a few words, given in any case; a refusal lists them and suggests the nearest."""
    if isinstance(value, str):
        if value in choices:
            return value
        for word in choices:
            if word.lower() == value.lower():
                return word
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    raise InvalidValueError(f"{name}: expected {expected} {', '.join(choices)}, got {brief(value)}{hint}")


def entries(value: Any, name: str, what: str) -> list[Any]:
    """What an iterable gives; a string is none, since its letters are hardly meant."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return list(value)
    except Exception:  # whatever the object's own code raises
        raise InvalidTypeError(f"{name}: expected an iterable of {what}, got {brief(value)}") from None


def iterator(value: Any, name: str, what: str) -> Iterator[Any]:
    """As `entries`, of a stream that is taken one after the other."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return iter(value)
    except Exception:  # whatever the object's own code raises
        raise InvalidTypeError(f"{name}: expected an iterable of {what}, got {brief(value)}") from None


def mapping(value: Any, name: str, what: str = "") -> Mapping[Any, Any]:
    """A mapping; `what` it maps goes into the refusal, such as "from names to arrays"."""
    if not isinstance(value, Mapping):
        raise InvalidTypeError(f"{name}: expected a mapping{what and f' {what}'}, got {brief(value)}")
    return value


def callback(value: Any, name: str) -> None:
    """Refuse what is no function; None stands for none."""
    if value is not None and not callable(value):
        raise InvalidTypeError(f"{name}: expected a function, got {brief(value)}")


def buffer(value: Any, name: str, *, is_written: bool = False) -> memoryview:
    """The bytes of an object in one piece, for reading or, if it `is_written`, for writing."""
    try:
        view = memoryview(value)
        if view.format == "O":  # addresses of objects: whoever writes bytes over them breaks the process
            raise TypeError
        view = view.cast("B") if view.nbytes else memoryview(bytearray())
    except Exception:  # whatever the object's own code raises
        raise InvalidTypeError(f"{name}: expected bytes in one piece, got {brief(value)}") from None
    if is_written and view.readonly:
        raise InvalidValueError(f"{name}: is read-only: {brief(value)}")
    return view


def text(value: Any, name: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise InvalidTypeError(f"{name}: expected a string, got {brief(value)}")
    return value


def utf_8(value: Any, name: str) -> bytes:
    """The bytes of a string."""
    try:
        return text(value, name).encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidValueError(f"{name}: {quote(value)} has half of a surrogate pair, which is not UTF-8") from None


def state(value: Any, form: str, version: int) -> Mapping[str, Any]:
    """What a `to_dict` returned: a mapping whose `format` and `version` are these."""
    found = mapping(value, "mapping")
    if not isinstance(found.get("format"), str) or found["format"] != form:
        raise InvalidValueError(f"format: expected {form!r}, got {brief(found.get('format'))}")
    if type(found.get("version")) is not int or found["version"] != version:
        raise InvalidValueError(f"version: {brief(found.get('version'))} is unknown; known: {version}")
    return found


def shape(value: Any, name: str = "shape") -> tuple[int, ...]:
    """A shape of at least one dimension."""
    try:
        extents = tuple(itertools.islice(value, MOST_DIMENSIONS + 1))
    except Exception:  # whatever the object's own code raises
        raise InvalidTypeError(f"{name}: expected a tuple of integers, got {brief(value)}") from None
    if not extents:
        raise InvalidValueError(f"{name}: must have at least one dimension, got ()")
    if len(extents) > MOST_DIMENSIONS:
        raise InvalidValueError(f"{name}: expected at most {MOST_DIMENSIONS} dimensions, got {brief(extents)}")
    extents = tuple(integer(extent, name, 0, _MOST_ELEMENTS) for extent in extents)
    size = 1
    for extent in extents:
        if extent and (size := size * extent) > _MOST_ELEMENTS:
            raise InvalidValueError(f"{name}: {brief(extents)} has more than 2**60 - 1 elements")
    return extents

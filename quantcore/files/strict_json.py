"""Strict JSON from hostile files: one object, no duplicate keys, no NaN; anything else is refused in one line.

Python's objects take far more memory than their text: an empty list of two characters takes 80 bytes. So a text is
weighed before it is parsed, and refused if its objects would take more than 16 times its size; and the members of a
large object can be parsed one after the other.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from quantcore.errors import FileFormatError
from quantcore.files.inputs import InputFile

# Bytes in memory for each such character, roughly: a dict, a list, half of a string, a name's place, an item's place.
_WEIGHTS = {b"{": 200, b"[": 80, b'"': 30, b":": 60, b",": 16}
_MOST_TIMES = 16
_ALWAYS_ALLOWED = 1 << 20
# Possessive, so that they need neither memory nor time: a string or the head of one, and the rest of one.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+("|\Z)', re.DOTALL)
_REST = re.compile(rb'(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_ESCAPES = re.compile(rb"\\*+.?", re.DOTALL)
_CHUNK = 1 << 16
_SPACE = b" \t\n\r"
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_END = re.compile(r"[ \t\n\r]*([,}])")
_FIRST_WINDOW = 1 << 10
_GROWTH = 16
_LONGEST_MEMBER = _FIRST_WINDOW * _GROWTH**2
_LONGEST_NAME = _FIRST_WINDOW * _GROWTH**3


def read_object(file: InputFile, limit: int, field: str, *, nan: bool = False) -> dict[str, Any]:
    """The object that an open file of at most `limit` bytes holds; the other parameters are those of `parse_object`."""
    return parse_object(file.read_whole(limit, f"the {field}"), file.label, field, nan=nan)


def parse_object(data: bytes | bytearray, path: str, field: str, *, nan: bool = False) -> dict[str, Any]:
    """The object that a file holds; FileFormatError names the file and the field.

    `nan` lets the words NaN and Infinity pass, which Python writes into the config.json of some models.
    """
    try:
        return parse_text(data, nan=nan)
    except ValueError as error:
        raise FileFormatError(f"{path}: {field}: {error}") from None


def parse_text(data: bytes | bytearray, *, nan: bool = False) -> dict[str, Any]:
    """As `parse_object`, of a text that has no file; ValueError says what is wrong with it."""
    _check_weight(data)
    try:
        parsed = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_number,
            parse_constant=None if nan else _refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(_invalid(error)) from None
    if not isinstance(parsed, dict):
        raise ValueError("must be a JSON object")
    return parsed


def parse_members(data: bytes | bytearray, path: str, field: str, *, may_be_long: str) -> Iterator[tuple[str, Any]]:
    """The members of the object that a file holds, parsed one after the other. Each name comes once.

    A member of this name may be of any length, the values of others may take 256 KiB, and their names 4 MiB.

    Yields
    ------
    (str, value)
        In the order of the file.

    Raises
    ------
    FileFormatError
        As `parse_object`; what comes before the fault has been yielded.
    """
    try:
        position = _skip_space(data, 0)
        if data[position : position + 1] != b"{":
            raise ValueError("must be a JSON object")
        position = _skip_space(data, position + 1)
        is_over = data[position : position + 1] == b"}"
        position += is_over
        names: set[str] = set()
        while not is_over:
            name, value, position, is_over = _parse_member(data, position, may_be_long)
            if name in names:
                raise ValueError("not valid JSON (duplicate keys)")
            names.add(name)
            yield name, value
        if _skip_space(data, position) != len(data):
            raise ValueError(f"not valid JSON (more after its end at byte {position})")
    except ValueError as error:
        raise FileFormatError(f"{path}: {field}: {error}") from None


def _parse_member(data: bytes | bytearray, position: int, may_be_long: str) -> tuple[str, Any, int, bool]:
    """The name and value at a position, the position behind them and their comma, and whether they are the last."""
    if data[position : position + 1] != b'"':
        raise ValueError(f"not valid JSON (expected a name in double quotes at byte {position})")
    long_name = f'"{may_be_long}"'.encode()
    size = _FIRST_WINDOW
    while True:  # in a window that grows until the member is in it
        window = data[position : position + size]
        _check_weight(window)
        try:
            text = window.decode("utf-8")
            name, end = _DECODER.raw_decode(text)
            colon = _COLON.match(text, end)
            value, end = _DECODER.raw_decode(text, colon.end() if colon else end)
            if colon and (after := _END.match(text, end)):
                end = after.end()
                n_bytes = end if text.isascii() else len(text[:end].encode())
                return name, value, _skip_space(data, position + n_bytes), after[1] == "}"
            error: Exception = ValueError("a comma, a colon or a brace is missing")
        except RecursionError as reason:
            raise ValueError(_invalid(reason)) from None
        except ValueError as reason:
            error = reason
        if position + size >= len(data):
            raise ValueError(f"{_invalid(error)} in what begins at byte {position}") from None
        is_long = data.startswith(long_name, position)
        limit = len(data) if is_long else _LONGEST_MEMBER + _measure_name(data, position)
        if size >= limit:
            raise ValueError(
                f"not valid JSON (a member of more than {_LONGEST_MEMBER} bytes begins at byte {position})"
            )
        size = min(size * _GROWTH, limit)


def _measure_name(data: bytes | bytearray, position: int) -> int:
    """The bytes of the name that begins at a position, as far as a name may be long."""
    match = _STRING.match(data, position)
    return min(match.end() - position, _LONGEST_NAME) if match else 0


def _check_weight(data: bytes | bytearray) -> None:
    """Refuse a text whose values would take far more memory than it."""
    limit = _MOST_TIMES * len(data) + _ALWAYS_ALLOWED
    if max(_WEIGHTS.values()) * len(data) <= limit or _weight(data) <= limit:
        return
    if sum(map(_weight, _without_strings(data))) > limit:
        raise ValueError(
            f"not valid JSON (its values would take more than {_MOST_TIMES} times the memory of its {len(data)} bytes)"
        )


def _weight(data: bytes | bytearray) -> int:
    return sum(weight * data.count(character) for character, weight in _WEIGHTS.items())


def _without_strings(data: bytes | bytearray) -> Iterator[bytes]:
    """The text part by part, its strings empty."""
    position = 0
    while position < len(data):
        end = position + _CHUNK
        if data[end - 1 : end] == b"\\":  # what it escapes belongs to it
            end = _match_end(_ESCAPES, data, end)
        part = _STRING.sub(rb'"\1', data[position:end])
        yield part
        position = end if part.count(b'"') % 2 == 0 else _match_end(_REST, data, end)


def _match_end(pattern: re.Pattern[bytes], data: bytes | bytearray, position: int) -> int:
    match = pattern.match(data, position)
    return match.end() if match else position


def _skip_space(data: bytes | bytearray, position: int) -> int:
    while position < len(data) and data[position] in _SPACE:
        position += 1
    return position


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate keys")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _number(text: str) -> float:
    return -0.0 if text == "-0" else int(text)  # no integer holds a negative zero: other readers take it as a float


def _invalid(error: Exception) -> str:
    return f"not valid JSON ({' '.join(str(error).split())[:120]})"


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_number, parse_constant=_refuse_constant)

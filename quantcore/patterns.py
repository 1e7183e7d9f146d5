"""Regular expressions that choose tensors by name, as a user passes them."""

import re
from collections.abc import Iterable

from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.tables import brief


def compiled(patterns: Iterable[str], name: str) -> tuple[re.Pattern[str], ...]:
    """The patterns, compiled; a single string is refused, since it would count as many patterns of one letter."""
    if isinstance(patterns, str):
        raise InvalidTypeError(f"{name}: expected an iterable of regular expressions, got the string {brief(patterns)}")
    return tuple(_compiled(pattern, name) for pattern in patterns)


def exactly(name: str) -> str:
    """A regular expression that finds this name and no other; what does not print is spelled as an escape."""
    return "^" + "".join(re.escape(c) if c.isprintable() else f"\\U{ord(c):08x}" for c in name) + r"\Z"


def _compiled(pattern: object, name: str) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise InvalidTypeError(f"{name}: expected a regular expression as a string, got {brief(pattern)}")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InvalidValueError(f"{name}: {brief(pattern)} is not a regular expression ({error})") from None

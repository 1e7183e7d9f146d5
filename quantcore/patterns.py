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


def _compiled(pattern: object, name: str) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise InvalidTypeError(f"{name}: expected a regular expression as a string, got {brief(pattern)}")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InvalidValueError(f"{name}: {brief(pattern)} is not a regular expression ({error})") from None

"""Regular expressions that choose tensors by name, as a user passes them."""

import re
import warnings
from collections.abc import Iterable

from quantcore._base import arguments
from quantcore._base.text import brief, printable
from quantcore.errors import InvalidTypeError, InvalidValueError


def compile_patterns(patterns: Iterable[str], name: str) -> tuple[re.Pattern[str], ...]:
    """The patterns, compiled; a single string is refused, since it would count as many patterns of one letter."""
    return tuple(_compile(pattern, name) for pattern in arguments.entries(patterns, name, "regular expressions"))


def unused_patterns(patterns: Iterable[re.Pattern[str]], name: str, names: Iterable[str]) -> list[str]:
    """What to tell of the patterns of the parameter `name` that find none of the tensors' names."""
    names = list(names)
    unused = (pattern.pattern for pattern in patterns if not any(map(pattern.search, names)))
    return [f"{name}: {brief(pattern)} fits no name" for pattern in unused]


def match_exactly(name: str, *, is_strict: bool = False) -> str:
    r"""A regular expression that finds this name and no other; what does not print is spelled as an escape.

    It ends in `$`, which also finds the name with a line end behind it; if it `is_strict`, in Python's `\Z`.
    """
    escaped = "".join(re.escape(c) if c.isprintable() else f"\\U{ord(c):08x}" for c in name)
    return f"^{escaped}" + (r"\Z" if is_strict else "$")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """One pattern, compiled; a ValueError says why it cannot be, in a few words."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about sets within sets, which may mean something one day
            return re.compile(pattern)
    except (re.error, ValueError, OverflowError) as error:
        raise ValueError(printable(" ".join(str(error).split())[:120])) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except MemoryError:
        raise ValueError("it takes too much memory") from None


def _compile(pattern: object, name: str) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise InvalidTypeError(f"{name}: expected a regular expression as a string, got {brief(pattern)}")
    try:
        return compile_pattern(pattern)
    except ValueError as error:
        raise InvalidValueError(f"{name}: {brief(pattern)} is not a regular expression ({error})") from None

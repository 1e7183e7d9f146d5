"""Text for people and for JSON: tables, sizes and values as the command line prints them."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from itertools import islice
from typing import Any, cast

import numpy as np

_WIDEST_CELL = 128  # the longest name that a GGUF file can hold is shown whole
_LONGEST_QUOTE = 80
_LONGEST_VALUE = 1000
_MOST_SHOWN = 4  # numbers of an array
_MOST_ITEMS = 8  # of a collection


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Columns as wide as their widest cell, those listed in `right` aligned to the right.

    Cells are cut to 128 characters: every row is padded to the widest one, and names in a file may have megabytes.
    """
    lines = [tuple(head), *(tuple(shorten(cell, _WIDEST_CELL) for cell in row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """A Markdown table, the columns listed in `right` aligned to the right."""
    rule = ["---:" if i in right else "---" for i in range(len(head))]
    cells = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *cells))


def printable(text: str) -> str:
    """Text that cannot drive a terminal: whatever does not print is escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shorten(text: str, longest: int = _WIDEST_CELL) -> str:
    """Printable text of at most so many characters: of a longer one the first and the last, with dots between them."""
    return cut_middle(printable(cut_middle(text, longest)), longest)  # what is escaped grows


def quote(name: str, longest: int = _LONGEST_QUOTE) -> str:
    """A name out of a file as it goes into a message: its repr, of a longer one with dots in the middle."""
    text = repr(cut_middle(name, longest))
    return text if len(text) <= 2 * longest else f"{text[0]}{cut_middle(text[1:-1], longest)}{text[-1]}"


def cut_middle(text: str, longest: int = _WIDEST_CELL) -> str:
    """Text as it is, but of at most so many characters: of a longer one dots take the place of the middle."""
    if len(text) <= longest:
        return text
    kept = longest - 3
    return f"{text[: kept - kept // 2]}...{text[-(kept // 2) :]}"


def brief(value: object, longest: int = 80) -> str:
    """A value as it goes into a message: its repr, cut short."""
    try:
        text = repr(value)
    except Exception:  # an integer with more digits than Python prints, or an object whose own repr fails
        text = f"a {type(value).__name__} too long to print"
    text = " ".join(text[: longest + 1].split("\n"))  # those of arrays and tensors have several lines
    return text if len(text) <= longest else f"{text[:longest]}..."


def rounded(value: object) -> str:
    """A value for reading: floats with six significant digits, an array by its dtype and shape unless it is short, a
    collection with its first items, a choice by its name.
    """
    if isinstance(value, float | np.floating):
        return repr(float(f"{value:.6g}"))
    if isinstance(value, np.ndarray):
        few = value.ravel().tolist() if value.size <= _MOST_SHOWN else None
        return f"<{value.dtype} of shape {value.shape}>" if few is None else f"[{', '.join(map(rounded, few))}]"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return f"{{{_few((f'{literal(key)}: {literal(value[key])}' for key in value), len(value))}}}"
    if type(value) in (tuple, list):
        items = cast("Sequence[object]", value)
        return f"({_few(map(literal, items), len(items))}{',' if len(items) == 1 else ''})"
    return value if isinstance(value, str) else brief(value, _LONGEST_VALUE)


def literal(value: object) -> str:
    """A value for reading as it stands in a repr: text in quotes and cut short, anything else rounded."""
    return brief(value) if isinstance(value, str) else rounded(value)


def _few(texts: Iterable[str], count: int) -> str:
    shown = [cut_middle(text, _LONGEST_QUOTE) for text in islice(texts, _MOST_ITEMS)]
    return ", ".join(shown if count <= _MOST_ITEMS else [*shown, f"... {count - _MOST_ITEMS} more"])


def did_you_mean(word: str, known: Collection[str]) -> str:
    """A suggestion to append to the refusal of a mistyped word, or nothing if no known word is close to it."""
    found = nearest(word, known)
    return f"; did you mean {found}?" if found else ""


def nearest(word: str, known: Collection[str]) -> str | None:
    """The known word that a mistyped one may stand for, if there is one that is close to it."""
    from difflib import get_close_matches

    by_fold = {name.lower(): name for name in known}
    fold = word[:_LONGEST_QUOTE].lower()
    longer = [name for name in by_fold if len(fold) > 2 and name.startswith(fold)]
    close = longer if len(longer) == 1 else get_close_matches(fold, by_fold, n=1)
    return by_fold[close[0]] if close else None


def reason(error: BaseException) -> str:
    """What somebody else's exception says, as a part of a line."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    return printable(text[:200]) or type(error).__name__


def bytes_text(count: int) -> str:
    """A number of bytes with a binary unit."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def decibels(value: float) -> str:
    """A signal-to-noise ratio; without noise it is "exact"."""
    return "exact" if value == math.inf else f"{value:.2f}"


def json_value(value: Any) -> Any:
    """A value that JSON can hold: inf and NaN, for which it has no numbers, become their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    return value

"""How results show themselves in notebooks: small HTML tables with rounded figures. Every text is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import islice
from typing import Any

from quantcore._base.text import rounded, shorten

__all__ = ["fields_table", "rows_table"]

_MOST_ROWS = 40


def fields_table(title: str, fields: Mapping[str, Any]) -> str:
    """A table of two columns: names and values, which are rounded as in a repr."""
    rows = "".join(f"<tr>{_cell(name, 'th')}{_cell(rounded(value))}</tr>" for name, value in fields.items())
    return f"<table>{_caption(title)}<tbody>{rows}</tbody></table>"


def rows_table(
    title: str, head: Sequence[str], rows: Iterable[Sequence[Any]], n_rows: int, *, right: Sequence[int] = ()
) -> str:
    """A table of rows with values, which are rounded as in a repr; of many rows the first, and how many there are.

    Parameters
    ----------
    title : str
    head : sequence of str
    rows : iterable of sequences
        Only those that are shown are taken from it.
    n_rows : int
        How many there are.
    right : sequence of int
        The columns that are aligned to the right.
    """
    heads = "".join(_cell(name, "th", i in right) for i, name in enumerate(head))
    body = "".join(
        f"<tr>{''.join(_cell(rounded(value), 'td', i in right) for i, value in enumerate(row))}</tr>"
        for row in islice(rows, _MOST_ROWS)
    )
    rest = n_rows - _MOST_ROWS
    more = f'<tr><td colspan="{len(head)}">… and {rest} more</td></tr>' if rest > 0 else ""
    return f"<table>{_caption(title)}<thead><tr>{heads}</tr></thead><tbody>{body}{more}</tbody></table>"


def _caption(title: str) -> str:
    return f'<caption style="text-align: left">{escape(shorten(title))}</caption>'


def _cell(text: str, kind: str = "td", is_right: bool = False) -> str:
    return f'<{kind} style="text-align: {"right" if is_right else "left"}">{escape(shorten(text))}</{kind}>'

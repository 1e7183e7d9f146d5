"""Text for people: tables and names stay short, whatever a file holds."""

import pytest

from quantcore._base.text import quote, shorten, table
from tests.support.memory import memory_below


def test_table_cuts_its_cells():
    rows = [("n" * 10**6, "1"), *((f"row {i}", "22") for i in range(2000))]
    with memory_below(16 * 2**20):
        text = table(("name", "count"), rows, right=(1,))
    lines = text.split("\n")
    assert len(lines) == 2002
    assert max(map(len, lines)) == 128 + 2 + 5
    assert lines[1] == "n" * 63 + "..." + "n" * 62 + "  " + "    1"


@pytest.mark.parametrize("text", ["", "short", "n" * 128, "é" * 128])
def test_what_is_short_stays(text):
    assert shorten(text) == text
    assert table(("x",), [(text,)]).split("\n")[1] == text


@pytest.mark.parametrize("text", ["\x1b" * 128, "\x1b" * 10**6, "n" * 129, "\U000e0001" * 90, "\ud800" * 1000])
def test_what_is_long_is_cut_after_it_is_escaped(text):
    short = shorten(text)
    assert len(short) == 128 and short.isprintable() and "..." in short


def test_quote_is_the_repr_of_what_is_short():
    for name in ("", "w", "it's", "a\nb", "n" * 80):
        assert quote(name) == repr(name)


@pytest.mark.parametrize("name", ["n" * 81, "n" * 10**6, "\x1b" * 10**6, "'" * 500, "\U000e0001" * 80])
def test_quote_cuts_long_names(name):
    text = quote(name)
    assert len(text) <= 162 and text.isprintable() and "..." in text
    assert text[0] == text[-1] in "'\""

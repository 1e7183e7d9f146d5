"""The report as one self-contained page of HTML: style, script and figures are embedded.

Every text that comes from a file is escaped, and a content security policy allows only the page's own script and no
connections.
"""

import base64
import hashlib
import math
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from typing import NamedTuple

from quantcore._base.text import bytes_text, cut_middle, decibels, printable, shorten
from quantcore.analysis.stats import QuantErrorStats
from quantcore.models.comparison_results import ModelComparison, TensorComparison
from quantcore.models.layer_map import layer_map
from quantcore.report.layer_map import map_section

__all__ = ["Picture", "page"]

_MOST_ROWS = 40
"""Rows of the table of tensors, or lines of a list, that are shown unfolded."""

_LONGEST_NAME = 1000  # a page breaks lines, so that longer names than in a table of text do no harm


class Picture(NamedTuple):
    """A figure: its title, one sentence on how to read it, and its SVG."""

    title: str
    caption: str
    svg: str
    is_wide: bool = False


_COLUMNS = (
    ("tensor", False), ("shape", False), ("type", False), ("SQNR dB", True), ("MSE", True), ("max error", True),
    ("cosine", True), ("bits per weight", True), ("size", True),
)  # fmt: skip


def page(names: tuple[str, str], comparison: ModelComparison, pictures: Iterable[Picture], footer: str) -> str:
    """The page.

    Parameters
    ----------
    names : (str, str)
        The names of the reference and the quantized model.
    comparison : ModelComparison
    pictures : iterable of Picture
        The figures; those without SVG are left out.
    footer : str
        Versions and settings that the page was made with.
    """
    reference, quantized = map(_text, names)
    style, script = (
        files("quantcore.report").joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{quantized}: quantization report</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{quantized}</h1>
<p class="subtitle">compared with {reference}</p>
</header>
<main>
{_tiles(comparison)}
<div class="figures">
{"".join(_figure(picture) for picture in pictures if picture.svg)}</div>
{map_section(layer_map(comparison.tensors))}{_list_not_compared(comparison)}{_table(comparison)}
</main>
<footer>{_text(footer)}</footer>
<script>{script}</script>
</body>
</html>
"""


def _tiles(comparison: ModelComparison) -> str:
    total, worst = comparison.total, comparison.worst
    n_exact = sum(math.isinf(t.stats.sqnr_db) and t.stats.sqnr_db > 0 for t in comparison.tensors)
    ratio = comparison.reference_bytes / comparison.nbytes
    tiles = [
        ("SQNR of all weights", _decibels(total), f"cosine similarity {total.cosine_similarity:.6f}"),
        ("Worst tensor", _decibels(worst.stats), cut_middle(worst.name, _LONGEST_NAME)),
        ("Bits per weight", f"{comparison.bits_per_weight:.2f}", "scales included"),
        (
            "Size",
            bytes_text(comparison.nbytes),
            f"of {bytes_text(comparison.reference_bytes)}: {ratio:.2f} times smaller",
        ),
        ("Tensors", str(len(comparison.tensors)), f"{n_exact} exact, {len(comparison.missing)} missing"),
        ("Largest error", f"{total.max_error:.3g}", f"RMS {total.rmse:.3g}, mean {total.mae:.3g}"),
    ]
    rows = "\n".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(hint)}</small></dd></div>"
        for name, value, hint in tiles
    )
    return f'<dl class="tiles">\n{rows}\n</dl>'


def _figure(picture: Picture) -> str:
    kind = ' class="wide"' if picture.is_wide else ""
    label = _text(f"{picture.title}. {picture.caption}")
    svg = picture.svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    caption = f"<figcaption><strong>{_text(picture.title)}</strong>{_text(picture.caption)}</figcaption>"
    return f'<figure{kind}>\n{caption}\n<div class="scroll">{svg}</div>\n</figure>\n'


def _list_not_compared(comparison: ModelComparison) -> str:
    parts = [
        ("Only in the reference", comparison.missing),
        ("Only in the quantized model", comparison.extra),
        ("Without elements", comparison.empty),
    ]
    lists = "".join(_list(title, names) for title, names in parts if names)
    return f'<section class="missing">\n<h2>Not compared</h2>\n{lists}</section>\n' if lists else ""


def _list(title: str, names: tuple[str, ...]) -> str:
    items = "".join(f"<li>{_text(cut_middle(name, _LONGEST_NAME))}</li>" for name in names)
    return _fold(f"{title}: {len(names)}", f"<ul>{items}</ul>\n", len(names))


def _fold(title: str, content: str, n_rows: int) -> str:
    """Content under a heading that opens and closes it; what is long is closed at first."""
    is_open = " open" if n_rows <= _MOST_ROWS else ""
    return f"<details{is_open}><summary>{title}</summary>\n{content}</details>\n"


def _table(comparison: ModelComparison) -> str:
    heads = "".join(
        f'<th scope="col"{_kind(is_number)}{_sorted(name)}><button type="button">{name}</button></th>'
        for name, is_number in _COLUMNS
    )
    rows = "\n".join(_row(t) for t in comparison.tensors)
    total = _cells(comparison.total, comparison.bits_per_weight, comparison.nbytes)
    table = f"""<div class="scroll"><table class="sortable">
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
<tfoot><tr><th scope="row">all weights</th><td></td><td></td>{total}</tr></tfoot>
</table></div>
"""
    n = len(comparison.tensors)
    return f"""<section class="tensors">
<h2>All tensors</h2>
<p class="hint">Worst first; click a column heading to sort.</p>
{_fold(f"{n} tensors", table, n)}</section>"""


def _row(t: TensorComparison) -> str:
    shape = "x".join(map(str, t.shape)) or "scalar"
    kind = t.type if t.type == t.reference_type else f"{t.reference_type} → {t.type}"
    cells = _cells(t.stats, t.bits_per_weight, t.nbytes)
    name = _text(cut_middle(t.name, _LONGEST_NAME))
    return f'<tr><th scope="row">{name}</th><td>{shorten(shape)}</td><td>{_text(kind)}</td>{cells}</tr>'


def _cells(stats: QuantErrorStats, bits_per_weight: float, nbytes: int) -> str:
    figures = [
        (stats.sqnr_db, decibels(stats.sqnr_db)),
        (stats.mse, f"{stats.mse:.3g}"),
        (stats.max_error, f"{stats.max_error:.3g}"),
        (stats.cosine_similarity, f"{stats.cosine_similarity:.6f}"),
        (bits_per_weight, f"{bits_per_weight:.2f}"),
        (nbytes, bytes_text(nbytes)),
    ]
    return "".join(f'<td class="number" data-value="{_number(value)}">{text}</td>' for value, text in figures)


def _number(value: float) -> str:
    """A number as JavaScript reads it."""
    return repr(value).replace("inf", "Infinity")


def _kind(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _sorted(name: str) -> str:
    return ' aria-sort="ascending"' if name == "SQNR dB" else ""


def _decibels(stats: QuantErrorStats) -> str:
    text = decibels(stats.sqnr_db)
    return text if text == "exact" else f"{text} dB"


def _text(text: str) -> str:
    return escape(printable(text), quote=True)

"""The figures of the report, drawn by matplotlib as SVG for embedding in a page.

Text and axes take the page's own colour (`currentColor`), so that they are readable on light and dark backgrounds.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any

import numpy as np

from quantcore._base.plotting import COLOURS, import_matplotlib
from quantcore._base.text import printable
from quantcore.models.comparison_results import ModelComparison
from quantcore.report.distributions import BlockLevels
from quantcore.report.frontier import FormatPoint, best_points
from quantcore.report.labels import Box, place_labels
from quantcore.report.samples import Floats32

__all__ = [
    "Colours", "colours_of_types", "error_histogram", "format_frontier", "scale_distribution", "weight_distribution",
    "worst_tensors",
]  # fmt: skip

Colours = dict[str, str]
"""A colour per type."""

_INK = "#010203"  # stands for the page's colour until the figure is text
_WIDTH, _HEIGHT = 4.2, 3.3  # inches
_HALF_WIDTH = 5.9
_MOST_BARS = 24
_LEAST_RANGE = 2.0
"""Decibels that the worst tensors are shown over at least: differences far below one mean nothing."""
_MOST_LEVELS = 40
_LONGEST_NAME = 34
_BIT_TICKS = (1, 1.5, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
_LABEL_SIZE = 8.5
_LETTER_WIDTH = 0.62  # of the font size, on average
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_STYLE = {
    "axes.edgecolor": _INK, "axes.labelcolor": _INK, "axes.spines.right": False, "axes.spines.top": False,
    "axes.facecolor": "none", "axes.grid": True, "axes.axisbelow": True, "axes.linewidth": 0.7,
    "figure.facecolor": "none", "font.size": 9.5, "grid.alpha": 0.18, "grid.color": _INK, "grid.linewidth": 0.6,
    "legend.frameon": False, "legend.fontsize": 9, "savefig.facecolor": "none", "svg.fonttype": "none",
    "text.color": _INK, "text.parse_math": False, "xtick.color": _INK, "ytick.color": _INK,
}  # fmt: skip


def colours_of_types(comparison: ModelComparison) -> Colours:
    """A colour per type, in descending order of weights; with many types, the rarest share the last colour."""
    counts: Counter[str] = Counter()
    for t in comparison.tensors:
        counts[t.type] += t.stats.num_samples if t.is_weight else 0
    names = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return {name: COLOURS[min(i, len(COLOURS) - 1)] for i, name in enumerate(names)}


def worst_tensors(comparison: ModelComparison, colours: Colours) -> str:
    """Dots of SQNR, the worst tensor on top, coloured by type; exact tensors have none.

    The axis shows the range that occurs, so that differences are visible. The figures stand in a column of their own,
    which the line of the whole model does not cross.
    """
    rows = [t for t in comparison.tensors if t.stats.sqnr_db < np.inf][:_MOST_BARS]
    if not rows:
        return ""
    shown = {name: colour for name, colour in colours.items() if any(t.type == name for t in rows)}
    least = min((t.stats.sqnr_db for t in rows if np.isfinite(t.stats.sqnr_db)), default=0.0)

    def draw(axes: Any) -> None:
        values = [t.stats.sqnr_db if np.isfinite(t.stats.sqnr_db) else least for t in rows]
        places = np.arange(len(rows))
        axes.scatter(values, places, c=[colours[t.type] for t in rows], s=42, zorder=3, clip_on=False)
        axes.set_yticks(places, [_shorten(t.name) for t in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        for place, t in zip(places, rows, strict=True):
            axes.annotate(
                f"{t.stats.sqnr_db:.1f}", (1, place), xycoords=("axes fraction", "data"), xytext=(34, 0),
                textcoords="offset points", va="center", ha="right", annotation_clip=False,
            )  # fmt: skip
        if np.isfinite(comparison.total.sqnr_db):
            axes.axvline(comparison.total.sqnr_db, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.margins(x=0.05)
        low, high = axes.get_xlim()
        if high - low < _LEAST_RANGE:
            axes.set_xlim((low + high - _LEAST_RANGE) / 2, (low + high + _LEAST_RANGE) / 2)
        axes.set_xlabel("SQNR in dB; the dashed line is the whole model")
        _legend(axes, shown, n_columns=len(shown))

    return _draw("worst", draw, _HALF_WIDTH, 0.9 + 0.24 * len(rows))


def error_histogram(errors: Mapping[str, Floats32], colours: Colours) -> str:
    """The density of the relative errors of each type."""
    if not errors:
        return ""
    limit = max(float(np.quantile(np.abs(values), 0.9995)) for values in errors.values()) or 1.0
    edges = np.linspace(-limit, limit, 122)

    def draw(axes: Any) -> None:
        shown = _of(errors, colours)
        for name, colour in shown.items():
            counts, _ = np.histogram(errors[name], edges)
            axes.stairs(counts / errors[name].size / np.diff(edges), edges, color=colour, linewidth=1.4)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("error / RMS of the tensor")
        axes.set_ylabel("density")
        _legend(axes, shown)

    return _draw("errors", draw)


def weight_distribution(levels: BlockLevels | None) -> str:
    """The weights divided by the largest of their block, and the levels they are rounded to."""
    if levels is None:
        return ""
    values, counts = np.unique(np.round(levels.after, 3), return_counts=True)
    edges, fine = np.linspace(-1, 1, 102), np.linspace(-1, 1, 402)

    def draw(axes: Any) -> None:
        density, _ = np.histogram(levels.before, edges, density=True)
        axes.stairs(density, edges, fill=True, color=COLOURS[0], alpha=0.55)
        axes.set_ylabel("density of weights")
        shares = axes.twinx()
        shares.spines["right"].set_visible(True)
        shares.grid(False)
        if values.size <= _MOST_LEVELS:
            shares.vlines(values, 0, counts / counts.sum(), color=COLOURS[1], linewidth=1.8)
            shares.set_ylabel("share of each level")
        else:
            density, _ = np.histogram(levels.after, fine, density=True)
            shares.stairs(density, fine, color=COLOURS[1], linewidth=0.9)
            shares.set_ylabel("density of levels")
        shares.set_ylim(bottom=0)
        axes.set_xlabel(f"{levels.type}: weight / largest of its block of {levels.block_size}")
        _legend(axes, {"weights": COLOURS[0], "levels": COLOURS[1]})

    return _draw("weights", draw)


def format_frontier(points: tuple[FormatPoint, ...], model: FormatPoint | None) -> str:
    """Bits per weight against SQNR, the best formats joined by a line."""
    best = best_points(points)
    shown = [*points, *([] if model is None else [model])]
    if not shown:
        return ""

    def draw(axes: Any) -> None:
        axes.plot([p.bits_per_weight for p in best], [p.sqnr_db for p in best], color=COLOURS[0], linewidth=1.2)
        for p in points:
            colour = COLOURS[0] if p in best else COLOURS[5]
            axes.plot(p.bits_per_weight, p.sqnr_db, "o", color=colour, markersize=5)
        if model is not None:
            axes.plot(model.bits_per_weight, model.sqnr_db, "D", color=COLOURS[1], markersize=7)
        axes.set_xscale("log", base=2)
        axes.margins(x=0.06, y=0.14)
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in _BIT_TICKS if low <= tick <= high], minor=False)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("bits per weight, scales included (logarithmic)")
        axes.set_ylabel("SQNR in dB")
        _label_points(axes, shown, model, best)

    return _draw("formats", draw, _HALF_WIDTH, 6.2)


def scale_distribution(scales: Mapping[str, Floats32], colours: Colours) -> str:
    """Binary logarithms of the largest magnitudes of blocks, by type."""
    if not scales:
        return ""
    low = min(float(np.floor(values.min())) for values in scales.values())
    high = max(float(np.ceil(values.max())) for values in scales.values())
    edges = np.linspace(low, max(high, low + 1), 81)

    def draw(axes: Any) -> None:
        shown = _of(scales, colours)
        for name, colour in shown.items():
            counts, _ = np.histogram(scales[name], edges)
            axes.stairs(100 * counts / scales[name].size, edges, fill=True, color=colour, alpha=0.45)
            axes.stairs(100 * counts / scales[name].size, edges, color=colour, linewidth=1.2)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.set_major_formatter(lambda value, _: "2" + f"{value:g}".translate(_SUPERSCRIPTS))
        axes.set_xlabel("largest magnitude in a block")
        axes.set_ylabel("% of blocks")
        _legend(axes, shown)

    return _draw("scales", draw)


def _draw(name: str, draw: Callable[[Any], None], width: float = _WIDTH, height: float = _HEIGHT) -> str:
    """A figure as an SVG element, reproducibly; its ids begin with its name, so that they are unique on the page."""
    matplotlib = import_matplotlib("the report")
    text = StringIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about glyphs missing in matplotlib's font; the browser draws the text
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": name})
        figure = matplotlib.figure.Figure((width, height), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(text, format="svg")
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)  # the date, among others
    svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    head, end, rest = svg.partition(">")
    svg = re.sub(r' (?:width|height)="[^"]*"', "", head) + end + rest  # the page sets the size
    return svg.replace(_INK, "currentColor").strip()


def _of(values: Mapping[str, Any], colours: Colours) -> Colours:
    """The colours of the types that occur."""
    return {name: colour for name, colour in colours.items() if name in values}


def _legend(axes: Any, colours: Colours, *, n_columns: int = 3) -> None:
    """Put the legend above the axes, where it covers nothing."""
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=n_columns, handlelength=1.2)


def _label_points(
    axes: Any, points: list[FormatPoint], model: FormatPoint | None, joined: tuple[FormatPoint, ...]
) -> None:
    """Labels beside the points, placed once the positions of the points on the page are known."""
    axes.figure.draw_without_rendering()
    scale = 72 / axes.figure.dpi
    frame = Box(*(float(end) * scale for end in axes.bbox.extents))
    places = [tuple(axes.transData.transform(p[1:]) * scale) for p in points]
    sizes = [(_LETTER_WIDTH * _LABEL_SIZE * len(p.name), 1.1 * _LABEL_SIZE) for p in points]
    line = [tuple(axes.transData.transform(p[1:]) * scale) for p in joined]
    for p, (x, y), box in zip(points, places, place_labels(places, sizes, frame, radius=4, line=line), strict=True):
        style: dict[str, Any] = {"color": COLOURS[1], "weight": "bold"} if p is model else {}
        # So far away that a line must show which point it belongs to.
        if max(box.left - x, x - box.right, box.bottom - y, y - box.top) > 7:
            style["arrowprops"] = {"arrowstyle": "-", "color": _INK, "alpha": 0.45, "linewidth": 0.6}
        axes.annotate(
            p.name, p[1:], xytext=(box.left - x, box.bottom - y + 0.2 * _LABEL_SIZE), textcoords="offset points",
            fontsize=_LABEL_SIZE, **style,
        )  # fmt: skip


def _shorten(name: str) -> str:
    name = printable(name)
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[1 - half :]}"

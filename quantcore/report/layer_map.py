"""The map of a model: the SQNR of each kind of tensor (attn_q, ffn_up, ...) in each layer, as a table with colours."""

import math
from html import escape

from quantcore._base.text import decibels, printable
from quantcore.models.layer_map import LayerMap

__all__ = ["map_section"]

# From bad to good, dark to light, also for readers who do not tell red from green.
_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_LIGHT = 0.45


def map_section(found: LayerMap | None) -> str:
    """The map as HTML; nothing if there is none."""
    if found is None:
        return ""
    values = [t.stats.sqnr_db for t in found.cells.values() if math.isfinite(t.stats.sqnr_db)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    heads = "".join(f'<th scope="col"><span>{_text(kind)}</span></th>' for kind in found.kinds)
    rows = "\n".join(
        f'<tr><th scope="row">{layer}</th>{"".join(_cell(found, layer, kind, low, high) for kind in found.kinds)}</tr>'
        for layer in found.layers
    )
    ramp = ", ".join(_css(_colour(i / 4)) for i in range(5))
    return f"""<section class="map">
<h2>Layers</h2>
<p class="hint">SQNR in dB of each kind of tensor in each layer.</p>
<p class="ramp">{low:.1f} dB<span style="background: linear-gradient(to right, {ramp})"></span>{high:.1f} dB</p>
<div class="scroll"><table class="map">
<tr><th scope="col">layer</th>{heads}</tr>
{rows}
</table></div>
</section>
"""


def _cell(found: LayerMap, layer: int, kind: str, low: float, high: float) -> str:
    t = found.cells.get((layer, kind))
    if t is None:
        return "<td></td>"
    value = t.stats.sqnr_db
    title = f"{_text(t.name)}: {_text(t.type)}, {decibels(value)} dB"
    if value == math.inf:
        return f'<td title="{title}">=</td>'
    share = 0.0 if value == -math.inf else (value - low) / (high - low) if high > low else 1.0
    colour = _colour(share)
    ink = "#000" if _lightness(colour) > _LIGHT else "#fff"
    shown = f"{value:.0f}" if math.isfinite(value) else "-inf"
    return f'<td style="background: {_css(colour)}; color: {ink}" title="{title}">{shown}</td>'


def _colour(share: float) -> tuple[int, int, int]:
    place = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    i = min(int(place), len(_STOPS) - 2)
    red, green, blue = (round(a + (b - a) * (place - i)) for a, b in zip(_STOPS[i], _STOPS[i + 1], strict=True))
    return red, green, blue


def _lightness(colour: tuple[int, int, int]) -> float:
    red, green, blue = colour
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _text(text: str) -> str:
    return escape(printable(text), quote=True)

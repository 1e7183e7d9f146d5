"""Comparisons of models drawn by matplotlib."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from quantcore._base.plotting import COLOURS, plain, take_axes
from quantcore.models.layer_map import LayerMap, layer_map
from quantcore.models.tensor_comparison import TensorComparison

__all__ = ["draw_comparison"]

_MOST_TENSORS = 30


def draw_comparison(axes: Any, tensors: Sequence[TensorComparison]) -> Any:
    """SQNR by layer and kind of tensor as a map of colours; of a model without layers, of its worst tensors as dots."""
    found = layer_map(tensors)
    return _draw_worst(axes, tensors) if found is None else _draw_map(axes, found)


def _draw_map(axes: Any, found: LayerMap) -> Any:
    axes = take_axes(axes, (2.6 + 0.22 * len(found.layers), 1.4 + 0.3 * len(found.kinds)))
    values = np.full((len(found.kinds), len(found.layers)), np.nan)
    for (layer, kind), tensor in found.cells.items():
        if np.isfinite(tensor.stats.sqnr_db):
            values[found.kinds.index(kind), found.layers.index(layer)] = tensor.stats.sqnr_db
    image = axes.pcolormesh(values, cmap="viridis")
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(found.kinds)) + 0.5, [plain(kind) for kind in found.kinds])
    step = -(-len(found.layers) // 12)
    axes.set_xticks(np.arange(0, len(found.layers), step) + 0.5, found.layers[::step])
    axes.set_xlabel("layer")
    axes.figure.colorbar(image, ax=axes, label="SQNR in dB")
    return axes


def _draw_worst(axes: Any, tensors: Sequence[TensorComparison]) -> Any:
    shown = [t for t in tensors if np.isfinite(t.stats.sqnr_db)][:_MOST_TENSORS]
    axes = take_axes(axes, (6.4, 1.2 + 0.24 * len(shown)))
    axes.plot([t.stats.sqnr_db for t in shown], np.arange(len(shown)), "o", color=COLOURS[0])
    axes.set_yticks(np.arange(len(shown)), [f"{plain(t.name)} ({plain(t.type)})" for t in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("SQNR in dB")
    return axes

"""The tensors of the layers of a compared model by kind: attn_q, ffn_up, ..."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from quantcore.models.tensor_comparison import TensorComparison

__all__ = ["LayerMap", "layer_map"]

_NAME = re.compile(r"(?P<before>.*?[.])?(?P<layer>\d{1,4})[.](?P<kind>.+)", re.ASCII | re.DOTALL)
_SUFFIX = ".weight"
_MOST_KINDS = 40


class LayerMap(NamedTuple):
    """The tensors of the layers.

    Attributes
    ----------
    layers : tuple of int
    kinds : tuple of str
        What stands behind the layer in the tensors' names.
    cells : dict of (int, str) to TensorComparison
    """

    layers: tuple[int, ...]
    kinds: tuple[str, ...]
    cells: dict[tuple[int, str], TensorComparison]


def layer_map(tensors: Iterable[TensorComparison]) -> LayerMap | None:
    """The layers with the most tensors of a name such as `blk.N.KIND`; None if there are no two layers.

    Kinds that are exact everywhere are left out.
    """
    stacks: dict[str, dict[tuple[int, str], TensorComparison]] = {}
    for t in tensors:
        if t.is_weight and (match := _NAME.fullmatch(t.name)):
            place = int(match["layer"]), match["kind"].removesuffix(_SUFFIX)
            stacks.setdefault(match["before"] or "", {}).setdefault(place, t)
    if not stacks:
        return None
    cells = max(stacks.values(), key=len)
    lossy = Counter(kind for (_, kind), t in cells.items() if t.stats.sqnr_db < math.inf)
    kinds = sorted(sorted(lossy, key=lambda kind: (-lossy[kind], kind))[:_MOST_KINDS])
    layers = sorted({layer for layer, kind in cells if kind in kinds})
    if len(layers) < 2:
        return None
    return LayerMap(tuple(layers), tuple(kinds), {place: t for place, t in cells.items() if place[1] in kinds})

"""Layers that are left out of a model: the names of the others are numbered anew.

Source: `remap_layer` in llama.cpp's `src/llama-quant.cpp`, build b11739.
"""

import re
from collections.abc import Iterable

from quantcore._base import arguments
from quantcore.errors import InvalidValueError

_LAYER = re.compile(r"blk\.(\d+)\.", re.ASCII)
_MOST_LAYERS = 1 << 20


def check_layers(layers: Iterable[int], name: str = "prune_layers") -> frozenset[int]:
    """The numbers of the layers to leave out."""
    return frozenset(
        arguments.integer(layer, name, 0, _MOST_LAYERS) for layer in arguments.entries(layers, name, "layers")
    )


def renumber(names: list[str], pruned: frozenset[int]) -> tuple[list[str | None], int]:
    """The new name of each tensor, None for those left out, and the number of layers that remain.

    Raises
    ------
    InvalidValueError
        There is no layer of one of the numbers, or no layer remains.
    """
    matches = [_LAYER.search(name) for name in names]
    layers = sorted({int(match[1]) for match in matches if match})
    if missing := sorted(pruned - set(layers)):
        raise InvalidValueError(f"prune_layers: the model has no layer {missing[0]}; it has {len(layers)}")
    # Layers before the first that is left out keep their numbers.
    kept = [layer for layer in layers if layer not in pruned]
    if not kept:
        raise InvalidValueError("prune_layers: no layer of the model remains")
    numbers: dict[int, int] = {}
    following = 0
    for layer in kept:
        numbers[layer] = layer if layer < min(pruned) else following
        following = numbers[layer] + 1
    renamed = [
        name if not match else _rename(name, match, numbers.get(int(match[1])))
        for name, match in zip(names, matches, strict=True)
    ]
    return renamed, following


def _rename(name: str, match: re.Match[str], number: int | None) -> str | None:
    return None if number is None else f"{name[: match.start(1)]}{number}{name[match.end(1) :]}"

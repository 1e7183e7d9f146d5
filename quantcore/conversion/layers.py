"""Layers that are left out of a model: the names of the others are numbered anew.

Source: `remap_layer` in llama.cpp's `src/llama-quant.cpp`, build b11739.
"""

import re
from collections.abc import Iterable

from quantcore._base import arguments
from quantcore.errors import InvalidValueError
from quantcore.gguf.layout import layer_then_name

_LAYER = re.compile(r"blk\.(\d+)\.", re.ASCII)
_MOST_LAYERS = 1 << 20


def check_layers(layers: Iterable[int], name: str = "prune_layers") -> frozenset[int]:
    """The numbers of the layers to leave out."""
    return frozenset(
        arguments.integer(layer, name, 0, _MOST_LAYERS) for layer in arguments.entries(layers, name, "layers")
    )


def renumber(names: list[str], pruned: frozenset[int]) -> tuple[list[str | None], int]:
    """The new name of each tensor, None for those left out, and the number of layers that remain.

    Numbers are given in the order in which llama.cpp has the tensors: by number only where a name begins with `blk.`,
    by name otherwise, so that `enc.blk.10.` comes before `enc.blk.2.`.

    Raises
    ------
    InvalidValueError
        There is no layer of one of the numbers, no layer remains, or two get the same number.
    """
    matches = {name: match for name in sorted(names, key=layer_then_name) if (match := _LAYER.search(name))}
    layers = list(dict.fromkeys(int(match[1]) for match in matches.values()))
    if missing := sorted(pruned.difference(layers)):
        has = f"{len(layers)}, {min(layers)} to {max(layers)}" if layers else "none"
        raise InvalidValueError(f"prune_layers: the model has no layer {missing[0]}; it has {has}")
    kept = [layer for layer in layers if layer not in pruned]
    if not kept:
        raise InvalidValueError("prune_layers: no layer of the model remains")
    numbers: dict[int, int] = {}
    given: set[int] = set()
    first = min(pruned)
    following = 0
    for layer in kept:
        # Layers before the first that is left out keep their numbers.
        number = layer if layer < first else following
        following = number + 1
        if number in given:
            raise InvalidValueError(
                f"prune_layers: layer {layer} would be numbered {number} as another is; the model's layers are not in "
                "the order of their numbers"
            )
        numbers[layer] = number
        given.add(number)
    renamed = [
        name if name not in matches else _rename(name, matches[name], numbers.get(int(matches[name][1])))
        for name in names
    ]
    return renamed, following


def _rename(name: str, match: re.Match[str], number: int | None) -> str | None:
    return None if number is None else f"{name[: match.start(1)]}{number}{name[match.end(1) :]}"

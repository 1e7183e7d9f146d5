"""Patterns that choose tensors by their exact names, one for all layers that share a kind and a type.

They are read alike by Python's `re` and by llama-quantize, whose regular expressions are those of C++ (ECMAScript).
"""

import re
from collections.abc import Iterable, Mapping

from quantcore._base.patterns import match_exactly

_LAYER = re.compile(r"blk\.(0|[1-9]\d*)\.(.*)", re.ASCII | re.DOTALL)


def group_names(types: Mapping[str, str], others: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of a pattern and a type that give each tensor its type, and find none of the other names.

    Parameters
    ----------
    types : mapping of str to str
        The type of each tensor, by name.
    others : iterable of str
        The other names of the model.
    """
    names = {*types, *others}
    layers: dict[tuple[str, str], list[str]] = {}
    pairs: dict[tuple[str, str], list[str]] = {}
    for name, chosen in types.items():
        match = _LAYER.fullmatch(name)
        if match and not _needs_care(name, names):
            layers.setdefault((match[2], chosen), []).append(match[1])
            pairs.setdefault((match[2], chosen), []).append(name)
        else:
            pairs[(name, chosen)] = [name]
    found = []
    for (rest, chosen), members in pairs.items():
        numbers = layers.get((rest, chosen), [])
        if len(members) == 1:
            name = members[0]
            found.append((match_exactly(name, is_strict=_needs_care(name, names)), chosen))
        else:
            of_kind = {name for name in names if name.startswith("blk.") and name.endswith(f".{rest}")}
            is_whole = of_kind == set(members)
            layer = r"\d+" if is_whole else f"({'|'.join(numbers)})"
            found.append((rf"^blk\.{layer}\.{match_exactly(rest).removeprefix('^')}", chosen))
    return tuple(found)


def _needs_care(name: str, names: set[str]) -> bool:
    """Whether `$`, which also finds the place before a line end, would find another name."""
    return f"{name}\n" in names

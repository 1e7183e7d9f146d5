"""`llm_int8_skip_modules`: the modules that transformers must leave in floats when it loads what was written here.

transformers 4 and 5 read the entries differently: as a whole name, the last part of one, or a holder of modules (4); as
the start of a name up to a dot, or any ending (5). An entry that hit a quantized weight under either reading would make
a folder that does not load, so such weights are kept too.
"""

import re
from collections.abc import Callable, Collection

_EXPERT = re.compile(r"(.*\.\w*experts?)\.\d+\..+")


def make_skip_test(entries: Collection[str]) -> Callable[[str], bool]:
    """A function that tells whether transformers 4 or 5 leaves a module out because of the entries."""
    if not entries:
        return lambda module: False
    endings = tuple(entries)
    holders = tuple(f"{entry}." for entry in endings)
    return lambda module: module.endswith(endings) or any(holder in module for holder in holders)


def make_entries(kept: Collection[str], quantized: Collection[str]) -> list[str]:
    """The entries for these modules: instead of thousands of experts, the module that holds them, if all are kept."""
    holders = {match[1] for name in quantized if (match := _EXPERT.fullmatch(name))}
    entries = set()
    for name in kept:
        match = _EXPERT.fullmatch(name)
        entries.add(match[1] if match and match[1] not in holders else name)
    return sorted(entries)

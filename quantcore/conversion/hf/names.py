"""What GGUF calls the weights of a model of transformers, by the names that they have in memory.

Only names: `tensors` has the conversion of a checkpoint's tensors, and shares the tables with this.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from quantcore._base.extras import missing_extra
from quantcore.conversion.hf.architecture import Architecture, Experts
from quantcore.conversion.hf.hyperparameters import LAYERS
from quantcore.conversion.hf.source import find_architecture, read_hyperparameters
from quantcore.conversion.hf.tensors import name_map, rename

Place = tuple[str, int]
"""A tensor of GGUF, and the number of the matrix in it."""


def find_places(config: dict[str, Any], names: Iterable[str], *, prefix: str = "") -> dict[str, tuple[Place, ...]]:
    """The places of weights in the GGUF file of a model.

    Parameters
    ----------
    config : dict
        config.json, whose `architectures` is one of those that are converted.
    names : iterable of str
        Names of parameters, as a checkpoint has them or as transformers 5 has them in memory.
    prefix : str, optional
        What precedes the names in a checkpoint if these are those of the model without its head (`model`).

    Returns
    -------
    dict of str to tuple of (str, int)
        By the parameter's name the tensor that it becomes and the number of the matrix in that, which is 0 except for
        one of several experts. A parameter that holds all experts of a layer has the tensors that it becomes, each
        with 0, the number of its first matrix. Names that have no place are left out.

    Raises
    ------
    FileFormatError
        The architecture is not one of those that are converted.
    MissingExtraError
        The package `gguf` is missing.
    """
    record = find_architecture(config, "config")
    n_layers = read_hyperparameters(config, "config").count(LAYERS)
    try:
        map_name = name_map(record, n_layers)
    except ImportError as error:
        raise missing_extra("the names of GGUF", "gguf", error) from None
    found = {}
    for name in names:
        tries = (name, f"{prefix}.{name}") if prefix else (name,)
        places = next(filter(None, (_places(record, map_name, attempt) for attempt in tries)), None)
        if places:
            found[name] = places
    return found


def _places(record: Architecture, map_name: Callable[[str], str | None], name: str) -> tuple[Place, ...]:
    renamed = rename(record, name)
    if renamed is None:
        return ()
    stacked = [(renamed, 0)] if record.experts is None else _stacked(record.experts, renamed)
    mapped = [(map_name(stack), number) for stack, number in stacked]
    return tuple((target, number) for target, number in mapped if target is not None)


def _stacked(experts: Experts, name: str) -> list[Place]:
    if match := _pattern(experts.fused_name).fullmatch(name.removesuffix(".weight")):
        words = experts.fused.get(match["word"], ())
        return [(experts.stacked.format(layer=match["layer"], word=word), 0) for word in words]
    if match := _pattern(experts.name).fullmatch(name):
        return [(experts.stacked.format(layer=match["layer"], word=match["word"]), int(match["expert"]))]
    return [(name, 0)]


def _pattern(template: str) -> re.Pattern[str]:
    groups = {"layer": r"(?P<layer>\d+)", "expert": r"(?P<expert>\d+)", "word": r"(?P<word>\w+)"}
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(groups[part] if i % 2 else re.escape(part) for i, part in enumerate(parts)), re.ASCII)

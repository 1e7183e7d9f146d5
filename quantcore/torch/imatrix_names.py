"""Where the weights of a model stand in an importance matrix: by what the user says, or as GGUF calls them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from quantcore._base import arguments
from quantcore._base.text import brief
from quantcore.conversion.hf import find_places
from quantcore.conversion.hf.registry import ARCHITECTURES
from quantcore.errors import InvalidTypeError
from quantcore.torch.imatrix_sums import Place

__all__ = ["Names", "Placing", "gguf_places", "given_places"]

Names = Mapping[str, Any] | Callable[[str], Any]
Placing = Callable[[str], tuple[Place, ...]]

_ADAPTED = ".base_layer"  # What `peft` puts between the name of a layer and `weight`.


def given_places(names: Names | None) -> Placing:
    """The places that a user's `names` gives; without it, every weight has its own name."""
    if names is not None and not callable(names):
        arguments.mapping(names, "names", "from names to names, or a function")

    def place(name: str) -> tuple[Place, ...]:
        found = name if names is None else names(name) if callable(names) else names.get(name)
        return tuple(
            _one_place(one, name) for one in (found if isinstance(found, list) else [found]) if one is not None
        )

    return place


def gguf_places(model: nn.Module, *, process_output: bool) -> Placing | None:
    """The places in the GGUF file that the model becomes, or None if it is no model of transformers that becomes one.

    As llama-imatrix does it, only the layers have places, and with `process_output` the matrix of the output.
    """
    found = _find_model(model)
    if found is None:
        return None
    outer, inner, config = found
    names = {name: name.replace(_ADAPTED, "") for name, _ in inner.named_parameters(remove_duplicate=False)}
    places = find_places(config, names.values(), prefix=inner.base_model_prefix)
    wanted = ("blk.", "output.weight") if process_output else ("blk.",)
    table = {
        f"{outer}.{name}".lstrip("."): tuple(place for place in places.get(known, ()) if place[0].startswith(wanted))
        for name, known in names.items()
    }
    return lambda name: table.get(name, ())


def _find_model(model: nn.Module) -> tuple[str, Any, dict[str, Any]] | None:
    """The outermost model of transformers in a module, which may wrap it: its name, itself and its config.json."""
    for name, module in model.named_modules():
        # The wrappers of `peft` pass on the attributes of what they wrap, but their class does not have them.
        if hasattr(type(module), "base_model_prefix") and hasattr(getattr(module, "config", None), "to_dict"):
            config: dict[str, Any] = module.config.to_dict()
            own = type(module).__name__
            known = [own] if own in ARCHITECTURES else config.get("architectures") or [own]
            return (name, module, {**config, "architectures": known}) if known[0] in ARCHITECTURES else None
    return None


def _one_place(found: Any, name: str) -> Place:
    if isinstance(found, str):
        return found, 0
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], str) and type(found[1]) is int:
        return found
    raise InvalidTypeError(f"names: expected a name, or a name and an expert, for {name!r}, got {brief(found)}")

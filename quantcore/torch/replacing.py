"""Modules of a model by type or name, and others in their place."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from quantcore._base import arguments
from quantcore._base.text import brief, quote
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.torch.coverage import Skipped

__all__ = ["check_model", "find_named", "read_modules", "replace_modules", "warn_of_skipped"]


def check_model(model: Any) -> None:
    """Refuse what is no module."""
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")


def read_modules(
    model: nn.Module,
    modules: Iterable[type[nn.Module] | str] | None,
    known: Mapping[type[nn.Module], type[nn.Module]],
    refuse: Callable[[nn.Module], str],
) -> tuple[set[type[nn.Module]], set[nn.Module]]:
    """The types and the modules that the argument `modules` asks for; None: all types.

    Parameters
    ----------
    model : torch.nn.Module
    modules : iterable of types or of names, optional
    known : mapping of type to type
        The types that can be replaced.
    refuse : module -> str
        Why a module that is asked for by its name cannot be replaced; empty if it can.

    Raises
    ------
    ValueError
        There is no module of a requested name.
    TypeError
        A requested module or type cannot be replaced; an argument has another type.
    """
    if modules is None:
        return set(known), set()
    supported = ", ".join(kind.__name__ for kind in known)
    if isinstance(modules, str | type):
        raise InvalidTypeError(f"modules: expected types or names in a list or tuple, got {brief(modules)}")
    wanted = arguments.entries(modules, "modules", "types or names")
    for entry in wanted:
        if not isinstance(entry, str) and not (isinstance(entry, type) and entry in known):
            raise InvalidTypeError(f"modules: expected {supported} or names, got {brief(entry)}")
    found = find_named(model, sorted({entry for entry in wanted if isinstance(entry, str)}), "modules")
    for named in found.values():
        for name, module in named.items():
            if reason := refuse(module):
                kind = type(module).__name__
                raise InvalidTypeError(f"modules: {quote(name)} is a {kind} that cannot be replaced; {reason}")
    types = {entry for entry in wanted if isinstance(entry, type)}
    return types, {module for named in found.values() for module in named.values()}


def find_named(model: nn.Module, names: Iterable[str], parameter: str) -> dict[str, dict[str, nn.Module]]:
    """For each name the module that has it, by its qualified name; if there is none, those whose qualified names end in
    it, from a dot on. A name without any is refused.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found = {}
    for name in arguments.entries(names, parameter, "names of modules"):
        if not isinstance(name, str):
            raise InvalidTypeError(f"{parameter}: expected names of modules, got {brief(name)}")
        if name in modules:
            found[name] = {name: modules[name]}
        else:
            found[name] = {full: module for full, module in modules.items() if full.endswith(f".{name}")}
        if not found[name]:
            raise InvalidValueError(f"{parameter}: the model has no module {quote(name)}")
    return found


def replace_modules(model: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Replace modules by what `replacement` returns unless it is None; a shared module gets one shared replacement."""
    made: dict[nn.Module, nn.Module] = {}
    for module in list(model.modules()):
        twin = replacement(module)
        if twin is not None:
            made[module] = twin
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in made:
                parent._modules[name] = made[child]
    return made.get(model, model)


def warn_of_skipped(caller: str, skipped: Sequence[Skipped]) -> None:
    """Say what stays as it is, in one line, to whoever called the function that calls this."""
    listed = ", ".join(f"{entry.name or 'the model'} ({entry.kind})" for entry in skipped[:8])
    more = f" and {len(skipped) - 8} more" if len(skipped) > 8 else ""
    warnings.warn(f"{caller}: left as they are: {listed}{more}; see the model's `skipped`", stacklevel=3)

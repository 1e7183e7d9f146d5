"""Asks the program `module_tree` about a checkpoint, if transformers and torch are installed."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from quantcore.conversion.checkpoint_rules import module_tree
from quantcore.models.checkpoint_config import CONFIG

_PACKAGES = ("torch", "transformers")
_TIMEOUT_SECONDS = 300
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


@dataclass(frozen=True, slots=True)
class ModuleTree:
    """What transformers makes of a checkpoint.

    Attributes
    ----------
    rule : str
        The class of the model and the version of transformers.
    tensors : dict of str to (kind, module, description)
        For each tensor, as `module_tree` describes it.
    linear : frozenset of str
        The modules that become 4-bit layers, whether or not the checkpoint has a tensor for each.
    skipped : tuple of str
        What transformers leaves out of its own accord.
    """

    rule: str
    tensors: dict[str, tuple[str, str, str]]
    linear: frozenset[str]
    skipped: tuple[str, ...]


def ask_module_tree(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> ModuleTree | str:
    """The modules of the model in a folder, or why they cannot be had (an empty text: no packages, or no config.json).

    Parameters
    ----------
    folder : Path
        Has the config.json.
    shapes : mapping of str to tuple of int
        All tensors of the checkpoint.
    """
    if not (folder / CONFIG).is_file() or any(find_spec(package) is None for package in _PACKAGES):
        return ""
    request = {"path": sys.path, "folder": os.path.abspath(folder), "tensors": shapes}
    command = [sys.executable, os.path.abspath(module_tree.__file__)]
    try:
        child = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=os.environ | _ENVIRONMENT,
            timeout=_TIMEOUT_SECONDS,
        )
        answer = json.loads(child.stdout)
    except subprocess.TimeoutExpired:
        return f"building it took more than {_TIMEOUT_SECONDS} seconds"
    except (OSError, ValueError) as error:
        return f"its process failed ({type(error).__name__})"
    if "error" in answer:
        return str(answer["error"])
    tensors = {name: tuple(found) for name, found in answer["tensors"].items()}
    return ModuleTree(answer["rule"], tensors, frozenset(answer["linear"]), tuple(answer["skipped"]))

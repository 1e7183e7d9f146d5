"""Which modules of a model transformers makes 4-bit linear layers, found on the meta device: a program of its own.

It runs in a process of its own, so that a converter of gigabytes does not hold torch in its memory, and so that a
config.json with a billion layers costs a timeout instead of the process. It imports nothing of quantcore: it reads a
request from stdin (`path` for `sys.path`, `folder` of config.json, `tensors`: the shape of each by name), and writes
one JSON object to stdout: `error`, or

* `rule`: the class and the version of transformers, for people;
* `tensors`: for each name `[kind, module, what]`; kind is "linear", "conv1d" (a transposed linear layer), "kept" (a
  part of the model that stays in floats), "other shape", or "absent" (no parameter of the model, or a part of one);
* `linear`: the names of all modules that become 4-bit layers;
* `skipped`: what transformers itself leaves out, as it would stand in `llm_int8_skip_modules`.

Sources: `replace_with_bnb_linear`, `get_keys_to_not_convert` and the loading of state dicts in transformers 4.57 and 5.
"""

import contextlib
import json
import os
import sys
from collections.abc import Collection
from typing import Any

KEPT = "transformers keeps it: tied, the output, or in float32"
"""Why a linear layer is none of 4 bits."""
_MULTIPLIED_BY_HAND = {
    ("MultiheadAttention", "out_proj"),
    *(("WavLMAttention", name) for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
}
"""Layers, each with the class that it is in, whose 4-bit version fails in their own forward."""
_MULTIPLIED_BY_HAND_IN_5 = {("MambaMixer", "dt_proj")}


def main() -> None:
    """Answer the request on stdin."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no part of the answer
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    try:
        answer = describe(request["folder"], request["tensors"])
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        answer = {"error": f"{type(error).__name__}: {lines[0][:160]}"}
    with answers:
        json.dump(answer, answers)


def describe(folder: str, tensors: dict[str, list[int]]) -> dict[str, Any]:
    """The answer for the checkpoint of a folder."""
    import torch
    import transformers

    model = _build(folder, torch, transformers)
    skipped = sorted(find_skipped(model))
    becomes_linear = find_linear(model, skipped)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    renamed = _rename(model, list(tensors))
    found = {name: _find(model, parameters, becomes_linear, *renamed[name], tensors[name]) for name in tensors}
    return {
        "rule": f"{type(model).__name__} of transformers {transformers.__version__}",
        "tensors": found,
        "linear": sorted(becomes_linear),
        "skipped": skipped,
    }


def _build(folder: str, torch: Any, transformers: Any) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    names = [name for name in config.architectures or () if hasattr(transformers, name)]
    with torch.device("meta"), _untied():
        if names:
            return getattr(transformers, names[0])._from_config(config, attn_implementation="eager")
        return transformers.AutoModel.from_config(config, attn_implementation="eager")


def _untied() -> Any:
    """As transformers 5 builds a model before it loads weights: a tied head counts as the last parameter."""
    try:
        from transformers.initialization import no_tie_weights
    except ImportError:  # transformers 4, which ties a copy of the model itself
        return contextlib.nullcontext()
    return no_tie_weights()


def find_skipped(model: Any) -> set[str]:
    """The modules that transformers leaves out of its own accord: tied ones, the head, those kept in float32."""
    from transformers.quantizers.base import HfQuantizer

    return set(HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules))


def find_linear(model: Any, skipped: Collection[str]) -> dict[str, str]:
    """The modules that become 4-bit layers, each with its kind; `skipped` are not among them."""
    import torch
    from transformers.pytorch_utils import Conv1D

    def kind(module: Any) -> str:
        return "conv1d" if isinstance(module, Conv1D) else "linear"

    try:
        from transformers.quantizers.quantizers_utils import should_convert_module
    except ImportError:  # transformers 4

        def is_chosen(name: str, module: Any) -> bool:
            is_skipped = name.rpartition(".")[2] in skipped or any(f"{key}." in name or key == name for key in skipped)
            is_linear = isinstance(module, (torch.nn.Linear, Conv1D))
            return is_linear and not is_skipped and not _is_in(_MULTIPLIED_BY_HAND, model, name)
    else:
        by_hand = _MULTIPLIED_BY_HAND | _MULTIPLIED_BY_HAND_IN_5

        def is_chosen(name: str, module: Any) -> bool:
            is_linear = isinstance(module, Conv1D) or type(module) is torch.nn.Linear
            return is_linear and should_convert_module(name, skipped) and not _is_in(by_hand, model, name)

    return {name: kind(module) for name, module in model.named_modules() if is_chosen(name, module)}


def _is_in(layers: set[tuple[str, str]], model: Any, name: str) -> bool:
    """Whether a module is one of the layers, given as the class that they are in and their name there."""
    owner, _, layer = name.rpartition(".")
    return (type(model.get_submodule(owner)).__name__, layer) in layers


def _rename(model: Any, names: list[str]) -> dict[str, tuple[str, bool]]:
    """The parameter that each tensor of the checkpoint is loaded into, and whether it is loaded as it is."""
    expected = model.state_dict()
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    except ImportError:
        return {name: (new, True) for name, new in _rename_as_4(model, names).items()}

    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    prefix = model.base_model_prefix
    renamed = {}
    for name in sorted(names, key=_natural):
        new, pattern = rename_source_key(name, renamings, converters, prefix, expected)
        if new not in expected and name in expected:
            new, pattern = rename_source_key(name, [], [], prefix, expected)
        renamed[name] = (new, pattern is None)
    return renamed


def _rename_as_4(model: Any, names: list[str]) -> dict[str, str]:
    from transformers import modeling_utils

    is_mapped = any(name in type(model).__name__.lower() for name in getattr(modeling_utils, "VLMS", ()))
    mapping = model._checkpoint_conversion_mapping if is_mapped else None
    prefix = model.base_model_prefix
    has_prefix = bool(prefix) and any(name.startswith(prefix) for name in names)
    expects_prefix = bool(prefix) and hasattr(model, prefix)
    renamed: dict[str, str] = dict.fromkeys(names, "")
    renamed |= model._get_key_renaming_mapping(
        names, mapping, has_prefix and not expects_prefix, expects_prefix and not has_prefix
    )
    return renamed


def _natural(name: str) -> list[tuple[int, Any]]:
    """As transformers sorts a state dict: numbers between dots by their value."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in name.split(".")]


def _find(
    model: Any, parameters: dict[str, Any], linear: dict[str, str], name: str, is_whole: bool, shape: list[int]
) -> tuple[str, str, str]:
    """Kind, module and description of what a tensor is loaded into."""
    module_name, _, leaf = name.rpartition(".")
    if not is_whole:
        return "absent", module_name, f"transformers makes it a part of {name or 'others'}"
    if name not in parameters:
        return "absent", module_name, "not a parameter of the model"
    kind = type(model.get_submodule(module_name)).__name__
    if list(parameters[name].shape) != shape:
        return "other shape", module_name, f"{kind} of another shape"
    if module_name in linear and leaf == "weight":
        return linear[module_name], module_name, kind
    if kind in ("Linear", "Conv1D") and leaf == "weight":
        return "kept", module_name, KEPT
    return "kept", module_name, f"{leaf} of {kind}" if leaf != "weight" else kind


if __name__ == "__main__":
    main()

"""`decide`: for each tensor of a checkpoint, whether it is quantized, and which rule says so."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from quantcore._base.arrays import ELEMENT_TYPES
from quantcore._base.patterns import unused_patterns
from quantcore._base.text import quote, shorten
from quantcore.conversion.checkpoint_rules.architectures import (
    ARCHITECTURES,
    FUSED_WHEN_LOADED,
    Architecture,
    is_module,
)
from quantcore.conversion.checkpoint_rules.module_tree_client import ModuleTree, ask_module_tree
from quantcore.conversion.checkpoint_rules.names import COMMON_HEADS, keep_by_company, keep_by_name
from quantcore.conversion.checkpoint_rules.skip_modules import make_entries, make_skip_test
from quantcore.errors import InvalidValueError
from quantcore.models.checkpoint_config import model_types
from quantcore.models.decoded_checkpoint import DecodedCheckpoint
from quantcore.safetensors.reader import SafetensorsInfo


class Layout(Enum):
    """What becomes of a tensor."""

    KEPT = "kept"
    LINEAR = "linear"
    TRANSPOSED = "transposed"
    """A linear layer that stores its weight as (inputs, outputs): bitsandbytes packs it the other way round."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a tensor.

    Attributes
    ----------
    layout : Layout
    rule : str
        What decided it, for a dry run.
    reason : str
        Why a matrix is kept; empty for what is quantized, excluded by the user, or no matrix of floats.
    """

    layout: Layout
    rule: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decisions:
    """The decisions by the tensors' names, and what follows from them.

    Attributes
    ----------
    tensors : dict of str to Decision
    skip_modules : list of str
        The modules that stay in floats, for `llm_int8_skip_modules`; heads that are tied are among them.
    notices : tuple of str
        The matrices that are kept, those of several layers together.
    """

    tensors: dict[str, Decision]
    skip_modules: list[str]
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Judgement:
    """What a source of rules says of each matrix; which modules to skip; and what transformers calls the modules."""

    tensors: dict[str, Decision]
    skipped: set[str]
    module_of: Mapping[str, str]


def decide(
    checkpoint: DecodedCheckpoint, config: dict[str, Any] | None, exclude: Iterable[re.Pattern[str]]
) -> Decisions:
    """Decide which tensors are quantized.

    Parameters
    ----------
    checkpoint : DecodedCheckpoint
    config : dict, optional
        config.json, if there is one.
    exclude : iterable of compiled regex
        Tensors whose names match are kept, whatever else is said of them. One that fits no tensor gets a notice: a tied
        head that is not stored is hardly a mistake.
    """
    patterns = tuple(exclude)
    _refuse_unloadable(checkpoint, config)
    matrices = {t.name: t for t in checkpoint.tensors if _is_matrix(t)}
    judgement = _judge(checkpoint, config, matrices)
    tensors = {t.name: Decision(Layout.KEPT, f"{t.dtype} of {len(t.shape)} dimensions") for t in checkpoint.tensors}
    tensors |= judgement.tensors
    for name in tensors:
        if pattern := next((p for p in patterns if p.search(name)), None):
            tensors[name] = Decision(Layout.KEPT, f"--exclude {pattern.pattern}")
    skip_modules = _settle(tensors, judgement, [t.name for t in checkpoint.tensors if len(t.shape) == 2])
    return Decisions(tensors, skip_modules, (*unused_patterns(patterns, "exclude", tensors), *_notices(tensors)))


def transposed_weights(config: dict[str, Any] | None, names: Iterable[str]) -> frozenset[str]:
    """The weights that models of transformers store as (inputs, outputs), by the table of architectures."""
    types = model_types(config) if config is not None else set()
    records = [ARCHITECTURES[t] for t in sorted(types & ARCHITECTURES.keys())]
    return frozenset(name for name in names if any(is_module(name, record.transposed) for record in records))


def _refuse_unloadable(checkpoint: DecodedCheckpoint, config: dict[str, Any] | None) -> None:
    for model_type in sorted(model_types(config or {}) & FUSED_WHEN_LOADED.keys()):
        for tensor in checkpoint.tensors:
            if tensor.name.endswith(FUSED_WHEN_LOADED[model_type]):
                raise InvalidValueError(
                    f"{checkpoint.path}: tensor {quote(tensor.name)}: transformers cannot load the fused experts of "
                    f"{model_type} beside 4-bit layers"
                )


def _is_matrix(tensor: SafetensorsInfo) -> bool:
    """Whether a tensor is of floats and has two dimensions or more, so that the user hears if it is kept."""
    return tensor.dtype in ELEMENT_TYPES and len(tensor.shape) >= 2 and tensor.nbytes > 0


def _judge(
    checkpoint: DecodedCheckpoint, config: dict[str, Any] | None, matrices: dict[str, SafetensorsInfo]
) -> _Judgement:
    model_type = (config or {}).get("model_type")
    if config is not None and isinstance(model_type, str):
        tree = ask_module_tree(checkpoint.folder, {t.name: t.shape for t in checkpoint.tensors})
        if isinstance(tree, ModuleTree) and _fits(tree, matrices):
            return _judge_by_tree(tree, matrices)
        if record := ARCHITECTURES.get(model_type):
            judgement = _judge_by_record(model_type, record, matrices)
            is_empty = not record.linear and not record.transposed
            if is_empty or any(decision.layout != Layout.KEPT for decision in judgement.tensors.values()):
                return judgement
        return _judge_as_unknown(checkpoint, config, matrices)
    return _judge_by_name(matrices, COMMON_HEADS)


def _fits(tree: ModuleTree, matrices: dict[str, SafetensorsInfo]) -> bool:
    """Whether the model is that of the checkpoint: most of its matrices are its parameters, and of the same shapes."""
    n_found = sum(tree.tensors[name][0] in ("linear", "conv1d", "kept") for name in matrices)
    merged = sum(tree.tensors[name][2].startswith("transformers makes") for name in matrices)
    return 2 * (n_found + merged) > len(matrices)


def _judge_by_tree(tree: ModuleTree, matrices: dict[str, SafetensorsInfo]) -> _Judgement:
    tensors, module_of, skipped = {}, {}, {entry for entry in tree.skipped if not entry.endswith(".bias")}
    for name, info in matrices.items():
        kind, module, what = tree.tensors[name]
        module_of[name] = module
        if kind in ("linear", "conv1d") and len(info.shape) == 2 and name.endswith(".weight"):
            layout = Layout.LINEAR if kind == "linear" else Layout.TRANSPOSED
            tensors[name] = Decision(layout, f"{tree.rule}: {what}")
        else:
            tensors[name] = Decision(Layout.KEPT, f"{tree.rule}: {what}", what)
    loaded = {module_of[name] for name, decision in tensors.items() if decision.layout != Layout.KEPT}
    return _Judgement(tensors, skipped | (tree.linear - loaded), module_of)


def _judge_by_record(model_type: str, record: Architecture, matrices: dict[str, SafetensorsInfo]) -> _Judgement:
    rule = f"table, {model_type}"
    tensors = {}
    for name, info in matrices.items():
        layout = record.layout_of(name) if len(info.shape) == 2 and name.endswith(".weight") else ""
        if layout:
            tensors[name] = Decision(Layout(layout), f"{rule}: {layout}")
        else:
            reason = keep_by_name(name) or f"no 4-bit layer of {model_type}"
            tensors[name] = Decision(Layout.KEPT, f"{rule}: {reason}", reason)
    return _Judgement(tensors, set(record.heads), {})


def _judge_as_unknown(
    checkpoint: DecodedCheckpoint, config: dict[str, Any], matrices: dict[str, SafetensorsInfo]
) -> _Judgement:
    """By names, as a model of transformers that is in no table, although a part of it may be."""
    judgement = _judge_by_name(matrices, COMMON_HEADS)
    transposed = transposed_weights(config, matrices)
    names = {tensor.name for tensor in checkpoint.tensors}
    for name, decision in judgement.tensors.items():
        if decision.layout == Layout.KEPT:
            continue
        if reason := keep_by_company(name, names):
            judgement.tensors[name] = Decision(Layout.KEPT, f"name: {reason}", reason)
        elif name in transposed:
            judgement.tensors[name] = Decision(Layout.TRANSPOSED, "name: transposed in a part of the model")
    return judgement


def _judge_by_name(matrices: dict[str, SafetensorsInfo], heads: tuple[str, ...]) -> _Judgement:
    tensors = {}
    for name, info in matrices.items():
        reason = keep_by_name(name) if len(info.shape) == 2 else f"{len(info.shape)} dimensions"
        layout = Layout.KEPT if reason else Layout.LINEAR
        tensors[name] = Decision(layout, f"name: {reason or 'a matrix named .weight'}", reason)
    return _Judgement(tensors, set(heads), {})


def _settle(tensors: dict[str, Decision], judgement: _Judgement, matrices: list[str]) -> list[str]:
    """The entries of `llm_int8_skip_modules`; a weight that one of them would hit is kept as well, until none is."""

    def modules_of(name: str) -> set[str]:
        module = name.removesuffix(".weight")
        return {module, judgement.module_of.get(name) or module} if module != name else set()

    while True:
        quantized = {name for name, decision in tensors.items() if decision.layout != Layout.KEPT}
        used = set().union(*(modules_of(name) for name in quantized))
        kept = judgement.skipped.union(*(modules_of(name) for name in matrices if name not in quantized))
        entries = make_entries(kept, used)
        is_skipped = make_skip_test(entries)
        hit = sorted(name for name in quantized if any(is_skipped(module) for module in modules_of(name)))
        if not hit:
            return entries
        for name in hit:
            reason = "transformers would leave it out, because of the name of another that is kept"
            tensors[name] = Decision(Layout.KEPT, f"skip_modules: {reason}", reason)


def _notices(tensors: dict[str, Decision]) -> tuple[str, ...]:
    """One notice for each kind of matrix that is kept without having been excluded: layers count as one."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, decision in tensors.items():
        if decision.reason:
            groups.setdefault((re.sub(r"\d+", "*", name), re.sub(r"\d+", "*", decision.reason)), []).append(name)
    return tuple(
        f"{shorten(names[0])}{f' and {len(names) - 1} more like it' if len(names) > 1 else ''}: kept "
        f"({tensors[names[0]].reason})"
        for names in groups.values()
    )

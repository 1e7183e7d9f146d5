"""The plan of a conversion to GGUF: each tensor with its name, its type and the importance of its columns."""

import os
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments
from quantcore._base.text import brief, cut_middle, quote
from quantcore.conversion.gguf_pipeline import PlannedTensor
from quantcore.conversion.layers import renumber
from quantcore.conversion.mixes import TOKEN_EMBEDDINGS
from quantcore.conversion.model_facts import ModelFacts
from quantcore.conversion.rules import TypeRules, requires_imatrix
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.ggml.importance import uses_importance
from quantcore.ggml.types import GGMLType, ImatrixUse
from quantcore.gguf.imatrix import Imatrix
from quantcore.models.tensors import StoredTensor, ggml_type

_MOST_NAMED = 3


def take_imatrix(
    imatrix: Imatrix | str | os.PathLike[str] | None, include: Iterable[str], exclude: Iterable[str]
) -> Imatrix | None:
    """The importance matrix to use, loaded if it is a path; None if there is none or nothing is left of it."""
    include = arguments.entries(include, "include_weights", "parts of names")
    exclude = arguments.entries(exclude, "exclude_weights", "parts of names")
    if imatrix is None:
        if include or exclude:
            raise InvalidValueError("include_weights, exclude_weights: there is no importance matrix (imatrix=)")
        return None
    if isinstance(imatrix, (str, os.PathLike)):
        imatrix = Imatrix.load(imatrix)
    if not isinstance(imatrix, Imatrix):
        raise InvalidTypeError(f"imatrix: expected an Imatrix or the path of a file, got {brief(imatrix)}")
    matrix = imatrix.select(include=include, exclude=exclude)
    return matrix if len(matrix) else None


def rename_tensors(
    tensors: list[StoredTensor], pruned: frozenset[int]
) -> tuple[list[tuple[str, StoredTensor]], int | None]:
    """The tensors that remain, each after its old name; and the number of layers, if some are left out."""
    if not pruned:
        return [(tensor.name, tensor) for tensor in tensors], None
    names, n_layers = renumber([tensor.name for tensor in tensors], pruned)
    pairs = zip(names, tensors, strict=True)
    return [(tensor.name, replace(tensor, name=name)) for name, tensor in pairs if name is not None], n_layers


def plan_types(
    named: list[tuple[str, StoredTensor]],
    rules: TypeRules,
    facts: ModelFacts,
    matrix: Imatrix | None,
    notices: list[str],
    *,
    is_dry_run: bool,
    is_refined: bool = False,
) -> list[PlannedTensor]:
    """The type of each tensor and the weights of its columns.

    Parameters
    ----------
    named : list of (str, StoredTensor)
        Tensors in the order of the output, each after the name by which the importance matrix knows it.
    rules, facts, matrix
    notices : list of str
        Takes what the user should know.
    is_dry_run : bool
        Tell of importance that is missing instead of refusing.
    is_refined : bool, default False
        With effort="best".

    Raises
    ------
    InvalidValueError
        A tensor needs importance that is not there, or that is of another size; a pattern fits no tensor.
    """
    tensors = [tensor for _, tensor in named]
    notices += rules.check([t.name for t in tensors])
    targets = rules.targets([(t.name, t.shape) for t in tensors], facts, has_imatrix=matrix is not None)
    if matrix is not None:
        notices += matrix.notices
    plan, unweighted, refused = [], [], []
    for (old_name, tensor), (chosen, notice) in zip(named, targets, strict=True):
        own = ggml_type(tensor)
        if chosen is not None and tensor.is_integer:
            notices.append(f"{cut_middle(tensor.name)}: {tensor.type} is not a float type: kept")
        if chosen is None or tensor.is_integer:
            plan.append(PlannedTensor(tensor, own))
            continue
        notices += [notice] if notice else []
        weights = None
        if matrix is not None and chosen != own:
            weights = column_weights(matrix, old_name, tensor, notices)
            if weights is None and uses_importance(chosen, is_refined=is_refined):
                unweighted.append(tensor.name)
        if weights is None and _needs_weights(tensor.name, own, chosen, rules, matrix):
            refused.append(f"tensor {quote(tensor.name)}: {chosen.name} needs an importance matrix in this file")
        plan.append(PlannedTensor(tensor, chosen, weights if uses_importance(chosen, is_refined=is_refined) else None))
    if refused and not is_dry_run:
        raise InvalidValueError(f"{refused[0]}; --imatrix (imatrix=) takes one")
    if refused:
        notices.append(f"{refused[0]}; without one (--imatrix) the quantization will be refused")
    if unweighted:
        few = ", ".join(map(cut_middle, unweighted[:_MOST_NAMED])) + (", ..." if len(unweighted) > _MOST_NAMED else "")
        notices.append(f"the importance matrix has no weights for {len(unweighted)} of the tensors: {few}")
    return plan


def _needs_weights(name: str, own: GGMLType, chosen: GGMLType, rules: TypeRules, matrix: Imatrix | None) -> bool:
    """Whether a tensor without weights is refused: by llama-quantize's rule, or since the type has no other way."""
    is_unchanged = own == chosen
    if requires_imatrix(name, chosen, rules.file_type) and not (is_unchanged and matrix is not None):
        return True
    return chosen.imatrix is ImatrixUse.REQUIRED and not is_unchanged


def column_weights(matrix: Imatrix, name: str, tensor: StoredTensor, notices: list[str]) -> NDArray[np.float32] | None:
    """The importance of a tensor's columns, of shape (matrices, columns); None if there is none."""
    if name not in matrix.entries:
        return None
    weights = matrix.weights(name)
    shape = tensor.shape
    n_matrices, columns = shape[-3] if len(shape) > 2 else 1, shape[-1]
    if weights.size != n_matrices * columns:
        problem = f"the importance matrix has {weights.size} weights, the tensor {n_matrices} x {columns} columns"
        if tensor.name in TOKEN_EMBEDDINGS:
            notices.append(f"{tensor.name}: {problem}: quantized without weights")
            return None
        raise InvalidValueError(f"tensor {quote(name)}: {problem}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise InvalidValueError(f"tensor {quote(name)}: importance weights must be finite and not negative")
    weights = weights.reshape(n_matrices, columns)
    # A fourth dimension would repeat the matrices; llama.cpp quantizes three.
    return np.tile(weights, (shape[0], 1)) if len(shape) > 3 else weights

"""Scales beside weights, as llama.cpp has them: it multiplies what a weight `*.weight` gives by `*.scale`.

There is one for a matrix, and one for each of a stack of experts; what is missing is 1. Blocks of NVFP4 come with them.
`*.input_scale` is that of the activations, for quantized arithmetic.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quantcore._base.text import quote
from quantcore.errors import FileFormatError
from quantcore.models.tensors import StoredTensor

__all__ = ["INPUT_SCALE", "SCALE", "apply_scales", "scale_name"]

SCALE, INPUT_SCALE = "scale", "input_scale"
"""What a name has in place of `weight`."""
_WEIGHT = "weight"


def scale_name(name: str, ending: str) -> str:
    """The name of the scale of a weight."""
    return name.removesuffix(_WEIGHT) + ending


def apply_scales(tensors: Iterable[StoredTensor]) -> tuple[list[StoredTensor], list[str]]:
    """The tensors of a GGUF file, weights with their scales as factors of their values; and the names of other scales.

    Returns
    -------
    list of StoredTensor
        Without the scales. A tensor of another size that is called so stays a tensor of its own.
    list of str
        Scales of activations, which are left out as well.

    Raises
    ------
    FileFormatError
        A scale is not finite.
    """
    named = {tensor.name: tensor for tensor in tensors}
    made, of_activations = [], []
    used: set[str] = set()
    for tensor in named.values():
        scales = [named.get(scale_name(tensor.name, ending)) for ending in (SCALE, INPUT_SCALE)]
        weight, inputs = (s if s is not None and _is_scale(s, tensor) else None for s in scales)
        made.append(tensor if weight is None else replace(tensor, factors=_factors(weight)))
        if inputs is not None:
            of_activations.append(inputs.name)
        used.update(scale.name for scale in (weight, inputs) if scale is not None)
    return [tensor for tensor in made if tensor.name not in used], of_activations


def _is_scale(scale: StoredTensor, weight: StoredTensor) -> bool:
    is_matrix = weight.name.endswith(f".{_WEIGHT}") and len(weight.shape) > 1
    n_matrices = weight.shape[0] if len(weight.shape) == 3 else 1
    return is_matrix and weight.size > 0 and scale.type == "F32" and scale.size in (1, n_matrices)


def _factors(scale: StoredTensor) -> NDArray[np.float32]:
    values = scale.values().astype(np.float32)
    if not np.isfinite(values).all():
        raise FileFormatError(f"{scale.file}: tensor {quote(scale.name)}: holds a scale that is not finite")
    return values

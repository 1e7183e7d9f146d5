"""The way back: tensors of a GGUF file under the names and in the shapes of a Hugging Face checkpoint, and config.json.

Each name of the checkpoint goes through the same mapping as in `tensors`, which tells the tensor that it is made of;
what is done there to the values is undone here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantcore._base.extras import missing_extra
from quantcore._base.text import quote
from quantcore.conversion.hf.architecture import Architecture
from quantcore.conversion.hf.metadata_reader import GGUFMetadata
from quantcore.conversion.hf.registry import BY_GGUF_NAME
from quantcore.conversion.hf.streams import decode, rotary_order, select_rows, shift, transpose, unstack
from quantcore.conversion.hf.tensors import Change, change_of, is_query, name_map, rename
from quantcore.conversion.image_models import unfold
from quantcore.errors import FileFormatError
from quantcore.gguf.layout import ARCHITECTURE_KEY
from quantcore.gguf.parts import GGUFModel
from quantcore.models.block_scales import apply_scales
from quantcore.models.tensors import StoredTensor

_EMBEDDING = "token_embd.weight"
"""What every model has, if its tensors have llama.cpp's names."""

_MOST_EXPERTS = 4096


@dataclass(frozen=True)
class Restored:
    """What a GGUF file becomes.

    Attributes
    ----------
    tensors : list of StoredTensor
        With the names of a Hugging Face checkpoint, or with their own.
    config : dict, optional
        config.json, but for the type of the tensors.
    notices : tuple of str
    """

    tensors: list[StoredTensor]
    config: dict[str, Any] | None
    notices: tuple[str, ...]


def restore(container: GGUFModel, tensors: list[StoredTensor], *, keep_names: bool) -> Restored:
    """The tensors and hyperparameters of a Hugging Face checkpoint for a GGUF file.

    Parameters
    ----------
    container : GGUFModel
    tensors : list of StoredTensor
        All of its tensors.
    keep_names : bool
        Keep the tensors as they are.

    Raises
    ------
    FileFormatError
        A tensor has no place in a checkpoint of the architecture, or is of another shape than its hyperparameters say.
    MissingExtraError
        The package `gguf` is missing.
    """
    architecture = container.value(ARCHITECTURE_KEY)
    record = BY_GGUF_NAME.get(architecture) if isinstance(architecture, str) else None
    if keep_names or record is None:
        unknown = "" if keep_names else f" (architecture {quote(str(architecture))} is not one of those that are known)"
        tensors = unfold(tensors, container.kvs)
        return Restored(tensors, None, (f"tensors keep their own names, and there is no config.json{unknown}",))
    if all(tensor.name != _EMBEDDING for tensor in tensors):
        foreign = "tensors keep their own names, which are not those of llama.cpp; there is no config.json"
        return Restored(tensors, None, (foreign,))
    tensors, of_activations = apply_scales(tensors)
    tensors = [tensor if tensor.factors is None else decode(tensor) for tensor in tensors]
    by_name = {tensor.name: tensor for tensor in tensors}
    metadata = GGUFMetadata(container.kvs, record.gguf_name, by_name, container.path)
    places = _places(record, metadata)
    made: list[StoredTensor] = []
    for tensor in tensors:
        if tensor.name in record.constant_names:
            continue
        if tensor.name not in places:
            raise FileFormatError(
                f"{tensor.file}: tensor {quote(tensor.name)}: has no place in a Hugging Face checkpoint of "
                f"{record.gguf_name}; --keep-names (keep_names=True) keeps the tensors' own names"
            )
        if tensor.size == 0:
            raise FileFormatError(f"{tensor.file}: tensor {quote(tensor.name)}: has no elements")
        tensor.check()
        made += _undo(record, metadata, tensor, places[tensor.name])
    try:
        config: dict[str, Any] | None = record.read_settings(metadata)
        metadata.check_understood()
        notices = ["config.json is made of the file's metadata"]
    except FileFormatError as error:
        config, notices = None, [f"config.json is not written: {error}"]
    left_out = [name for name in record.constant_names if name in by_name]
    if left_out:
        notices.append(f"left out, since they are computed from hyperparameters: {', '.join(left_out)}")
    if of_activations:
        notices.append(f"left out, since they are for quantized activations: {of_activations[0]} and all like it")
    notices.append("no tokenizer is written: a GGUF file does not hold all that its files had; copy them beside")
    return Restored(made, config, tuple(notices))


def _places(record: Architecture, metadata: GGUFMetadata) -> Mapping[str, tuple[str, ...]]:
    """The names in the checkpoint by the name in GGUF: one, or those of all experts."""
    n_layers = metadata.require("block_count")
    if not 1 <= n_layers <= len(metadata.tensors):
        raise FileFormatError(f"{metadata.path}: {n_layers} layers, but there are {len(metadata.tensors)} tensors")
    try:
        map_name = name_map(record, n_layers)
    except ImportError as error:
        raise missing_extra("writing a Hugging Face folder", "gguf", error) from None

    def gguf_name(name: str) -> str:
        renamed = rename(record, name)
        mapped = None if renamed is None else map_name(renamed)
        assert mapped is not None, name
        return mapped

    places: dict[str, tuple[str, ...]] = {}
    for template in record.tensor_names:
        for layer in range(n_layers if "{layer}" in template else 1):
            name = template.format(layer=layer)
            places.setdefault(gguf_name(name), (name,))
    if (experts := record.experts) is not None:
        for word in experts.words:
            for layer in range(n_layers):
                stacked = gguf_name(experts.stacked.format(layer=layer, word=word))
                if stacked in metadata.tensors:
                    n_experts = _count_experts(metadata.tensors[stacked])
                    names = (experts.name.format(layer=layer, expert=i, word=word) for i in range(n_experts))
                    places[stacked] = tuple(names)
    return places


def _count_experts(stacked: StoredTensor) -> int:
    if len(stacked.shape) != 3 or not 1 <= stacked.shape[0] <= _MOST_EXPERTS:
        raise FileFormatError(
            f"{stacked.file}: tensor {quote(stacked.name)}: shape {stacked.shape} is no stack of experts"
        )
    return stacked.shape[0]


def _undo(
    record: Architecture, metadata: GGUFMetadata, tensor: StoredTensor, names: tuple[str, ...]
) -> list[StoredTensor]:
    if record.experts is not None and record.experts.part in names[0]:
        return unstack(tensor, names)
    (name,) = names
    change = change_of(record, name, len(tensor.shape))
    if change is Change.INTERLEAVED:
        n_heads, n_rows = metadata.heads() if is_query(name) else metadata.kv_heads, tensor.shape[0]
        if n_rows % (2 * n_heads):
            raise FileFormatError(
                f"{tensor.file}: tensor {quote(tensor.name)}: its {n_rows} rows are not {n_heads} heads of even size"
            )
        rows = np.argsort(rotary_order(n_rows, n_heads))
        return [select_rows(tensor if len(tensor.shape) > 1 else decode(tensor), name, rows)]
    if change is Change.TRANSPOSED:
        return [transpose(decode(tensor), name)]
    if change is Change.SHIFTED:
        return [shift(decode(tensor), name, -1)]
    return [replace(tensor, name=name)]

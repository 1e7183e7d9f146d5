"""The tensors of a checkpoint as GGUF has them: their names, and what is done to their values."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import partial

import numpy as np

from quantcore._base.text import quote
from quantcore.conversion.hf.architecture import Architecture, Context, Experts
from quantcore.conversion.hf.hyperparameters import HEADS, KV_HEADS
from quantcore.conversion.hf.streams import constant, rotary_order, select_rows, shift, stack, transpose
from quantcore.errors import FileFormatError
from quantcore.models.block_scales import INPUT_SCALE, SCALE, scale_name
from quantcore.models.ggml_repacker import NVFP4
from quantcore.models.tensors import StoredTensor

_LAYER = re.compile(r"(?:^|\.)(\d+)\.", re.ASCII)
# Parts of multimodal models that are no language model. Source: `filter_tensors` in llama.cpp's `conversion/base.py`.
_OTHER_STARTS = (
    "mlp", "vit.", "vpm.", "siglip2.", "conformer.", "merger.", "resampler.", "sound_encoder.", "sound_projection.",
    "speech_embeddings.",
)  # fmt: skip
_OTHER_PARTS = (
    "visual.", "vision.", "audio.", "talker.", "vision_", "audio_", "token2wav.", "code2wav.", "projector.",
    "pre_mm_projector_norm", "image_newline", "view_seperator", "patch_embed", "patch_merger.", "patch_merge_mlp.",
    "model.connector.",
)  # fmt: skip
_UNUSED_ENDINGS = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")
_QUERY, _KEY = ("q_proj.weight", "q_proj.bias"), ("k_proj.weight", "k_proj.bias")


def arrange(record: Architecture, context: Context, sources: Iterable[StoredTensor]) -> list[StoredTensor]:
    """The tensors of the GGUF file in the order of llama.cpp's converter.

    Parameters
    ----------
    record : Architecture
    context : Context
    sources : iterable of StoredTensor
        Those of the checkpoint, shard by shard, in each by name.

    Raises
    ------
    FileFormatError
        A tensor has no place in a model of the architecture, layers or experts are missing, heads do not fit.
    """
    map_name = name_map(record, context.n_layers)
    path = context.config.path
    made = [constant(name, values, path) for name, values in record.constants(context)]
    weights, scales = _set_scales_apart(_rename(record, sources))
    taken_over: list[StoredTensor] = []
    for tensor, members in _join_experts(record, context, weights):
        mapped = map_name(tensor.name)
        if mapped is None:
            raise FileFormatError(
                f"{tensor.file}: tensor {quote(tensor.name)}: has no place in llama.cpp's {record.gguf_name} of "
                f"{context.n_layers} layers"
            )
        arranged = _transform(record, context, tensor, mapped)
        if arranged.origin is None or arranged.block_size == 1:
            made.append(arranged)
        else:
            taken_over += (arranged, *_join_scales(scales, members, arranged))
    # The converter writes first what it takes over as it is.
    made = [*taken_over, *made]
    _check_layers(context, made)
    return made


def name_map(record: Architecture, n_layers: int) -> Callable[[str], str | None]:
    """From names that `rename` gives to those of GGUF; None where a model of so many layers has no such tensor."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == record.gguf_name)
    return partial(get_tensor_name_map(arch, n_layers).get_name, try_suffixes=(".weight", ".bias"))


def rename(record: Architecture, name: str) -> str | None:
    """A tensor's name before it is mapped to GGUF's; None for one that is no part of the language model."""
    if name.startswith(_OTHER_STARTS) or any(part in name for part in _OTHER_PARTS):
        return None
    renamed = record.rename(name.replace("language_model.", ""))
    return None if renamed is None or renamed.endswith(_UNUSED_ENDINGS) else renamed


def _rename(record: Architecture, sources: Iterable[StoredTensor]) -> Iterator[StoredTensor]:
    for tensor in sources:
        if (name := rename(record, tensor.name)) is not None:
            yield replace(tensor, name=name)


def _join_experts(
    record: Architecture, context: Context, tensors: Iterable[StoredTensor]
) -> Iterator[tuple[StoredTensor, Sequence[str]]]:
    """All tensors and the names of what each is made of; the experts of a layer are stacks in the place of the last."""
    experts = record.experts
    waiting: dict[int, dict[str, StoredTensor]] = {}
    for tensor in tensors:
        parts = record.split(context, tensor)
        if parts is not None:
            yield from ((part, (part.name,)) for part in parts)
        elif experts is None or experts.part not in tensor.name:
            yield tensor, (tensor.name,)
        else:
            match = _LAYER.search(tensor.name)
            layer = int(match[1]) if match else -1
            held = waiting.setdefault(layer, {})
            held[tensor.name] = tensor
            n_experts = context.config.count(experts.count)
            if len(held) == n_experts * len(experts.words):
                yield from _stack_experts(experts, held, layer, n_experts, tensor.file)
                del waiting[layer]
    if waiting and experts is not None:
        layer = min(waiting)
        n_wanted = context.config.count(experts.count) * len(experts.words)
        raise FileFormatError(
            f"{context.config.path}: layer {layer} has {len(waiting[layer])} of {n_wanted} tensors of its experts"
        )


def _stack_experts(
    experts: Experts, held: dict[str, StoredTensor], layer: int, n_experts: int, file: str
) -> Iterator[tuple[StoredTensor, Sequence[str]]]:
    for word in experts.words:
        names = [experts.name.format(layer=layer, expert=i, word=word) for i in range(n_experts)]
        if missing := [name for name in names if name not in held]:
            raise FileFormatError(f"{file}: tensor {quote(missing[0])}: missing among the experts of layer {layer}")
        yield stack([held[name] for name in names], experts.stacked.format(layer=layer, word=word)), names


def _set_scales_apart(tensors: Iterable[StoredTensor]) -> tuple[list[StoredTensor], Mapping[str, StoredTensor]]:
    """The tensors that are no scales beside blocks, and by name those that are."""
    tensors = list(tensors)
    blocks = [tensor.name for tensor in tensors if tensor.type == NVFP4]
    names = {scale_name(name, ending) for name in blocks for ending in (SCALE, INPUT_SCALE)}
    scales = {tensor.name: tensor for tensor in tensors if tensor.name in names}
    return [tensor for tensor in tensors if tensor.name not in names], scales


def _join_scales(
    scales: Mapping[str, StoredTensor], members: Sequence[str], weight: StoredTensor
) -> Iterator[StoredTensor]:
    """The scales beside a weight, or beside the weights that are stacked in it; none where all are 1."""
    for ending in (SCALE, INPUT_SCALE):
        found = [scales.get(scale_name(name, ending)) for name in members]
        values = np.array([1 if scale is None else scale.values()[0] for scale in found], np.float32)
        is_trivial = abs(values[0] - 1.0) < 1e-6 if len(members) == 1 else np.allclose(values, 1.0, atol=1e-6)
        if not is_trivial:
            yield constant(scale_name(weight.name, ending), values, weight.file)


class Change(Enum):
    """What is done to the values of a tensor."""

    NOTHING = 0
    INTERLEAVED = 1
    """The two halves of each head's rows are interleaved."""
    TRANSPOSED = 2
    SHIFTED = 3
    """One is added."""


def change_of(record: Architecture, name: str, n_dimensions: int) -> Change:
    """What an architecture does to a tensor of the checkpoint by its name."""
    if record.is_permuted and name.endswith((*_QUERY, *_KEY)):
        return Change.INTERLEAVED
    if name.endswith(record.transposed) and n_dimensions == 2:
        return Change.TRANSPOSED
    return Change.SHIFTED if name.endswith(record.shifted) else Change.NOTHING


def is_query(name: str) -> bool:
    """Whether a tensor of the checkpoint is one of queries."""
    return name.endswith(_QUERY)


def _transform(record: Architecture, context: Context, tensor: StoredTensor, mapped: str) -> StoredTensor:
    change = change_of(record, tensor.name, len(tensor.shape))
    if change is Change.INTERLEAVED:
        names = HEADS if is_query(tensor.name) else KV_HEADS
        n_heads, n_rows = context.config.count(names), tensor.shape[0]
        if n_rows % (2 * n_heads):
            raise FileFormatError(
                f"{tensor.file}: tensor {quote(tensor.name)}: its {n_rows} rows are not {n_heads} heads of even size"
            )
        return select_rows(tensor, mapped, rotary_order(n_rows, n_heads))
    if change is Change.TRANSPOSED:
        return transpose(tensor, mapped)
    return shift(tensor, mapped, 1) if change is Change.SHIFTED else replace(tensor, name=mapped)


def _check_layers(context: Context, tensors: list[StoredTensor]) -> None:
    found = {int(t.name.split(".")[1]) for t in tensors if t.name.startswith("blk.")}
    if missing := set(range(context.n_layers)) - found:
        raise FileFormatError(
            f"{context.config.path}: {context.n_layers} layers, but the checkpoint has no tensors of "
            f"layer {min(missing)}"
        )

"""What a GGUF file takes over from a model: the tensors in the order of ggml, and the metadata.

A checkpoint whose config.json names an architecture is converted to llama.cpp's names and keys (`hf`); without one, the
names may tell a diffusion model (`image_models`). Of others, or if the user wants it, tensors keep their names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from quantcore._base.text import quote, shorten
from quantcore.conversion.checkpoint_rules import transposed_weights
from quantcore.conversion.file_types import FILE_TYPES, FileType
from quantcore.conversion.hf import convert, is_known, scaled_weights
from quantcore.conversion.image_models import find_image_model, fold, image_model, take_image_model
from quantcore.conversion.metadata import set_keys
from quantcore.conversion.rules import is_quantizable
from quantcore.errors import FileFormatError
from quantcore.files.disk import label
from quantcore.ggml.types import TYPES_BY_NAME, GGMLType
from quantcore.gguf.layout import (
    ARCHITECTURE_KEY,
    FILE_TYPE_KEY,
    QUANTIZATION_VERSION_KEY,
    SPLIT_KEYS,
    layer_then_name,
)
from quantcore.gguf.parts import GGUFModel
from quantcore.gguf.values import KeyValue
from quantcore.models.bitsandbytes_decoder import packed_weights
from quantcore.models.checkpoint_config import CONFIG, read_config, readable_config
from quantcore.models.decoded_checkpoint import DecodedCheckpoint, DecodedShard, decode_checkpoint
from quantcore.models.ggml_repacker import BLOCKS, MXFP4, NVFP4
from quantcore.models.opening import Model, checkpoint_tensors
from quantcore.models.tensors import StoredTensor
from quantcore.safetensors.reader import Checkpoint

_KEPT_NAMES = "tensors keep the names of the checkpoint: llama.cpp does not run the file"
_DECODED_NVFP4 = "weights in NVFP4 are decoded where rows are no blocks of 64 or llama.cpp ignores the scales beside"
_DESCRIBED = {"architectures", "model_type"}
"""What a config.json of transformers has."""
_F32 = TYPES_BY_NAME["F32"]
_REPLACED_KEYS = {QUANTIZATION_VERSION_KEY, FILE_TYPE_KEY, *SPLIT_KEYS}


@dataclass(frozen=True)
class Source:
    """What a file is made of.

    Attributes
    ----------
    tensors : list of StoredTensor
    kvs : tuple of KeyValue
    notices : tuple of str
    is_converted : bool
        Whether the model is a checkpoint with the names and keys of llama.cpp, which are those of its converter's
        file of floats.
    kept : mapping of str to GGMLType
        The types of tensors that are not quantized, by name; others that are not keep their own.
    """

    tensors: list[StoredTensor]
    kvs: tuple[KeyValue, ...]
    notices: tuple[str, ...]
    is_converted: bool = False
    kept: Mapping[str, GGMLType] = field(default_factory=dict)


def take_source(
    model: Model, arch: str | None, *, keep_names: bool, file_type: FileType | None, keep_order: bool = False
) -> Source:
    """The tensors and keys of the file.

    Parameters
    ----------
    model : Model
    arch : str, optional
        The architecture to name in the file; tensors of a checkpoint keep their names then, too.
    keep_names : bool
        Keep the names of a checkpoint's tensors.
    file_type : FileType, optional
        The kind of file, if the types of its tensors follow from one. Of a file of floats, tensors and keys are in the
        order of llama.cpp's converter; otherwise tensors are in the order of ggml.
    keep_order : bool, default False
        Keep the tensors of a GGUF model in its own order.
    """
    container = model.container
    float_type = file_type if file_type and not file_type.is_quantized else None
    if isinstance(container, GGUFModel):
        tensors, left_out = take_tensors(model, keep_order=keep_order)
        kvs, notices = take_metadata(model, arch)
        tensors, shapes = fold(tensors)
        return Source(tensors, set_keys(kvs, shapes), (*notices, *left_out))
    config = {} if keep_names or arch is not None else read_config(container.folder) or {}
    is_described = bool(config.keys() & _DESCRIBED)
    # Blocks of NVFP4 are nothing without the scales beside them, which only llama.cpp's names have a place for.
    is_kept = file_type is None or file_type is float_type or file_type.default.name == NVFP4
    scaled = scaled_weights(config, label(container.folder / CONFIG)) if is_described and is_kept else ()
    checkpoint = _decode(container, scaled)
    tensors, left_out = _take_decoded(checkpoint)
    if not is_described:
        image = None if keep_names else image_model(arch)
        if arch is None and not keep_names:
            image = find_image_model((t.name for t in tensors), model.label)
        if image is not None:
            taken = take_image_model(image, tensors, float_type.default if float_type else None, model.label)
            kvs = (KeyValue.string(ARCHITECTURE_KEY, image.name), *taken.kvs)
            return Source(taken.tensors, kvs, (*taken.notices, *left_out), kept=taken.kept)
        kvs, notices = take_metadata(model, arch)
        return Source(tensors, kvs, (*notices, _KEPT_NAMES, *left_out))
    shards = {t.name: i for i, shard in enumerate(_sorted_shards(checkpoint)) for t in shard.tensors}
    ordered = sorted(tensors, key=lambda tensor: (shards[tensor.name], tensor.name))
    coded = {tensor.type for tensor in tensors} & BLOCKS.keys() if float_type else set()
    # What the converter says of a file of floats in which weights keep their codes.
    said = FILE_TYPES[NVFP4 if NVFP4 in coded else "MXFP4_MOE"] if coded else float_type
    found = convert(container.folder, config, ordered, said.id if said else 0)
    named = found.tensors if float_type else _sort(found.tensors)
    kept = {t.name: _kept_type(t, float_type) for t in named if not is_quantizable(t.name, t.shape)}
    kept |= {t.name: TYPES_BY_NAME[t.type] for t in named if t.type in coded}
    told = [*found.notices, *left_out]
    told += (f"weights in {kind} keep their codes, as llama.cpp's converter has it" for kind in sorted(coded))
    if is_kept and any(t.origin is not None and t.origin.type == NVFP4 and t.type != NVFP4 for t in tensors):
        told.append(_DECODED_NVFP4)
    return Source(named, found.kvs, tuple(told), is_converted=True, kept=kept)


def is_converted(checkpoint: Checkpoint) -> bool:
    """Whether a GGUF file of a checkpoint has llama.cpp's names and keys, if nothing else is asked for."""
    config = readable_config(checkpoint.folder) or {}
    return bool(config.keys() & _DESCRIBED) and is_known(config)


def _kept_type(tensor: StoredTensor, float_type: FileType | None) -> GGMLType:
    """The type of a tensor that llama-quantize would keep: a matrix of one row is none there, but for the converter."""
    is_matrix = len(tensor.shape) > 1 and is_quantizable(tensor.name, (2,) * len(tensor.shape))
    return float_type.default if float_type and is_matrix else _F32


def _sorted_shards(checkpoint: DecodedCheckpoint) -> list[DecodedShard]:
    return sorted(checkpoint.shards, key=lambda shard: shard.file_path.name)


def take_tensors(model: Model, *, keep_order: bool = False) -> tuple[list[StoredTensor], tuple[str, ...]]:
    """The tensors that GGUF can hold by layer, then by name, or in the model's own order, and notices of those that are
    left out.

    Weights of a checkpoint that are stored as codes are decoded to float32; MXFP4 becomes the blocks of ggml.
    """
    container = model.container
    if not isinstance(container, GGUFModel):
        return _take_decoded(_decode(container))
    for tensor in model.stored:
        if tensor.ggml is None:
            raise FileFormatError(f"{model.label}: tensor {quote(tensor.name)}: GGUF has no type for {tensor.type}")
    kept, notices = _take_possible(model.stored)
    return kept if keep_order else _sort(kept), notices


def _decode(checkpoint: Checkpoint, scaled: tuple[str, ...] = ()) -> DecodedCheckpoint:
    """A checkpoint with floats and blocks of ggml; `scaled`: endings of the names of weights that may have a scale."""
    config = readable_config(checkpoint.folder)
    transposed = transposed_weights(config, packed_weights(checkpoint))
    return decode_checkpoint(checkpoint, config, "F32", transposed=transposed, blocks={MXFP4: ("",), NVFP4: scaled})


def _take_decoded(checkpoint: DecodedCheckpoint) -> tuple[list[StoredTensor], tuple[str, ...]]:
    kept, notices = _take_possible(checkpoint_tensors(checkpoint))
    return _sort(kept), (*checkpoint.notices, *notices)


def _take_possible(stored: Iterable[StoredTensor]) -> tuple[list[StoredTensor], tuple[str, ...]]:
    """The tensors that GGUF has a type for, and notices of the others."""
    kept, notices = [], []
    for tensor in stored:
        if tensor.ggml is None:
            notices.append(f"{shorten(tensor.name)}: left out (GGUF has no type for {tensor.type})")
        else:
            kept.append(tensor if tensor.shape else replace(tensor, shape=(1,)))
    return kept, tuple(notices)


def _sort(tensors: list[StoredTensor]) -> list[StoredTensor]:
    return sorted(tensors, key=lambda tensor: layer_then_name(tensor.name))


def take_metadata(model: Model, arch: str | None) -> tuple[tuple[KeyValue, ...], tuple[str, ...]]:
    """The metadata to write, of a checkpoint only the architecture, and what the user should know of it.

    `arch` takes the place of the model's own architecture.
    """
    container = model.container
    if isinstance(container, GGUFModel):
        return _copy_metadata(container, arch), container.notices
    found = arch or _find_architecture(container.folder)
    unknown = f"{ARCHITECTURE_KEY}: 'unknown', since no config.json tells it; --arch (arch=) names it"
    return (KeyValue.string(ARCHITECTURE_KEY, found or "unknown"),), () if found else (unknown,)


def is_architecture(value: object) -> bool:
    """Whether a value can be the name of an architecture."""
    return isinstance(value, str) and value != "" and value.isprintable()


def _copy_metadata(reader: GGUFModel, arch: str | None) -> tuple[KeyValue, ...]:
    kvs = tuple(kv for kv in reader.kvs if kv.key not in _REPLACED_KEYS)
    if arch is None:
        return kvs
    named = KeyValue.string(ARCHITECTURE_KEY, arch)
    if all(kv.key != ARCHITECTURE_KEY for kv in kvs):
        return (named, *kvs)
    return tuple(named if kv.key == ARCHITECTURE_KEY else kv for kv in kvs)


def _find_architecture(folder: Path) -> str | None:
    """`model_type` of the checkpoint's config.json, if that can be read and has one."""
    model_type = (readable_config(folder) or {}).get("model_type")
    return str(model_type) if is_architecture(model_type) else None

"""A Hugging Face folder as the source of a GGUF file: the tensors and keys that llama.cpp's converter would write."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantcore._base.extras import missing_extra
from quantcore._base.text import quote
from quantcore.conversion.hf.architecture import Architecture, Context
from quantcore.conversion.hf.defaults import fill_in
from quantcore.conversion.hf.hyperparameters import HEADS, KV_HEADS, LAYERS, VOCABULARY, Hyperparameters
from quantcore.conversion.hf.keys import collect, reading, write_metadata, write_quantization_version
from quantcore.conversion.hf.registry import ARCHITECTURES
from quantcore.conversion.hf.tensors import arrange
from quantcore.conversion.hf.vocabularies import Tokenizer
from quantcore.errors import FileFormatError
from quantcore.files.disk import label
from quantcore.gguf.values import KeyValue
from quantcore.models.checkpoint_config import CONFIG
from quantcore.models.tensors import StoredTensor


@dataclass(frozen=True)
class Converted:
    """What a folder becomes.

    Attributes
    ----------
    tensors : list of StoredTensor
        In the order of llama.cpp's converter.
    kvs : tuple of KeyValue
    notices : tuple of str
    """

    tensors: list[StoredTensor]
    kvs: tuple[KeyValue, ...]
    notices: tuple[str, ...]


def convert(folder: Path, config: dict[str, Any], sources: Iterable[StoredTensor], file_type: int) -> Converted:
    """The tensors and keys of a GGUF file for a checkpoint.

    Parameters
    ----------
    folder : Path
        With config.json and the files of the tokenizer.
    config : dict
        config.json.
    sources : iterable of StoredTensor
        The tensors of the checkpoint, shard by shard, in each by name.
    file_type : int
        `general.file_type`.

    Raises
    ------
    FileFormatError
        The architecture is not one of those that are converted, or a file or value is missing or contradicts others.
    MissingExtraError
        The package `gguf` is missing.
    """
    path = label(folder / CONFIG)
    record = find_architecture(config, path)
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise missing_extra("converting a Hugging Face folder", "gguf", error) from None
    hyperparameters = read_hyperparameters(config, path)
    sources = list(sources)
    _check(record, hyperparameters)
    _check_extents(hyperparameters, sources)
    context = Context(
        folder,
        hyperparameters,
        Tokenizer(folder, hyperparameters.find(VOCABULARY)),
        GGUFWriter(None, record.gguf_name),
        hyperparameters.count(LAYERS),
        file_type,
        [],
    )
    tensors = arrange(record, context, sources)
    for tensor in tensors:
        _declare(context.writer, tensor)
    with reading(folder, "model card"):
        write_metadata(folder, context.writer)
    with reading(folder, CONFIG):
        record.write_keys(context)
    write_quantization_version(context.writer)
    with reading(folder, "tokenizer"):
        record.write_vocabulary(context)
    return Converted(tensors, collect(context), tuple(context.notices))


def read_hyperparameters(config: dict[str, Any], path: str) -> Hyperparameters:
    """The hyperparameters of config.json, those of the text model first, and the defaults of transformers."""
    text = config.get("text_config")
    values = {**config, **text} if isinstance(text, dict) else config
    return Hyperparameters(fill_in(values, str(values.get("model_type"))), path)


def find_architecture(config: dict[str, Any], path: str) -> Architecture:
    """The record of a checkpoint's architecture; a FileFormatError if there is none."""
    name = _architecture_name(config)
    if name is None:
        raise FileFormatError(f"{path}: architectures: missing, so that the model is not known")
    if name not in ARCHITECTURES:
        raise FileFormatError(
            f"{path}: architecture {quote(name)} is not converted; known: {', '.join(ARCHITECTURES)}; --keep-names "
            "(keep_names=True) writes a container that llama.cpp does not run"
        )
    return ARCHITECTURES[name]


def is_known(config: dict[str, Any]) -> bool:
    """Whether a checkpoint's architecture is one of those that are converted."""
    return _architecture_name(config) in ARCHITECTURES


def _architecture_name(config: dict[str, Any]) -> str | None:
    found: Any = config.get("architectures")
    text = config.get("text_config")
    if isinstance(text, dict) and text.get("architectures") is not None:
        found = text["architectures"]
    name = found[0] if isinstance(found, list) and found else None
    return name if isinstance(name, str) else None


def scaled_weights(config: dict[str, Any], path: str) -> tuple[str, ...]:
    """Endings of the names of a checkpoint's weights whose products llama.cpp multiplies by the scale beside them."""
    return find_architecture(config, path).scaled


def _check(record: Architecture, config: Hyperparameters) -> None:
    for names in record.required:
        config.count(names)
    n_heads = config.count(HEADS)
    n_kv_heads = config.find(KV_HEADS)
    if n_kv_heads is not None and (n_kv_heads < 1 or n_heads % n_kv_heads):
        raise FileFormatError(f"{config.path}: {n_heads} attention heads cannot share {n_kv_heads} heads of keys")


def _check_extents(config: Hyperparameters, sources: list[StoredTensor]) -> None:
    """Refuse sizes that no tensor has: lists as long as they say would be made of them."""
    n_layers = config.count(LAYERS)
    if n_layers > len(sources):
        raise FileFormatError(f"{config.path}: {n_layers} layers, but the checkpoint has {len(sources)} tensors")
    largest = max((extent for tensor in sources for extent in tensor.shape), default=0)
    for names in (VOCABULARY, ("head_dim",)):
        if (size := config.find(names)) is not None and size > largest:
            raise FileFormatError(f"{config.path}: {names[0]} is {size}, but no tensor of the checkpoint is so large")


def _declare(writer: Any, tensor: StoredTensor) -> None:
    """Tell `gguf` of a tensor, so that it can count the parameters."""
    from gguf import GGMLQuantizationType
    from numpy import dtype

    try:
        writer.add_tensor_info(tensor.name, tensor.shape, dtype("float32"), 4 * tensor.size, GGMLQuantizationType.F32)
    except ValueError:
        raise FileFormatError(f"{tensor.file}: two tensors are {quote(tensor.name)} in llama.cpp") from None

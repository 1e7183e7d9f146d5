"""Whole GGUF models back to floats: `dequantize_model`, to GGUF or to a checkpoint of safetensors.

A checkpoint gets the names of Hugging Face (`hf.restoring`), and one type for all of its floats.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from quantcore._base import arguments
from quantcore.conversion.checkpoint_files import Shard, check_folder, create_folder, index_text, json_text
from quantcore.conversion.file_types import as_file_type
from quantcore.conversion.gguf_pipeline import OutputPart, PlannedTensor, check_plan, write_model
from quantcore.conversion.gguf_source import take_source, take_tensors
from quantcore.conversion.hf import restore
from quantcore.conversion.image_models import image_model
from quantcore.conversion.metadata import set_keys, values_by_key
from quantcore.conversion.options import ConversionOptions
from quantcore.conversion.outcome import ModelReport
from quantcore.conversion.splitting import SplitLimits
from quantcore.conversion.to_gguf import carry_out, describe_types, report_plan
from quantcore.errors import FileFormatError, InvalidValueError, OutputFileError
from quantcore.files.disk import check_output, label, local_path
from quantcore.ggml.formats import supported_format
from quantcore.ggml.types import GGMLType, GGUFQuantType
from quantcore.gguf.layout import ARCHITECTURE_KEY, MAX_ELEMENTS
from quantcore.gguf.parts import GGUFModel
from quantcore.models.checkpoint_config import CONFIG
from quantcore.models.opening import Model, open_model
from quantcore.models.tensors import ggml_type
from quantcore.safetensors.folders import INDEX_NAME, SINGLE_NAME

__all__ = ["dequantize_model"]

_SHARD_BYTES = 5_000_000_000
"""What transformers has in a file at most."""
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def dequantize_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    qtype: GGUFQuantType | str | int = GGUFQuantType.F32,
    *,
    keep_names: bool = False,
    split_max_size: int | None = None,
    long_names: bool = False,
    force: bool = False,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelReport:
    """Decode a GGUF model to floats: to another GGUF file, or to a Hugging Face checkpoint.

    Parameters
    ----------
    source : path
        A GGUF file, or any part of a split model.
    target : path
        `*.gguf`: quantized tensors are decoded to `qtype`, the others kept unchanged. `*.safetensors`, or else a
        folder, which is created if necessary: all floats get `qtype`, and the names and shapes of a Hugging Face
        checkpoint, if the architecture is one of those that `quantize_model` converts (needs the extra `hf`). A folder
        gets its config.json, if that follows from the metadata; no tokenizer. The notices tell what is not written.
    qtype : F32, F16 or BF16
        The type of the decoded tensors.
    keep_names : bool, default False
        Keep the names and shapes of the GGUF file in a checkpoint, too.
    split_max_size : int, optional
        Bytes in a shard of a folder; None: 5 GB.
    long_names, force, n_threads, progress
        As for `quantize_model`.

    Returns
    -------
    ModelReport

    Raises
    ------
    ValueError
        The input is malformed, or has a quantized type without kernels; a scale is inf or NaN; `qtype` is not a float
        type; a tensor has no place in a checkpoint of its architecture.
    OSError
        As for `quantize_model`.
    """
    fmt = supported_format(qtype)
    if fmt.block_size != 1:
        raise InvalidValueError(f"qtype: expected F32, F16 or BF16, got {fmt.name}")
    keep_names = arguments.flag(keep_names, "keep_names")
    options = ConversionOptions(target, force, False, n_threads, progress, long_names)
    is_file = os.fsdecode(target).endswith(".gguf")
    if is_file and (keep_names or split_max_size is not None):
        raise InvalidValueError(f"keep_names, split_max_size: go with a checkpoint, not with {label(target)}")
    if split_max_size is not None:
        arguments.integer(split_max_size, "split_max_size", 1, MAX_ELEMENTS)
    with open_model(source) as model:
        if not is_file:
            return _write_checkpoint(model, fmt, options, keep_names, split_max_size or _SHARD_BYTES)
        taken = take_source(model, None, keep_names=True, file_type=None)
        plan = [PlannedTensor(t, ggml_type(t) if t.block_size == 1 else fmt) for t in taken.tensors]
        check_plan(plan, allow_requantize=True)
        if image_model(values_by_key(taken.kvs, ())(ARCHITECTURE_KEY)):
            options = options.for_images()
        kvs = set_keys(taken.kvs, describe_types(as_file_type(qtype).id))
        return carry_out([OutputPart(target, kvs, plan)], model.paths, list(taken.notices), options)


def _write_checkpoint(
    model: Model, fmt: GGMLType, options: ConversionOptions, keep_names: bool, shard_bytes: int
) -> ModelReport:
    container = model.container
    if not isinstance(container, GGUFModel):
        raise FileFormatError(f"{model.label}: is safetensors already; dequantize_checkpoint decodes it")
    if not os.fsdecode(options.target):
        raise OutputFileError("output: expected the path of a file or a folder, got ''")
    target = local_path(options.target)
    is_folder = target.suffix != ".safetensors"
    if is_folder:
        check_folder(target, "*.safetensors or *.gguf")
    tensors, left_out = take_tensors(model)
    restored = restore(container, tensors, keep_names=keep_names)
    plan = [PlannedTensor(t, ggml_type(t) if t.is_integer else fmt) for t in restored.tensors]
    check_plan(plan, allow_requantize=True)
    shards = [Shard(target, plan)]
    texts: dict[Path, bytes] = {}
    if is_folder:
        shards = _cut(target, plan, shard_bytes)
        if len(shards) > 1:
            texts[target / INDEX_NAME] = index_text({shard.path.name: shard.specs for shard in shards})
        if restored.config is not None:
            texts[target / CONFIG] = json_text(restored.config | {"torch_dtype": _DTYPES[fmt.name]})
    for path in (*(shard.path for shard in shards), *texts):
        check_output(path, force=options.force, inputs=model.paths, makes_folder=is_folder)
    with create_folder(target) if is_folder else contextlib.nullcontext():
        write_model(shards, options, model.paths, texts=texts)
    notices = restored.notices if is_folder else [n for n in restored.notices if CONFIG not in n]
    return report_plan(plan, [*container.notices, *notices, *left_out])


def _cut(folder: Path, plan: list[PlannedTensor], shard_bytes: int) -> list[Shard]:
    parts = SplitLimits(max_size=shard_bytes).cut(plan)
    if len(parts) == 1:
        return [Shard(folder / SINGLE_NAME, plan)]
    stem = SINGLE_NAME.removesuffix(".safetensors")
    return [
        Shard(folder / f"{stem}-{i:05d}-of-{len(parts):05d}.safetensors", part) for i, part in enumerate(parts, start=1)
    ]

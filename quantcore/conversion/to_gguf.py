"""Whole models to GGUF: `quantize_model`."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from quantcore._base import arguments
from quantcore.conversion.file_types import COPY, FILE_TYPES, as_file_type
from quantcore.conversion.gguf_pipeline import OutputPart, PlannedTensor, check_plan, write_model
from quantcore.conversion.gguf_settings import GGUFSettings, check_arch, check_split, check_tensor_types
from quantcore.conversion.gguf_source import Source, take_source
from quantcore.conversion.image_models import image_model, tell_slow_types
from quantcore.conversion.layers import check_layers
from quantcore.conversion.metadata import (
    copied_file_type,
    count_layers,
    describe_imatrix,
    override_keys,
    set_keys,
    values_by_key,
)
from quantcore.conversion.model_facts import read_facts
from quantcore.conversion.options import ConversionOptions, default_target
from quantcore.conversion.outcome import ModelReport, TensorReport
from quantcore.conversion.rules import TypeRules
from quantcore.conversion.splitting import keep_parts, make_parts
from quantcore.conversion.type_plan import plan_types, rename_tensors, take_imatrix
from quantcore.errors import InvalidValueError, OutputFileError
from quantcore.files.disk import check_output, label
from quantcore.ggml.formats import supported_format, take_effort
from quantcore.ggml.types import GGUFQuantType
from quantcore.gguf.imatrix import Imatrix
from quantcore.gguf.layout import ARCHITECTURE_KEY, FILE_TYPE_KEY, QUANTIZATION_VERSION_KEY
from quantcore.gguf.parts import GGUFModel
from quantcore.gguf.values import KeyValue
from quantcore.gguf.writer import check_tensor
from quantcore.models.opening import Model, open_model
from quantcore.models.tensors import StoredTensor, ggml_type

__all__ = ["quantize_model"]

_QUANTIZATION_VERSION = 2


def quantize_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None,
    qtype: GGUFQuantType | str | int,
    *,
    pure: bool = False,
    imatrix: Imatrix | str | os.PathLike[str] | None = None,
    include_weights: Iterable[str] = (),
    exclude_weights: Iterable[str] = (),
    effort: str = "reference",
    tensor_types: Iterable[tuple[str, GGUFQuantType | str | int]] = (),
    output_tensor_type: GGUFQuantType | str | int | None = None,
    token_embedding_type: GGUFQuantType | str | int | None = None,
    leave_output_tensor: bool = False,
    prune_layers: Iterable[int] = (),
    kv_overrides: Mapping[str, int | float | bool | str] | None = None,
    allow_requantize: bool = False,
    no_fallback: bool = False,
    keep_split: bool = False,
    split_max_size: int | None = None,
    split_max_tensors: int | None = None,
    arch: str | None = None,
    keep_names: bool = False,
    long_names: bool = False,
    force: bool = False,
    dry_run: bool = False,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelReport:
    """Quantize a model to GGUF; a GGUF input gives llama-quantize's file byte for byte.

    Parameters
    ----------
    source : path
        A GGUF file, or any part of a split model; or safetensors: a file, a folder of shards with its index, or the
        index. A folder of transformers needs the extra `hf`.
    target : path or None
        The GGUF file to write; it is written atomically. None: `MODEL-TYPE.gguf` beside the source.
    qtype : str, GGUFQuantType or int
        A name of llama-quantize in any case, such as "Q4_K_M", which stands for a mix of types; a type stands for the
        file of its name. Vectors, norms, position and token-type embeddings and other sensitive tensors keep their
        types. "COPY" keeps all of them.
    pure : bool, default False
        Every quantized tensor gets the default type of the file instead of the mix.
    imatrix : Imatrix or path, optional
        Importance of the input channels; a path is loaded. IQ1, IQ2, IQ3_XXS and Q2_K_S files need one.
    include_weights, exclude_weights : iterable of str
        Use the importance of tensors whose names contain one of these words, or all but those. One of the two.
    effort : {"reference", "best"}, default "reference"
        "reference": llama-quantize's bytes. "best": a wider search in the same types, as for `quantcore.quantize`.
    tensor_types : iterable of (regex, type)
        The first pattern that is found in a tensor's name gives its type.
    output_tensor_type, token_embedding_type : type, optional
        The types of `output.weight` and `token_embd.weight`.
    leave_output_tensor : bool, default False
        Keep `output.weight` unchanged.
    prune_layers : iterable of int
        Layers to leave out; the others are numbered anew.
    kv_overrides : mapping of str to int, float, bool or str, optional
        Metadata to set. Integers are stored as UINT32, floats as FLOAT32.
    allow_requantize : bool, default False
        Accept tensors that are already quantized.
    no_fallback : bool, default False
        Refuse a tensor whose rows are no whole blocks of its type. Otherwise it gets another type, with a notice.
    keep_split : bool, default False
        Write the parts that the GGUF input has: `target-00001-of-0000N.gguf` and so on, all of them or none; `.gguf`
        at the end of `target` is left out.
    split_max_size, split_max_tensors : int, optional
        Write parts of so many bytes or tensors at most, as `split_model` cuts them.
    arch : str, optional
        `general.architecture` of the output. None: the input's. A checkpoint's tensors keep their names then. One of
        ComfyUI-GGUF ("flux", "wan", ...) makes a file for that; without, the names of the tensors tell such a model.
    keep_names : bool, default False
        Keep the names of a checkpoint's tensors. Otherwise, and with a config.json, they get llama.cpp's, and its
        hyperparameters and tokenizer go into the metadata, as llama.cpp's converter has it.
    long_names : bool, default False
        Allow tensors' names of up to 127 bytes, as ComfyUI's files have them; llama.cpp does not read more than 63.
    force : bool, default False
        Replace an existing output.
    dry_run : bool, default False
        Plan and report only.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The file does not depend on it.
    progress : callable, optional
        Called with (bytes done, bytes in all) of the input.

    Returns
    -------
    ModelReport

    Raises
    ------
    ValueError
        An input file is malformed (FileFormatError); a tensor holds NaN, inf or a value too large for its type; a type,
        pattern or name is invalid or fits no tensor; importance is missing where the file needs it, or is of another
        size than the tensor.
    OSError
        A file cannot be read or written; the output exists or is the input (OutputFileError).
    """
    is_copy = isinstance(qtype, str) and qtype.upper() == COPY
    file_type = None if is_copy else as_file_type(qtype)
    settings = GGUFSettings(
        file_type,
        TypeRules(
            file_type or FILE_TYPES["F32"],
            arguments.flag(pure, "pure"),
            check_tensor_types(tensor_types),
            None if output_tensor_type is None else supported_format(output_tensor_type, "output_tensor_type"),
            None if token_embedding_type is None else supported_format(token_embedding_type, "token_embedding_type"),
            arguments.flag(leave_output_tensor, "leave_output_tensor"),
            not arguments.flag(no_fallback, "no_fallback"),
        ),
        check_arch(arch),
        arguments.flag(keep_names, "keep_names"),
        arguments.flag(allow_requantize, "allow_requantize"),
        override_keys({} if kv_overrides is None else kv_overrides),
        check_layers(prune_layers),
        take_imatrix(imatrix, include_weights, exclude_weights),
        arguments.flag(keep_split, "keep_split"),
        check_split(keep_split, split_max_size, split_max_tensors),
    )
    if target is None:
        target = default_target(source, file_type.name if file_type else COPY)
    is_refined = take_effort(effort)
    options = ConversionOptions(target, force, dry_run, n_threads, progress, long_names, is_refined=is_refined)
    with open_model(source) as model:
        return _convert(model, settings, options)


def _convert(model: Model, settings: GGUFSettings, options: ConversionOptions) -> ModelReport:
    """Plan the conversion of an open model, and carry it out."""
    if settings.keep_split and not isinstance(model.container, GGUFModel):
        raise InvalidValueError(f"keep_split: {model.label} is safetensors; split_max_size (--split-max-size) cuts it")
    taken = take_source(
        model,
        settings.arch,
        keep_names=settings.keep_names,
        file_type=settings.file_type,
        keep_order=settings.keep_split,
    )
    notices = list(taken.notices)
    named, n_layers = rename_tensors(taken.tensors, settings.pruned)
    values = values_by_key(taken.kvs, settings.overrides)
    plan = _plan(named, taken, values, settings, options, notices)
    if image_model(values(ARCHITECTURE_KEY)):
        options = options.for_images()
        notices += tell_slow_types(planned.target for planned in plan)
    elif taken.is_converted and settings.is_float:
        options = replace(options, keeps_ones=True)
    check_plan(plan, allow_requantize=settings.allow_requantize)
    kvs = _metadata(model, taken, plan, n_layers, values, settings)
    parts = _divide(model, [old_name for old_name, _ in named], plan, kvs, settings, options)
    matrix = settings.matrix
    inputs = (*model.paths, *((matrix.path,) if matrix is not None and matrix.path else ()))
    return carry_out(parts, inputs, notices, options)


def _plan(
    named: list[tuple[str, StoredTensor]],
    taken: Source,
    values: Callable[[str], Any],
    settings: GGUFSettings,
    options: ConversionOptions,
    notices: list[str],
) -> list[PlannedTensor]:
    """The type of every tensor; what the user should know of them is added to `notices`."""
    if settings.file_type is None:
        plan = [PlannedTensor(tensor, ggml_type(tensor)) for _, tensor in named]
    else:
        plan = plan_types(
            named,
            settings.rules,
            read_facts(values),
            settings.matrix,
            notices,
            is_dry_run=options.dry_run,
            is_refined=options.is_refined,
        )
    kept = taken.kept if settings.file_type or taken.is_converted else {}
    return [
        replace(planned, target=kept[name]) if name in kept else planned
        for (name, _), planned in zip(named, plan, strict=True)
    ]


def _metadata(
    model: Model,
    taken: Source,
    plan: list[PlannedTensor],
    n_layers: int | None,
    values: Callable[[str], Any],
    settings: GGUFSettings,
) -> tuple[KeyValue, ...]:
    """The metadata of the output; `n_layers` is the number of layers if some are left out."""
    if taken.is_converted and settings.is_float:
        own = taken.kvs  # which have the keys of the types in their places already
    else:
        types = [planned.target for planned in plan]
        own = set_keys(
            taken.kvs,
            describe_types(settings.file_type.id if settings.file_type else copied_file_type(model, types)),
        )
    set_last = (
        *settings.overrides,
        *(() if settings.matrix is None else describe_imatrix(settings.matrix)),
        *(() if n_layers is None else (count_layers(n_layers, values),)),
    )
    return set_keys(own, set_last)


def _divide(
    model: Model,
    old_names: list[str],
    plan: list[PlannedTensor],
    kvs: tuple[KeyValue, ...],
    settings: GGUFSettings,
    options: ConversionOptions,
) -> list[OutputPart]:
    """The files that are written: one, or parts as the user wants them."""
    if settings.keep_split and isinstance(model.container, GGUFModel):
        return keep_parts(options.target, kvs, plan, [model.container.part_of(name) for name in old_names])
    if settings.limits is not None:
        return make_parts(options.target, kvs, settings.limits.cut(plan))
    return [OutputPart(options.target, kvs, plan)]


def describe_types(file_type: int) -> tuple[KeyValue, ...]:
    """What every file says of its types."""
    return (
        KeyValue.uint32(QUANTIZATION_VERSION_KEY, _QUANTIZATION_VERSION),
        KeyValue.uint32(FILE_TYPE_KEY, file_type),
    )


def carry_out(
    parts: list[OutputPart],
    inputs: tuple[str | os.PathLike[str], ...],
    notices: list[str],
    options: ConversionOptions,
) -> ModelReport:
    """Check the outputs, write the GGUF files, unless it is a dry run, and report."""
    plan = [planned for part in parts for planned in part.plan]
    for planned in plan:
        check_tensor(planned.source.name, planned.source.shape, planned.target, long_names=options.long_names)
    for part in parts:
        check_output(part.path, force=options.force, inputs=inputs)
    if os.fsdecode(options.target).endswith(".safetensors"):
        raise OutputFileError(f"{label(options.target)}: what is written is a GGUF file, not safetensors")
    if not options.dry_run:
        write_model(parts, options, inputs)
    is_split = parts[0].path != options.target
    return report_plan(plan, notices, tuple(os.fsdecode(p.path) for p in parts) if is_split else ())


def report_plan(plan: list[PlannedTensor], notices: list[str], parts: tuple[str, ...] = ()) -> ModelReport:
    """The report of a plan that was carried out."""
    tensors = (
        TensorReport(p.source.name, p.source.shape, p.source.file_type, p.target.name, p.source.file_bytes, p.nbytes)
        for p in plan
    )
    return ModelReport(tuple(tensors), tuple(notices), parts)

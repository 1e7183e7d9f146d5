"""Whole models to GGUF and back to floats: `quantize_model`, `dequantize_model`."""

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from quantcore import _parallel
from quantcore._files import check_output, label
from quantcore.errors import InvalidTypeError, InvalidValueError, OutputFileError
from quantcore.formats import supported_format
from quantcore.ggml_types import GGMLType, GGUFQuantType
from quantcore.gguf.layout import FILE_TYPE_KEY, QUANTIZATION_VERSION_KEY, KeyValue
from quantcore.gguf.pipeline import PlannedTensor, check_plan, write_model
from quantcore.gguf.rules import FILE_TYPES, OUTPUT, TypeRules
from quantcore.gguf.sources import Source, SourceTensor, is_architecture
from quantcore.gguf.writer import check_tensor
from quantcore.model_report import ModelReport, TensorReport

__all__ = ["dequantize_model", "quantize_model"]

_QUANTIZATION_VERSION = 2
_FLOAT_NAMES = ("F32", "F16", "BF16", "F64")


def quantize_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    qtype: GGUFQuantType | str | int,
    *,
    pure: bool = False,
    tensor_types: Iterable[tuple[str, GGUFQuantType | str | int]] = (),
    output_tensor_type: GGUFQuantType | str | int | None = None,
    token_embedding_type: GGUFQuantType | str | int | None = None,
    leave_output_tensor: bool = False,
    allow_requantize: bool = False,
    arch: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelReport:
    """Quantize a model to GGUF; with `pure`, a GGUF input gives the very file that llama-quantize writes.

    Parameters
    ----------
    source : path
        A GGUF file; or safetensors: a file, a folder of shards with its index, or the index.
    target : path
        The GGUF file to write. It appears whole or not at all.
    qtype : GGUFQuantType, str or int
        The type of the matrices. Vectors, norms, position and token-type embeddings and other delicate tensors keep
        theirs, by llama-quantize's rules.
    pure : bool, default False
        Every quantized tensor gets `qtype`. Otherwise Q4_0 keeps the output matrix (or the token embeddings that serve
        as one) in Q8_0, and says so.
    tensor_types : iterable of (regex, type)
        The first pattern that is found in a tensor's name gives its type.
    output_tensor_type, token_embedding_type : type, optional
        For `output.weight`; for `token_embd.weight`.
    leave_output_tensor : bool, default False
        Keep `output.weight` as it is.
    allow_requantize : bool, default False
        Take tensors that are quantized already.
    arch : str, optional
        `general.architecture` of the output. None: the input's; for safetensors `model_type` of its config.json.
    force : bool, default False
        Replace an existing output.
    dry_run : bool, default False
        Plan and report only.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The file does not depend on it.
    progress : callable, optional
        Called with (bytes done, bytes in all) of the input, as they are done.

    Returns
    -------
    ModelReport

    Raises
    ------
    ValueError
        An input file is malformed (FileFormatError); a tensor holds NaN, inf or a value too large for its type; a type,
        pattern or name is not possible.
    OSError
        A file cannot be read or written; the output exists or is the input (OutputFileError).
    """
    rules = TypeRules(
        supported_format(qtype),
        bool(pure),
        _overrides(tensor_types),
        None if output_tensor_type is None else supported_format(output_tensor_type, "output_tensor_type"),
        None if token_embedding_type is None else supported_format(token_embedding_type, "token_embedding_type"),
        bool(leave_output_tensor),
    )
    with Source(source, arch=_checked_arch(arch)) as model:
        names = [t.name for t in model.tensors]
        notices = [*model.notices, *rules.without_effect(names)]
        has_output = OUTPUT in names
        plan = [_planned(t, rules, has_output, notices) for t in model.tensors]
        return _carried_out(
            model, plan, notices, target, rules.default, allow_requantize, force, dry_run, n_threads, progress
        )


def dequantize_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    qtype: GGUFQuantType | str | int = GGUFQuantType.F32,
    *,
    force: bool = False,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelReport:
    """Decode the quantized tensors of a GGUF model to F32, F16 or BF16; the others are kept as they are.

    Parameters
    ----------
    source, target : path
        GGUF files. The output appears whole or not at all.
    qtype : F32, F16 or BF16
        The type of the decoded tensors.
    force, n_threads, progress
        As for `quantize_model`.

    Returns
    -------
    ModelReport

    Raises
    ------
    ValueError
        The input is malformed, or has a quantized type without kernels; a scale is inf or NaN; `qtype` is not a float
        type.
    OSError
        As for `quantize_model`.
    """
    fmt = supported_format(qtype)
    if fmt.block_size != 1:
        raise InvalidValueError(f"qtype: expected F32, F16 or BF16, got {fmt.name}")
    with Source(source) as model:
        plan = [PlannedTensor(t, t.type if t.type.block_size == 1 else fmt) for t in model.tensors]
        return _carried_out(model, plan, list(model.notices), target, fmt, True, force, False, n_threads, progress)


def _carried_out(
    model: Source,
    plan: list[PlannedTensor],
    notices: list[str],
    target: str | os.PathLike[str],
    default: GGMLType,
    allow_requantize: bool,
    force: bool,
    dry_run: bool,
    n_threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> ModelReport:
    _parallel.check_threads(n_threads)
    for planned in plan:
        check_tensor(planned.source.name, planned.source.shape)
    check_plan(plan, allow_requantize=allow_requantize)
    check_output(target, force=force, inputs=model.paths)
    if os.fsdecode(target).endswith(".safetensors"):
        raise OutputFileError(f"{label(target)}: {default.name} is written to GGUF files, not to safetensors")
    if not dry_run:
        kvs = (
            *model.kvs,
            KeyValue.uint32(QUANTIZATION_VERSION_KEY, _QUANTIZATION_VERSION),
            KeyValue.uint32(FILE_TYPE_KEY, FILE_TYPES[default.name]),
        )
        total, done = sum(p.source.nbytes for p in plan), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        write_model(target, kvs, plan, force=force, inputs=model.paths, n_threads=n_threads, progress=advance)
    tensors = tuple(
        TensorReport(p.source.name, p.source.shape, p.source.type.name, p.target.name, p.source.nbytes, p.nbytes)
        for p in plan
    )
    return ModelReport(tensors, tuple(notices))


def _planned(tensor: SourceTensor, rules: TypeRules, has_output: bool, notices: list[str]) -> PlannedTensor:
    said: list[str] = []
    chosen = rules.target(tensor.name, tensor.shape, has_output=has_output, notice=said.append)
    if chosen is None:
        return PlannedTensor(tensor, tensor.type)
    if tensor.type.name not in _FLOAT_NAMES and tensor.type.block_size == 1:
        notices.append(f"{tensor.name}: {tensor.type.name} is not a float type: kept")
        return PlannedTensor(tensor, tensor.type)
    notices += said
    return PlannedTensor(tensor, chosen)


def _overrides(tensor_types: Any) -> tuple[tuple[re.Pattern[str], GGMLType], ...]:
    try:
        pairs = [(pattern, chosen) for pattern, chosen in tensor_types]
    except (TypeError, ValueError):
        raise InvalidTypeError(f"tensor_types: expected pairs of a regex and a type, got {tensor_types!r}") from None
    return tuple((_compiled(pattern), supported_format(chosen, "tensor_types")) for pattern, chosen in pairs)


def _compiled(pattern: Any) -> re.Pattern[str]:
    """A regular expression over tensor names."""
    if not isinstance(pattern, str):
        raise InvalidTypeError(f"tensor_types: expected a regular expression as a string, got {pattern!r}")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InvalidValueError(f"tensor_types: {pattern!r} is not a regular expression ({error})") from None


def _checked_arch(arch: str | None) -> str | None:
    if arch is not None and not isinstance(arch, str):
        raise InvalidTypeError(f"arch: expected a string, got {arch!r}")
    if arch is not None and not is_architecture(arch):
        raise InvalidValueError(f"arch: expected a name such as 'llama', got {arch!r}")
    return arch

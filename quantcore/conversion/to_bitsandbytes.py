"""safetensors checkpoints to 4 bits in the layout of bitsandbytes and transformers, and back, streamed.

What transformers makes a 4-bit linear layer is quantized, nothing else (`checkpoint_rules`). A folder is converted to a
folder: shards of the same names, the index, config.json with the quantization entered, tokenizer and other files that
go with the weights. All files are put in place together at the end, or none.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore._base.arrays import ELEMENT_TYPES
from quantcore._base.patterns import compile_patterns
from quantcore._base.text import brief, quote
from quantcore.blockwise.codebooks import check_block_size
from quantcore.blockwise.quantize import BLOCK_SIZE
from quantcore.conversion.checkpoint_files import METADATA, create_folder, index_text, json_text
from quantcore.conversion.checkpoint_rules import Layout, decide, transposed_weights
from quantcore.conversion.companions import copy_into, find_companions
from quantcore.conversion.options import ConversionOptions
from quantcore.conversion.outcome import ModelReport, TensorReport
from quantcore.errors import FileFormatError, InvalidValueError, OutputFileError
from quantcore.files.disk import OutputFiles, check_output, label, local_path
from quantcore.files.streaming import Progress, Slab, cut, stream
from quantcore.models.bitsandbytes_decoder import packed_weights, state_names
from quantcore.models.checkpoint_config import CONFIG, read_config
from quantcore.models.decoded_checkpoint import DecodedCheckpoint, decode_checkpoint
from quantcore.models.packed_weights import SLAB_ELEMENTS, Job, KeptTensor, QuantizedWeight
from quantcore.models.quantized_sources import without_quantization
from quantcore.models.transposed_weights import TransposedWeight
from quantcore.safetensors.reader import open_checkpoint
from quantcore.safetensors.writer import SafetensorsWriter

__all__ = ["dequantize_checkpoint", "quantize_checkpoint"]

_COMPUTE_DTYPES = ("float32", "float16", "bfloat16")
_STORAGE = {"uint8": "U8", "float16": "F16", "bfloat16": "BF16", "float32": "F32"}
_Progress = Callable[[int, int], None]
Bytes = NDArray[np.uint8]


def quantize_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    quant_type: str,
    *,
    block_size: int = BLOCK_SIZE,
    double_quant: bool = False,
    exclude: Iterable[str] = (),
    compute_dtype: str | None = None,
    quant_storage: str = "uint8",
    force: bool = False,
    dry_run: bool = False,
    n_threads: int | None = None,
    progress: _Progress | None = None,
) -> ModelReport:
    """Quantize a safetensors checkpoint to NF4 or FP4 in the layout that bitsandbytes and transformers load.

    Parameters
    ----------
    source : path
        A safetensors file, a folder of shards with its index, or the index.
    target : path
        `*.safetensors`: one file with all tensors. Otherwise a folder, created if necessary, with shards as in
        `source`.
    quant_type : {"nf4", "fp4"}
        The code.
    block_size : int, default 64
        A power of two from 32 to 4096.
    double_quant : bool, default False
        Quantize the scales as well (bitsandbytes' `compress_statistics`).
    exclude : iterable of regex
        Weights whose name matches one of the patterns are kept.
    compute_dtype : {"float32", "float16", "bfloat16"}, optional
        In which bitsandbytes is to multiply (`bnb_4bit_compute_dtype`); None: what most of the weights had.
    quant_storage : {"uint8", "float16", "bfloat16", "float32"}, default "uint8"
        The dtype under which the packed codes are stored, for FSDP; their bytes are the same. A weight whose codes do
        not fill whole elements of it is refused.
    force : bool, default False
        Replace existing files.
    dry_run : bool, default False
        Plan and report only.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`. The files do not depend on it.
    progress : callable, optional
        Called with (bytes done, bytes in all) of the input.

    Returns
    -------
    ModelReport
        With a notice for each kind of matrix that is kept without having been excluded, and the rule that decided for
        each tensor: the module tree of transformers, if that and torch are installed; otherwise a table of
        architectures, or the tensor's name.

    Raises
    ------
    ValueError
        An input file is malformed (FileFormatError) or quantized already; a weight holds NaN or inf; a parameter is
        not allowed.
    OSError
        A file cannot be read or written; an output exists or is an input (OutputFileError).
    """
    if quant_type not in ("nf4", "fp4"):
        raise InvalidValueError(f"quant_type: expected nf4 or fp4, got {brief(quant_type)}")
    block_size = check_block_size(block_size, "block_size")
    double_quant = arguments.flag(double_quant, "double_quant")
    if compute_dtype is not None:
        arguments.choice(compute_dtype, "compute_dtype", _COMPUTE_DTYPES)
    arguments.choice(quant_storage, "quant_storage", tuple(_STORAGE))
    patterns = compile_patterns(exclude, "exclude")
    options = ConversionOptions(target, force, dry_run, n_threads, progress)
    with open_checkpoint(source) as opened:
        settings = read_config(opened.folder)
        checkpoint = decode_checkpoint(opened, settings)
        if packed := packed_weights(opened):
            raise FileFormatError(f"{checkpoint.path}: is quantized already (it has the state of {quote(min(packed))})")
        decisions = decide(checkpoint, settings, patterns)
        kinds = {Layout.LINEAR: QuantizedWeight, Layout.TRANSPOSED: TransposedWeight}
        jobs: dict[str, Job] = {}
        for tensor in checkpoint.tensors:
            kind = kinds.get(decisions.tensors[tensor.name].layout)
            if kind is None:
                jobs[tensor.name] = KeptTensor(tensor)
            else:
                jobs[tensor.name] = kind(tensor, quant_type, block_size, double_quant, _STORAGE[quant_storage])
        _check_names(checkpoint, jobs)
        config = {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": quant_type,
            "bnb_4bit_use_double_quant": double_quant,
            "bnb_4bit_compute_dtype": compute_dtype or _dtype_of(jobs),
            "bnb_4bit_quant_storage": quant_storage,
            "llm_int8_skip_modules": decisions.skip_modules,
        }
        rules = {name: decision.rule for name, decision in decisions.tensors.items()}
        notices = (*checkpoint.notices, *decisions.notices)
        return _carry_out(checkpoint, jobs, _merge(settings, config), notices, options, rules)


def dequantize_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: str | None = None,
    *,
    force: bool = False,
    n_threads: int | None = None,
    progress: _Progress | None = None,
) -> ModelReport:
    """Decode a quantized checkpoint to floats: bitsandbytes' layout, FP8, INT8, MXFP4 or NVFP4 with their scales.

    Parameters
    ----------
    source, target : path
        As for `quantize_checkpoint`.
    dtype : {"F32", "F16", "BF16"}, optional
        The type of the decoded weights; None: what each had before it was quantized, by its state, by config.json, or
        by the tensors that are not quantized.
    force, n_threads, progress
        As for `quantize_checkpoint`.

    Returns
    -------
    ModelReport

    Raises
    ------
    ValueError
        An input file is malformed; the method is not decoded; an entry of a weight's state or a scale is missing or
        contradicts another one.
    OSError
        As for `quantize_checkpoint`.
    """
    if dtype is not None and dtype not in ("F32", "F16", "BF16"):
        raise InvalidValueError(f"dtype: expected F32, F16 or BF16, got {brief(dtype)}")
    options = ConversionOptions(target, force, False, n_threads, progress)
    with open_checkpoint(source) as opened:
        settings = read_config(opened.folder)
        transposed = transposed_weights(settings, packed_weights(opened))
        checkpoint = decode_checkpoint(opened, settings, dtype, transposed=transposed)
        jobs: dict[str, Job] = {tensor.name: KeptTensor(tensor) for tensor in checkpoint.tensors}
        return _carry_out(checkpoint, jobs, _merge(settings, None), checkpoint.notices, options, {})


def _carry_out(
    checkpoint: DecodedCheckpoint,
    jobs: dict[str, Job],
    config: dict[str, Any] | None,
    notices: tuple[str, ...],
    options: ConversionOptions,
    rules: dict[str, str],
) -> ModelReport:
    if not os.fsdecode(options.target):
        raise OutputFileError("output: expected the path of a file or a folder, got ''")
    target = local_path(options.target)
    outputs = _outputs(checkpoint, jobs, target)
    texts = _texts(checkpoint, outputs, target, config)
    is_folder = target.suffix != ".safetensors"
    copies = {target / name: path for name, path in find_companions(checkpoint.folder).items()} if is_folder else {}
    for path in (*outputs, *texts, *copies):
        check_output(path, force=options.force, inputs=checkpoint.files, makes_folder=True)
    if not options.dry_run:
        progress = Progress(sum(job.source.nbytes for job in jobs.values()), options.progress)
        with contextlib.ExitStack() as stack:
            for folder in dict.fromkeys(path.parent for path in (*outputs, *copies)):
                stack.enter_context(create_folder(folder))
            files = stack.enter_context(OutputFiles(force=options.force, inputs=checkpoint.files))
            for path, original in copies.items():
                copy_into(original, files.open(path))
            for path, members in outputs.items():
                specs = [spec for job in members for spec in job.specs()]
                writer = SafetensorsWriter(files.open(path), specs, METADATA)
                _write_shard(checkpoint, writer, members, options.n_threads, progress)
            # The last to be put in place: config.json and index never describe shards of another kind.
            for path, text in texts.items():
                files.open(path).write(text)
    tensors = tuple(
        TensorReport(
            job.source.name,
            job.shape,
            job.source.stored_type,
            job.target_type,
            job.source.stored_bytes,
            sum(spec.nbytes for spec in job.specs()),
            rules.get(job.source.name, ""),
        )
        for job in jobs.values()
    )
    return ModelReport(tensors, notices)


def _write_shard(
    checkpoint: DecodedCheckpoint, writer: SafetensorsWriter, jobs: list[Job], n_threads: int | None, progress: Progress
) -> None:
    def read(slab: Slab[Job], buffer: Bytes) -> Bytes:
        data = buffer[: slab.size]
        slab.item.read(checkpoint, slab.start, data)
        return data

    def take(slab: Slab[Job], data: Bytes) -> None:
        slab.item.write(writer, slab.start, data)
        if slab.stop == slab.item.source.nbytes:
            for name, array in slab.item.rest().items():
                writer.write(name, 0, np.ascontiguousarray(array))

    stream(
        (slab for job in jobs for slab in cut(job, job.source.nbytes, job.slab_bytes)),
        read=read,
        compute=lambda slab, data, buffer: slab.item.compute(slab.start, data, buffer, 1),
        take=take,
        buffer_bytes=(8 * SLAB_ELEMENTS, 4 * SLAB_ELEMENTS),
        n_threads=n_threads,
        progress=progress,
    )


def _check_names(checkpoint: DecodedCheckpoint, jobs: dict[str, Job]) -> None:
    """Refuse tensors with the name of an entry that a quantized weight gets, whatever shard they are in."""
    for name, job in jobs.items():
        if isinstance(job, QuantizedWeight):
            for entry in state_names(name):
                if entry in jobs:
                    raise FileFormatError(
                        f"{checkpoint.path}: tensor {quote(entry)}: has the name of a part of {quote(name)} once that "
                        "is quantized; --exclude (exclude=) keeps the weight as it is"
                    )


def _outputs(checkpoint: DecodedCheckpoint, jobs: dict[str, Job], target: Path) -> dict[Path, list[Job]]:
    """The files to write, and the jobs for each."""
    if target.suffix == ".safetensors":
        return {target: list(jobs.values())}
    if target.suffix == ".gguf" or (target.exists() and not target.is_dir()):
        raise OutputFileError(f"{label(target)}: is not a folder; a single file is named *.safetensors")
    return {
        target / shard.file_path.name: [jobs[t.name] for t in shard.tensors if t.name in jobs]
        for shard in checkpoint.shards
    }


def _texts(
    checkpoint: DecodedCheckpoint, outputs: dict[Path, list[Job]], target: Path, config: dict[str, Any] | None
) -> dict[Path, bytes]:
    """The index and config.json of a folder."""
    if target.suffix == ".safetensors":
        return {}
    texts: dict[Path, bytes] = {}
    if checkpoint.index_name is not None:
        specs = {path.name: [spec for job in jobs for spec in job.specs()] for path, jobs in outputs.items()}
        texts[target / checkpoint.index_name] = index_text(specs)
    if config is not None:
        texts[target / CONFIG] = json_text(config)
    return texts


def _merge(settings: dict[str, Any] | None, quantization: dict[str, Any] | None) -> dict[str, Any] | None:
    """config.json with the quantization entered, or without one; None if the checkpoint has no config.json."""
    if settings is None:
        return None
    merged = without_quantization(settings)
    return merged if quantization is None else merged | {"quantization_config": quantization}


def _dtype_of(jobs: dict[str, Job]) -> str:
    """The dtype that most of the quantized weights have, in which transformers is to compute; it has no float64."""
    sizes = dict.fromkeys(_COMPUTE_DTYPES, 0)
    for job in jobs.values():
        if isinstance(job, QuantizedWeight):
            name = arrays.DTYPE_NAMES[ELEMENT_TYPES[job.source.dtype]]
            sizes[name if name in sizes else "float32"] += job.source.nbytes
    return max(sizes, key=lambda name: sizes[name])

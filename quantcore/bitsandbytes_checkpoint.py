"""safetensors checkpoints to 4 bits in the layout of bitsandbytes and transformers, and back, streamed.

Which weights are quantized: matrices named `*.weight`, but for embeddings, norms and the output head, which
transformers leaves out, too. A folder gives a folder: shards of the same names, the index, and config.json with the
quantization told. All files appear together in the end, or none.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore import _parallel
from quantcore._files import InputFile, OutputFile, check_output, label
from quantcore.bitsandbytes_jobs import (
    DTYPE_NAMES,
    ELEMENT_TYPES,
    SLAB_ELEMENTS,
    DecodedWeight,
    Job,
    KeptTensor,
    QuantizedWeight,
)
from quantcore.bitsandbytes_layout import STATE_PREFIX, unpacked
from quantcore.blockwise import BLOCK_SIZE, record_of
from quantcore.blockwise_records import DoubleQuantized4Bit
from quantcore.codebooks import check_block_size
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError, OutputFileError
from quantcore.model_report import ModelReport, TensorReport
from quantcore.patterns import compiled
from quantcore.safetensors import INDEX_NAME, MAX_HEADER_BYTES, Checkpoint, SafetensorsInfo, open_checkpoint
from quantcore.safetensors_writer import SafetensorsWriter
from quantcore.streaming import stream

__all__ = ["dequantize_checkpoint", "quantize_checkpoint"]

_DELICATE = re.compile(r"embed|norm|lm_head|(^|\.)(wte|wpe)\.", re.IGNORECASE)
_CONFIG = "config.json"
_Progress = Callable[[int, int], None]
_NUMPY = {"U8": np.uint8, "F32": np.float32}


def quantize_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    quant_type: str,
    *,
    block_size: int = BLOCK_SIZE,
    double_quant: bool = False,
    exclude: Iterable[str] = (),
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
        `*.safetensors`: one file with all tensors. Otherwise a folder, made if need be, with shards as in `source`.
    quant_type : {"nf4", "fp4"}
        The code.
    block_size : int, default 64
        A power of two from 32 to 4096.
    double_quant : bool, default False
        Quantize the scales, too (bitsandbytes' `compress_statistics`).
    exclude : iterable of regex
        Weights whose name has one of the patterns are kept.
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
        With a notice for each matrix that is kept though nobody asked for it.

    Raises
    ------
    ValueError
        An input file is malformed (FileFormatError) or quantized already; a weight holds NaN or inf; a parameter is
        not one of the allowed.
    OSError
        A file cannot be read or written; an output exists or is an input (OutputFileError).
    """
    if quant_type not in ("nf4", "fp4"):
        raise InvalidValueError(f"quant_type: expected nf4 or fp4, got {quant_type!r}")
    block_size = check_block_size(block_size, "block_size")
    patterns = compiled(exclude, "exclude")
    notices: list[str] = []
    with open_checkpoint(source) as checkpoint:
        jobs: dict[str, Job] = {}
        for tensor in checkpoint.tensors:
            if STATE_PREFIX in tensor.name:
                raise FileFormatError(f"{checkpoint.path}: is quantized already (it has {tensor.name!r})")
            if _is_chosen(tensor, patterns, notices):
                jobs[tensor.name] = QuantizedWeight(tensor, quant_type, block_size, bool(double_quant))
            else:
                jobs[tensor.name] = KeptTensor(tensor)
        kept = [name for name, job in jobs.items() if isinstance(job, KeptTensor) and len(job.shape) == 2]
        config = _quantization_config(quant_type, bool(double_quant), kept)
        return _carried_out(checkpoint, jobs, notices, target, config, force, dry_run, n_threads, progress)


def dequantize_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: str | None = None,
    *,
    force: bool = False,
    n_threads: int | None = None,
    progress: _Progress | None = None,
) -> ModelReport:
    """Decode a checkpoint in bitsandbytes' layout to floats.

    Parameters
    ----------
    source, target : path
        As for `quantize_checkpoint`.
    dtype : {"F32", "F16", "BF16"}, optional
        The type of the decoded weights; None: what each had before it was quantized.
    force, n_threads, progress
        As for `quantize_checkpoint`.

    Returns
    -------
    ModelReport

    Raises
    ------
    ValueError
        An input file is malformed, an entry of a weight's state is missing or contradicts another one.
    OSError
        As for `quantize_checkpoint`.
    """
    if dtype is not None and dtype not in ("F32", "F16", "BF16"):
        raise InvalidValueError(f"dtype: expected F32, F16 or BF16, got {dtype!r}")
    with open_checkpoint(source) as checkpoint:
        tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
        states = packed_weights(checkpoint)
        parts = set().union(*states.values())
        jobs: dict[str, Job] = {name: decoding_job(checkpoint, tensors, name, states[name], dtype) for name in states}
        jobs |= {name: KeptTensor(t) for name, t in tensors.items() if name not in parts and name not in jobs}
        return _carried_out(checkpoint, jobs, [], target, None, force, False, n_threads, progress)


@dataclass(frozen=True, slots=True)
class _Slab:
    """Bytes start to stop of a job's source."""

    job: Job
    start: int
    stop: int


def _carried_out(
    checkpoint: Checkpoint,
    jobs: dict[str, Job],
    notices: list[str],
    target: str | os.PathLike[str],
    config: dict[str, Any] | None,
    force: bool,
    dry_run: bool,
    n_threads: int | None,
    progress: _Progress | None,
) -> ModelReport:
    _parallel.check_threads(n_threads)
    if not os.fsdecode(target):
        raise OutputFileError("output: expected the path of a file or a folder, got ''")
    outputs = _outputs(checkpoint, jobs, Path(os.fsdecode(target)))
    texts = _texts(checkpoint, outputs, Path(os.fsdecode(target)), config)
    for path in (*outputs, *texts):
        check_output(path, force=force, inputs=checkpoint.files)
    total, done = sum(job.source.nbytes for job in jobs.values()), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    if not dry_run:
        # What is entered first takes its name last: config.json and index never stand over shards of another kind.
        with _made_folder(next(iter(outputs)).parent), contextlib.ExitStack() as stack:
            for path, text in reversed(texts.items()):
                stack.enter_context(OutputFile(path, force=force, inputs=checkpoint.files)).write(text)
            for path, members in outputs.items():
                file = stack.enter_context(OutputFile(path, force=force, inputs=checkpoint.files))
                specs = [spec for job in members for spec in job.specs()]
                writer = SafetensorsWriter(file, specs, {"format": "pt"})
                _write_shard(checkpoint, writer, members, n_threads, advance)
    tensors = tuple(
        TensorReport(
            job.source.name,
            job.shape,
            job.source.dtype,
            job.target_type,
            job.source.nbytes,
            sum(spec.nbytes for spec in job.specs()),
        )
        for job in jobs.values()
    )
    return ModelReport(tensors, tuple(notices))


def _write_shard(
    checkpoint: Checkpoint,
    writer: SafetensorsWriter,
    jobs: list[Job],
    n_threads: int | None,
    progress: Callable[[int], None],
) -> None:
    def slabs() -> Iterator[_Slab]:
        for job in jobs:
            size = job.source.nbytes
            for start in range(0, size, job.slab_bytes):
                yield _Slab(job, start, min(start + job.slab_bytes, size))

    def read(slab: _Slab, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        data = buffer[: slab.stop - slab.start]
        checkpoint.read_into(slab.job.source, slab.start, data)
        return data

    def compute(slab: _Slab, data: NDArray[np.uint8], buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return slab.job.compute(slab.start, data, buffer, 1)

    def take(slab: _Slab, data: NDArray[np.uint8]) -> None:
        writer.write(slab.job.source.name, slab.job.offset(slab.start), data)
        if slab.stop == slab.job.source.nbytes:
            for name, array in slab.job.rest().items():
                writer.write(name, 0, np.ascontiguousarray(array))

    buffer_bytes = (8 * SLAB_ELEMENTS, 4 * SLAB_ELEMENTS)
    stream(
        slabs(),
        read=read,
        compute=compute,
        take=take,
        buffer_bytes=buffer_bytes,
        n_threads=n_threads,
        progress=progress,
    )


def _is_chosen(tensor: SafetensorsInfo, patterns: tuple[re.Pattern[str], ...], notices: list[str]) -> bool:
    if tensor.dtype not in ELEMENT_TYPES or len(tensor.shape) != 2 or not tensor.name.endswith(".weight"):
        return False
    if not tensor.nbytes or any(pattern.search(tensor.name) for pattern in patterns):
        return False
    if _DELICATE.search(tensor.name):
        notices.append(f"{tensor.name}: kept (an embedding, a norm or the output head)")
        return False
    return True


def packed_weights(checkpoint: Checkpoint) -> dict[str, set[str]]:
    """The weights that are packed in bitsandbytes' layout, each with the tensors that are its state."""
    names = {tensor.name for tensor in checkpoint.tensors}
    packed: dict[str, set[str]] = {}
    for name in (tensor.name for tensor in checkpoint.tensors):
        if STATE_PREFIX in name:
            weight = name.split("." + STATE_PREFIX)[0]
            scales = {f"{weight}.{part}" for part in ("absmax", "quant_map", "nested_absmax", "nested_quant_map")}
            packed.setdefault(weight, names & scales).add(name)
    return packed


def decoding_job(
    checkpoint: Checkpoint, tensors: dict[str, SafetensorsInfo], weight: str, parts: set[str], dtype: str | None
) -> DecodedWeight:
    """The state is read and checked whole; of the packed codes only the size is looked at."""
    if weight not in tensors:
        raise FileFormatError(f"{checkpoint.path}: {weight}: missing (the packed codes)")
    mapping: dict[str, NDArray[Any]] = {weight: np.empty(tensors[weight].nbytes, np.uint8)}
    for name in parts:
        info = tensors[name]
        if info.dtype not in _NUMPY:
            raise FileFormatError(f"{checkpoint.path}: {name}: expected U8 or F32, got {info.dtype}")
        mapping[name] = np.empty(info.shape, _NUMPY[info.dtype])
        checkpoint.read_into(info, 0, mapping[name])
    try:
        state = unpacked(mapping)
        record = record_of(state)
    except (InvalidValueError, InvalidTypeError) as error:
        raise FileFormatError(f"{checkpoint.path}: {error}") from None
    scales = record.decoded_scales() if isinstance(record, DoubleQuantized4Bit) else record.scales
    names = {name: short for short, name in DTYPE_NAMES.items() if short != "F64"}
    return DecodedWeight(tensors[weight], state, scales, dtype or names[state.dtype])


def _outputs(checkpoint: Checkpoint, jobs: dict[str, Job], target: Path) -> dict[Path, list[Job]]:
    """The files to write, and which jobs go where."""
    if target.suffix == ".safetensors":
        return {target: list(jobs.values())}
    if target.suffix == ".gguf" or (target.exists() and not target.is_dir()):
        raise OutputFileError(f"{label(target)}: is not a folder; a single file is named *.safetensors")
    return {
        target / shard.file_path.name: [jobs[t.name] for t in shard.tensors if t.name in jobs]
        for shard in checkpoint.shards
    }


def _texts(
    checkpoint: Checkpoint, outputs: dict[Path, list[Job]], target: Path, config: dict[str, Any] | None
) -> dict[Path, bytes]:
    """Index and config.json of a folder."""
    if target.suffix == ".safetensors":
        return {}
    texts: dict[Path, bytes] = {}
    if len(checkpoint.files) > len(checkpoint.shards):
        specs = {path.name: [spec for job in jobs for spec in job.specs()] for path, jobs in outputs.items()}
        weight_map = {spec.name: name for name, members in specs.items() for spec in members}
        total = sum(spec.nbytes for members in specs.values() for spec in members)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        texts[target / INDEX_NAME] = json.dumps(index, indent=2).encode()
    path = checkpoint.folder / _CONFIG
    if path.exists():
        with InputFile(path) as file:
            text = file.read(0, min(file.size, MAX_HEADER_BYTES))
        try:
            settings = json.loads(text)
        except (ValueError, RecursionError):
            settings = None
        if not isinstance(settings, dict):
            raise FileFormatError(f"{label(path)}: not a JSON object")
        settings.pop("quantization_config", None)
        if config is not None:
            settings["quantization_config"] = config
        texts[target / _CONFIG] = json.dumps(settings, indent=2).encode()
    return texts


def _quantization_config(quant_type: str, is_double: bool, kept: list[str]) -> dict[str, Any]:
    """What transformers reads from config.json."""
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": is_double,
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": sorted(name.removesuffix(".weight") for name in kept),
    }


@contextlib.contextmanager
def _made_folder(folder: Path) -> Iterator[None]:
    """Make a folder for the outputs, and take it away again if nothing came into it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()
        raise

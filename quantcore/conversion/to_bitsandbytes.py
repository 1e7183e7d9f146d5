"""safetensors checkpoints to 4 bits in the layout of bitsandbytes and transformers, and back, streamed.

What transformers makes a 4-bit linear layer is quantized, nothing else (`checkpoint_rules`). A folder is converted to a
folder: shards of the same names, the index, config.json with the quantization entered, tokenizer and other files that
go with the weights. All files are put in place together at the end, or none.
"""

import os
from collections.abc import Callable, Iterable

from quantcore._base import arguments
from quantcore._base.patterns import compile_patterns
from quantcore.blockwise.quantize import BLOCK_SIZE
from quantcore.conversion.checkpoint_plan import CheckpointPlan, carry_out
from quantcore.conversion.checkpoint_rules import transposed_weights
from quantcore.conversion.four_bit_plan import FourBitCode, check_compute_dtype, merge_config, plan_four_bits
from quantcore.conversion.options import ConversionOptions
from quantcore.conversion.outcome import ModelReport
from quantcore.conversion.tensor_jobs import Job, KeptTensor
from quantcore.models.bitsandbytes_decoder import packed_weights
from quantcore.models.checkpoint_config import read_config
from quantcore.models.decoded_checkpoint import decode_checkpoint
from quantcore.safetensors.reader import open_checkpoint

__all__ = ["dequantize_checkpoint", "quantize_checkpoint"]

_Progress = Callable[[int, int], None]


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
    code = FourBitCode(quant_type, block_size, double_quant, quant_storage)
    compute_dtype = check_compute_dtype(compute_dtype)
    patterns = compile_patterns(exclude, "exclude")
    options = ConversionOptions(target, force, dry_run, n_threads, progress)
    with open_checkpoint(source) as opened:
        return carry_out(plan_four_bits(opened, code, patterns, compute_dtype), options)


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
    dtype = None if dtype is None else arguments.choice(dtype, "dtype", ("F32", "F16", "BF16"))
    options = ConversionOptions(target, force, False, n_threads, progress)
    with open_checkpoint(source) as opened:
        settings = read_config(opened.folder)
        transposed = transposed_weights(settings, packed_weights(opened))
        checkpoint = decode_checkpoint(opened, settings, dtype, transposed=transposed)
        jobs: dict[str, Job] = {tensor.name: KeptTensor(tensor) for tensor in checkpoint.tensors}
        return carry_out(CheckpointPlan(checkpoint, jobs, merge_config(settings, None), checkpoint.notices), options)

"""Checkpoints of many shards on a cluster: every task quantizes one shard."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import dask

from quantcore._base.patterns import compile_patterns
from quantcore._base.text import brief
from quantcore.blockwise import BLOCK_SIZE
from quantcore.conversion import ModelReport
from quantcore.conversion.checkpoint_shards import Recipe, quantize_apart, write_part
from quantcore.conversion.four_bit_plan import FourBitCode, check_compute_dtype
from quantcore.conversion.options import ConversionOptions
from quantcore.errors import InvalidTypeError

__all__ = ["quantize_checkpoint"]


def quantize_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    quant_type: str,
    *,
    client: Any = None,
    block_size: int = BLOCK_SIZE,
    double_quant: bool = False,
    exclude: Iterable[str] = (),
    compute_dtype: str | None = None,
    quant_storage: str = "uint8",
    force: bool = False,
    n_threads: int | None = 1,
) -> ModelReport:
    """Quantize a safetensors checkpoint to NF4 or FP4 shard by shard, on a cluster that sees its folders.

    The files are those of `quantcore.conversion.quantize_checkpoint`, byte for byte, and get their names together at
    the end. Until then finished shards lie in a folder `.quantcore-*.parts` inside `target`. After an error, Ctrl-C or
    the death of a process they stay there, and the same call goes on with them, unless the source, a parameter or the
    version of quantcore has changed. The folder is removed when the conversion succeeds; before, it may be removed by
    hand.

    Parameters
    ----------
    source : path
        A safetensors file, a folder of shards with its index, or the index; all workers read it under this path.
    target : path
        A folder, created if necessary; all workers write to it under this path.
    quant_type : {"nf4", "fp4"}
        The code.
    client : distributed.Client, optional
        The cluster. None: the current scheduler of Dask.
    block_size, double_quant, exclude, compute_dtype, quant_storage, force
        As for `quantcore.conversion.quantize_checkpoint`.
    n_threads : int, optional
        Threads of each task; None: `get_num_threads()` of the worker.

    Returns
    -------
    ModelReport

    Raises
    ------
    ValueError
        As for `quantcore.conversion.quantize_checkpoint`; the source changes meanwhile, or workers have another version
        of quantcore (FileFormatError).
    TypeError
        `client` is no client.
    OSError
        A file cannot be read or written; an output exists or is an input, `target` is a single file, or another process
        is writing to it (OutputFileError).

    Notes
    -----
    Dask gives the shard of a worker that died to another one, up to three times (`distributed.scheduler.
    allowed-failures`). What is quantized is decided once, in the calling process.
    """
    if client is not None and not _is_client(client):
        raise InvalidTypeError(f"client: expected a distributed.Client, got {brief(client)}")
    code = FourBitCode(quant_type, block_size, double_quant, quant_storage)
    compute_dtype = check_compute_dtype(compute_dtype)
    patterns = compile_patterns(exclude, "exclude")
    options = ConversionOptions(target, force, False, n_threads, None)

    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        shared = dask.delayed(recipe, traverse=False)
        write = dask.delayed(write_part, pure=False)
        dask.compute(*(write(shared, number, n_threads) for number in numbers), scheduler=client)

    return quantize_apart(source, options, code, patterns, compute_dtype, run)


def _is_client(value: Any) -> bool:
    """Whether it is a client; there is none where `distributed`, which Dask can do without, was not imported."""
    distributed = sys.modules.get("distributed")
    return distributed is not None and isinstance(value, distributed.Client)

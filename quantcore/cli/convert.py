"""`quantize` and `dequantize`: from one model file to another."""

import argparse
from collections.abc import Callable
from math import prod
from typing import Any

from quantcore import BLOCK_SIZE
from quantcore.bitsandbytes_checkpoint import dequantize_checkpoint, quantize_checkpoint
from quantcore.cli.arguments import CODES, add_common, block_size, override, regex, supported_type, type_or_code
from quantcore.cli.terminal import print_json, progress_bar, say
from quantcore.formats import SUPPORTED_TYPES
from quantcore.gguf import dequantize_model, quantize_model
from quantcore.gguf.sources import is_gguf
from quantcore.model_report import ModelReport
from quantcore.tables import bytes_text, printable, table

_CODE_FLAGS = ("double_quant", "block_size", "exclude")
_GGUF_FLAGS = (
    "pure", "tensor_type", "output_tensor_type", "token_embedding_type", "leave_output_tensor", "allow_requantize",
    "arch",
)  # fmt: skip


def add_commands(commands: Any) -> None:
    """Add the parsers of `quantize` and `dequantize`."""
    _add_quantize(commands)
    _add_dequantize(commands)


def _add_quantize(commands: Any) -> None:
    types = ", ".join(t.name for t in SUPPORTED_TYPES)
    parser = commands.add_parser("quantize", help="quantize a model to GGUF, or to bitsandbytes' NF4 or FP4")
    parser.add_argument("input", metavar="IN", help="GGUF file; or safetensors: a file, a folder of shards, an index")
    parser.add_argument(
        "output", metavar="OUT", help="GGUF file to write; for nf4 and fp4 a .safetensors file or a folder"
    )
    parser.add_argument(
        "type", metavar="TYPE", type=type_or_code, help=f"GGUF: {types}; safetensors: {', '.join(CODES)}"
    )
    parser.add_argument("--pure", action="store_true", help="every quantized tensor gets TYPE, the output matrix too")
    parser.add_argument(
        "--tensor-type", metavar="REGEX=TYPE", action="append", default=[], type=override,
        help="the type of tensors whose name has the pattern; the first that fits counts; may be given again",
    )  # fmt: skip
    parser.add_argument("--output-tensor-type", metavar="TYPE", type=supported_type, help="the type of output.weight")
    parser.add_argument(
        "--token-embedding-type", metavar="TYPE", type=supported_type, help="the type of token_embd.weight"
    )
    parser.add_argument("--leave-output-tensor", action="store_true", help="keep output.weight as it is")
    parser.add_argument("--allow-requantize", action="store_true", help="take tensors that are quantized already")
    parser.add_argument("--arch", metavar="NAME", help="general.architecture (default: the input's)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, write nothing")
    codes = parser.add_argument_group("nf4 and fp4")
    codes.add_argument("--double-quant", action="store_true", help="quantize the scales, too")
    codes.add_argument("--block-size", metavar="N", type=block_size, help="elements that share a scale (default: 64)")
    codes.add_argument(
        "--exclude", metavar="REGEX", action="append", default=[], type=regex,
        help="keep weights whose name has the pattern; may be given again",
    )  # fmt: skip
    add_common(parser)
    parser.set_defaults(command=_quantize, error=parser.error)


def _add_dequantize(commands: Any) -> None:
    parser = commands.add_parser("dequantize", help="decode a GGUF model or a bitsandbytes checkpoint to floats")
    parser.add_argument("input", metavar="IN", help="GGUF file; or a safetensors checkpoint in bitsandbytes' layout")
    parser.add_argument("output", metavar="OUT", help="file to write of the same kind, or a folder")
    parser.add_argument(
        "type", metavar="TYPE", nargs="?", type=str.upper, choices=("F32", "F16", "BF16"),
        help="F32, F16 or BF16 (default: F32; of a checkpoint what the weights had)",
    )  # fmt: skip
    add_common(parser)
    parser.set_defaults(command=_dequantize)


def _quantize(options: argparse.Namespace) -> int:
    is_code = options.type in CODES
    for name in _CODE_FLAGS if not is_code else _GGUF_FLAGS:
        if getattr(options, name):
            flag = name.replace("_", "-")
            options.error(f"--{flag} goes with {', '.join(CODES) if not is_code else 'GGUF types'} only")
    if is_code:
        return _quantize_checkpoint(options)
    with progress_bar(options, "quantize") as progress:
        report = quantize_model(
            options.input,
            options.output,
            options.type,
            pure=options.pure,
            tensor_types=options.tensor_type,
            output_tensor_type=options.output_tensor_type,
            token_embedding_type=options.token_embedding_type,
            leave_output_tensor=options.leave_output_tensor,
            allow_requantize=options.allow_requantize,
            arch=options.arch,
            force=options.force,
            dry_run=options.dry_run,
            n_threads=options.threads,
            progress=progress,
        )
    return _reported(report, options, is_detailed=options.dry_run)


def _quantize_checkpoint(options: argparse.Namespace) -> int:
    with progress_bar(options, "quantize") as progress:
        report = quantize_checkpoint(
            options.input,
            options.output,
            options.type,
            block_size=options.block_size or BLOCK_SIZE,
            double_quant=options.double_quant,
            exclude=options.exclude,
            force=options.force,
            dry_run=options.dry_run,
            n_threads=options.threads,
            progress=progress,
        )
    return _reported(report, options, is_detailed=options.dry_run)


def _dequantize(options: argparse.Namespace) -> int:
    with progress_bar(options, "dequantize") as progress:
        decode: Callable[..., ModelReport] = dequantize_model if is_gguf(options.input) else dequantize_checkpoint
        report = decode(
            options.input,
            options.output,
            *([options.type] if options.type else []),
            force=options.force,
            n_threads=options.threads,
            progress=progress,
        )
    return _reported(report, options, is_detailed=False)


def _reported(report: ModelReport, options: argparse.Namespace, *, is_detailed: bool) -> int:
    for notice in report.notices:
        say(f"note: {notice}")
    if options.json:
        print_json(report.to_dict())
        return 0
    if is_detailed:
        rows = [
            (t.name, "x".join(map(str, t.shape)), t.source_type, t.target_type, bytes_text(t.target_bytes))
            for t in report.tensors
        ]
        print(table(("tensor", "shape", "from", "to", "size"), rows, right=(4,)))
    n_changed = sum(t.source_type != t.target_type for t in report.tensors)
    n_elements = sum(prod(t.shape) for t in report.tensors)
    print(
        f"{printable(options.output)}: {n_changed} of {len(report.tensors)} tensors converted, "
        f"{bytes_text(report.source_bytes)} -> {bytes_text(report.target_bytes)}, "
        f"{8 * report.target_bytes / max(1, n_elements):.2f} bits a weight"
    )
    return 0

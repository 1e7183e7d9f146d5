"""`quantize`: convert a model to GGUF, or to bitsandbytes' 4-bit layout."""

import argparse
from typing import Any

from quantcore import BLOCK_SIZE
from quantcore.blockwise.bitsandbytes import DTYPES
from quantcore.blockwise.codebooks import BITSANDBYTES_CODES
from quantcore.cli.arguments import (
    MAKE_DIGITS,
    PROGRAM,
    add_common,
    add_parser,
    block_size,
    file_size,
    output_file,
    positive,
    regex,
    supported_type,
)
from quantcore.cli.conversions import LONG_NAMES, show_report
from quantcore.cli.quantize_arguments import (
    OverrideFile,
    expand_overrides,
    file_type_or_code,
    key_value,
    layers,
    override,
)
from quantcore.cli.terminal import progress_bar
from quantcore.conversion import quantize_model
from quantcore.conversion.file_types import COPY, FILE_TYPES
from quantcore.conversion.four_bit_plan import STORAGE
from quantcore.conversion.options import default_target
from quantcore.conversion.to_bitsandbytes import quantize_checkpoint
from quantcore.ggml import EFFORTS

_CODE_FLAGS = ("double_quant", "block_size", "exclude", "compute_dtype", "quant_storage")
_GGUF_FLAGS = (
    "pure", "effort", "imatrix", "include_weights", "exclude_weights", "tensor_type", "output_tensor_type",
    "token_embedding_type", "leave_output_tensor", "prune_layers", "override_kv", "allow_requantize", "no_fallback",
    "keep_split", "split_max_size", "split_max_tensors", "arch", "keep_names", "long_names",
)  # fmt: skip


def add_quantize(commands: Any) -> None:
    """Add the parser of `quantize`."""
    types = ", ".join((*FILE_TYPES, COPY))
    parser = add_parser(
        commands,
        "quantize",
        "quantize a model to GGUF, or to bitsandbytes' NF4 or FP4",
        MAKE_DIGITS,
        f"{PROGRAM} quantize digits/digits-F32.gguf digits-q4_k_m.gguf Q4_K_M",
    )
    parser.add_argument(
        "input", metavar="IN", help="GGUF file or a part of one; or safetensors: a file, a folder of shards, an index"
    )
    parser.add_argument(
        "output",
        metavar="OUT",
        type=output_file,
        help="GGUF file to write (may be left out: IN-TYPE.gguf); for nf4 and fp4 a .safetensors file or a folder",
    )
    parser.add_argument(
        "type", metavar="TYPE", nargs="?", type=file_type_or_code,
        help=f"GGUF: {types}; safetensors: {', '.join(BITSANDBYTES_CODES)}",
    )  # fmt: skip
    _add_types_and_importance(parser)
    _add_model(parser)
    _add_parts_and_names(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, but write nothing")
    _add_codes(parser)
    add_common(parser)
    parser.set_defaults(command=_quantize, error=parser.error)


def _add_types_and_importance(parser: argparse.ArgumentParser) -> None:
    """What decides the types of tensors, and how well they are quantized."""
    parser.add_argument("--pure", action="store_true", help="every quantized tensor gets the type, instead of a mix")
    parser.add_argument("--imatrix", metavar="FILE", help="importance matrix: GGUF, or llama-imatrix's older .dat")
    parser.add_argument(
        "--include-weights", metavar="NAME", action="append", default=[],
        help="use the importance of tensors with this word in their name only; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--exclude-weights", metavar="NAME", action="append", default=[],
        help="use no importance of tensors with this word in their name; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--effort", choices=EFFORTS,
        help="reference: llama-quantize's bytes (the default); best: search longer for a smaller error",
    )  # fmt: skip
    parser.add_argument(
        "--tensor-type", metavar="REGEX=TYPE", action="append", default=[], type=override,
        help="the type of tensors whose name matches; the first match decides; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--tensor-type-file", metavar="FILE", action="append", dest="tensor_type", type=OverrideFile,
        help="such pairs in a file, with spaces or line ends between them",
    )  # fmt: skip
    parser.add_argument("--output-tensor-type", metavar="TYPE", type=supported_type, help="the type of output.weight")
    parser.add_argument(
        "--token-embedding-type", metavar="TYPE", type=supported_type, help="the type of token_embd.weight"
    )
    parser.add_argument("--leave-output-tensor", action="store_true", help="keep output.weight unchanged")


def _add_model(parser: argparse.ArgumentParser) -> None:
    """What is taken over of the model, and what is accepted of it."""
    parser.add_argument(
        "--prune-layers", metavar="N,...", type=layers, default=[], help="leave out these layers of the model"
    )
    parser.add_argument(
        "--override-kv", metavar="KEY=TYPE:VALUE", action="append", default=[], type=key_value,
        help="set metadata; TYPE is int, float, bool or str; may be repeated",
    )  # fmt: skip
    parser.add_argument("--allow-requantize", action="store_true", help="accept tensors that are already quantized")
    parser.add_argument(
        "--no-fallback", action="store_true", help="refuse tensors whose rows are no whole blocks of their type"
    )


def _add_parts_and_names(parser: argparse.ArgumentParser) -> None:
    """How the output is divided, and what it calls things."""
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--keep-split", action="store_true", help="write parts as the input has: OUT-00001-of-0000N.gguf and so on"
    )
    parts.add_argument(
        "--split-max-size", metavar="N(M|G)", type=file_size, help="write parts with so many bytes of tensors"
    )
    parts.add_argument("--split-max-tensors", metavar="N", type=positive, help="write parts with so many tensors")
    parser.add_argument("--arch", metavar="NAME", help="general.architecture, such as flux (default: the input's)")
    parser.add_argument(
        "--keep-names", action="store_true",
        help="keep the names of a checkpoint's tensors: a container that llama.cpp does not run",
    )  # fmt: skip
    parser.add_argument("--long-names", action="store_true", help=LONG_NAMES)


def _add_codes(parser: argparse.ArgumentParser) -> None:
    """The options of NF4 and FP4, as a group."""
    codes = parser.add_argument_group("nf4 and fp4")
    codes.add_argument("--double-quant", action="store_true", help="quantize the scales as well")
    codes.add_argument("--block-size", metavar="N", type=block_size, help="elements per scale (default: 64)")
    codes.add_argument(
        "--exclude", metavar="REGEX", action="append", default=[], type=regex,
        help="keep weights whose name matches; may be repeated",
    )  # fmt: skip
    codes.add_argument(
        "--compute-dtype", metavar="DTYPE", choices=DTYPES,
        help="bnb_4bit_compute_dtype: float32, float16 or bfloat16 (default: what the weights had)",
    )  # fmt: skip
    codes.add_argument(
        "--quant-storage", metavar="DTYPE", choices=tuple(STORAGE),
        help="the dtype under which the codes are stored (default: uint8)",
    )  # fmt: skip


def _quantize(options: argparse.Namespace) -> int:
    _take_words(options)
    is_code = options.type in BITSANDBYTES_CODES
    for name in _CODE_FLAGS if not is_code else _GGUF_FLAGS:
        if getattr(options, name):
            flag = name.replace("_", "-")
            options.error(f"--{flag} goes with {', '.join(BITSANDBYTES_CODES) if not is_code else 'GGUF types'} only")
    if options.include_weights and options.exclude_weights:
        options.error("--include-weights does not go with --exclude-weights")
    for name in ("include_weights", "exclude_weights"):
        if getattr(options, name) and options.imatrix is None:
            options.error(f"--{name.replace('_', '-')} goes with --imatrix only")
    if is_code:
        return _quantize_checkpoint(options)
    with progress_bar(options, "quantize") as progress:
        report = quantize_model(
            options.input,
            options.output,
            options.type,
            pure=options.pure,
            imatrix=options.imatrix,
            include_weights=options.include_weights,
            exclude_weights=options.exclude_weights,
            effort=options.effort or "reference",
            tensor_types=expand_overrides(options.tensor_type),
            output_tensor_type=options.output_tensor_type,
            token_embedding_type=options.token_embedding_type,
            leave_output_tensor=options.leave_output_tensor,
            prune_layers=options.prune_layers,
            kv_overrides=dict(options.override_kv),
            allow_requantize=options.allow_requantize,
            no_fallback=options.no_fallback,
            keep_split=options.keep_split,
            split_max_size=options.split_max_size,
            split_max_tensors=options.split_max_tensors,
            arch=options.arch,
            keep_names=options.keep_names,
            long_names=options.long_names,
            force=options.force,
            dry_run=options.dry_run,
            n_threads=options.threads,
            progress=progress,
        )
    return show_report(report, options, is_detailed=options.dry_run)


def _take_words(options: argparse.Namespace) -> None:
    """Of two words the second is the type, and the output is named after both."""
    if options.type is not None:
        return
    try:
        name = file_type_or_code(options.output)
    except argparse.ArgumentTypeError as error:
        options.error(f"argument TYPE: {error}")
        raise
    if name in BITSANDBYTES_CODES:
        options.error(f"{name} needs an output: a .safetensors file or a folder")
    options.type, options.output = name, default_target(options.input, name)


def _quantize_checkpoint(options: argparse.Namespace) -> int:
    with progress_bar(options, "quantize") as progress:
        report = quantize_checkpoint(
            options.input,
            options.output,
            options.type,
            block_size=options.block_size or BLOCK_SIZE,
            double_quant=options.double_quant,
            exclude=options.exclude,
            compute_dtype=options.compute_dtype,
            quant_storage=options.quant_storage or "uint8",
            force=options.force,
            dry_run=options.dry_run,
            n_threads=options.threads,
            progress=progress,
        )
    return show_report(report, options, is_detailed=options.dry_run)

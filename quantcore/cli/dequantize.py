"""`dequantize`: decode a model file to floats."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from quantcore.cli.arguments import MAKE_DIGITS, PROGRAM, add_common, add_parser, file_size, float_type, output_file
from quantcore.cli.conversions import LONG_NAMES, show_report
from quantcore.cli.terminal import progress_bar
from quantcore.conversion import dequantize_model
from quantcore.conversion.outcome import ModelReport
from quantcore.conversion.to_bitsandbytes import dequantize_checkpoint
from quantcore.models.opening import is_gguf

_GGUF_FLAGS = ("keep_names", "split_max_size", "long_names")


def add_dequantize(commands: Any) -> None:
    """Add the parser of `dequantize`."""
    parser = add_parser(
        commands,
        "dequantize",
        "decode a GGUF model or a quantized checkpoint to floats",
        MAKE_DIGITS,
        f"{PROGRAM} dequantize digits/digits-Q4_0.gguf digits-f16.gguf F16",
    )
    parser.add_argument(
        "input", metavar="IN", help="GGUF file; or a safetensors checkpoint: bitsandbytes, FP8, INT8, MXFP4, NVFP4"
    )
    parser.add_argument(
        "output", metavar="OUT", type=output_file,
        help="*.gguf; or *.safetensors or a folder: a checkpoint with the names of Hugging Face",
    )  # fmt: skip
    parser.add_argument(
        "type", metavar="TYPE", nargs="?", type=float_type,
        help="F32, F16 or BF16 (default: F32; for a checkpoint, what the weights had)",
    )  # fmt: skip
    parser.add_argument(
        "--keep-names", action="store_true", help="keep the names of a GGUF file's tensors in a checkpoint"
    )
    parser.add_argument(
        "--split-max-size", metavar="N(M|G)", type=file_size, help="write shards with so many bytes (default: 5 GB)"
    )
    parser.add_argument("--long-names", action="store_true", help=LONG_NAMES)
    add_common(parser)
    parser.set_defaults(command=_dequantize, error=parser.error)


def _dequantize(options: argparse.Namespace) -> int:
    with progress_bar(options, "dequantize") as progress:
        decode: Callable[..., ModelReport] = dequantize_checkpoint
        if is_gguf(options.input):
            given = {name: getattr(options, name) for name in _GGUF_FLAGS if getattr(options, name)}
            decode = partial(dequantize_model, **given)
        for name in () if is_gguf(options.input) else _GGUF_FLAGS:
            if getattr(options, name):
                options.error(f"--{name.replace('_', '-')} goes with GGUF files only")
        report = decode(
            options.input,
            options.output,
            *([options.type] if options.type else []),
            force=options.force,
            n_threads=options.threads,
            progress=progress,
        )
    return show_report(report, options, is_detailed=False)

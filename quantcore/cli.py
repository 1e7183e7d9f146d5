"""The command line: parses, calls the library, prints. Exit 0 done, 1 bad input or I/O, 2 usage, 3 quality gate."""

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from quantcore import BLOCK_SIZE, __version__, isa
from quantcore.bitsandbytes_checkpoint import dequantize_checkpoint, quantize_checkpoint
from quantcore.codebooks import check_block_size
from quantcore.digits import evaluate_formats
from quantcore.errors import QuantcoreError
from quantcore.formats import SUPPORTED_TYPES, supported_format
from quantcore.gguf import dequantize_model, quantize_model
from quantcore.gguf.sources import is_gguf
from quantcore.inspection import described, shown
from quantcore.model_report import ModelReport
from quantcore.tables import bytes_text, json_value, printable, table

PROGRAM = "quantcore"
CODES = ("nf4", "fp4")
_CODE_FLAGS = ("double_quant", "block_size", "exclude")
_GGUF_FLAGS = (
    "pure", "tensor_type", "output_tensor_type", "token_embedding_type", "leave_output_tensor", "allow_requantize",
    "arch",
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; exit 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: error: {printable(message)} ({self.prog} --help shows the usage)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        try:
            options = _parser().parse_args(arguments)
            return int(options.command(options))
        finally:
            _flush_stdout()
    except BrokenPipeError:
        return 1
    except (QuantcoreError, OSError, MemoryError) as error:
        _say(f"error: {_message(error)}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130


def _parser() -> _Parser:
    parser = _Parser(prog=PROGRAM, description="Quantize models on the CPU: the same bytes as llama-quantize, faster.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__} ({isa()})")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_quantize(commands)
    _add_dequantize(commands)
    _add_inspect(commands)
    _add_demo(commands)
    return parser


def _add_quantize(commands: Any) -> None:
    types = ", ".join(t.name for t in SUPPORTED_TYPES)
    parser = commands.add_parser("quantize", help="quantize a model to GGUF, or to bitsandbytes' NF4 or FP4")
    parser.add_argument("input", metavar="IN", help="GGUF file; or safetensors: a file, a folder of shards, an index")
    parser.add_argument(
        "output", metavar="OUT", help="GGUF file to write; for nf4 and fp4 a .safetensors file or a folder"
    )
    parser.add_argument(
        "type", metavar="TYPE", type=_type_or_code, help=f"GGUF: {types}; safetensors: {', '.join(CODES)}"
    )
    parser.add_argument("--pure", action="store_true", help="every quantized tensor gets TYPE, the output matrix too")
    parser.add_argument(
        "--tensor-type", metavar="REGEX=TYPE", action="append", default=[], type=_override,
        help="the type of tensors whose name has the pattern; the first that fits counts; may be given again",
    )  # fmt: skip
    parser.add_argument("--output-tensor-type", metavar="TYPE", type=_type, help="the type of output.weight")
    parser.add_argument("--token-embedding-type", metavar="TYPE", type=_type, help="the type of token_embd.weight")
    parser.add_argument("--leave-output-tensor", action="store_true", help="keep output.weight as it is")
    parser.add_argument("--allow-requantize", action="store_true", help="take tensors that are quantized already")
    parser.add_argument("--arch", metavar="NAME", help="general.architecture (default: the input's)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, write nothing")
    codes = parser.add_argument_group("nf4 and fp4")
    codes.add_argument("--double-quant", action="store_true", help="quantize the scales, too")
    codes.add_argument("--block-size", metavar="N", type=_block_size, help="elements that share a scale (default: 64)")
    codes.add_argument(
        "--exclude", metavar="REGEX", action="append", default=[], type=_regex,
        help="keep weights whose name has the pattern; may be given again",
    )  # fmt: skip
    _add_common(parser)
    parser.set_defaults(command=_quantize, error=parser.error)


def _add_dequantize(commands: Any) -> None:
    parser = commands.add_parser("dequantize", help="decode a GGUF model or a bitsandbytes checkpoint to floats")
    parser.add_argument("input", metavar="IN", help="GGUF file; or a safetensors checkpoint in bitsandbytes' layout")
    parser.add_argument("output", metavar="OUT", help="file to write of the same kind, or a folder")
    parser.add_argument(
        "type", metavar="TYPE", nargs="?", type=str.upper, choices=("F32", "F16", "BF16"),
        help="F32, F16 or BF16 (default: F32; of a checkpoint what the weights had)",
    )  # fmt: skip
    _add_common(parser)
    parser.set_defaults(command=_dequantize)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-j", "--threads", metavar="N", type=_threads, help="threads (default: the CPUs of this process)"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")


def _add_inspect(commands: Any) -> None:
    parser = commands.add_parser("inspect", help="show what is in a GGUF or safetensors file")
    parser.add_argument("input", metavar="FILE", help="GGUF file; or safetensors: a file, a folder of shards, an index")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(command=_inspect)


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser("demo", help="take the built-in digits network through every format")
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, help="keep the GGUF files here")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(command=_demo)


def _quantize(options: argparse.Namespace) -> int:
    is_code = options.type in CODES
    for name in _CODE_FLAGS if not is_code else _GGUF_FLAGS:
        if getattr(options, name):
            flag = name.replace("_", "-")
            options.error(f"--{flag} goes with {', '.join(CODES) if not is_code else 'GGUF types'} only")
    if is_code:
        return _quantize_checkpoint(options)
    with _progress_bar(options, "quantize") as progress:
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
    with _progress_bar(options, "quantize") as progress:
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
    with _progress_bar(options, "dequantize") as progress:
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
        _say(f"note: {notice}")
    if options.json:
        _print_json(report.to_dict())
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


def _inspect(options: argparse.Namespace) -> int:
    description = described(options.input)
    if options.json:
        _print_json(description)
    else:
        print(shown(description))
    return 0


def _demo(options: argparse.Namespace) -> int:
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
    results = evaluate_formats(folder=options.output)
    if options.json:
        _print_json([asdict(result) for result in results])
        return 0
    print(f"A digits classifier (51,456 weights, UCI digits), safetensors -> GGUF -> evaluated; kernels: {isa()}")
    rows = [
        (r.format, f"{r.bits_per_weight:.2f}", bytes_text(r.file_bytes),
         "exact" if r.sqnr_db == float("inf") else f"{r.sqnr_db:.1f}", f"{100 * r.top1_accuracy:.2f} %")
        for r in results
    ]  # fmt: skip
    print(table(("format", "bits a weight", "size", "SQNR dB", "top-1 accuracy"), rows, right=(1, 2, 3, 4)))
    return 0


def _override(text: str) -> tuple[str, str]:
    pattern, separator, chosen = text.rpartition("=")
    if not separator or not pattern:
        raise argparse.ArgumentTypeError(f"expected REGEX=TYPE, got {text!r}")
    return _regex(pattern), _type(chosen)


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression ({error})") from None
    return text


def _type_or_code(text: str) -> str:
    return text.lower() if text.lower() in CODES else _type(text)


def _block_size(text: str) -> int:
    size = _threads(text)
    try:
        return check_block_size(size, "N")
    except QuantcoreError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _threads(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text!r}")
    return int(text)


def _type(text: str) -> str:
    try:
        return supported_format(text, "TYPE").name
    except QuantcoreError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@contextlib.contextmanager
def _progress_bar(options: argparse.Namespace, what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal's stderr, if tqdm is installed."""
    if options.no_progress or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(desc=what, unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def _print_json(value: Any) -> None:
    print(json.dumps(json_value(value), indent=1, allow_nan=False))


def _message(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory ({error})" if str(error) else "out of memory"
    if isinstance(error, OSError) and not isinstance(error, QuantcoreError) and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _say(text: str) -> None:
    if sys.stderr is not None:
        print(f"{PROGRAM}: {printable(' '.join(text.splitlines()))}", file=sys.stderr)


def _flush_stdout() -> None:
    """Flush now, where a full disk or a closed pipe can be reported, and keep Python from trying again when it ends."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        raise

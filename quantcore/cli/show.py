"""`inspect`: the contents of a file; `demo`: the accuracy of a small network in each format."""

import argparse
from dataclasses import asdict
from typing import Any

from quantcore import isa
from quantcore._base.text import bytes_text, table
from quantcore.cli.arguments import MAKE_DIGITS, PROGRAM, add_parser, output_file
from quantcore.cli.terminal import print_json, say, show
from quantcore.demo.digits import evaluate_formats
from quantcore.files.disk import local_path
from quantcore.models.inspection import describe, format_description


def add_inspect(commands: Any) -> None:
    """Add the parser of `inspect`."""
    parser = add_parser(
        commands,
        "inspect",
        "show what is in a GGUF or safetensors file",
        MAKE_DIGITS,
        f"{PROGRAM} inspect digits/digits-Q8_0.gguf",
    )
    parser.add_argument("input", metavar="FILE", help="GGUF file; or safetensors: a file, a folder of shards, an index")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(command=_inspect)


def add_demo(commands: Any) -> None:
    """Add the parser of `demo`."""
    parser = add_parser(commands, "demo", "take the built-in digits network through every format", f"{PROGRAM} demo")
    parser.add_argument("-o", "--output", metavar="FOLDER", type=output_file, help="keep the GGUF files here")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(command=_demo)


def _inspect(options: argparse.Namespace) -> int:
    description = describe(options.input)
    for notice in description["notices"]:
        say(f"note: {notice}")
    if options.json:
        print_json(description)
    else:
        show(format_description(description))
    return 0


def _demo(options: argparse.Namespace) -> int:
    folder = None if options.output is None else local_path(options.output)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    results = evaluate_formats(folder=folder)
    if options.json:
        print_json([asdict(result) for result in results])
        return 0
    show(f"A digits classifier (51,456 weights, UCI digits), safetensors -> GGUF -> evaluated; kernels: {isa()}")
    rows = [
        (r.format, f"{r.bits_per_weight:.2f}", bytes_text(r.file_bytes),
         "exact" if r.sqnr_db == float("inf") else f"{r.sqnr_db:.1f}", f"{100 * r.top1_accuracy:.2f} %")
        for r in results
    ]  # fmt: skip
    show(table(("format", "bits per weight", "size", "SQNR dB", "top-1 accuracy"), rows, right=(1, 2, 3, 4)))
    show("Rows have 64, 256 and 128 weights; what is no whole block of a format is stored in another, and counts so.")
    return 0

"""`inspect`: what is in a file; `demo`: what each format makes of a small network."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantcore import isa
from quantcore.cli.terminal import print_json
from quantcore.digits import evaluate_formats
from quantcore.inspection import described, shown
from quantcore.tables import bytes_text, table


def add_commands(commands: Any) -> None:
    """Add the parsers of `inspect` and `demo`."""
    _add_inspect(commands)
    _add_demo(commands)


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


def _inspect(options: argparse.Namespace) -> int:
    description = described(options.input)
    if options.json:
        print_json(description)
    else:
        print(shown(description))
    return 0


def _demo(options: argparse.Namespace) -> int:
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
    results = evaluate_formats(folder=options.output)
    if options.json:
        print_json([asdict(result) for result in results])
        return 0
    print(f"A digits classifier (51,456 weights, UCI digits), safetensors -> GGUF -> evaluated; kernels: {isa()}")
    rows = [
        (r.format, f"{r.bits_per_weight:.2f}", bytes_text(r.file_bytes),
         "exact" if r.sqnr_db == float("inf") else f"{r.sqnr_db:.1f}", f"{100 * r.top1_accuracy:.2f} %")
        for r in results
    ]  # fmt: skip
    print(table(("format", "bits a weight", "size", "SQNR dB", "top-1 accuracy"), rows, right=(1, 2, 3, 4)))
    return 0

"""`report`: a page of HTML that shows how good a quantized model is."""

import argparse
from typing import Any

from quantcore._base.text import decibels, printable, shorten
from quantcore.cli.arguments import MAKE_DIGITS, PROGRAM, add_common, add_parser, natural, output_file
from quantcore.cli.compare import notes
from quantcore.cli.terminal import print_json, progress_bar, say, show
from quantcore.report import write_report


def add_report(commands: Any) -> None:
    """Add the parser of `report`."""
    parser = add_parser(
        commands,
        "report",
        "write a page of HTML that shows how good a quantized model is",
        MAKE_DIGITS,
        f"{PROGRAM} report digits/digits-F32.gguf digits/digits-Q4_0.gguf -o report.html",
    )
    parser.add_argument(
        "reference", metavar="REF", help="GGUF file; or safetensors: a file, a Hugging Face folder, an index"
    )
    parser.add_argument("quantized", metavar="QUANT", help="the same, quantized; also in bitsandbytes' layout")
    parser.add_argument("-o", "--output", metavar="HTML", type=output_file, required=True, help="file to write")
    parser.add_argument(
        "--seed", metavar="S", type=natural, default=0, help="seed of the random sample of elements (default: 0)"
    )
    add_common(parser)
    parser.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> int:
    with progress_bar(options, "report") as progress:
        result = write_report(
            options.reference,
            options.quantized,
            options.output,
            seed=options.seed,
            force=options.force,
            n_threads=options.threads,
            progress=progress,
        )
    for line in notes(result):
        say(f"note: {line}")
    if options.json:
        print_json({"output": options.output} | result.to_dict())
    else:
        worst = result.worst
        show(
            f"{printable(options.output)}: SQNR {decibels(result.total.sqnr_db)} dB, worst "
            f"{decibels(worst.stats.sqnr_db)} dB ({shorten(worst.name)}), "
            f"{result.bits_per_weight:.2f} bits per weight"
        )
    return 0

"""`report`: a page of HTML that shows how good a quantized model is."""

import argparse
from typing import Any

from quantcore.cli.arguments import add_common, natural
from quantcore.cli.compare import notes
from quantcore.cli.terminal import print_json, progress_bar, say
from quantcore.report import write_report
from quantcore.tables import decibels, printable


def add_commands(commands: Any) -> None:
    """Add the parser of `report`."""
    parser = commands.add_parser("report", help="write a page of HTML that shows how good a quantized model is")
    parser.add_argument(
        "reference", metavar="REF", help="GGUF file; or safetensors: a file, a folder of shards, an index"
    )
    parser.add_argument("quantized", metavar="QUANT", help="the same, quantized; also in bitsandbytes' layout")
    parser.add_argument("-o", "--output", metavar="HTML", required=True, help="file to write")
    parser.add_argument("--seed", metavar="S", type=natural, default=0, help="of the elements drawn (default: 0)")
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
        print(
            f"{printable(options.output)}: SQNR {decibels(result.total.sqnr_db)} dB, worst "
            f"{decibels(worst.stats.sqnr_db)} dB ({printable(worst.name)}), {result.bits_per_weight:.2f} bits a weight"
        )
    return 0

"""`compare`: the error of each tensor of a quantized model, as a table, as JSON or as a quality gate."""

import argparse
from typing import Any

from quantcore._base.text import bytes_text, cut_middle, decibels, table
from quantcore.analysis.stats import QuantErrorStats
from quantcore.cli.arguments import MAKE_DIGITS, PROGRAM, add_parser, add_reading, number
from quantcore.cli.terminal import print_json, progress_bar, say, show
from quantcore.conversion import compare_models
from quantcore.models.comparison_results import ModelComparison

GATE_FAILED = 3
_HEAD = ("tensor", "type", "SQNR dB", "MSE", "max error", "cosine", "bits per weight")


def add_compare(commands: Any) -> None:
    """Add the parser of `compare`."""
    parser = add_parser(
        commands,
        "compare",
        "measure how far a quantized model is from its reference",
        MAKE_DIGITS,
        f"{PROGRAM} compare digits/digits-F32.gguf digits/digits-Q4_0.gguf",
    )
    parser.add_argument(
        "reference", metavar="REF", help="GGUF file; or safetensors: a file, a Hugging Face folder, an index"
    )
    parser.add_argument("quantized", metavar="QUANT", help="the same, quantized; also in bitsandbytes' layout")
    parser.add_argument(
        "--fail-under-sqnr", metavar="DB", type=number,
        help=f"exit {GATE_FAILED} if any tensor has an SQNR below this, or is missing in QUANT",
    )  # fmt: skip
    add_reading(parser)
    parser.set_defaults(command=_compare)


def _compare(options: argparse.Namespace) -> int:
    with progress_bar(options, "compare") as progress:
        result = compare_models(options.reference, options.quantized, n_threads=options.threads, progress=progress)
    for line in notes(result):
        say(f"note: {line}")
    if options.json:
        print_json(result.to_dict())
    else:
        rows = [(t.name, t.type, *_cells(t.stats, t.bits_per_weight)) for t in result.tensors]
        total = ("(total)", "", *_cells(result.total, result.bits_per_weight))
        show(table(_HEAD, [*rows, total], right=range(2, len(_HEAD))))
        show(f"{bytes_text(result.reference_bytes)} -> {bytes_text(result.nbytes)}")
    if options.fail_under_sqnr is not None and not result.passes(options.fail_under_sqnr):
        n_below = sum(t.stats.sqnr_db < options.fail_under_sqnr for t in result.tensors)
        missing = f", {len(result.missing)} missing" if result.missing else ""
        below = f"{n_below} of {len(result.tensors)} tensors below {options.fail_under_sqnr:g} dB"
        say(f"quality gate failed: {below}{missing}")
        return GATE_FAILED
    return 0


def notes(result: ModelComparison) -> list[str]:
    """What is to be known of the files, and the tensors that were not compared, one line each."""
    return [
        *result.notices,
        *(f"{cut_middle(name)}: missing in QUANT" for name in result.missing),
        *(f"{cut_middle(name)}: only in QUANT" for name in result.extra),
        *(f"{cut_middle(name)}: has no elements" for name in result.empty),
    ]


def _cells(stats: QuantErrorStats, bits_per_weight: float) -> tuple[str, ...]:
    return (
        decibels(stats.sqnr_db),
        f"{stats.mse:.3g}",
        f"{stats.max_error:.3g}",
        f"{stats.cosine_similarity:.6f}",
        f"{bits_per_weight:.2f}",
    )

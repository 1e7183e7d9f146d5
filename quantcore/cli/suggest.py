"""`suggest`: a type for each tensor under a budget of bits a weight, and the command that carries it out."""

import argparse
import shlex
from typing import Any

from quantcore.cli.arguments import PROGRAM, add_reading, number, supported_type
from quantcore.cli.terminal import print_json, progress_bar
from quantcore.costs import DEFAULT_TYPES
from quantcore.model_suggestion import ModelSuggestion, suggest_model_types
from quantcore.tables import bytes_text, table

_HEAD = ("tensor", "type", "smallest type", "its error", "share", "error a KiB takes away")


def add_commands(commands: Any) -> None:
    """Add the parser of `suggest`."""
    parser = commands.add_parser("suggest", help="choose a type for each tensor under a budget of bits a weight")
    parser.add_argument(
        "input", metavar="MODEL", help="GGUF file; or safetensors: a file, a folder of shards, an index"
    )
    parser.add_argument(
        "--bits-per-weight", metavar="BITS", type=number, required=True, help="of all tensors together, scales included"
    )
    parser.add_argument(
        "--types", metavar="TYPE,...", type=_types, default=[t.name for t in DEFAULT_TYPES],
        help=f"the candidates (default: {','.join(t.name for t in DEFAULT_TYPES)})",
    )  # fmt: skip
    add_reading(parser)
    parser.set_defaults(command=_suggest)


def _suggest(options: argparse.Namespace) -> int:
    with progress_bar(options, "suggest") as progress:
        result = suggest_model_types(
            options.input, options.bits_per_weight, options.types, n_threads=options.threads, progress=progress
        )
    chosen = result.suggestion
    flags = _flags(result)
    if options.json:
        print_json(
            {
                "bits_per_weight": chosen.bits_per_weight,
                "bytes": chosen.nbytes,
                "error": chosen.error,
                "least_error": chosen.least_error,
                "types": chosen.types,
                "sensitivities": [s._asdict() for s in result.sensitivities],
                "type": result.base,
                "flags": flags,
            }
        )
        return 0
    rows = [
        (s.name, chosen.types[s.name], s.smallest_type, f"{s.error:.3g}", f"{100 * s.share:.1f} %",
         f"{1024 * s.gain_per_byte:.3g}")
        for s in result.sensitivities
    ]  # fmt: skip
    print(table(_HEAD, rows, right=(3, 4, 5)))
    n_kept = len(chosen.types) - len(rows)
    print(
        f"{chosen.bits_per_weight:.4g} bits a weight, {bytes_text(chosen.nbytes)}; {n_kept} tensors are always kept; "
        f"relative error {chosen.error:.3g} summed over tensors, of which {chosen.error - chosen.least_error:.3g} at "
        "most could be saved"
    )
    model = options.input if options.input.isprintable() else "MODEL"
    command = [PROGRAM, "quantize", model, "OUT.gguf", result.base, *flags]
    print(" ".join(shlex.quote(word) for word in command))
    return 0


def _flags(result: ModelSuggestion) -> list[str]:
    flags = ["--pure"]
    for pattern, chosen in result.tensor_types:
        flags += ["--tensor-type", f"{pattern}={chosen}"]
    return flags


def _types(text: str) -> list[str]:
    return [supported_type(name) for name in text.split(",")]

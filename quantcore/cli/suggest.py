"""`suggest`: a type for each tensor under a budget of bits per weight or bytes, and the `quantize` command for it."""

import argparse
import shlex
from collections import Counter
from typing import Any

from quantcore._base.text import bytes_text, cut_middle, table
from quantcore.cli.arguments import (
    MAKE_DIGITS,
    PROGRAM,
    add_common,
    add_parser,
    file_size,
    number,
    output_file,
    supported_type,
)
from quantcore.cli.conversions import show_report
from quantcore.cli.terminal import print_json, progress_bar, say, show
from quantcore.conversion import quantize_model
from quantcore.conversion.rules import UNWEIGHTED_MODEL_TYPES
from quantcore.files.disk import check_output
from quantcore.ggml.formats import SUPPORTED_TYPES
from quantcore.mixed_precision.costs import DEFAULT_TYPES
from quantcore.mixed_precision.model_types import ModelSuggestion, suggest_model_types

_HEAD = ("tensor", "type", "smallest type", "error in it", "share", "error saved per KiB")
_ALL = "all"
_MOST_TYPES = 5
"""Types that the summary lists, the largest first, so that it has ten lines at most."""
_MOST_TENSORS = 3


def add_suggest(commands: Any) -> None:
    """Add the parser of `suggest`."""
    parser = add_parser(
        commands,
        "suggest",
        "choose a type for each tensor under a budget of bits per weight or bytes",
        MAKE_DIGITS,
        f"{PROGRAM} suggest digits/digits-F32.gguf --bits-per-weight 6",
    )
    parser.add_argument(
        "input", metavar="MODEL", help="GGUF file; or safetensors: a file, a folder of shards, an index"
    )
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        "--bits-per-weight", metavar="BITS", type=number, help="budget for all tensors together, scales included"
    )
    budget.add_argument("--bytes", metavar="N(K|M|G)", type=file_size, help="the same budget in bytes")
    parser.add_argument(
        "--types", metavar="TYPE,...", type=_types, default=[t.name for t in DEFAULT_TYPES],
        help=f"the candidates, or {_ALL} (default: {','.join(t.name for t in DEFAULT_TYPES)})",
    )  # fmt: skip
    parser.add_argument("--imatrix", metavar="FILE", help="importance matrix, which weighs the errors as well")
    parser.add_argument("-o", "--output", metavar="OUT", type=output_file, help="GGUF file to write with these types")
    add_common(parser)
    parser.set_defaults(command=_suggest)


def _suggest(options: argparse.Namespace) -> int:
    inputs = [path for path in (options.input, options.imatrix) if path is not None]
    if options.output is not None:
        check_output(options.output, force=options.force, inputs=inputs)
    every = SUPPORTED_TYPES if options.imatrix is not None else UNWEIGHTED_MODEL_TYPES
    with progress_bar(options, "suggest") as progress:
        result = suggest_model_types(
            options.input,
            options.bits_per_weight,
            [t.name for t in every] if options.types == _ALL else options.types,
            max_bytes=options.bytes,
            imatrix=options.imatrix,
            n_threads=options.threads,
            progress=progress,
        )
    for notice in result.notices:
        say(f"note: {notice}")
    if options.json:
        print_json(_describe(result, options))
    else:
        _show(result, options)
    return 0 if options.output is None else _apply(result, options)


def _describe(result: ModelSuggestion, options: argparse.Namespace) -> dict[str, Any]:
    chosen = result.suggestion
    return {
        "bits_per_weight": chosen.bits_per_weight,
        "bytes": chosen.nbytes,
        "error": chosen.error,
        "least_error": chosen.least_error,
        "types": chosen.types,
        "sensitivities": [s._asdict() for s in result.sensitivities],
        "type": result.base,
        "flags": _flags(result, options),
    }


def _show(result: ModelSuggestion, options: argparse.Namespace) -> None:
    chosen = result.suggestion
    show("\n".join(_summary(result)) + "\n")
    rows = [
        (s.name, chosen.types[s.name], s.smallest_type, f"{s.error:.3g}", f"{100 * s.share:.1f} %",
         f"{1024 * s.gain_per_byte:.3g}")
        for s in result.sensitivities
    ]  # fmt: skip
    show(table(_HEAD, rows, right=(3, 4, 5)) + "\n")
    model = options.input if options.input.isprintable() else "MODEL"
    output = options.output if options.output is not None and options.output.isprintable() else "OUT.gguf"
    command = [PROGRAM, "quantize", model, output, result.base, *_flags(result, options)]
    show(" ".join(shlex.quote(word) for word in command))


def _summary(result: ModelSuggestion) -> list[str]:
    """At most ten lines: what the choice takes and loses, which types it has, and which tensors need room most."""
    chosen, measured = result.suggestion, [s.name for s in result.sensitivities]
    lines = [
        f"{chosen.bits_per_weight:.4g} bits per weight, {bytes_text(chosen.nbytes)}; "
        f"{len(chosen.types) - len(measured)} tensors are always kept",
        f"relative error {chosen.error:.3g} summed over tensors, at most "
        f"{chosen.error - chosen.least_error:.3g} above the optimum",
    ]
    counts = Counter(chosen.types[name] for name in measured)
    sizes: Counter[str] = Counter()
    for name in measured:
        sizes[chosen.types[name]] += result.sizes[name]
    ranked = sizes.most_common()
    for type_, size in ranked[:_MOST_TYPES]:
        lines.append(f"{type_}: {counts[type_]} tensors, {bytes_text(size)}")
    if rest := ranked[_MOST_TYPES:]:
        n_rest = sum(counts[type_] for type_, _ in rest)
        lines.append(
            f"{', '.join(type_ for type_, _ in rest)}: {n_rest} tensors, {bytes_text(sum(s for _, s in rest))}"
        )
    most = ", ".join(map(cut_middle, measured[:_MOST_TENSORS]))
    return [*lines, f"where more bits save most: {most}"]


def _apply(result: ModelSuggestion, options: argparse.Namespace) -> int:
    with progress_bar(options, "quantize") as progress:
        report = quantize_model(
            options.input,
            options.output,
            result.base,
            pure=True,
            imatrix=options.imatrix,
            tensor_types=result.tensor_types,
            force=options.force,
            n_threads=options.threads,
            progress=progress,
        )
    if options.json:
        for notice in report.notices:
            say(f"note: {notice}")
        return 0
    return show_report(report, options, is_detailed=False)


def _flags(result: ModelSuggestion, options: argparse.Namespace) -> list[str]:
    flags = ["--pure"]
    if options.imatrix is not None:
        flags += ["--imatrix", options.imatrix]
    for pattern, chosen in result.tensor_types:
        flags += ["--tensor-type", f"{pattern}={chosen}"]
    return flags


def _types(text: str) -> list[str] | str:
    return _ALL if text.lower() == _ALL else [supported_type(name) for name in text.split(",")]

"""`split` and `merge`: GGUF models cut into parts and joined, as llama.cpp's gguf-split does."""

import argparse
from typing import Any

from quantcore._base.text import bytes_text, printable, table
from quantcore.cli.arguments import MAKE_DIGITS, PROGRAM, add_common, add_parser, file_size, output_file, positive
from quantcore.cli.terminal import print_json, progress_bar, say, show
from quantcore.conversion.split_files import DEFAULT_MAX_TENSORS, SplitReport, merge_model, split_model

_SPLIT = f"{PROGRAM} split digits/digits-Q8_0.gguf digits-parts --split-max-tensors 2"


def add_split(commands: Any) -> None:
    """Add the parser of `split`."""
    parser = add_parser(commands, "split", "cut a GGUF model into parts", MAKE_DIGITS, _SPLIT)
    parser.add_argument("input", metavar="IN", help="GGUF file, or any part of a split model")
    parser.add_argument(
        "output", metavar="OUT", type=output_file, help="the parts are OUT-00001-of-0000N.gguf and so on"
    )
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument(
        "--split-max-tensors", metavar="N", type=positive,
        help=f"tensors in a part (default: {DEFAULT_MAX_TENSORS})",
    )  # fmt: skip
    limits.add_argument("--split-max-size", metavar="N(M|G)", type=file_size, help="bytes of tensors in a part")
    parser.add_argument("--no-tensor-first-split", action="store_true", help="keep the first part for the metadata")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, but write nothing")
    add_common(parser)
    parser.set_defaults(command=_split)


def add_merge(commands: Any) -> None:
    """Add the parser of `merge`."""
    parser = add_parser(
        commands,
        "merge",
        "join the parts of a split GGUF model",
        MAKE_DIGITS,
        _SPLIT,
        f"{PROGRAM} merge digits-parts-00001-of-00003.gguf digits-merged.gguf",
    )
    parser.too_many = "; one part is enough, the others are found by its name"
    parser.add_argument("input", metavar="IN", help="any part of the model")
    parser.add_argument("output", metavar="OUT", type=output_file, help="GGUF file to write")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, but write nothing")
    add_common(parser)
    parser.set_defaults(command=_merge)


def _split(options: argparse.Namespace) -> int:
    with progress_bar(options, "split") as progress:
        report = split_model(
            options.input,
            options.output,
            max_tensors=options.split_max_tensors,
            max_size=options.split_max_size,
            no_tensor_first=options.no_tensor_first_split,
            force=options.force,
            dry_run=options.dry_run,
            n_threads=options.threads,
            progress=progress,
        )
    return _show(report, options)


def _merge(options: argparse.Namespace) -> int:
    with progress_bar(options, "merge") as progress:
        report = merge_model(
            options.input,
            options.output,
            force=options.force,
            dry_run=options.dry_run,
            n_threads=options.threads,
            progress=progress,
        )
    return _show(report, options)


def _show(report: SplitReport, options: argparse.Namespace) -> int:
    for notice in report.notices:
        say(f"note: {notice}")
    if options.json:
        print_json(report.to_dict())
    else:
        rows = [(printable(part.path), str(part.n_tensors), bytes_text(part.n_bytes)) for part in report.parts]
        show(table(("file", "tensors", "size"), rows, right=(1, 2)))
    return 0

"""`bench`: what each format loses on random weights of known distributions; figures of accuracy, not times."""

import argparse
from typing import Any

from quantcore import run_full_benchmark_suite
from quantcore.cli.arguments import natural, positive
from quantcore.errors import InvalidValueError

_SIZE = 1 << 16
_SEED = 0


def add_commands(commands: Any) -> None:
    """Add the parser of `bench`."""
    parser = commands.add_parser("bench", help="measure what each format loses on random weights")
    parser.add_argument(
        "--size", metavar="N", type=positive, default=_SIZE,
        help=f"weights of each distribution, a multiple of 16 (default: {_SIZE})",
    )  # fmt: skip
    parser.add_argument("--seed", metavar="S", type=natural, default=_SEED, help=f"of the weights (default: {_SEED})")
    parser.add_argument(
        "-j", "--threads", metavar="N", type=positive, help="threads (default: the CPUs of this process)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print as JSON")
    form.add_argument("--markdown", action="store_true", help="print as a Markdown table")
    parser.set_defaults(command=_bench, error=parser.error)


def _bench(options: argparse.Namespace) -> int:
    try:
        suite = run_full_benchmark_suite(options.size, rng=options.seed, n_threads=options.threads)
    except InvalidValueError as error:
        options.error(str(error))
    if options.json:
        print(suite.to_json(indent=1))
    else:
        print(suite.to_markdown() if options.markdown else suite.to_text())
    return 0

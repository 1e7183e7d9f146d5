"""`bench`: the error of each format on random weights of known distributions, and its speed on this machine."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from quantcore import isa, run_full_benchmark_suite, run_speed_benchmark
from quantcore._base import machine
from quantcore.analysis.speed import speed_table
from quantcore.cli.arguments import PROGRAM, add_parser, natural, positive
from quantcore.cli.terminal import print_json, show
from quantcore.errors import InvalidValueError

_SIZE = 1 << 16
_SEED = 0


def add_bench(commands: Any) -> None:
    """Add the parser of `bench`."""
    parser = add_parser(
        commands,
        "bench",
        "measure the error and the speed of each format on random weights",
        f"{PROGRAM} bench --size 4096 --markdown",
    )
    parser.add_argument(
        "--size", metavar="N", type=positive, default=_SIZE,
        help=f"number of weights of each distribution for the errors, a multiple of 16 (default: {_SIZE})",
    )  # fmt: skip
    parser.add_argument(
        "--seed", metavar="S", type=natural, default=_SEED, help=f"seed of the random weights (default: {_SEED})"
    )
    parser.add_argument(
        "-j", "--threads", metavar="N", type=positive, help="threads (default: the CPUs of this process)"
    )
    parser.add_argument("--no-speed", action="store_true", help="the errors only, which are the same on every machine")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print as JSON")
    form.add_argument("--markdown", action="store_true", help="print as Markdown tables")
    parser.set_defaults(command=_bench, error=parser.error)


def _bench(options: argparse.Namespace) -> int:
    try:
        suite = run_full_benchmark_suite(options.size, rng=options.seed, n_threads=options.threads)
    except InvalidValueError as error:
        options.error(str(error))
    if not options.json:
        show(suite.to_markdown() if options.markdown else suite.to_text())
    speeds = () if options.no_speed else run_speed_benchmark(rng=options.seed, n_threads=options.threads)
    if options.json:
        print_json(json.loads(suite.to_json()) | {"speed": [asdict(s) for s in speeds], "machine": _machine()})
    elif speeds:
        show(f"\n{_describe(_machine())}\n")
        show(speed_table(speeds, as_markdown=options.markdown))
    return 0


def _machine() -> dict[str, Any]:
    return machine.describe() | {"level": isa()}


def _describe(facts: dict[str, Any]) -> str:
    cpus = f"{facts['cpu']}, {facts['cpus_available']} of {facts['cpus']} CPUs"
    return f"{cpus}, {facts['system']}; kernels: {facts['level']}"

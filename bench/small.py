"""The overhead of a call besides its kernel: `python -m bench.small [--suites NAMES] [--output FILE]`.

Every float32 work of bench/ on 4096 elements with one thread. "kernel" is the time of the kernels that the call runs,
measured on the same arrays without the code around them.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

import quantcore
from bench.roofline import machine
from bench.suites import SUITES
from bench.timing import interleaved
from bench.work import Call
from quantcore import _kernels
from quantcore._base import parallel

HEAD = "| call | whole, µs | kernel, µs | besides, µs | peers, µs |\n|---|---|---|---|---|"
SMALL_SUITES = [name for name in SUITES if name != "torch"]  # that one needs a million elements
REPEATS = 100


def kernels_of(call: Call) -> Call:
    """A call that only does the compiled work of `call`."""
    work: list[Callable[[], object]] = []

    def run(kernel: _kernels.Kernel, n_items: int, item_bytes: int, n_threads: int | None, **options: Any) -> int:
        whole, turn = (n_items, n_items, options.get("goes_on", False)), options.get("turn", kernel.run)
        work.append(lambda: (kernel.hand_out(*whole), turn(n_items)))
        return original(kernel, n_items, item_bytes, n_threads, **options)

    original = parallel.run
    with patch.object(parallel, "run", run):
        call()

    def kernels() -> None:
        for function in work:
            function()

    return kernels


def rows(suites: list[str], n_elements: int, rounds: int) -> Iterator[str]:
    """The table's rows; the peers are those of the works."""
    for work in chain.from_iterable(SUITES[suite](n_elements) for suite in suites):
        if work.dtype != "float32":
            continue
        ours = work.ours(1)
        ours()  # a calibrator's first batch is another one
        calls = {"quantcore": ours, "kernel": kernels_of(ours)}
        calls |= {name: make(1) for name, make in work.peers.items()}
        seconds = interleaved(calls, rounds, REPEATS)
        whole, kernel = 1e6 * seconds.pop("quantcore"), 1e6 * seconds.pop("kernel")
        peers = "; ".join(f"{name} {1e6 * time:.1f}" for name, time in seconds.items())
        yield f"| {work.name} | {whole:.1f} | {kernel:.1f} | {whole - kernel:.1f} | {peers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--elements", type=int, default=4096, help="a multiple of 4096")
    parser.add_argument("--suites", nargs="+", default=SMALL_SUITES, choices=SMALL_SUITES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="write the table here as Markdown")
    options = parser.parse_args()
    text = f"{machine()}; {quantcore.isa()}; {options.elements:,} elements, 1 thread, "
    text += f"medians of {options.rounds} interleaved rounds of {REPEATS} calls.\n\n"
    text += "\n".join([HEAD, *rows(options.suites, options.elements, options.rounds)]) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()

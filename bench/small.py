"""What a call costs besides its kernel: `python -m bench.small [--suites NAMES] [--output FILE]`.

Every float32 work of bench/ on 4096 elements with one thread. "kernel" are the functions of `quantcore._kernels` that
the call calls, called again with the same arguments but without what stands around them.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import quantcore
from bench.roofline import machine
from bench.suites import SUITES
from bench.timing import interleaved
from bench.work import Call
from quantcore import _kernels

HEAD = "| call | whole, µs | kernel, µs | besides, µs | peers, µs |\n|---|---|---|---|---|"
SMALL_SUITES = [name for name in SUITES if name != "torch"]  # that one needs a million elements
REPEATS = 100


def kernels_of(call: Call, n_calls: int) -> Call:
    """A call of nothing but the kernels that `call` calls, to be called up to `n_calls` times."""
    calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
    chunks: dict[_kernels.Chunks, tuple[Any, ...]] = {}  # what they were made with: they can be used once only

    def make(*arguments: Any) -> _kernels.Chunks:
        made = original(*arguments)
        chunks[made] = arguments
        return made

    def recorded(function: Callable[..., object]) -> Callable[..., object]:
        def record(*arguments: Any) -> object:
            # Copies, since results are made read-only later on.
            calls.append((function, tuple(x.copy() if isinstance(x, np.ndarray) else x for x in arguments)))
            return function(*arguments)

        return record

    original = _kernels.Chunks
    with ExitStack() as stack:
        for name in _kernels.__all__:
            function = getattr(_kernels, name)
            if callable(function):
                replacement = make if function is original else recorded(function)
                stack.enter_context(patch.object(_kernels, name, replacement))
        call()

    def again(argument: Any) -> Any:
        return original(*chunks[argument]) if isinstance(argument, original) else argument

    prepared = iter([[(f, [again(x) for x in arguments]) for f, arguments in calls] for _ in range(n_calls)])

    def kernels() -> None:
        for function, arguments in next(prepared):
            function(*arguments)

    return kernels


def rows(suites: list[str], n_elements: int, rounds: int) -> Iterator[str]:
    """The table's rows; the peers are those of the works."""
    for work in chain.from_iterable(SUITES[suite](n_elements) for suite in suites):
        if work.dtype != "float32":
            continue
        ours = work.ours(1)
        ours()  # a calibrator's first batch is another one
        calls = {"quantcore": ours, "kernel": kernels_of(ours, (rounds + 1) * REPEATS)}
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

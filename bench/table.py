"""One table of every work beside its peers: `python -m bench.table [--suites NAMES] [--threads 1 2] [--output FILE]`.

Each round times every contender once, one after the other, so that a noisy machine is noisy for all; the figures are
medians over the rounds. Shares are of the memory roofline of the same run.
"""

import argparse
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

import quantcore
from bench.roofline import bandwidth, machine
from bench.suites import SUITES
from bench.timing import interleaved
from bench.work import Work
from quantcore._kernels import SUPPORTED_LEVELS

HEAD = "| work | dtype | threads | level | Gelem/s | roofline | ratio to peers |\n|---|---|---|---|---|---|---|"


PEERS = ("numpy", "torch", "bitsandbytes", "onnxruntime", "gguf")


def versions() -> str:
    """The versions of quantcore and of the peers that are installed."""
    found = {"quantcore": quantcore.__version__}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # its columns are left out, too
            continue
    return ", ".join(map(" ".join, found.items()))


def measured(work: Work, n_threads: int, rounds: int) -> dict[str, float]:
    """Median seconds of each contender, interleaved."""
    contenders = {"quantcore": work.ours} | work.peers
    return interleaved({name: make(n_threads) for name, make in contenders.items()}, rounds)


def rows(suites: list[str], n_elements: int, threads: list[int], rounds: int) -> list[str]:
    """The table's rows at this process's CPU level."""
    lines = []
    rooflines = {n: bandwidth(n) for n in threads}
    for work in chain.from_iterable(SUITES[suite](n_elements) for suite in suites):
        for n_threads in threads:
            seconds = measured(work, n_threads, rounds)
            ours = seconds.pop("quantcore")
            ratios = "; ".join(f"{name} {time / ours:.1f}x" for name, time in seconds.items())
            speed, share = work.n_elements / ours / 1e9, work.n_bytes / ours / rooflines[n_threads]
            cells = work.name, work.dtype, n_threads, quantcore.isa(), f"{speed:.2f}", f"{share:.2f}", ratios
            lines.append(f"| {' | '.join(map(str, cells))} |")
            print(lines[-1], file=sys.stderr)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--elements", type=int, default=1 << 25)
    parser.add_argument("--suites", nargs="+", default=list(SUITES), choices=SUITES)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--levels", nargs="+", default=list(reversed(SUPPORTED_LEVELS)), choices=SUPPORTED_LEVELS)
    parser.add_argument("--output", type=Path, help="write the table here as Markdown")
    parser.add_argument("--rows-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rows_only:
        print("\n".join(rows(options.suites, options.elements, options.threads, options.rounds)))
        return
    lines = []
    for level in options.levels:
        command = [sys.executable, "-m", "bench.table", "--rows-only", "--elements", str(options.elements)]
        command += ["--suites", *options.suites, "--rounds", str(options.rounds)]
        command += ["--threads", *map(str, options.threads)]
        environment = os.environ | {"QUANTCORE_ISA": level}
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        lines += result.stdout.splitlines()
    text = f"{machine()}; {options.elements:,} elements, medians of {options.rounds} interleaved rounds; "
    text += f"{versions()}.\n\n"
    text += "\n".join([HEAD, *lines]) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()

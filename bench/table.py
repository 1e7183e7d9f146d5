"""One table of every work beside its peers: `python -m bench.table [--suites NAMES] [--threads 1 2] [--output FILE]`.

Each round times every contender once, one after the other, so that a noisy machine is noisy for all; the figures are
medians over the rounds. Shares are of the memory roofline of the same run.
"""

import argparse
import os
import platform
import subprocess
import sys
from itertools import chain
from pathlib import Path
from statistics import median
from time import perf_counter

import quantcore
from bench.roofline import bandwidth
from bench.suites import SUITES
from bench.works import Work
from quantcore._kernels import SUPPORTED_LEVELS

HEAD = "| work | threads | level | Gelem/s | roofline | ratio to peers |\n|---|---|---|---|---|---|"


def measured(work: Work, n_threads: int, rounds: int) -> dict[str, float]:
    """Median seconds of each contender, interleaved."""
    contenders = {"quantcore": work.ours} | work.peers
    calls = {name: make(n_threads) for name, make in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = perf_counter()
            call()
            times[name].append(perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def rows(suites: list[str], n_elements: int, threads: list[int], rounds: int) -> list[str]:
    """The table's rows at this process's CPU level."""
    lines = []
    rooflines = {n: bandwidth(n) for n in threads}
    for work in chain.from_iterable(SUITES[suite](n_elements) for suite in suites):
        for n_threads in threads:
            seconds = measured(work, n_threads, rounds)
            ours = seconds.pop("quantcore")
            ratios = ", ".join(f"{name} {time / ours:.1f}x" for name, time in seconds.items())
            lines.append(
                f"| {work.name} | {n_threads} | {quantcore.isa()} | {work.n_elements / ours / 1e9:.2f} | "
                f"{work.n_bytes / ours / rooflines[n_threads]:.2f} | {ratios} |"
            )
            print(lines[-1], file=sys.stderr)
    return lines


def machine() -> str:
    """The CPU and the roofline, without a date."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    speeds = ", ".join(f"{bandwidth(n) / 1e9:.0f} GB/s with {n} thread{'s' * (n > 1)}" for n in (1, 2))
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} CPUs, {speeds}; {platform.system()}"


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
    text = f"{machine()}; {options.elements:,} elements, medians of {options.rounds} interleaved rounds.\n\n"
    text += "\n".join([HEAD, *lines]) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()

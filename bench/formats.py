"""One line a block format: how many times as fast as ggml at each CPU level, and beside other Python packages.

Usage: python -m bench.formats [--elements N] [--rounds N] [--output FILE]

One thread, in processor time of this process, so that other programs on the machine disturb less. `--second-thread`
adds the gain from one, in time that passes: for a quiet machine. Ratios are medians of interleaved rounds.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from time import process_time

import quantcore
from bench.roofline import machine
from bench.timing import interleaved
from bench.works import TYPES, works
from quantcore._kernels import SUPPORTED_LEVELS

OTHERS = ("libgguf", "gguf-py", "AutoRound")
Measured = dict[str, dict[str, float]]  # work: contender: seconds; "elements" and "2 threads" besides


def measured(n_elements: int, rounds: int, *, has_others: bool, has_second_thread: bool) -> Measured:
    """Every work on float32 of this process's CPU level."""
    found: Measured = {}
    for work in works(n_elements):
        if not work.peers:
            continue
        calls = {"ours": work.ours(1), "ggml": work.peers["ggml"](1)}
        calls |= {name: work.peers[name](1) for name in OTHERS if has_others and name in work.peers}
        found[work.name] = interleaved(calls, rounds, clock=process_time) | {"elements": work.n_elements}
        if has_second_thread:
            both = interleaved({n: work.ours(n) for n in (1, 2)}, rounds)
            found[work.name]["2 threads"] = both[1] / both[2]
        print(work.name, quantcore.isa(), file=sys.stderr)
    return found


def lines(levels: dict[str, Measured]) -> list[str]:
    """The table, the levels in the order in which they come."""
    first = next(iter(levels.values()))
    names = " / ".join(levels)
    head = ["work", f"Melem/s, {next(iter(levels))}", f"times as fast as ggml: {names}", *OTHERS]
    if "2 threads" in next(iter(first.values())):
        head.append("a second thread")
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for qtype in TYPES:
        for name in (f"{qtype.name} quantize", f"{qtype.name} quantize, imatrix", f"{qtype.name} dequantize"):
            if name not in first:
                continue
            seconds = first[name]
            speed = seconds["elements"] / seconds["ours"] / 1e6
            ratios = " / ".join(f"{level[name]['ggml'] / level[name]['ours']:.1f}" for level in levels.values())
            others = [f"{seconds[peer] / seconds['ours']:.1f}" if peer in seconds else "" for peer in OTHERS]
            cells = [name, f"{speed:,.0f}", ratios, *others]
            cells += [f"{seconds['2 threads']:.2f}"] if "2 threads" in seconds else []
            rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--elements", type=int, default=1 << 22)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--levels", nargs="+", default=list(reversed(SUPPORTED_LEVELS)), choices=SUPPORTED_LEVELS)
    parser.add_argument("--second-thread", action="store_true", help="measure the gain from it, on a quiet machine")
    parser.add_argument("--output", type=Path, help="write the table here as Markdown")
    parser.add_argument("--one-level", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--others", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_level:
        extras = {"has_others": options.others, "has_second_thread": options.second_thread}
        print(json.dumps(measured(options.elements, options.rounds, **extras)))
        return
    found = {}
    for level in options.levels:
        command = [sys.executable, "-m", "bench.formats", "--one-level", "--elements", str(options.elements)]
        command += ["--rounds", str(options.rounds)]
        if level == options.levels[0]:
            command += ["--others", *(["--second-thread"] if options.second_thread else [])]
        child = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"QUANTCORE_ISA": level}
        )
        found[level] = json.loads(child.stdout)
    text = f"{machine()}; {options.elements:,} elements (fewer of types that search), medians of {options.rounds} "
    text += "interleaved rounds.\n\n" + "\n".join(lines(found)) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()

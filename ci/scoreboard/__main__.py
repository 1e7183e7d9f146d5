"""The reliability figures that are measured, as one Markdown table; about a quarter of an hour on two cores.

Usage: python -m ci.scoreboard [--quick] [ROW...]   (needs the test dependencies; rows that lack a peer say so)
Exit 1 if a figure misses its goal. Fuzzing and sanitizers report themselves: ci/fuzz_parsers.py, ci/sanitize.sh.
"""

import argparse
import sys
from collections.abc import Callable

import pytest

from ci.scoreboard import exact_bytes, files_read, files_written, processes
from ci.scoreboard.measuring import Figure, Scale

ROWS: dict[str, tuple[str, Callable[[], Figure]]] = {
    "malformed": ("named malformed files (goal: >= 80, all refused)", files_read.malformed_files),
    "damaged": ("truncations and changed header bytes (goal: nothing but our error)", files_read.damaged_files),
    "tolerated": ("unusual GGUF files (goal: all opened that llama.cpp opens)", files_read.tolerated_files),
    "written": ("files of the writers (goal: every one accepted by the readers)", files_written.written_files),
    "metadata": ("inspect of long metadata (goal: < 5 s, < 64 MiB)", files_read.long_metadata),
    "names": ("names of a megabyte in every command's output: tests (goal: all pass)", files_read.long_names),
    "parity": ("the same bytes as ggml (goal: 0 differ)", exact_bytes.parity),
    "levels": ("threads 1 to 8 x CPU levels (goal: one result a format)", exact_bytes.levels),
    "golden": ("golden vectors (goal: >= 100)", exact_bytes.golden_vectors),
    "kills": ("kill -9 during a write (goal: 0 corrupt, 0 stale)", files_written.kills),
    "files": ("full disk, limits, same path, links: tests (goal: all pass)", files_written.full_disk),
    "temporaries": (
        "temporaries: nobody's file removed or published: tests (goal: all pass)",
        files_written.temporaries,
    ),
    "together": ("folders interrupted anywhere: all files or none: tests (goal: all pass)", files_written.together),
    "bits": ("one bit changed in an .npz archive (goal: all found)", files_read.flipped_bits),
    "json": ("hostile JSON (goal: refused, memory < 4 times its size)", files_read.hostile_json),
    "kinds": ("wrong files called by their right names: tests (goal: all pass)", files_read.wrong_files),
    "soak": ("soak with 4 threads (goal: 0 mismatches, <= 1 MiB)", processes.soak),
    "huge": ("more than 2^31 elements (goal: <= 1.5 GiB)", processes.huge),
    "ctrl-c": ("Ctrl-C (goal: <= 0.2 s)", processes.ctrl_c),
    "calls": ("sequences of hostile public calls (goal: 0 raw errors)", processes.fuzzed_calls),
    "boundary": ("arrays that lie, records, states: tests (goal: all pass)", processes.boundary),
    "stacks": ("every kernel family on a stack of 32 KiB: tests (goal: all pass)", processes.stacks),
    "interruptions": ("handlers, forks, no threads, shutting down: tests (goal: all pass)", processes.interruptions),
    "fork": ("forked children (goal: all work)", processes.fork),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    options = parser.parse_args()
    unknown = set(options.rows) - ROWS.keys()
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    Scale.is_quick = options.quick
    failed = 0
    print("| figure | measured | |\n|---|---|---|", flush=True)
    for row in options.rows or ROWS:
        title, measure = ROWS[row]
        try:
            text, is_met = measure()
        except pytest.skip.Exception as reason:
            text, is_met = f"not measured: {reason}", False
        failed += not is_met
        print(f"| {title} | {text} | {'met' if is_met else 'MISSED'} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

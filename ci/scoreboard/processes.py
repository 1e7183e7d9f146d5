"""Rows about processes that run long, are interrupted or fork, and calls that are hostile."""

import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from zlib import crc32

import numpy as np

import quantcore
from ci.race import TYPES
from ci.scoreboard.measuring import Figure, Scale, python, tests
from tests.support.parallel_programs import FORKED, HUGE, INTERRUPTED, INTERRUPTED_CALLS, SECONDS_TO_SIGNAL


def rss() -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]


def soak() -> Figure:
    """Four threads that quantize and decode shared arrays; every result compared, memory watched after a warm-up."""
    seconds = Scale.of(60)
    values = np.random.default_rng(0).standard_normal((1 << 10, 1 << 10)).astype(np.float32)
    expected = {name: quantcore.quantize(values, name) for name in TYPES}
    sums = {name: (crc32(data), crc32(quantcore.dequantize(data, name))) for name, data in expected.items()}
    is_over = threading.Event()
    counts: list[Counter[bool]] = [Counter() for _ in range(4)]

    def work(count: Counter[bool]) -> None:
        data = {name: np.empty_like(array) for name, array in expected.items()}
        restored = np.empty_like(values)
        while not is_over.is_set():
            for name in expected:
                quantcore.quantize(values, name, out=data[name], n_threads=2)
                quantcore.dequantize(data[name], name, out=restored, n_threads=2)
                count[(crc32(data[name]), crc32(restored)) == sums[name]] += 1

    threads = [threading.Thread(target=work, args=(count,)) for count in counts]
    for thread in threads:
        thread.start()
    samples = []
    for _ in range(10 * seconds):
        time.sleep(0.1)
        samples.append(rss())
    is_over.set()
    for thread in threads:
        thread.join()
    quarter = len(samples) // 4
    growth = min(samples[-quarter:]) - min(samples[quarter : 2 * quarter])  # the floor, below what comes and goes
    total = sum(counts, Counter())
    text = f"{total[True]:,} round trips, {total[False]} mismatches, RSS {growth / 2**20:+.2f} MiB in {seconds} s"
    return text, total[True] > 0 and not total[False] and growth <= 1 << 20


def huge() -> Figure:
    message, peak = python(HUGE).splitlines()
    text = f"2^31 + 64 elements, {int(peak) / 2**20:.2f} GiB at most"
    return text, message.endswith(f"at flat index {2**31 + 40}") and int(peak) <= 1.5 * 2**20


def ctrl_c() -> Figure:
    """From the signal to the KeyboardInterrupt, in the midst of a call over 2 GiB."""
    count, worst = max(3, Scale.of(20)), 0.0
    call, size = next(iter(INTERRUPTED_CALLS.items()))
    for i in range(count):
        seconds, *_ = python(INTERRUPTED.format(call=call, out=size, n_threads=1 + i % 4)).split()
        worst = max(worst, float(seconds) - SECONDS_TO_SIGNAL)
    return f"answered {count} times within {worst:.3f} s", worst <= 0.2


def fork() -> Figure:
    count = Scale.of(100)
    codes, *pooled = python(FORKED.format(n_children=count)).splitlines()
    right = codes.strip("[]").split(", ").count("0")
    return f"{right} of {count} children work", right == count and pooled == ["True", "True"]


def fuzzed_calls() -> Figure:
    """Sequences of public calls with hostile arguments; ci/sanitize.sh runs them under AddressSanitizer, too."""
    command = [sys.executable, "-m", "ci.fuzz_calls", "--calls", str(Scale.of(100_000))]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return child.stdout.split("\n")[0], child.returncode == 0


def boundary() -> Figure:
    """Arrays that lie, records that somebody tries to change, states beyond the limits."""
    passed, summary = tests("tests/base/test_liars.py tests/base/test_sealed.py tests/calibration/test_limits.py")
    return summary, passed


def stacks() -> Figure:
    passed, summary = tests("tests/base/test_small_stacks.py")
    return summary, passed


def interruptions() -> Figure:
    """Signal handlers and forks within calls, no thread to be had, an interpreter that shuts down."""
    passed, summary = tests("tests/base/test_few_threads.py tests/calibration/test_turns.py")
    return summary, passed

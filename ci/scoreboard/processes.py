"""Rows about processes that run long, are interrupted or fork, and calls that are hostile."""

import re
import signal
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


HUGE = """
import re
import numpy as np, quantcore
n = 2**31 + 64
values = np.zeros(n, np.float32)
places = (0, 2**31 - 32, 2**31, n - 32)
for place in places:
    values[place : place + 32] = np.linspace(-1, 2, 32)
data = quantcore.quantize(values, "Q4_0").reshape(-1, 18)
expected = quantcore.quantize(values[:32], "Q4_0")
zero = quantcore.quantize(np.zeros(32, np.float32), "Q4_0")
right = all((data[p // 32] == expected).all() for p in places) and (data[1 :: 4097][:-1] == zero).all()
print(right, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def huge() -> Figure:
    right, peak = python(HUGE).split()
    return f"2^31 + 64 elements, {int(peak) / 2**20:.2f} GiB at most", right == "True" and int(peak) <= 1.5 * 2**20


INTERRUPTED = """
import time
import tracemalloc
import numpy as np, quantcore
values = np.zeros(1 << 29, np.float32)
out = np.zeros((1 << 24, 18), np.uint8).reshape(-1)
print("ready", flush=True)
try:
    while True:
        quantcore.quantize(values, "Q4_0", out=out)
except KeyboardInterrupt:
    print(time.clock_gettime(time.CLOCK_MONOTONIC))
"""


def ctrl_c() -> Figure:
    """From the signal to the KeyboardInterrupt, in the midst of a call over 2 GiB."""
    count, worst = max(3, Scale.of(20)), 0.0
    for i in range(count):
        with subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(0.05 + 0.01 * i)
            sent = time.clock_gettime(time.CLOCK_MONOTONIC)
            child.send_signal(signal.SIGINT)
            worst = max(worst, float(child.communicate(timeout=60)[0]) - sent)
    return f"answered {count} times within {worst:.3f} s", worst <= 0.2


FORKED = """
import os, sys
import numpy as np, quantcore
values = np.ones((1 << 12, 1 << 10), np.float32)
expected = quantcore.quantize(values, "Q4_0", n_threads=4)
right = 0
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        os._exit(int(not np.array_equal(quantcore.quantize(values, "Q4_0", n_threads=4), expected)))
    right += os.waitpid(pid, 0)[1] == 0
print(right)
"""


def fork() -> Figure:
    count = Scale.of(100)
    right = int(python(FORKED, count))
    return f"{right} of {count} children work", right == count


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

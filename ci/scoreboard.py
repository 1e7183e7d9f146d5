"""The reliability figures that are measured, as one Markdown table; about five minutes on two cores.

Usage: python -m ci.scoreboard [--quick] [ROW...]   (needs the test dependencies; rows that lack a peer say so)
Exit 1 if a figure misses its goal. Fuzzing and sanitizers report themselves: ci/fuzz_parsers.py, ci/sanitize.sh.
"""

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

import quantcore
from quantcore import _kernels
from quantcore.errors import FileFormatError
from quantcore.gguf.reader import GGUFReader
from quantcore.safetensors import SafetensorsReader, open_checkpoint
from tests import ggml, hostile_checkpoints, hostile_gguf, hostile_safetensors
from tests.contract import BLOCK, DISTRIBUTIONS, FORMATS
from tests.make_golden import PATH as GOLDEN

BLOCKS_A_BATCH = 4096


class Scale:
    """How much of everything: full, or a tenth."""

    is_quick = False

    @classmethod
    def of(cls, count: int) -> int:
        return count // 10 if cls.is_quick else count


def python(code: str, *arguments: object, **environment: str) -> str:
    """What a new interpreter prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | environment).stdout


def malformed_files() -> tuple[str, bool]:
    """Named malformed files and checkpoints, each opened once: one error, one line."""
    readers: list[tuple[Callable[[Path], object], dict[str, object], str]] = [
        (GGUFReader, hostile_gguf.MALFORMED | hostile_gguf.ON_DISK, "model.gguf"),
        (SafetensorsReader, hostile_safetensors.MALFORMED | hostile_safetensors.ON_DISK, "model.safetensors"),
        (open_checkpoint, hostile_checkpoints.CHECKPOINTS, ""),
    ]
    count, refused, slowest = 0, 0, 0.0
    for reader, catalogue, name in readers:
        for case in catalogue.values():
            with tempfile.TemporaryDirectory() as folder:
                if callable(case):
                    path = case(Path(folder))
                else:
                    path = Path(folder, name)
                    path.write_bytes(case)
                start = time.process_time()
                try:
                    reader(path)
                except FileFormatError as error:
                    refused += str(error).isprintable()
                slowest = max(slowest, time.process_time() - start)
                count += 1
    return f"{refused} of {count} refused, slowest {1000 * slowest:.0f} ms", refused == count >= 80


def damaged_files() -> tuple[str, bool]:
    """Every truncation, and header bytes changed at random: read, or refused with our error."""
    rng = random.Random(0)
    outcomes: Counter[str] = Counter()
    catalogues = ((GGUFReader, hostile_gguf.VALID), (SafetensorsReader, hostile_safetensors.VALID))
    for reader, catalogue in catalogues:
        files = [data for data in catalogue.values() if len(data) < 4096]
        cases = [data[:size] for data in files for size in range(0, len(data), 1 if len(data) < 400 else 7)]
        for _ in range(Scale.of(10_000)):
            data = bytearray(rng.choice(files))
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(min(len(data), 300))] = rng.randrange(256)
            cases.append(bytes(data))
        descriptor = os.memfd_create("case")
        for case in cases:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, case, 0)
            try:
                reader(f"/proc/self/fd/{descriptor}").close()
                outcomes["read"] += 1
            except FileFormatError:
                outcomes["refused"] += 1
            except Exception as error:
                outcomes[type(error).__name__] += 1
        os.close(descriptor)
    return ", ".join(f"{n} {what}" for what, n in outcomes.items()), set(outcomes) == {"read", "refused"}


def parity() -> tuple[str, bool]:
    """Blocks of every kind of data through genuine ggml and through quantcore."""
    wanted = Scale.of(1_000_000)
    different: dict[str, int] = {}
    for fmt in (f for f in FORMATS if f.block_size > 1):
        rng = np.random.default_rng(0)
        done = different[fmt.name] = 0
        while done < wanted:
            for make in DISTRIBUTIONS.values():
                values = fmt.in_range(make(rng, BLOCKS_A_BATCH * BLOCK)).reshape(-1, BLOCK)
                values = values[fmt.is_defined(values)]
                ours = quantcore.quantize(values, fmt.name).reshape(-1)
                theirs = np.frombuffer(ggml.quantize(values, fmt.id), np.uint8)
                different[fmt.name] += int(np.count_nonzero(ours != theirs))
                done += len(values)
    figures = ", ".join(f"{name}: {count}" for name, count in different.items())
    return f"differing bytes in {wanted:,} blocks a format: {figures}", not any(different.values())


HASHED = """
import hashlib
import numpy as np, quantcore
values = np.random.default_rng(0).standard_normal((1 << 12, 1 << 11)).astype(np.float32)
for n_threads in range(1, 9):
    for name in ("Q4_0", "Q8_0", "F16", "BF16"):
        data = quantcore.quantize(values, name, n_threads=n_threads)
        print(name, hashlib.sha256(data).hexdigest(),
              hashlib.sha256(quantcore.dequantize(data, name, n_threads=n_threads)).hexdigest())
"""


def levels() -> tuple[str, bool]:
    """1 to 8 threads at every CPU level of this machine."""
    seen = {line for level in _kernels.SUPPORTED_LEVELS for line in python(HASHED, QUANTCORE_ISA=level).splitlines()}
    names = {line.split()[0] for line in seen}
    text = f"{len(seen)} results of {len(names)} formats at {', '.join(_kernels.SUPPORTED_LEVELS)}"
    return text, len(seen) == len(names) == 4


def golden() -> tuple[str, bool]:
    count = len(json.loads(GOLDEN.read_text())["vectors"])
    return f"{count} vectors, {hashlib.sha256(GOLDEN.read_bytes()).hexdigest()[:12]}", count >= 100


def tests(selection: str, **environment: str) -> tuple[bool, str]:
    """Whether the selected tests pass, and pytest's summary."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *selection.split()]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    return child.returncode == 0, child.stdout.strip().split("\n")[-1].strip("= ")


def kills() -> tuple[str, bool]:
    """Processes killed while they write a model: the old file or the new one, and nothing left over."""
    count = Scale.of(300)
    passed, summary = tests("tests/test_large.py -k killed", QUANTCORE_TEST_KILLS=str(count))
    return f"{count} kill -9, {'0 corrupt, 0 stale' if passed else summary}", passed


def full_disk() -> tuple[str, bool]:
    passed, summary = tests("tests/test_files.py tests/test_files_faults.py")
    return summary, passed


def rss() -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]


def soak() -> tuple[str, bool]:
    """Four threads that quantize and decode shared arrays; every result compared, memory watched after a warm-up."""
    seconds = Scale.of(60)
    values = np.random.default_rng(0).standard_normal((1 << 10, 1 << 10)).astype(np.float32)
    expected = {name: quantcore.quantize(values, name) for name in ("Q4_0", "Q8_0", "F16", "BF16")}
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


def huge() -> tuple[str, bool]:
    right, peak = python(HUGE).split()
    return f"2^31 + 64 elements, {int(peak) / 2**20:.2f} GiB at most", right == "True" and int(peak) <= 1.5 * 2**20


INTERRUPTED = """
import time
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


def ctrl_c() -> tuple[str, bool]:
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


def fork() -> tuple[str, bool]:
    count = Scale.of(100)
    right = int(python(FORKED, count))
    return f"{right} of {count} children work", right == count


ROWS: dict[str, tuple[str, Callable[[], tuple[str, bool]]]] = {
    "malformed": ("named malformed files (goal: >= 80, all refused)", malformed_files),
    "damaged": ("truncations and changed header bytes (goal: nothing but our error)", damaged_files),
    "parity": ("the same bytes as ggml (goal: 0 differ)", parity),
    "levels": ("threads 1 to 8 x CPU levels (goal: one result a format)", levels),
    "golden": ("golden vectors (goal: >= 100)", golden),
    "kills": ("kill -9 during a write (goal: 0 corrupt, 0 stale)", kills),
    "files": ("full disk, limits, same path, links: tests (goal: all pass)", full_disk),
    "soak": ("soak with 4 threads (goal: 0 mismatches, <= 1 MiB)", soak),
    "huge": ("more than 2^31 elements (goal: <= 1.5 GiB)", huge),
    "ctrl-c": ("Ctrl-C (goal: <= 0.2 s)", ctrl_c),
    "fork": ("forked children (goal: all work)", fork),
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

"""The reliability figures that are measured, as one Markdown table; about a quarter of an hour on two cores.

Usage: python -m ci.scoreboard [--quick] [ROW...]   (needs the test dependencies; rows that lack a peer say so)
Exit 1 if a figure misses its goal. Fuzzing and sanitizers report themselves: ci/fuzz_parsers.py, ci/sanitize.sh.
"""

import argparse
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

import quantcore
from ci.race import TYPES
from quantcore import _kernels
from quantcore.calibration.files import calibrate_files
from quantcore.errors import FileFormatError
from quantcore.gguf.reader import GGUFReader
from quantcore.models.inspection import describe, format_description
from quantcore.safetensors.reader import SafetensorsReader, open_checkpoint
from tests.support import (
    gguf_bytes,
    golden,
    hostile_checkpoints,
    hostile_gguf,
    hostile_safetensors,
    llama_client,
    tolerated_gguf,
)
from tests.support.contract import DISTRIBUTIONS, FORMATS


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


def tolerated_files() -> tuple[str, bool]:
    """GGUF files that are unusual but valid: llama.cpp opens them and so do we, or their types and names are new."""
    trailing = {name: data for name, (data, _) in tolerated_gguf.TRAILING.items()}
    unknown = {name: data for name, (data, _) in tolerated_gguf.UNKNOWN_TYPES.items()}
    with tempfile.TemporaryDirectory() as folder:
        paths, ours = [], 0
        for data in (hostile_gguf.VALID | trailing | unknown).values():
            paths.append(Path(folder, f"{len(paths)}.gguf"))
            paths[-1].write_bytes(data)
            try:
                GGUFReader(paths[-1]).close()
                ours += 1
            except FileFormatError:
                pass
        theirs = sum(llama_client.opens(paths)) if llama_client.is_installed("xllamacpp") else pytest.skip("xllamacpp")
    newer = len(tolerated_gguf.LONG_NAMES) + len(unknown)
    return f"{ours} of {len(paths)} opened, llama.cpp opens {theirs}", ours == len(paths) == theirs + newer


def written_files() -> tuple[str, bool]:
    """Containers written from arguments that Hypothesis draws: refused by the writer, or accepted by the reader."""
    profile = "default" if Scale.is_quick else "thorough"
    selection = "tests/gguf/test_writer.py tests/safetensors/test_writer.py -k what_the_writer_writes"
    passed, summary = tests(selection, HYPOTHESIS_PROFILE=profile)
    count = 2 * (40 if Scale.is_quick else 2000)
    return f"{count:,} files, {'0 refused by the reader' if passed else summary}", passed


def long_metadata() -> tuple[str, bool]:
    """`describe` of a file with 40,000 keys, and of one with a string of 500 MB."""
    with tempfile.TemporaryDirectory() as folder:
        keys = [gguf_bytes.KV(b"key.%d" % i, gguf_bytes.U32, gguf_bytes.u32(i)) for i in range(40_000)]
        many = Path(folder, "many.gguf")
        many.write_bytes(gguf_bytes.build_gguf(kvs=keys))
        start = time.process_time()
        format_description(describe(many))
        seconds = time.process_time() - start
        long = hostile_gguf.VALID_ON_DISK["sparse/string of 500 MB"](Path(folder))
        tracemalloc.start()
        format_description(describe(long))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return f"40,000 keys {seconds:.2f} s, 500 MB {peak / 2**20:.1f} MiB", seconds < 5 and peak < 64 << 20


def long_names() -> tuple[str, bool]:
    passed, summary = tests("tests/cli/test_long_names.py tests/base/test_text.py")
    return summary, passed


def parity() -> tuple[str, bool]:
    """Blocks of every kind of data through genuine ggml and through quantcore."""
    n_blocks, different = 0, {}
    for fmt in (f for f in FORMATS if f.has_blocks):
        rng = np.random.default_rng(0)
        n_rows = max(1, Scale.of(fmt.n_in_full) // fmt.row // len(DISTRIBUTIONS))
        count = 0
        for kind in DISTRIBUTIONS:
            values = fmt.draw(kind, rng, n_rows)
            values = values[fmt.is_defined(values)]
            ours = fmt.quantize(values).reshape(-1)
            count += int(np.count_nonzero(ours != np.frombuffer(fmt.quantize_by_ggml(values), np.uint8)))
            n_blocks += len(ours) // fmt.bytes_per_block
        if count:
            different[fmt.name] = count
    figures = ", ".join(f"{name}: {count}" for name, count in different.items()) or "0"
    n_formats = sum(f.has_blocks for f in FORMATS)
    return f"differing bytes in {n_blocks:,} blocks of {n_formats} formats: {figures}", not different


HASHED = """
import hashlib
import numpy as np, quantcore
from ci.race import TYPES
values = np.random.default_rng(0).standard_normal((1 << 12, 1 << 11)).astype(np.float32)
for n_threads in range(1, 9):
    for name in TYPES:
        data = quantcore.quantize(values, name, n_threads=n_threads)
        print(name, hashlib.sha256(data).hexdigest(),
              hashlib.sha256(quantcore.dequantize(data, name, n_threads=n_threads)).hexdigest())
"""


def levels() -> tuple[str, bool]:
    """1 to 8 threads at every CPU level of this machine."""
    seen = {line for level in _kernels.SUPPORTED_LEVELS for line in python(HASHED, QUANTCORE_ISA=level).splitlines()}
    names = {line.split()[0] for line in seen}
    text = f"{len(seen)} results of {len(names)} formats at {', '.join(_kernels.SUPPORTED_LEVELS)}"
    return text, len(seen) == len(names) == len(TYPES)


def golden_vectors() -> tuple[str, bool]:
    formats = golden.list_formats()
    count = sum(len(golden.read_vectors(name)) for name in formats)
    digest = hashlib.sha256(b"".join(golden.path_of(name).read_bytes() for name in formats))
    return f"{count} vectors of {len(formats)} formats, {digest.hexdigest()[:12]}", count >= 100


def tests(selection: str, **environment: str) -> tuple[bool, str]:
    """Whether the selected tests pass, and pytest's summary."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--full", *selection.split()]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    return child.returncode == 0, child.stdout.strip().split("\n")[-1].strip("= ")


def kills() -> tuple[str, bool]:
    """Processes killed while they write a model: the old file or the new one, and nothing left over."""
    count = Scale.of(300)
    passed, summary = tests("tests/conversion/test_large.py -k killed", QUANTCORE_TEST_KILLS=str(count))
    return f"{count} kill -9, {'0 corrupt, 0 stale' if passed else summary}", passed


def full_disk() -> tuple[str, bool]:
    passed, summary = tests("tests/files")
    return summary, passed


def temporaries() -> tuple[str, bool]:
    """Names of temporaries, other people's files, file systems without locks, links or readable folders."""
    passed, summary = tests("tests/files/test_temporaries.py")
    return summary, passed


def together() -> tuple[str, bool]:
    """A folder of shards, interrupted at every system call and at lines in between."""
    passed, summary = tests("tests/conversion/test_folders_together.py")
    return summary, passed


def flipped_bits() -> tuple[str, bool]:
    """Archives of NumPy with one bit of a member's data changed: all of them refused."""
    rng = np.random.default_rng(0)
    count, found = Scale.of(2000), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npz")
        for save in (np.savez, np.savez_compressed):
            save(path, a=rng.standard_normal((40, 500)).astype(np.float32))
            good = path.read_bytes()
            directory = good.rindex(b"PK\1\2")
            for i in range(count // 2):
                data = bytearray(good)
                data[rng.integers(200, directory - 1)] ^= 1 << rng.integers(8)
                path.write_bytes(data)
                try:
                    calibrate_files([path], quantcore.Calibrator.min_max(axis=(None, 0, 1)[i % 3]))
                except FileFormatError:
                    found += 1
    return f"{found} of {count} found", found == count


def hostile_json() -> tuple[str, bool]:
    """Headers whose values would take far more memory than their text."""
    size, worst = Scale.of(20_000_000), 0.0
    units = ("[],", "[1],", "{},", '{"a":1},', "300,", '"ab",')
    for unit in units:
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            text = f'{{"a":[{(unit * (size // len(unit)))[:-1]}]}}'.encode()
            file.write(len(text).to_bytes(8, "little") + text)
            file.flush()
            tracemalloc.start()
            try:
                SafetensorsReader(file.name)
                return f"{unit} was accepted", False
            except FileFormatError:
                worst = max(worst, tracemalloc.get_traced_memory()[1] / size)
            finally:
                tracemalloc.stop()
    return f"{len(units)} of {size / 1e6:.0f} MB refused, memory {worst:.1f} times the text", worst < 4


def wrong_files() -> tuple[str, bool]:
    """Files of a dozen other kinds, URLs, unprintable names, stdout: what the command line says about them."""
    passed, summary = tests("tests/cli/test_wrong_files.py")
    return summary, passed


def rss() -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]


def soak() -> tuple[str, bool]:
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


def huge() -> tuple[str, bool]:
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


def fuzzed_calls() -> tuple[str, bool]:
    """Sequences of public calls with hostile arguments; ci/sanitize.sh runs them under AddressSanitizer, too."""
    command = [sys.executable, "-m", "ci.fuzz_calls", "--calls", str(Scale.of(100_000))]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return child.stdout.split("\n")[0], child.returncode == 0


def boundary() -> tuple[str, bool]:
    """Arrays that lie, records that somebody tries to change, states beyond the limits."""
    passed, summary = tests("tests/base/test_liars.py tests/base/test_sealed.py tests/calibration/test_limits.py")
    return summary, passed


def stacks() -> tuple[str, bool]:
    passed, summary = tests("tests/base/test_small_stacks.py")
    return summary, passed


def interruptions() -> tuple[str, bool]:
    """Signal handlers and forks within calls, no thread to be had, an interpreter that shuts down."""
    passed, summary = tests("tests/base/test_few_threads.py tests/calibration/test_turns.py")
    return summary, passed


ROWS: dict[str, tuple[str, Callable[[], tuple[str, bool]]]] = {
    "malformed": ("named malformed files (goal: >= 80, all refused)", malformed_files),
    "damaged": ("truncations and changed header bytes (goal: nothing but our error)", damaged_files),
    "tolerated": ("unusual GGUF files (goal: all opened that llama.cpp opens)", tolerated_files),
    "written": ("files of the writers (goal: every one accepted by the readers)", written_files),
    "metadata": ("inspect of long metadata (goal: < 5 s, < 64 MiB)", long_metadata),
    "names": ("names of a megabyte in every command's output: tests (goal: all pass)", long_names),
    "parity": ("the same bytes as ggml (goal: 0 differ)", parity),
    "levels": ("threads 1 to 8 x CPU levels (goal: one result a format)", levels),
    "golden": ("golden vectors (goal: >= 100)", golden_vectors),
    "kills": ("kill -9 during a write (goal: 0 corrupt, 0 stale)", kills),
    "files": ("full disk, limits, same path, links: tests (goal: all pass)", full_disk),
    "temporaries": ("temporaries: nobody's file removed or published: tests (goal: all pass)", temporaries),
    "together": ("folders interrupted anywhere: all files or none: tests (goal: all pass)", together),
    "bits": ("one bit changed in an .npz archive (goal: all found)", flipped_bits),
    "json": ("hostile JSON (goal: refused, memory < 4 times its size)", hostile_json),
    "kinds": ("wrong files called by their right names: tests (goal: all pass)", wrong_files),
    "soak": ("soak with 4 threads (goal: 0 mismatches, <= 1 MiB)", soak),
    "huge": ("more than 2^31 elements (goal: <= 1.5 GiB)", huge),
    "ctrl-c": ("Ctrl-C (goal: <= 0.2 s)", ctrl_c),
    "calls": ("sequences of hostile public calls (goal: 0 raw errors)", fuzzed_calls),
    "boundary": ("arrays that lie, records, states: tests (goal: all pass)", boundary),
    "stacks": ("every kernel family on a stack of 32 KiB: tests (goal: all pass)", stacks),
    "interruptions": ("handlers, forks, no threads, shutting down: tests (goal: all pass)", interruptions),
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

"""Rows about files from elsewhere: hostile, damaged, unusual, long."""

import os
import random
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import quantcore
from ci.scoreboard.measuring import Figure, Scale, tests
from quantcore.calibration.files import calibrate_files
from quantcore.errors import FileFormatError
from quantcore.gguf.reader import GGUFReader
from quantcore.models.inspection import describe, format_description
from quantcore.safetensors.reader import SafetensorsReader, open_checkpoint
from tests.support import (
    gguf_bytes,
    hostile_checkpoints,
    hostile_gguf,
    hostile_safetensors,
    llama_client,
    tolerated_gguf,
)


def malformed_files() -> Figure:
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


def damaged_files() -> Figure:
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


def tolerated_files() -> Figure:
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


def long_metadata() -> Figure:
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


def long_names() -> Figure:
    passed, summary = tests("tests/cli/test_long_names.py tests/base/test_text.py")
    return summary, passed


def flipped_bits() -> Figure:
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


def hostile_json() -> Figure:
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


def wrong_files() -> Figure:
    """Files of a dozen other kinds, URLs, unprintable names, stdout: what the command line says about them."""
    passed, summary = tests("tests/cli/test_wrong_files.py")
    return summary, passed

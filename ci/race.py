"""Threads at one array; meant for builds with ThreadSanitizer or AddressSanitizer.

shared: many threads read one input and write outputs of their own, each call itself in several threads; all results
are equal. changing: the input is rewritten all the time with anything from NaN to huge values; the results may be
anything, but nothing is touched that should not be, and no conversion is undefined. clash: two threads write one
output, which a ThreadSanitizer that is on must report.

Usage: python ci/race.py shared|changing|clash [--rounds 20]
"""

import argparse
import contextlib
import threading
from collections.abc import Callable

import numpy as np

import quantcore
from quantcore.ggml import UNWEIGHTED_TYPES

N_THREADS = 4
TYPES = tuple(t.name for t in UNWEIGHTED_TYPES)
SHAPE = (48, 32 * 1024)  # 6 MiB: enough for a call to start threads


def together(*works: Callable[[], None]) -> None:
    """Run the works at once; raise the first error of any."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def shared(rounds: int) -> None:
    values = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    for qtype in TYPES:
        expected = quantcore.quantize(values, qtype, n_threads=1)
        restored = quantcore.dequantize(expected, qtype, n_threads=1)

        def work(qtype: str = qtype, expected: np.ndarray = expected, restored: np.ndarray = restored) -> None:
            for _ in range(rounds // len(TYPES)):
                assert np.array_equal(quantcore.quantize(values, qtype, n_threads=3), expected)
                assert np.array_equal(quantcore.dequantize(expected, qtype, n_threads=3), restored)

        together(*[work] * N_THREADS)


def changing(rounds: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(SHAPE, np.float32)
    patterns = [values.copy(), values * np.float32(1e-42), values * np.float32(1e5), np.full(SHAPE, -0.0, np.float32)]
    patterns += [np.full(SHAPE, x, np.float32) for x in (np.nan, np.inf, -np.inf, 3e38, -3e38, 524128, 1e-38)]
    patterns.append(rng.integers(0, 2**32, SHAPE, np.uint32).view(np.float32))
    is_over = threading.Event()
    params = quantcore.calibrate_per_channel(values, mode=quantcore.QuantMode.ASYMMETRIC)
    works: list[Callable[[], object]] = [
        *(lambda qtype=qtype: quantcore.quantize(values, qtype, n_threads=2) for qtype in TYPES),
        lambda: quantcore.quantize_4bit(values, quant_type="nf4", n_threads=2),
        lambda: quantcore.quantize_with_params(values, params, n_threads=2),
        lambda: quantcore.fake_quantize_with_params(values, params, n_threads=2),
        lambda: quantcore.lsq_backward(values, values, params, n_threads=2),
        lambda: quantcore.analyze_error(values, params, n_threads=2),
        lambda: quantcore.calibrate_percentile(values, n_threads=2),
        lambda: quantcore.Calibrator.percentile().observe(values, n_threads=2),
        lambda: quantcore.Calibrator.percentile(axis=0).observe(values, n_threads=2),
        lambda: quantcore.Calibrator.percentile(axis=1).observe(values[:, :64], n_threads=2),
    ]

    def write() -> None:
        while not is_over.is_set():
            for pattern in patterns:
                rows = slice(None, None, int(rng.integers(1, 5)))
                values[rows] = pattern[rows]

    def read() -> None:
        for i in range(rounds):
            with contextlib.suppress(quantcore.InvalidValueError):
                works[i % len(works)]()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        together(*[read] * (N_THREADS - 1))
    finally:
        is_over.set()
        writer.join()


def clash(rounds: int) -> None:
    values = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    out = quantcore.quantize(values, "Q8_0")

    def work() -> None:
        for _ in range(rounds):
            quantcore.quantize(values, "Q8_0", out=out, n_threads=1)

    together(work, work)


def main() -> None:
    modes = {f.__name__: f for f in (shared, changing, clash)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=modes)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    modes[options.mode](options.rounds)
    print(f"{options.mode} at {quantcore.isa()}: {options.rounds} rounds, no error")


if __name__ == "__main__":
    main()

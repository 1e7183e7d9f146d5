"""Time per element for 10^5 to 10^8 elements, and the gain by threads: `python -m bench.scaling [--powers 5 6 7 8 9]`.

Works with `out=` write to existing memory. The last rows are NumPy's copy, shared among as many threads: where that
gets no faster, memory is the limit.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import quantcore
from bench.roofline import in_threads, machine
from bench.timing import interleaved
from bench.work import Call
from quantcore import Calibrator

Maker = Callable[[np.ndarray], Callable[[int], Call]]
ELEMENTS_A_TURN = 10**7


def _format(qtype: str) -> Maker:
    def make(values: np.ndarray) -> Callable[[int], Call]:
        out = quantcore.quantize(values, qtype)
        return lambda n: lambda: quantcore.quantize(values, qtype, n_threads=n, out=out)

    return make


def _nf4(values: np.ndarray) -> Callable[[int], Call]:
    return lambda n: lambda: quantcore.quantize_4bit(values, quant_type="nf4", n_threads=n)


def _nf4_dequantize(values: np.ndarray) -> Callable[[int], Call]:
    q, out = quantcore.quantize_4bit(values, quant_type="nf4"), np.ones_like(values)
    return lambda n: lambda: quantcore.dequantize_4bit(q, n_threads=n, out=out)


def _int8(values: np.ndarray) -> Callable[[int], Call]:
    params, out = quantcore.calibrate_per_tensor(values), np.ones(values.shape, np.int8)
    return lambda n: lambda: quantcore.quantize_with_params(values, params, n_threads=n, out=out)


def _fake_quantize(values: np.ndarray) -> Callable[[int], Call]:
    params, out = quantcore.calibrate_per_tensor(values), np.ones_like(values)
    return lambda n: lambda: quantcore.fake_quantize_with_params(values, params, n_threads=n, out=out)


def _min_max(values: np.ndarray) -> Callable[[int], Call]:
    calibrator = Calibrator.min_max()
    return lambda n: lambda: calibrator.observe(values, n_threads=n)


def _copy(values: np.ndarray) -> Callable[[int], Call]:
    out = np.ones_like(values)

    def copy(n_threads: int) -> Call:
        parts = [slice(len(values) * i // n_threads, len(values) * (i + 1) // n_threads) for i in range(n_threads)]
        return lambda: in_threads(lambda i: np.copyto(out[parts[i]], values[parts[i]]), n_threads)

    return copy


WORKS: dict[str, Maker] = {
    "Q4_0 quantize": _format("Q4_0"),
    "Q8_0 quantize": _format("Q8_0"),
    "NF4 quantize, fresh output": _nf4,
    "NF4 dequantize": _nf4_dequantize,
    "int8 per tensor quantize": _int8,
    "fake quantize per tensor": _fake_quantize,
    "min-max observe": _min_max,
    "copy": _copy,
}


def rows(values: np.ndarray, sizes: list[int], threads: list[int], rounds: int) -> Iterator[str]:
    """For each work a row for each number of threads, and how many times faster than the first the others are."""
    for name, make in WORKS.items():
        seconds: dict[int, list[float]] = {n: [] for n in threads}
        for size in sizes:
            made = make(values[:size])
            medians = interleaved({n: made(n) for n in threads}, rounds, max(1, ELEMENTS_A_TURN // size))
            for n in threads:
                seconds[n].append(medians[n])
        for n in threads:
            costs = (f"{1e9 * time / size:.3f}" for time, size in zip(seconds[n], sizes, strict=True))
            yield f"| {name} | {n} | {' | '.join(costs)} |"
        first, *others = threads
        for n in others:
            gains = (f"{one / more:.2f}x" for one, more in zip(seconds[first], seconds[n], strict=True))
            yield f"| {name} | {n} over {first} | {' | '.join(gains)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--powers", type=int, nargs="+", default=[5, 6, 7, 8], help="of ten; 9 needs 10 GB of memory")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="write the table here as Markdown")
    options = parser.parse_args()
    sizes = [10**power for power in options.powers]
    values = np.random.default_rng(0).standard_normal(max(sizes), dtype=np.float32)
    text = (
        f"{machine()}; {quantcore.isa()}; nanoseconds per element, medians of {options.rounds} interleaved rounds.\n\n"
    )
    columns = ["work", "threads", *(f"10^{power}" for power in options.powers)]
    head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
    text += "\n".join([head, *rows(values, sizes, options.threads, options.rounds)]) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()

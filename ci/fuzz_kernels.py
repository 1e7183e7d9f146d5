"""Random cases through the kernels, in buffers of exactly the size they may touch; meant for a sanitized build.

Every buffer is its own malloc'ed block that ends where the data end, so that AddressSanitizer sees one byte too far,
read or written. Values are of every magnitude with NaN, inf, ties, limits and subnormals mixed in, or random bits;
blocks to decode are random bytes. --hash FILE gets a hash of all results: the same for one seed at every CPU level.

Usage: python ci/fuzz_kernels.py [--cases 5120] [--seed 0] [--hash FILE] [--short input|output]
--short gives every input or output one byte less than it needs: a sanitizer that is on must stop the run.
"""

import argparse
import ctypes
import hashlib
import threading
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import quantcore
from quantcore import (
    QuantGranularity,
    QuantMode,
    _kernels,
    dequantize_4bit,
    dequantize_4bit_double,
    quantize_4bit,
    quantize_4bit_double,
)
from quantcore._base import arrays
from quantcore.calibration import percentiles
from quantcore.ggml import GGUFQuantType, ImatrixUse

FLOAT_DTYPES = {
    arrays.FLOAT32: np.float32,
    arrays.FLOAT16: np.float16,
    arrays.BFLOAT16: np.uint16,
    arrays.FLOAT64: np.float64,
}
OUTPUT_TYPES = (arrays.FLOAT32, arrays.FLOAT16, arrays.BFLOAT16)
SIZES = _kernels.block_sizes()
# Around a tile (64 blocks of 32 elements, or 2048 single elements), and around what fits no vector.
WEIGHED = {int(t): t.layout.imatrix for t in GGUFQuantType if t.layout.imatrix is not ImatrixUse.IGNORED}


def block_counts(block_size: int) -> tuple[int, ...]:
    """Numbers of blocks around those of a tile of 2048 elements."""
    tile = 2048 // block_size
    edges = {0, 1, 2, 3, 7, tile - 1, tile, tile + 1, 2 * tile - 1, 2 * tile, 2 * tile + 1}
    return tuple(sorted(n for n in edges if n >= 0))


# Limits of the formats and of the floats, and values whose scale under- or overflows.
SPECIAL = (0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1.17e-38, 2e-38, 65504.0, 65520.0, 524128.0, 524160.0, -524160.0,
           8321039.0, 8321040.0, 3.4e38, -3.4e38, 3.5e38, 1e300, np.inf, -np.inf, np.nan)  # fmt: skip
# The share of the cases of statistics that select from very many values and hash every bin: far slower than the rest.
THOROUGH = 0.25

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]


def heap(size: int, lead: int = 0) -> NDArray[np.uint8]:
    """`size` bytes that end where a block of malloc ends, `lead` bytes from its start."""
    address = libc.malloc(size + lead)
    block = (ctypes.c_uint8 * size).from_address(address + lead)
    weakref.finalize(block, libc.free, address)
    array = np.frombuffer(block, np.uint8)
    array[:] = 0xA5
    return array


def random_values(rng: np.random.Generator, size: int, element_type: int) -> NDArray[np.generic]:
    dtype = np.dtype(FLOAT_DTYPES[element_type])
    kind = rng.integers(4)
    if kind == 0:
        return rng.integers(0, 256, size * dtype.itemsize, np.uint8).view(dtype)
    exponent = rng.uniform(-46, 7) if kind == 1 else rng.uniform(-3, 3)
    with np.errstate(over="ignore", under="ignore"):
        values = rng.standard_normal(size) * 10.0**exponent
        if kind == 3 and size:
            values[rng.integers(0, size, rng.integers(1, 4))] = rng.choice(SPECIAL, 1)
        if rng.random() < 0.2:
            values = np.round(values)  # ties
        if element_type == arrays.BFLOAT16:
            return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return values.astype(dtype)


def in_chunks(rng: np.random.Generator, n_blocks: int, kernel: _kernels.Kernel) -> int:
    """Run a kernel over chunks of a random size in up to three threads; the first bad block, or -1."""
    kernel.hand_out(n_blocks, int(rng.integers(1, max(2, n_blocks + 2))))
    threads = [threading.Thread(target=kernel.run, args=(n_blocks,)) for _ in range(rng.integers(3))]
    for thread in threads:
        thread.start()
    kernel.run(n_blocks)
    for thread in threads:
        thread.join()
    return kernel.first_bad


class Fuzzer:
    """Cases from one seed; `hash` and `counts` sum up what came out. `short`: whose last byte is missing, if any."""

    def __init__(self, seed: int, short: str | None) -> None:
        self.rng = np.random.default_rng(seed)
        self.short = short
        self.hash = hashlib.sha256()
        self.counts: Counter[str] = Counter()

    def n_blocks(self, block_size: int) -> int:
        if self.rng.random() < 0.5:
            return int(self.rng.choice(block_counts(block_size)))
        return int(self.rng.integers(0, 2 * max(block_counts(block_size))))

    def input(self, array: NDArray[np.generic], alignment: int) -> NDArray[np.uint8]:
        data = array.reshape(-1).view(np.uint8)
        copy = heap(max(0, data.size - (self.short == "input")), self.lead(alignment))
        copy[:] = data[: copy.size]
        return copy

    def output(self, size: int, alignment: int) -> NDArray[np.uint8]:
        return heap(max(0, size - (self.short == "output")), self.lead(alignment))

    def lead(self, alignment: int) -> int:
        return alignment * int(self.rng.integers(0, 16))

    def quantize(self, type_id: int) -> None:
        """Straight to the kernel: any bits, any chunks, any number of threads."""
        rng = self.rng
        block_size, bytes_per_block = SIZES[type_id]
        n = self.n_blocks(block_size)
        element_type = int(rng.choice(list(FLOAT_DTYPES)))
        itemsize = arrays.ITEMSIZES[element_type]
        raw = self.input(random_values(rng, n * block_size, element_type), itemsize)
        before = raw.tobytes()
        outs = [self.output(n * bytes_per_block, bytes_per_block if block_size == 1 else 1) for _ in "12"]
        weights = self.weights(type_id, n)
        bad = {in_chunks(rng, n, _kernels.QuantizeBlocks(type_id, raw, element_type, out, *weights)) for out in outs}
        assert raw.tobytes() == before, "the input was written to"
        assert len(bad) == 1, f"the first bad block depends on the chunks: {bad}"
        self.record("refused" if bad != {-1} else "quantized", bad, *(outs if bad == {-1} else ()))

    def weights(self, type_id: int, n: int) -> tuple[NDArray[np.float32], int, int] | tuple[()]:
        """Weights of the columns of n blocks, one row of them; none for some of the types that can do without."""
        use = WEIGHED.get(type_id, ImatrixUse.IGNORED)
        if n == 0 or use is ImatrixUse.IGNORED or (use is not ImatrixUse.REQUIRED and self.rng.random() < 0.5):
            return ()
        cols = n * SIZES[type_id][0]
        values = self.rng.random(cols, np.float32) * (self.rng.random(cols) < self.rng.random())
        copy = heap(values.nbytes, self.lead(4)).view(np.float32)  # never short: it would be no float32 array any more
        copy[:] = values
        return copy, cols, 1

    def dequantize(self, type_id: int) -> None:
        rng = self.rng
        block_size, bytes_per_block = SIZES[type_id]
        n = self.n_blocks(block_size)
        blocks = rng.integers(0, 256, n * bytes_per_block, np.uint8)
        if rng.random() < 0.7 and block_size > 1:
            blocks[1::bytes_per_block] &= 0xBB  # no fp16 scale is inf or NaN, so that whole arrays decode
        data = self.input(blocks, bytes_per_block if block_size == 1 else 1)
        element_type = int(rng.choice(OUTPUT_TYPES))
        itemsize = arrays.ITEMSIZES[element_type]
        outs = [self.output(n * block_size * itemsize, itemsize) for _ in "12"]
        bad = {in_chunks(rng, n, _kernels.DequantizeBlocks(type_id, data, out, element_type)) for out in outs}
        assert len(bad) == 1, f"the first bad block depends on the chunks: {bad}"
        self.record("not finite" if bad != {-1} else "dequantized", bad, *(outs if bad == {-1} else ()))

    def public(self, type_id: int) -> None:
        """The way a user goes: rows, out=, errors; what was taken must come back."""
        rng = self.rng
        block_size, bytes_per_block = SIZES[type_id]
        shape = (int(rng.integers(0, 5)), int(rng.integers(0, 5)) * block_size * int(rng.integers(1, 30)))
        element_type = int(rng.choice([arrays.FLOAT32, arrays.FLOAT16, arrays.FLOAT64]))
        dtype = np.dtype(FLOAT_DTYPES[element_type])
        raw = heap(shape[0] * shape[1] * dtype.itemsize, self.lead(dtype.itemsize))
        values = raw.view(dtype).reshape(shape)
        values[:] = random_values(rng, values.size, element_type).reshape(shape)
        packed_shape = (shape[0], shape[1] // block_size * bytes_per_block)
        alignment = bytes_per_block if block_size == 1 else 1
        packed = heap(packed_shape[0] * packed_shape[1], self.lead(alignment)).reshape(packed_shape)
        restored = heap(values.size * 4, self.lead(4)).view(np.float32).reshape(shape)
        is_weighed = type_id in WEIGHED and (WEIGHED[type_id] is ImatrixUse.REQUIRED or rng.random() < 0.5)
        imatrix = rng.random(shape[1], np.float32) if is_weighed else None
        try:
            quantcore.quantize(values, type_id, imatrix=imatrix, out=packed)
        except quantcore.InvalidValueError:
            assert values.size
            self.record("refused", {-1})
            return
        quantcore.dequantize(packed, type_id, out=restored)
        assert np.isfinite(restored).all()
        self.record("round trip", {-1}, packed.reshape(-1), restored.reshape(-1).view(np.uint8))

    def four_bit(self, _: int) -> None:
        """4-bit blocks over a flat array of any length, so with short last blocks and half bytes."""
        rng = self.rng
        size = int(rng.integers(0, 5000))
        element_type = int(rng.choice([arrays.FLOAT32, arrays.FLOAT16, arrays.FLOAT64]))
        dtype = np.dtype(FLOAT_DTYPES[element_type])
        values = heap(size * dtype.itemsize, self.lead(dtype.itemsize)).view(dtype)
        values[:] = random_values(rng, size, element_type)
        options = {"block_size": 2 ** int(rng.integers(5, 13)), "quant_type": str(rng.choice(["int4", "nf4", "fp4"]))}
        double = {"super_block_size": 2 ** int(rng.integers(5, 10)), "scale_code": "linear"}
        if rng.random() < 0.5:
            double = {"scale_code": "dynamic"}
        is_double = rng.random() < 0.5
        try:
            q = quantize_4bit_double(values, **options, **double) if is_double else quantize_4bit(values, **options)
        except quantcore.InvalidValueError:
            assert size
            self.record("refused", {-1})
            return
        restored = heap(4 * size, self.lead(4)).view(np.float32)
        (dequantize_4bit_double if is_double else dequantize_4bit)(q, out=restored)
        assert np.isfinite(restored).all()
        self.record("4-bit round trip", {-1}, q.data, restored.view(np.uint8))

    def affine(self, _: int) -> None:
        """Per tensor, channel and group: shapes with odd rows, channels on any axis, groups that do not divide."""
        rng = self.rng
        shape = tuple(int(n) for n in rng.integers(1, 40, rng.integers(1, 4)))
        element_type = int(rng.choice([arrays.FLOAT32, arrays.FLOAT16, arrays.FLOAT64]))
        dtype = np.dtype(FLOAT_DTYPES[element_type])
        size = int(np.prod(shape))
        values = heap(size * dtype.itemsize, self.lead(dtype.itemsize)).view(dtype).reshape(shape)
        values[:] = random_values(rng, size, element_type).reshape(shape)
        granularity = (
            QuantGranularity.per_tensor(),
            QuantGranularity.per_channel(int(rng.integers(len(shape)))),
            QuantGranularity.per_group(int(rng.integers(1, 50))),
        )[rng.integers(3)]
        mode = (QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC)[rng.integers(2)]
        try:
            params = quantcore.quantize_tensor(values, granularity, mode, int(rng.integers(2, 9))).params
        except quantcore.InvalidValueError:
            self.record("refused", {-1})
            return
        codes = heap(size, self.lead(1)).view(np.int8 if mode is QuantMode.SYMMETRIC else np.uint8).reshape(shape)
        restored = heap(4 * size, self.lead(4)).view(np.float32).reshape(shape)
        quantcore.quantize_with_params(values, params, out=codes)
        assert params.quant_min <= codes.min() <= codes.max() <= params.quant_max
        quantcore.dequantize_with_params(codes, params, out=restored)
        self.record("affine round trip", {-1}, codes.reshape(-1).view(np.uint8), restored.reshape(-1).view(np.uint8))

    def statistics(self, _: int) -> None:
        """Calibration, exact percentiles, fake quantization and its gradients, error sums: of one array, any shape."""
        rng = self.rng
        shape = tuple(int(n) for n in rng.integers(1, (70, 60, 9)[: rng.integers(1, 4)]))
        element_type = int(rng.choice([arrays.FLOAT32, arrays.FLOAT16, arrays.FLOAT64]))
        dtype = np.dtype(FLOAT_DTYPES[element_type])
        size = int(np.prod(shape))
        values = heap(size * dtype.itemsize, self.lead(dtype.itemsize)).view(dtype).reshape(shape)
        values[:] = random_values(rng, size, element_type).reshape(shape)
        axis = (None, int(rng.integers(len(shape))))[rng.integers(2)]
        symmetric = bool(rng.integers(2))
        calibrator = quantcore.Calibrator.percentile(int(rng.integers(2, 9)), symmetric, 1.0, 99.0, axis=axis)
        for _ in range(rng.integers(1, 3)):
            try:
                calibrator.observe(values)
            except quantcore.InvalidValueError:
                self.record("refused", {-1})
                return
            with np.errstate(over="ignore"):
                values *= dtype.type(10.0 ** rng.uniform(-3, 3))
        if not np.isfinite(values).all() or np.abs(values.astype(np.float64)).max() > 3e38:
            return
        params = calibrator.compute().params
        is_thorough = rng.random() < THOROUGH
        exact = _order_statistics(values, rng) if is_thorough else np.zeros(0)
        out_dtype = np.dtype(np.float16 if dtype == np.float16 else np.float32)
        outs = [heap(size * out_dtype.itemsize, self.lead(4)).view(out_dtype).reshape(shape) for _ in "123"]
        quantcore.fake_quantize_with_params(values, params, out=outs[0])
        grad = outs[0].copy()
        quantcore.fake_quantize_backward(grad, values, params, out=outs[1])
        gradients = quantcore.lsq_backward(grad, values, params, out=outs[2])
        sums = np.array(
            [quantcore.analyze_error(values, params).mse, quantcore.error_stats(values, outs[0].astype(dtype)).mse]
        )
        states = str(calibrator.to_dict()["state"]).encode() if is_thorough else b""
        results = [*outs, *gradients[1:], sums, exact]
        self.record(
            "statistics round trip",
            {-1},
            np.frombuffer(states, np.uint8),
            *(np.atleast_1d(np.asarray(result)).reshape(-1).view(np.uint8) for result in results),
        )

    def walk_strings(self) -> None:
        """Strings in a buffer that ends anywhere, with lengths of which some lie."""
        rng = self.rng
        lengths = np.where(rng.random(50) < 0.95, rng.integers(0, 40, 50), rng.integers(0, 2**63, 50, np.uint64) * 2)
        data = b"".join(int(n).to_bytes(8, "little") + bytes(min(int(n), 40)) for n in lengths)
        buffer = heap(int(rng.integers(0, len(data) + 1)), self.lead(1))
        buffer[:] = np.frombuffer(data, np.uint8)[: buffer.size]
        offset = int(rng.choice((0, rng.integers(0, buffer.size + 1))))
        n_walked, end = _kernels.walk_strings(buffer, offset, int(rng.choice((0, 10, 2**62))))
        assert offset + 8 * n_walked <= end <= buffer.size
        self.record("walked", {n_walked, end})

    def record(self, outcome: str, bad: set[int], *results: NDArray[np.uint8]) -> None:
        self.counts[outcome] += 1
        self.hash.update(f"{outcome} {bad}".encode())
        for result in results:
            assert result.tobytes() == results[0].tobytes() or "round trip" in outcome, "runs differ"
            self.hash.update(result.tobytes())


def _order_statistics(values: NDArray[np.generic], rng: np.random.Generator) -> NDArray[np.float64]:
    """Of so many copies of the values that they are selected by the kernel."""
    source = arrays.take_floats(np.tile(values.reshape(-1), percentiles.FEW // values.size + 1), "values")
    ranks = sorted(set(rng.integers(0, source.size, 4).tolist()))
    return np.array(percentiles.order_statistics(source, ranks, "values", 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hash", type=Path, metavar="FILE")
    parser.add_argument("--short", choices=("input", "output"))
    options = parser.parse_args()
    fuzzer = Fuzzer(options.seed, options.short)
    ways = (fuzzer.quantize, fuzzer.dequantize, fuzzer.public, fuzzer.four_bit, fuzzer.affine, fuzzer.statistics)
    type_ids = sorted(SIZES, key=lambda i: -SIZES[i][0])  # block formats first: the vectorised loops
    for case in range(options.cases):
        if case % 16 == 15:
            fuzzer.walk_strings()
        ways[case % len(ways)](type_ids[case // len(ways) % len(type_ids)])
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(fuzzer.counts.items()))
    print(f"{options.cases} cases at {quantcore.isa()}: {outcomes}")
    if options.hash is not None:
        options.hash.write_text(fuzzer.hash.hexdigest() + "\n")


if __name__ == "__main__":
    main()

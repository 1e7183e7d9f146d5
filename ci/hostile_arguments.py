"""Arguments for calls that are fuzzed: mostly what fits a parameter of that name, else anything at all."""

import copy
import inspect
import random
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

import quantcore
from quantcore import QuantGranularity
from tests.support.valid_calls import Files, told


def lying(shape: tuple[int, ...] = (256, 4096), **others: Any) -> type[np.ndarray]:
    """An array class with false attributes."""
    told = {"shape": shape, "ndim": len(shape), "size": 1 << 20, "nbytes": 1 << 22, **others}
    return type("Lies", (np.ndarray,), {name: property(lambda _, v=value: v) for name, value in told.items()})


class Flags:
    """Of an array that is all that could be wished."""

    c_contiguous = aligned = writeable = True


LIARS = (
    lying(),
    lying((1 << 40,), flags=Flags()),
    lying((4, 32), dtype=np.dtype(np.float32), flags=Flags()),
    lying((4, 64), dtype=np.dtype(np.uint8), strides=(64, 1)),
)


class Raises:
    """An object that fails whatever is asked."""

    def _fail(self, *arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("an object\nof two lines")

    __array__ = __index__ = __float__ = __len__ = __iter__ = __eq__ = __repr__ = __str__ = _fail
    __hash__ = _fail  # type: ignore[assignment]
    dtype = shape = property(_fail)


class Gives:
    """An object that gives the array it was made with."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.array


class Index:
    """A number by `__index__` alone."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


SHAPES = ((64,), (2, 32), (3, 64), (4, 256), (0,), (0, 32), (2, 0), (7,), (33,), (2, 3, 32), ())
FLOATS = (np.float32, np.float32, np.float32, np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2)
NUMBERS: tuple[Any, ...] = (
    0, 1, 2, 3, 7, 8, 16, 31, 32, 33, 64, 128, 255, 256, 4096, -1, -2, -8, 2**31, 2**32 - 1, 2**62, 2**63, 2**64,
    -(2**63), 10**5000, True, False, 0.0, 0.5, 1.0, 99.99, 100.0, 1e-300, 1e38, 1e39, 1e300, np.nan, np.inf, None,
    1 + 1j, np.int8(4), np.uint64(2**64 - 1), np.float32(0.5), np.float64("nan"), np.bool_(True), Index(8),
    Index(2**70),
)  # fmt: skip
WORDS: tuple[Any, ...] = (
    "", "Q8_0", "q4_0", "F16", "Q9_9", "nf4", "fp4", "int4", "linear", "dynamic", "float16", "bfloat16", "high_first",
    "low_first", "sine", "uniform", "x\ny", "\0", "\ud800", "é" * 3, "x" * 10_000, "1", "f4,(2,2)f4", "(", b"Q8_0",
)  # fmt: skip
OBJECTS: tuple[Any, ...] = (
    object(), Raises(), type, quantcore, len, ..., [], [[]], [1.0, 2.0], [[1.0], [2.0, 3.0]], (), {}, {1: 2}, set(),
    range(3), b"", b"\0" * 34, bytearray(36), memoryview(b"\1" * 68), memoryview(bytearray(34)).cast("b"),
)  # fmt: skip


class Arguments:
    """Draws from one seed; paths are those of `files`, and of a few outputs beside them.

    `pool` holds what calls returned: records, calibrators, states, mappings. Later arguments are drawn from it, too.
    """

    def __init__(self, seed: int, files: Files) -> None:
        self.files = files
        self.random = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.pool: list[Any] = []
        self.named: dict[str, Callable[[], Any]] = {
            "bits": lambda: self.random.randint(2, 8),
            "qtype": lambda: self.random.choice(["Q4_0", "Q8_0", "F32", "F16", "BF16", 2, 8]),
            "format": lambda: self.random.choice(["Q4_0", "Q8_0", "nf4"]),
            "dtype": lambda: self.random.choice([np.float32, "float16", ml_dtypes.bfloat16, "bfloat16", "f4"]),
            "n_threads": lambda: self.random.choice([None, 1, 2, 3]),
            "quant_type": lambda: self.random.choice(["int4", "nf4", "fp4"]),
            "scale_code": lambda: self.random.choice(["linear", "dynamic"]),
            "block_size": lambda: 2 ** self.random.randint(5, 12),
            "super_block_size": lambda: 2 ** self.random.randint(5, 12),
            "order": lambda: self.random.choice(["high_first", "low_first"]),
            "signal": lambda: self.random.choice(["sine", "uniform"]),
            "name": lambda: "a name",
            "group_size": lambda: self.random.choice([1, 5, 32, 1000, 2**62, 2**63, 2**70]),
            "axis": lambda: self.random.choice([None, 0, 1, -1]),
            "mode": lambda: self.random.choice(list(quantcore.QuantMode)),
            "granularity": self.granularity,
            "shape": lambda: self.random.choice([(64,), (2, 32), (0, 32), (1,) * 65, (0, 2**62), (2**59, 2)]),
            "params": lambda: self.pooled(quantcore.QuantParams),
            "q": lambda: self.pooled(quantcore.Quantized4Bit, quantcore.DoubleQuantized4Bit, quantcore.QuantizedTensor),
            "other": lambda: self.pooled(quantcore.Calibrator, quantcore.ErrorSums),
            "config": lambda: self.pooled(quantcore.FakeQuantConfig),
            "method": lambda: self.pooled(quantcore.CalibrationMethod),
            "stats": lambda: self.pooled(quantcore.QuantErrorStats),
            "mapping": self.mapping,
            "costs": self.mapping,
            "out": self.out,
            "data": lambda: self.random.choice([self.floats, self.blocks])(),
            "buffer": self.blocks,
            "codes": lambda: self.codes(),
            "scales": lambda: self.positive(np.float32),
            "super_scales": lambda: self.positive(np.float32),
            "quantized_scales": lambda: self.codes(np.uint8),
            "zero_points": lambda: self.codes(np.int32) % 3,
            "size": lambda: self.random.randint(0, 200),
            "n": lambda: self.random.randint(0, 200),
            "num_elements": lambda: self.random.randint(0, 200),
            "rng": lambda: self.random.choice([None, 0, 1, np.random.default_rng(0)]),
        }
        self.named |= {
            "paths": lambda: [self.file() for _ in range(self.random.randint(0, 2))],
            "target": lambda: self.files.folder / self.random.choice(["out", "out.gguf", "out.safetensors", "a/b"]),
            "exclude": lambda: self.random.choice([(), ["b"], ["("]]),
            "compute_dtype": lambda: self.random.choice([None, "float32"]),
            "quant_storage": lambda: self.random.choice(["uint8", "float32"]),
            "max_tensors": lambda: self.random.choice([None, 1, 2]),
            "calibrator": lambda: self.pooled(quantcore.Calibrator),
            "progress": lambda: self.random.choice([None, told]),
        }
        self.named |= dict.fromkeys(("source", "path", "reference", "quantized"), self.file)
        flags = ("symmetric", "narrow_range", "strict", "signed", "force", "dry_run", "double_quant", "pure")
        self.named |= dict.fromkeys(flags, lambda: self.random.random() < 0.5)
        self.named |= dict.fromkeys(("values", "batch", "x", "grad", "original", "reconstructed"), self.floats)

    def file(self) -> Any:
        files = self.files
        return self.random.choice([files.model, files.checkpoint, files.codes, files.parts, files.array, files.matrix])

    def shape(self) -> tuple[int, ...]:
        return self.random.choice(SHAPES)

    def floats(self) -> Any:
        dtype, exponent = self.random.choice(FLOATS), self.random.choice([0, 0, 0, -40, 30])
        with np.errstate(all="ignore"):
            array = np.asarray(self.rng.standard_normal(self.shape()) * 10.0**exponent).astype(dtype)
        if array.size and self.random.random() < 0.05:
            array.reshape(-1)[-1] = self.random.choice([np.nan, np.inf])
        if self.random.random() < 0.01:
            return np.ones(1 << 20, np.float32)  # enough for threads
        return self.disguised(array)

    def disguised(self, array: np.ndarray) -> Any:
        """The array as somebody might hand it over."""
        way = self.random.randint(0, 30)
        if way == 0:
            return array.copy().view(self.random.choice(LIARS))
        if way == 1:
            return Gives(array.copy().view(self.random.choice(LIARS)))
        if way == 2 and array.ndim:
            return array[..., ::-1]
        if way == 3:
            return np.ma.array(array)
        if way == 4 and array.ndim:
            return np.repeat(array, 2, axis=-1)[..., ::2]
        if way == 5:
            return array.astype(array.dtype.newbyteorder())
        if way == 6:
            raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
            return raw.view(array.dtype)[: array.size].reshape(array.shape)
        if way == 7:
            array.setflags(write=False)
        if way == 8:
            return array.tolist()
        return array

    def positive(self, dtype: type) -> Any:
        return self.disguised(np.abs(self.rng.standard_normal(self.random.choice([0, 1, 2, 4, 64]))).astype(dtype) + 1)

    def codes(self, dtype: type | None = None) -> Any:
        dtype = dtype or self.random.choice([np.int8, np.uint8])
        codes = self.rng.integers(0, 16, self.shape()).astype(dtype)
        return self.disguised(codes) if dtype != np.int32 else codes

    def blocks(self) -> Any:
        size = self.random.choice([0, 18, 34, 36, 68, 72, 128, 32])
        data = self.rng.integers(0, 256, size, np.uint8)
        return self.random.choice([bytes, self.disguised, bytearray])(data)

    def out(self) -> Any:
        if self.random.random() < 0.3:
            return None
        dtype = self.random.choice([np.float32, np.uint8, np.int8, np.float16, ml_dtypes.bfloat16])
        return self.disguised(np.zeros(self.shape(), dtype))

    def granularity(self) -> Any:
        kinds = (QuantGranularity.per_tensor, QuantGranularity.per_channel, lambda: QuantGranularity.per_group(32))
        return self.random.choice([*kinds, lambda: QuantGranularity.per_channel(-1), lambda: None])()

    def mapping(self) -> Any:
        found = self.pooled(dict)
        if isinstance(found, dict) and found and self.random.random() < 0.6:
            found = self.changed(found)
        return found

    def changed(self, mapping: dict[Any, Any]) -> Any:
        """A copy with one thing in it replaced, at any depth."""
        mapping = copy.copy(mapping)
        key = self.random.choice(list(mapping))
        value = mapping[key]
        if isinstance(value, dict) and value and self.random.random() < 0.7:
            mapping[key] = self.changed(value)
        elif isinstance(value, list) and value and self.random.random() < 0.7:
            place = self.random.randrange(len(value))
            part = self.changed(value[place]) if isinstance(value[place], dict) and value[place] else self.anything()
            mapping[key] = [*value[:place], part, *value[place + 1 :]]
        elif self.random.random() < 0.2:
            del mapping[key]
        else:
            mapping[key] = self.anything()
        return mapping

    def pooled(self, *kinds: type) -> Any:
        found = [entry for entry in self.pool if type(entry) in kinds or not kinds]
        return self.random.choice(found) if found else None

    def anything(self) -> Any:
        way = self.random.randint(0, 6)
        if way == 0:
            return self.random.choice(NUMBERS)
        if way == 1:
            return self.random.choice(WORDS)
        if way == 2:
            return self.random.choice(OBJECTS)
        if way == 3:
            return self.pooled()
        if way == 4:
            return self.codes()
        return self.random.choice(list(self.named.values()))()

    def argument(self, name: str) -> Any:
        draw = self.named.get(name)
        return draw() if draw is not None and self.random.random() < 0.93 else self.anything()

    def for_call(self, function: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
        """Those by position and those by name; ValueError if the function has no signature."""
        positional: list[Any] = []
        named: dict[str, Any] = {}
        skips = False
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            is_left_out = parameter.default is not parameter.empty and self.random.random() < 0.5
            if is_left_out:
                skips = True
                continue
            if parameter.kind is parameter.KEYWORD_ONLY or (skips and parameter.kind is not parameter.POSITIONAL_ONLY):
                named[parameter.name] = self.argument(parameter.name)
            else:
                positional.append(self.argument(parameter.name))
        return positional, named

"""Every format: edges worked out by hand, and the values, arrays and types that it refuses."""

import re

import ml_dtypes
import numpy as np
import pytest

from quantcore import InvalidTypeError, InvalidValueError, dequantize, quantize
from tests.contract import (
    BF16,
    BLOCK,
    DISTRIBUTIONS,
    F32,
    FORMATS,
    INPUT_DTYPES,
    THREADED,
    assert_same_floats,
    every_format,
)

# Edges, worked out by hand


def block_of(*values: float) -> np.ndarray:
    """A block of 32 that begins with the values and ends with zeros."""
    return np.array([*values, *[0.0] * (BLOCK - len(values))], F32)


@pytest.mark.parametrize(
    ("name", "values", "d", "codes"),
    [
        ("Q4_0", [0.0, -0.0], -0.0, [8, 8]),
        ("Q4_0", [-0.0, 0.0], -0.0, [8, 8]),
        ("Q4_0", [-8, 8, 7, 7.5, 6.5, -6.5, 0.5, -0.5], 1, [0, 15, 15, 15, 15, 2, 9, 8]),
        ("Q4_0", [8, -8, 7, 7.5, 6.5, -6.5, 0.5, -0.5], -1, [0, 15, 1, 1, 2, 15, 8, 9]),
        ("Q4_0", [2.0**-30, -(2.0**-30)], -0.0, [0, 15]),  # the scale underflows: decodes to zeros
        ("Q4_0", [1e-39, -1e-39], -0.0, [8, 8]),  # the inverse would be infinite
        ("Q4_0", [-(2.0**-21), 2.0**-21], 2.0**-24, [0, 15]),  # a subnormal scale
        ("Q8_0", [0.0, -0.0], 0, [0, 0]),
        ("Q8_0", [-127, 127, 126.5, 0.5, -0.5, 1.5, -1.5, 0.49999997], 1, [-127, 127, 127, 1, -1, 2, -2, 0]),
        ("Q8_0", [127 * 2.0**-30, -(2.0**-30)], 0, [127, -1]),
        ("Q8_0", [1e-39, -1e-39], 0, [0, 0]),
        ("Q8_0", [-127 * 2.0**-24, 2.0**-24], 2.0**-24, [-127, 1]),
        ("Q8_0", [127 * 2.0**-25, 0], 0, [127, 0]),  # half of the smallest fp16: to even
    ],
)
def test_codes_worked_out_by_hand(name, values, d, codes):
    data = quantize(block_of(*values), name)
    scale, qs = data[:2].view(np.float16)[0], data[2:]
    assert (scale, np.signbit(scale)) == (d, np.signbit(d))
    ours = (qs & 15 if name == "Q4_0" else qs.view(np.int8))[: len(codes)]
    assert ours.tolist() == codes


def test_q4_0_nibbles_are_in_ggmls_order():
    data = quantize(np.arange(-16, 16, dtype=F32) / 2, "Q4_0")
    assert data[2:].tolist() == [(j // 2 + 8 + j % 2 << 4 if j < 15 else 15 << 4) | (j + 1) // 2 for j in range(16)]


@pytest.mark.parametrize(
    ("name", "value", "bits"),
    [
        ("F16", 1 + 2.0**-11, 0x3C00),  # ties go to even
        ("F16", 1 + 3 * 2.0**-11, 0x3C02),
        ("F16", 2.0**-25, 0x0000),
        ("F16", -3 * 2.0**-25, 0x8002),
        ("F16", 65519.996, 0x7BFF),
        ("F16", 2.0**-14 - 2.0**-26, 0x0400),  # rounds up to the smallest normal
        ("F16", 1e-45, 0x0000),
        ("BF16", 1 + 2.0**-8, 0x3F80),
        ("BF16", 1 + 3 * 2.0**-8, 0x3F82),
        ("BF16", -0.0, 0x8000),
        ("BF16", 2.0**-133, 0x0001),  # subnormals are kept
        ("BF16", 2.0**-134, 0x0000),
        ("BF16", 1e-45, 0x0000),
        ("F32", 1e-45, 0x00000001),
        ("F32", -0.0, 0x80000000),
    ],
)
def test_rounding_worked_out_by_hand(name, value, bits):
    assert int.from_bytes(quantize(np.array([value], F32), name).tobytes(), "little") == bits


# What is refused


def last_below(limit: float) -> np.float32:
    """The largest float32 below a limit."""
    return np.nextafter(F32(limit), F32(0))


@every_format
@pytest.mark.parametrize("sign", [1, -1])
def test_values_up_to_the_limit(fmt, sign):
    value = sign * last_below(fmt.limit)
    decoded = dequantize(quantize(block_of(1, value), fmt.id), fmt.id)
    assert np.isfinite(decoded).all()
    assert decoded[1] == pytest.approx(float(value), rel=2.0**-8)


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [
        (f, t)
        for f in FORMATS
        for t in INPUT_DTYPES
        if f.limit <= float(ml_dtypes.finfo(t).max) and np.isfinite(f.limit)
    ],
    ids=str,
)
@pytest.mark.parametrize("sign", [1, -1])
def test_overflow_names_the_block_and_the_value(fmt, dtype, sign):
    values = np.zeros((7, 96), dtype)
    values[4, 37] = values[5, 1] = sign * fmt.limit
    block = r" \(block 13\)" if fmt.block_size > 1 else ""
    pattern = rf"^values: (\S+) at flat index 421{block} is too large for {fmt}$"
    with pytest.raises(InvalidValueError, match=pattern) as error:
        quantize(values, fmt.id)
    assert float(re.match(pattern, str(error.value))[1]) == pytest.approx(float(values[4, 37]), rel=1e-7)


@every_format
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", INPUT_DTYPES, ids=str)
def test_what_is_not_finite_is_named(fmt, value, dtype):
    values = np.zeros(THREADED * BLOCK, dtype)
    for where in (values.size - 1, values.size // 2 + 5, 4096, 31, 0):
        values[where] = value
        with pytest.raises(InvalidValueError, match=rf"^values: must be finite, got {value} at flat index {where}$"):
            quantize(values, fmt.id)


@every_format
def test_first_of_several_is_named_whatever_the_threads(fmt, rng):
    values = np.zeros((500, 40_000), F32)
    flat = values.reshape(-1)
    for n_threads in range(1, 9):
        where = np.sort(rng.integers(0, flat.size, 9))
        flat[where] = np.nan
        with pytest.raises(InvalidValueError, match=rf" nan at flat index {where[0]}$"):
            quantize(values, fmt.id, n_threads=n_threads)
        flat[where] = 0


@every_format
@pytest.mark.parametrize("value", [1e39, -1e300, 3.4028235677973366e38])
def test_float64_beyond_float32(fmt, value):
    """The last of the values is the smallest that rounds to an infinite float32."""
    values = np.zeros((3, 64))
    values[1, 40] = value
    message = rf"^values: {re.escape(str(value))} at flat index 104 is beyond the range of float32"
    with pytest.raises(InvalidValueError, match=message):
        quantize(values, fmt.id)
    if fmt.name == "F32":
        values[1, 40] = np.nextafter(3.4028235677973366e38, 0)
        np.testing.assert_array_equal(dequantize(quantize(values, "F32"), "F32"), values.astype(F32))


@every_format
@pytest.mark.parametrize("where", [0, 1, 65536, 99_999])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_scales_that_are_not_finite(fmt, where, n_threads):
    """Refused by the first such block; let through on request, and all other blocks are decoded all the same."""
    exponent_all_ones = {"F32": b"\0\0\x80\xff", "BF16": b"\x81\xff"}.get(fmt.name, b"\x00\xfc")
    good = quantize(np.ones(fmt.block_size, F32), fmt.id)
    data = np.tile(good, (100_000, 1))
    data[where:, : len(exponent_all_ones)] = np.frombuffer(exponent_all_ones, np.uint8)
    with pytest.raises(InvalidValueError, match=rf"^data: block {where} of {fmt} "):
        dequantize(data, fmt.id, n_threads=n_threads)
    data[where + 1 :] = good
    values = dequantize(data, fmt.id, strict=False, n_threads=n_threads)
    assert not np.isfinite(values[where]).all()
    assert (np.delete(values, where, axis=0) == dequantize(good, fmt.id)).all()


# out=


@every_format
def test_out_is_filled_and_returned(fmt, rng):
    values = fmt.in_range(DISTRIBUTIONS["gaussian"](rng, 8 * BLOCK)).reshape(2, -1)
    data = quantize(values, fmt.id)
    out = np.full(data.shape, 0xAA, np.uint8)
    assert quantize(values, fmt.id, out=out) is out
    np.testing.assert_array_equal(out, data)
    for dtype in (np.dtype(F32), np.dtype(np.float16), BF16):
        decoded = np.full(values.shape, 7, dtype)
        assert dequantize(data, fmt.id, dtype=dtype, out=decoded) is decoded
        assert_same_floats(decoded, dequantize(data, fmt.id, dtype=dtype))


def unfit_outs(shape: tuple[int, ...], dtype: np.dtype) -> dict[str, np.ndarray]:
    """Arrays that are no `out=` for the shape and dtype, by the word that the error must say."""
    read_only = np.zeros(shape, dtype)
    read_only.flags.writeable = False
    swapped_or_wide = dtype.newbyteorder() if dtype.itemsize > 1 else np.dtype(np.int8)
    return {
        "read-only": read_only,
        "dtype": np.zeros(shape, swapped_or_wide),
        "dtype float64": np.zeros(shape, np.float64),
        "shape": np.zeros((*shape[:-1], shape[-1] + 1), dtype),
        "shape of one axis": np.zeros(np.prod(shape), dtype),
        "C-contiguous": np.zeros((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2],
        "C-contiguous (reversed)": np.zeros(shape, dtype)[::-1],
        "C-contiguous (Fortran)": np.zeros(shape, dtype, order="F"),
    }


@every_format
def test_unfit_out_is_refused(fmt):
    values = np.ones((3, 64), F32)
    data = quantize(values, fmt.id)
    for word, out in unfit_outs(data.shape, data.dtype).items():
        with pytest.raises(InvalidValueError, match=f"^out: .*{word.split()[0]}"):
            quantize(values, fmt.id, out=out)
    for word, out in unfit_outs(values.shape, values.dtype).items():
        with pytest.raises(InvalidValueError, match=f"^out: .*{word.split()[0]}"):
            dequantize(data, fmt.id, out=out)


def test_misaligned_out_is_refused():
    data = quantize(np.ones((3, 64), F32), "Q8_0")
    out = np.zeros(3 * 64 * 4 + 1, np.uint8)[1:].view(F32).reshape(3, 64)
    with pytest.raises(InvalidValueError, match=r"^out: must be aligned"):
        dequantize(data, "Q8_0", out=out)


@pytest.mark.parametrize("out", [[0] * 34, bytearray(34), memoryview(bytearray(34)), "out"])
def test_out_that_is_no_array_is_refused(out):
    with pytest.raises(InvalidTypeError, match=r"^out: expected a numpy.ndarray, got "):
        quantize(np.ones(32, F32), "Q8_0", out=out)


VIEWS = {
    "whole": lambda array: array,
    "rows reversed": lambda array: array[::-1],
    "columns reversed": lambda array: array[:, ::-1],
    "transposed": lambda array: array.T,
}


@every_format
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_out_that_shares_memory_with_values_is_refused(fmt, view):
    """Also where the input is copied first: the caller's values would be overwritten."""
    memory = np.ones((64, 64), F32)
    out = memory.view(np.uint8).reshape(-1)[-fmt.nbytes(memory.size) :].reshape(64, -1)
    with pytest.raises(InvalidValueError, match=r"^out: shares memory with the input$"):
        quantize(view(memory), fmt.id, out=out)
    assert (memory == 1).all()


@every_format
@pytest.mark.parametrize("view", [VIEWS["whole"], VIEWS["rows reversed"]], ids=["whole", "rows reversed"])
def test_out_that_shares_memory_with_data_is_refused(fmt, view):
    memory = np.zeros((64, 64), F32)
    data = memory.view(np.uint8).reshape(-1)[: fmt.nbytes(memory.size)].reshape(64, -1)
    with pytest.raises(InvalidValueError, match=r"^out: shares memory with the input$"):
        dequantize(view(data), fmt.id, out=memory)


@every_format
def test_out_may_be_a_neighbour_of_the_input(fmt):
    """In the same memory, right behind the values, or between their rows."""
    memory = np.ones((2, 128, 64), F32)
    expected = quantize(memory[0, :64], fmt.id)
    behind = memory[1].view(np.uint8).reshape(-1)[: expected.size].reshape(expected.shape)
    np.testing.assert_array_equal(quantize(memory[0, :64], fmt.id, out=behind), expected)
    between = memory[0, 1].view(np.uint8)[None, : expected.shape[1]]
    np.testing.assert_array_equal(quantize(memory[0, 0:4:3], fmt.id)[:1], quantize(memory[0, :1], fmt.id, out=between))

"""Every format: edges worked out by hand, and the values, arrays and types that it refuses."""

import re

import ml_dtypes
import numpy as np
import pytest

from quantcore import InvalidTypeError, InvalidValueError, dequantize, quantize
from tests.support.contract import (
    BF16,
    BLOCK,
    F32,
    FORMATS,
    INPUT_DTYPES,
    assert_same_floats,
    every_format,
)

# Edges, worked out by hand


def block_of(*values: float, size: int = BLOCK) -> np.ndarray:
    """A block that begins with the values and ends with zeros."""
    return np.array([*values, *[0.0] * (size - len(values))], F32)


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
    value = sign * min(last_below(fmt.limit), F32(fmt.saturates_at))
    decoded = dequantize(fmt.quantize(block_of(1, value, size=fmt.row)), fmt.id)
    assert np.isfinite(decoded).all()
    if fmt.sqnr_gaussian > 6:  # fewer than two bits do not tell one value from another
        assert decoded[1] == pytest.approx(float(value), rel=2.0**-8 if fmt.is_fixed_point else 0.5)


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [
        (f, t)
        for f in FORMATS
        for t in INPUT_DTYPES
        if f.limit * (1 if f.is_limit_exact else 100) <= float(ml_dtypes.finfo(t).max)
    ],
    ids=str,
)
@pytest.mark.parametrize("sign", [1, -1])
def test_overflow_names_the_block_and_the_value(fmt, dtype, sign):
    values = np.zeros((7, 3 * fmt.row), dtype)
    value = sign * fmt.limit * (1 if fmt.is_limit_exact else 100)
    values[4, fmt.row : 2 * fmt.row] = values[5] = value
    block = r" \(block 13\)" if fmt.block_size > 1 else ""
    pattern = rf"^values: (\S+) at flat index {13 * fmt.row}{block} is too large for {fmt}$"
    with pytest.raises(InvalidValueError, match=pattern) as error:
        fmt.quantize(values)
    assert float(re.match(pattern, str(error.value))[1]) == pytest.approx(float(values[4, fmt.row]), rel=1e-7)


@every_format
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", INPUT_DTYPES, ids=str)
def test_what_is_not_finite_is_named(fmt, value, dtype):
    values = np.zeros(fmt.n_threaded, dtype)
    for where in (values.size - 1, values.size // 2 + 5, 4096, 31, 0):
        values[where] = value
        with pytest.raises(
            InvalidValueError, match=rf"^values: must be finite, got {value} at flat index {where}( .*)?$"
        ):
            fmt.quantize(values)


@every_format
def test_first_of_several_is_named_whatever_the_threads(fmt, rng):
    values = np.zeros((16, fmt.n_threaded), F32)
    flat = values.reshape(-1)
    for n_threads in range(1, 9):
        where = np.sort(rng.integers(0, flat.size, 9))
        flat[where] = np.nan
        with pytest.raises(InvalidValueError, match=rf" nan at flat index {where[0]}( .*)?$"):
            fmt.quantize(values, n_threads=n_threads)
        flat[where] = 0


@every_format
@pytest.mark.parametrize("value", [1e39, -1e300, 3.4028235677973366e38])
def test_float64_beyond_float32(fmt, value):
    """The last of the values is the smallest that rounds to an infinite float32."""
    values = np.zeros((3, 2 * fmt.row))
    values[1, 40] = value
    message = rf"^values: {re.escape(str(value))} at flat index {2 * fmt.row + 40} is beyond the range of float32"
    with pytest.raises(InvalidValueError, match=message):
        fmt.quantize(values)
    if fmt.name == "F32":
        values[1, 40] = np.nextafter(3.4028235677973366e38, 0)
        np.testing.assert_array_equal(dequantize(quantize(values, "F32"), "F32"), values.astype(F32))


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.scales], ids=str)
@pytest.mark.parametrize("where", [0, 1, 65536, 99_999])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_scales_that_are_not_finite(fmt, where, n_threads):
    """Refused at the first such block; with strict=False all blocks are decoded."""
    infinite = np.frombuffer({"F32": b"\x80\xff", "BF16": b"\x81\xff"}.get(fmt.name, b"\x00\xfc"), np.uint8)
    good = fmt.quantize(np.ones(fmt.block_size, F32))
    data = np.tile(good, (100_000, 1))
    data[where:, fmt.scales[0] : fmt.scales[0] + 2] = infinite
    with pytest.raises(InvalidValueError, match=rf"^data: block {where} of {fmt} "):
        dequantize(data, fmt.id, n_threads=n_threads)
    data[where + 1 :] = good
    values = dequantize(data, fmt.id, strict=False, n_threads=n_threads)
    assert not np.isfinite(values[where]).all()
    assert (np.delete(values, where, axis=0) == dequantize(good, fmt.id)).all()


# out=


@every_format
def test_out_is_filled_and_returned(fmt, rng):
    values = fmt.draw("gaussian", rng, 8).reshape(2, -1)
    data = fmt.quantize(values)
    out = np.full(data.shape, 0xAA, np.uint8)
    assert fmt.quantize(values, out=out) is out
    np.testing.assert_array_equal(out, data)
    for dtype in (np.dtype(F32), np.dtype(np.float16), BF16):
        decoded = np.full(values.shape, 7, dtype)
        assert dequantize(data, fmt.id, dtype=dtype, out=decoded) is decoded
        assert_same_floats(decoded, dequantize(data, fmt.id, dtype=dtype))


def unfit_outs(shape: tuple[int, ...], dtype: np.dtype) -> dict[str, np.ndarray]:
    """Arrays that cannot be `out=` for the shape and dtype, by the word that the error must contain."""
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
    values = np.ones((3, 2 * fmt.row), F32)
    data = fmt.quantize(values)
    for word, out in unfit_outs(data.shape, data.dtype).items():
        with pytest.raises(InvalidValueError, match=f"^out: .*{word.split()[0]}"):
            fmt.quantize(values, out=out)
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
    n = max(64, fmt.row)
    memory = np.ones((n, n), F32)
    out = memory.view(np.uint8).reshape(-1)[-fmt.nbytes(memory.size) :].reshape(n, -1)
    with pytest.raises(InvalidValueError, match=r"^out: shares memory with the input$"):
        fmt.quantize(view(memory), out=out)
    assert (memory == 1).all()


@every_format
@pytest.mark.parametrize("view", [VIEWS["whole"], VIEWS["rows reversed"]], ids=["whole", "rows reversed"])
def test_out_that_shares_memory_with_data_is_refused(fmt, view):
    n = max(64, fmt.row)
    memory = np.zeros((n, n), F32)
    data = memory.view(np.uint8).reshape(-1)[: fmt.nbytes(memory.size)].reshape(n, -1)
    with pytest.raises(InvalidValueError, match=r"^out: shares memory with the input$"):
        dequantize(view(data), fmt.id, out=memory)


@every_format
def test_out_may_be_a_neighbour_of_the_input(fmt):
    """In the same memory, right behind the values, or between their rows."""
    memory = np.ones((2, 128, 2 * fmt.row), F32)
    expected = fmt.quantize(memory[0, :64])
    behind = memory[1].view(np.uint8).reshape(-1)[: expected.size].reshape(expected.shape)
    np.testing.assert_array_equal(fmt.quantize(memory[0, :64], out=behind), expected)
    between = memory[0, 1].view(np.uint8)[None, : expected.shape[1]]
    np.testing.assert_array_equal(fmt.quantize(memory[0, 0:4:3])[:1], fmt.quantize(memory[0, :1], out=between))

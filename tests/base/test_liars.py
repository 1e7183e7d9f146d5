"""What the boundary checks is what the kernels get: arrays and tensors that lie about themselves harm nobody."""

import types
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import quantcore as qc
from quantcore import InvalidTypeError, InvalidValueError, QuantGranularity

F32 = np.float32
VALUES = np.random.default_rng(3).standard_normal((4, 64)).astype(F32)
PARAMS = qc.calibrate_per_tensor(VALUES)
Q8 = qc.quantize(VALUES, "Q8_0")


def liar(array: np.ndarray, **told: Any) -> Any:
    """The array, telling other attributes than it has."""
    kind = type("Lies", (np.ndarray,), {name: property(lambda _, v=value: v) for name, value in told.items()})
    return array.view(kind)


WRITERS = {
    "quantize": (lambda out: qc.quantize(VALUES, "Q8_0", out=out), Q8),
    "dequantize": (lambda out: qc.dequantize(Q8, "Q8_0", out=out), qc.dequantize(Q8, "Q8_0")),
    "block record": (lambda out: qc.Q8_0.quantize(VALUES).dequantize(out=out), qc.dequantize(Q8, "Q8_0")),
    "quantize_with_params": (
        lambda out: qc.quantize_with_params(VALUES, PARAMS, out=out),
        qc.quantize_with_params(VALUES, PARAMS),
    ),
    "dequantize_with_params": (
        lambda out: qc.dequantize_with_params(qc.quantize_with_params(VALUES, PARAMS), PARAMS, out=out),
        qc.fake_quantize_with_params(VALUES, PARAMS),
    ),
    "dequantize_4bit": (
        lambda out: qc.dequantize_4bit(qc.quantize_4bit(VALUES), out=out),
        qc.dequantize_4bit(qc.quantize_4bit(VALUES)),
    ),
    "dequantize_4bit_double": (
        lambda out: qc.dequantize_4bit_double(qc.quantize_4bit_double(VALUES), out=out),
        qc.dequantize_4bit_double(qc.quantize_4bit_double(VALUES)),
    ),
    "fake_quantize": (
        lambda out: qc.fake_quantize_with_params(VALUES, PARAMS, out=out),
        qc.fake_quantize_with_params(VALUES, PARAMS),
    ),
    "backward": (
        lambda out: qc.fake_quantize_backward(VALUES, VALUES, PARAMS, out=out),
        qc.fake_quantize_backward(VALUES, VALUES, PARAMS),
    ),
    "ste": (lambda out: qc.ste_backward(VALUES, out=out), VALUES),
    "lsq": (
        lambda out: qc.lsq_backward(VALUES, VALUES, PARAMS, out=out).dx,
        qc.lsq_backward(VALUES, VALUES, PARAMS).dx,
    ),
}
every_writer = pytest.mark.parametrize(("write", "expected"), WRITERS.values(), ids=WRITERS)


@every_writer
def test_out_that_tells_the_right_shape_of_too_little_memory(write, expected):
    memory = np.zeros(expected.nbytes, np.uint8)
    small = memory[: expected.itemsize].view(expected.dtype)
    flags = types.SimpleNamespace(writeable=True, c_contiguous=True, aligned=True)
    out = liar(small, shape=expected.shape, nbytes=expected.nbytes, size=expected.size, flags=flags)
    with pytest.raises(InvalidValueError, match=r"^out: expected shape .*, got \(1,\)$"):
        write(out)
    assert not memory.any()


@every_writer
def test_out_that_tells_another_dtype_or_hides_that_it_is_read_only(write, expected):
    with pytest.raises(InvalidValueError, match=r"^out: expected dtype"):
        write(liar(np.zeros(expected.shape, np.int64), dtype=expected.dtype))
    frozen = np.zeros(expected.shape, expected.dtype)
    frozen.setflags(write=False)
    with pytest.raises(InvalidValueError, match=r"^out: is read-only$"):
        write(liar(frozen, flags=types.SimpleNamespace(writeable=True, c_contiguous=True, aligned=True)))


@every_writer
def test_out_of_a_subclass_is_written_to_and_returned(write, expected):
    out = liar(np.zeros(expected.shape, expected.dtype), shape=(3,))
    assert write(out) is out
    np.testing.assert_array_equal(np.asarray(out), expected)


def test_inputs_that_lie():
    class Gives:
        def __init__(self, array):
            self.array = array

        def __array__(self, dtype=None, copy=None):
            return self.array

    told = {"shape": (1 << 20, 64), "nbytes": 1 << 28, "size": 1 << 26, "ndim": 3, "strides": (0, 0)}
    for given in (liar(VALUES, **told), Gives(liar(VALUES, **told))):
        np.testing.assert_array_equal(qc.quantize(given, "Q8_0"), Q8)
        assert qc.quantize_4bit(given) == qc.quantize_4bit(VALUES)
        assert qc.calibrate_per_tensor(given) == PARAMS
        np.testing.assert_array_equal(qc.quantize_with_params(given, PARAMS), qc.quantize_with_params(VALUES, PARAMS))
        calibrator = qc.Calibrator.percentile(axis=0)
        calibrator.observe(given)
        assert calibrator.compute().scale.shape == (4,)
        assert qc.error_stats(given, VALUES).num_samples == VALUES.size
    for given in (liar(Q8, **told), Gives(liar(Q8, **told))):
        np.testing.assert_array_equal(qc.dequantize(given, "Q8_0"), qc.dequantize(Q8, "Q8_0"))
        assert qc.Q8_0.from_bytes(given, (4, 64)).shape == (4, 64)
    codes = qc.quantize_with_params(VALUES, PARAMS)
    assert qc.dequantize_with_params(liar(codes, **told), PARAMS).shape == (4, 64)
    assert qc.QuantizedTensor(liar(codes, **told), PARAMS, (4, 64)).dequantize().shape == (4, 64)
    with pytest.raises(InvalidValueError, match=r"^scales, zero_points: "):
        qc.QuantParams(
            liar(np.ones(1, F32), size=4),
            np.zeros(4, np.int32),
            QuantGranularity.per_channel(),
            PARAMS.mode,
            8,
            -127,
            127,
        )
    q = qc.quantize_4bit(VALUES)
    with pytest.raises(InvalidValueError, match=r"^data: expected 128 elements"):
        qc.Quantized4Bit(q.scales, liar(q.data[:1], size=128, shape=(128,)), q.shape, q.block_size, q.quant_type)


def test_a_tensor_that_gives_something_else_than_its_bits(torch):
    class Lies(torch.Tensor):
        def view(self, *_):
            return self

        def numpy(self, *_, **__):
            return np.ones(32, np.float64)

    tensor = torch.zeros(32, dtype=torch.bfloat16).as_subclass(Lies)
    out = np.zeros(34 * 4, np.uint8)
    assert qc.quantize(tensor, "Q8_0", out=out[:34]).shape == (34,)
    assert not out[34:].any()


def raising(name: str) -> object:
    def fail(*_, **__):
        raise ZeroDivisionError("within\nthe object")

    return type("Raises", (), {name: fail})()


@pytest.mark.parametrize("name", ["__array__", "__array_interface__", "__dlpack__", "__len__", "__repr__", "__iter__"])
def test_what_an_object_raises_becomes_one_line(name):
    if name.endswith("interface__"):
        given = type("Raises", (), {name: property(lambda self: 1 / 0)})()
    else:
        given = raising(name)
    for call in (
        lambda: qc.quantize(given, "Q8_0"),
        lambda: qc.dequantize(given, "Q8_0"),
        lambda: qc.pack_nibbles(given, "high_first"),
        lambda: qc.dequantize_with_params(given, PARAMS),
        lambda: qc.quantize(VALUES, given),
        lambda: qc.calibrate_per_group(VALUES, given),
        lambda: qc.Q8_0.from_bytes(bytes(34), given),
        lambda: qc.type_costs(VALUES, given),
        lambda: qc.from_bitsandbytes({"weight": given, "quant_state.bitsandbytes__nf4": given}),
    ):
        with pytest.raises((InvalidTypeError, InvalidValueError)) as error:
            call()
        assert "\n" not in str(error.value)


def test_swapped_arguments():
    with pytest.raises(InvalidTypeError, match=r"^qtype: expected a GGUFQuantType, its name or its id, got array"):
        qc.quantize("Q8_0", VALUES)
    with pytest.raises(InvalidTypeError, match=r"^qtype: "):
        qc.dequantize("Q8_0", Q8)
    with pytest.raises(InvalidTypeError, match=r"^params: "):
        qc.quantize_with_params(PARAMS, VALUES)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_is_refused(name, torch):
    values = np.zeros(32, getattr(ml_dtypes, name))
    with pytest.raises(InvalidTypeError, match=rf"^values: expected float32, .* got dtype {name}$"):
        qc.quantize(values, "Q8_0")
    with pytest.raises(InvalidTypeError, match=rf"^values: .* got torch\.{name}; use \.to\(torch\.float32\)$"):
        qc.quantize(torch.zeros(32).to(getattr(torch, name)), "Q8_0")


def test_bytes_that_their_owner_takes_for_signed():
    data = Q8[0].tobytes()
    for given in (memoryview(data).cast("b"), memoryview(data).cast("c"), memoryview(bytearray(data))):
        np.testing.assert_array_equal(qc.dequantize(given, "Q8_0"), qc.dequantize(Q8[0], "Q8_0"))
        assert qc.Q8_0.from_bytes(given, (64,)).to_bytes() == data
    with pytest.raises(InvalidTypeError, match=r"^data: expected uint8, got dtype int8$"):
        qc.dequantize(Q8.view(np.int8), "Q8_0")

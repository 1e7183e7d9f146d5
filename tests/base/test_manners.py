"""Arguments by name, records that decode themselves, and refusals that say what to write instead."""

import re

import numpy as np
import pytest

import quantcore as qc
from quantcore.errors import InvalidTypeError, InvalidValueError

WEIGHTS = np.random.default_rng(3).standard_normal((4, 256)).astype(np.float32)

BY_NAME = {
    "calibrate_per_tensor": lambda mode: qc.calibrate_per_tensor(WEIGHTS, mode=mode),
    "calibrate_per_channel": lambda mode: qc.calibrate_per_channel(WEIGHTS, mode=mode),
    "calibrate_per_group": lambda mode: qc.calibrate_per_group(WEIGHTS, 64, mode=mode),
    "quantize_tensor": lambda mode: qc.quantize_tensor(WEIGHTS, mode=mode),
    "run_benchmark": lambda mode: qc.run_benchmark("w", WEIGHTS, mode=mode),
    "compare_bit_width_degradation": lambda mode: qc.compare_bit_width_degradation(WEIGHTS, mode=mode),
    "calibrate_min_max": lambda mode: qc.calibrate_min_max(WEIGHTS, mode=mode).params,
    "calibrate_percentile": lambda mode: qc.calibrate_percentile(WEIGHTS, mode=mode).params,
    "Calibrator": lambda mode: calibrated(qc.Calibrator.percentile(mode=mode)),
    "QuantParams": lambda mode: qc.QuantParams(
        np.ones(1, np.float32), np.zeros(1, np.int32), qc.QuantGranularity(), mode, 8, 0, 127
    ),
}


def calibrated(calibrator):
    calibrator.observe(WEIGHTS)
    return calibrator.compute().params


@pytest.mark.parametrize("call", BY_NAME.values(), ids=BY_NAME)
@pytest.mark.parametrize("name", ["symmetric", "Asymmetric"])
def test_mode_by_name_in_any_case(call, name):
    assert call(name) == call(qc.QuantMode(name.lower()))


@pytest.mark.parametrize("call", BY_NAME.values(), ids=BY_NAME)
def test_unknown_mode_is_told_the_names(call):
    with pytest.raises(InvalidValueError, match=r"^mode: expected .* symmetric, asymmetric, offset, got 'affine'$"):
        call("affine")
    with pytest.raises(InvalidTypeError, match=r"^mode: expected .*, got 8$"):
        call(8)


def test_granularity_by_name():
    per_channel = qc.quantize_tensor(WEIGHTS, qc.QuantGranularity.per_channel())
    assert qc.quantize_tensor(WEIGHTS, "per_channel") == per_channel
    assert qc.quantize_tensor(WEIGHTS, "per_tensor") == qc.quantize_tensor(WEIGHTS) != per_channel
    assert qc.run_benchmark("w", WEIGHTS, granularity="per_channel").granularity == "per_channel(0)"
    with pytest.raises(InvalidValueError, match=r"^granularity: .*per_group\(128\).*, got 'per_group'$"):
        qc.quantize_tensor(WEIGHTS, "per_group")
    with pytest.raises(InvalidTypeError, match=r"^granularity: .*, got 64$"):
        qc.quantize_tensor(WEIGHTS, 64)


def test_code_of_4_bits_in_any_case():
    assert qc.quantize_4bit(WEIGHTS, quant_type="NF4") == qc.quantize_4bit(WEIGHTS, quant_type="nf4")
    assert qc.quantize_4bit_double(WEIGHTS, quant_type="Fp4").quant_type == "fp4"
    record = qc.quantize_4bit(WEIGHTS, quant_type="nf4")
    assert qc.Quantized4Bit(record.scales, record.data, record.shape, record.block_size, "NF4") == record


def test_a_method_by_name_is_told_its_constructor():
    with pytest.raises(InvalidTypeError, match=r"got 'entropy'; see Calibrator\.entropy\(\)$"):
        qc.Calibrator("entropy")


RECORDS = {
    "Q4_0": qc.Q4_0.quantize(WEIGHTS),
    "Q6_K": qc.Q6_K.quantize(WEIGHTS),
    "padded": qc.Q8_0.quantize(WEIGHTS[0, :50]),
    "nf4": qc.quantize_4bit(WEIGHTS, quant_type="nf4"),
    "double": qc.quantize_4bit_double(WEIGHTS, quant_type="fp4"),
    "affine": qc.quantize_tensor(WEIGHTS, qc.QuantGranularity.per_group(32)),
    "offset": qc.quantize_tensor(WEIGHTS, mode="offset"),
}
DECODERS = {
    qc.Blocks: lambda record, **options: record.dequantize(**options),
    qc.Quantized4Bit: qc.dequantize_4bit,
    qc.DoubleQuantized4Bit: qc.dequantize_4bit_double,
    qc.QuantizedTensor: qc.dequantize_tensor,
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_dequantize_takes_every_record(record):
    decode = next(decode for kind, decode in DECODERS.items() if isinstance(record, kind))
    for options in ({}, {"dtype": np.float16, "n_threads": 2}):
        values = qc.dequantize(record, **options)
        assert values.shape == record.shape
        np.testing.assert_array_equal(values, decode(record, **options), strict=True)
        np.testing.assert_array_equal(values, record.dequantize(**options), strict=True)
    out = np.empty(record.shape, np.float32)
    assert qc.dequantize(record, out=out) is out
    np.testing.assert_array_equal(out, decode(record))


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_record_has_its_own_type(record):
    with pytest.raises(InvalidValueError, match=rf"^qtype: .*{type(record).__name__}, got 'Q4_0'$"):
        qc.dequantize(record, "Q4_0")
    with pytest.raises(InvalidValueError, match=r"^strict: "):
        qc.dequantize(record, strict=False)
    with pytest.raises(InvalidValueError, match=r"^out: shares memory"):
        out = np.ndarray(record.shape, np.float32, np.zeros(record.data.nbytes + 4 * len(record), np.uint8))
        shares = type(record).__new__(type(record))
        shares.__dict__.update(record.__dict__ | {"data": out.view(np.uint8).reshape(-1)[: record.data.nbytes]})
        if isinstance(record, (qc.Blocks, qc.QuantizedTensor)):
            shares.__dict__["data"] = shares.data.view(record.data.dtype).reshape(record.data.shape)
        qc.dequantize(shares, out=out)


def test_bytes_need_a_type_and_a_tensor_is_no_record():
    with pytest.raises(InvalidTypeError, match=r"^qtype: is missing"):
        qc.dequantize(qc.quantize(WEIGHTS, "Q8_0"))
    torch = pytest.importorskip("torch")
    with pytest.raises(InvalidTypeError, match=r"^qtype: is missing"):  # although tensors have a method of this name
        qc.dequantize(torch.zeros(34, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["nf4", "FP4", "int4", "int8", "uint8"])
def test_other_formats_are_pointed_to_their_functions(name):
    calls = (lambda: qc.quantize(WEIGHTS, name), lambda: qc.dequantize(b"", name))
    for call in calls:
        with pytest.raises(InvalidValueError, match=rf"^qtype: '{name}' is no type of ggml; see quantize_") as caught:
            call()
    for expression in re.findall(r"quantize_\w+\(.*?\)", str(caught.value)):  # what it says is valid
        assert eval(f"qc.{expression}", {"qc": qc, "values": WEIGHTS}).shape == WEIGHTS.shape
    with pytest.raises(InvalidValueError, match=r"^qtype: unknown type 'Q4_9'; known: F32, "):
        qc.quantize(WEIGHTS, "Q4_9")


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (np.arange(32), r"; use \.astype\(np\.float32\)"),
        (np.ones(32, bool), r"; use \.astype\(np\.float32\)"),
        (np.ones(32, np.uint8), r"; use \.astype\(np\.float32\)"),
        ([1, 2, 3], r"; use np\.array\(\.\.\., np\.float32\)"),
        (np.ones(32, np.longdouble), r"; use \.astype\(np\.float64\)"),
        (np.ones(32, complex), ""),
        (np.array(["a"]), ""),
    ],
)
def test_numbers_that_are_no_floats_are_told_how_to_become_some(values, hint):
    if np.asarray(values).dtype == np.float64:
        pytest.skip("long double is float64 here")
    for call in (lambda: qc.quantize(values, "Q8_0"), lambda: qc.quantize_4bit(values)):
        with pytest.raises(InvalidTypeError, match=rf"^values: expected float32, .*, got dtype \S+{hint}$"):
            call()


def test_tensors_of_integers_are_told_so_in_torch():
    torch = pytest.importorskip("torch")
    with pytest.raises(InvalidTypeError, match=r"got dtype int64; use \.to\(torch\.float32\)$"):
        qc.quantize(torch.arange(32), "Q8_0")

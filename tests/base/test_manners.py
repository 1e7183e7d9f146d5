"""Arguments by name, records that decode themselves, and refusals that say what to write instead."""

import re
import subprocess
import sys

import numpy as np
import pytest

import quantcore as qc
from quantcore.conversion.file_types import FILE_TYPES
from quantcore.embeddings import EmbeddingQuantizer
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.ggml import GGUFQuantType
from quantcore.gguf import KeyValue

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


def test_a_mix_of_a_file_is_no_type_of_an_array():
    mixes = [name for name in FILE_TYPES if name not in GGUFQuantType.__members__]
    assert len(mixes) == 12
    for name in mixes:
        with pytest.raises(InvalidValueError, match=f"qtype: '{name}' is a mix of types, for quantize_model"):
            qc.quantize(WEIGHTS, name)


def test_codes_of_checkpoints_are_suggested_where_the_command_takes_them(call):
    assert "COPY, nf4, fp4; did you mean nf4?" in call("quantize", "in", "out", "nf5").err


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
        (np.array([1.0] * 32, object), r"; use \.astype\(np\.float32\)"),
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


@pytest.mark.parametrize("values", [None, "weights.npy", {"w": WEIGHTS}, object()], ids=type)
def test_what_is_no_array_is_told_by_its_value(values):
    observe, got = qc.Calibrator.mse().observe, re.escape(repr(values)[:20])
    for call, name in ((qc.quantize_tensor, "values"), (qc.calibrate_min_max, "data"), (observe, "batch")):
        with pytest.raises(InvalidTypeError, match=rf"^{name}: expected float32, .*, got {got}"):
            call(values)


def test_tensors_that_are_not_in_memory_are_told_how_to_get_there():
    torch = pytest.importorskip("torch")
    eye = torch.eye(32)
    for tensor, hint in (
        (eye.to_sparse(), r"; use \.cpu\(\)\.to_dense\(\)"),
        (eye.to("meta"), "; it has no values"),
        (eye.to(torch.float8_e4m3fn), r"got torch\.float8_e4m3fn; use \.to\(torch\.float32\)"),
    ):
        with pytest.raises(InvalidTypeError, match=rf"^values: .*{hint}$"):
            qc.quantize(tensor, "Q8_0")


def test_dtypes_of_torch_are_those_of_numpy():
    torch = pytest.importorskip("torch")
    assert qc.dequantize(RECORDS["Q4_0"], dtype=torch.float16).dtype == np.float16
    with pytest.raises(InvalidTypeError, match=r"^dtype: expected float32, float16 or bfloat16, got 'float8'$"):
        qc.dequantize(RECORDS["Q4_0"], dtype="float8")
    with pytest.raises(InvalidTypeError, match=r"^dtype: expected float32, float16 or bfloat16, got '?float8_e5m2'?$"):
        qc.dequantize(RECORDS["Q4_0"], dtype=torch.float8_e5m2)


MISTYPED = {
    "mode: .*; did you mean asymmetric\\?": lambda: qc.quantize_tensor(WEIGHTS, mode="assymetric"),
    "granularity: .*; did you mean per_channel\\?": lambda: qc.quantize_tensor(WEIGHTS, "per-channel"),
    "quant_type: .*; did you mean nf4\\?": lambda: qc.quantize_4bit(WEIGHTS, quant_type="nf"),
    "effort: .*; did you mean best\\?": lambda: qc.quantize(WEIGHTS, "Q4_0", effort="bst"),
    "qtype: .*; did you mean Q4_K\\?": lambda: qc.quantize(WEIGHTS, "Q4_K_M"),
    "qtype: .*; did you mean Q8_0\\?": lambda: qc.GGUFQuantType("q8"),
    "mode: .*; did you mean offset\\?": lambda: qc.QuantMode("ofset"),
    "qtype: .* is no type of GGUF; see quantize_checkpoint, .* and quantize_4bit for": lambda: qc.quantize_model(
        "in", "out", "nf4"
    ),
    "method: .*; did you mean min_max\\?": lambda: qc.CalibrationMethod("minmax"),
    "format: .*; did you mean nf4-double\\?": lambda: qc.run_format_benchmark("w", WEIGHTS, "nf4_double"),
    "formats: .*; did you mean Q8_0\\?": lambda: qc.run_speed_benchmark(1, formats=["Q8"]),
    "order: .*; did you mean low_first\\?": lambda: qc.pack_nibbles(np.zeros(4, np.uint8), "low"),
    "layout: .*; did you mean faiss\\?": lambda: EmbeddingQuantizer("QT_8bit", layout="fais"),
    "nan_policy: .*; did you mean omit\\?": lambda: qc.Calibrator.mse().observe(WEIGHTS, nan_policy="omi"),
    "value_type: .*; did you mean string\\?": lambda: KeyValue.of("a", "b", "str"),
    "path: expected a str or os\\.PathLike, got array": lambda: qc.open_model(WEIGHTS),
}


@pytest.mark.parametrize(("message", "call"), MISTYPED.items())
def test_mistyped_words_are_told_the_nearest(message, call):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=f"^{message}"):
        call()


def test_words_in_any_case(tmp_path):
    assert qc.quantize_tensor(WEIGHTS, "Per_Channel") == qc.quantize_tensor(WEIGHTS, "per_channel")
    assert qc.GGUFQuantType("q4_0") is qc.GGUFQuantType.Q4_0 and qc.QuantMode("Offset") is qc.QuantMode.OFFSET
    assert qc.CalibrationMethod("MSE") == qc.CalibrationMethod("mse")
    np.testing.assert_array_equal(
        qc.quantize(WEIGHTS, "Q4_0", effort="BEST"), qc.quantize(WEIGHTS, "Q4_0", effort="best")
    )
    assert qc.quantize_4bit_double(WEIGHTS, scale_code="Dynamic") == qc.quantize_4bit_double(
        WEIGHTS, scale_code="dynamic"
    )
    assert qc.theoretical_sqnr(8, "Uniform") == qc.theoretical_sqnr(8, "uniform")
    assert qc.run_format_benchmark("w", WEIGHTS, "NF4") == qc.run_format_benchmark("w", WEIGHTS, "nf4")
    assert [r.format for r in qc.run_speed_benchmark(1, formats=["q8_0"])] == ["Q8_0"]
    with_gap = np.array([[1.0, np.nan], [2.0, 3.0]], np.float32)
    for name in ("omit", "Omit"):
        calibrator = qc.Calibrator.min_max()
        calibrator.observe(with_gap, nan_policy=name)
        assert calibrator.compute().observed_max == 3
    quantizer = EmbeddingQuantizer("UINT8", per="Vector", layout="Affine")
    assert (quantizer.scheme, quantizer.per, quantizer.layout) == ("uint8", "vector", "affine")
    assert EmbeddingQuantizer().fit(with_gap[[1, 1, 0]], on_bad="Drop").num_rows == 2
    pytest.importorskip("safetensors.numpy").save_file({"a.weight": WEIGHTS}, tmp_path / "in.safetensors")
    for name in ("nf4", "NF4"):
        qc.quantize_checkpoint(tmp_path / "in.safetensors", tmp_path / name, quant_type=name, quant_storage="UINT8")
    [written], [again] = (tmp_path / "nf4").glob("*.safetensors"), (tmp_path / "NF4").glob("*.safetensors")
    assert written.read_bytes() == again.read_bytes()


def test_modules_with_needs_and_mistyped_names_are_told():
    child = (
        "import quantcore as qc\ntry: qc.{}\nexcept AttributeError as error: print(error, error.name, error.obj is qc)"
    )
    for name, text in (
        ("torch", "module 'quantcore' has no attribute 'torch' before `import quantcore.torch` torch True"),
        ("quantise", "module 'quantcore' has no attribute 'quantise' quantise True"),
    ):
        run = subprocess.run([sys.executable, "-c", child.format(name)], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == text

"""The digits network in the package: its data, and its accuracy in each format."""

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import quantcore
from quantcore import GGUFQuantType, dequantize, dequantize_4bit, quantize, quantize_4bit
from quantcore.analysis.measures import sqnr_db
from quantcore.demo.digits import (
    DEFAULT_FORMATS,
    FormatEvaluation,
    digits_test_set,
    digits_weights,
    evaluate_formats,
    top1_accuracy,
)
from quantcore.errors import QuantcoreError
from quantcore.ggml import SUPPORTED_TYPES
from tests.support.models import gguf

SHAPES = {
    "fc1.weight": (256, 64),
    "fc1.bias": (256,),
    "fc2.weight": (128, 256),
    "fc2.bias": (128,),
    "fc3.weight": (10, 128),
    "fc3.bias": (10,),
}
MATRICES = ("fc1.weight", "fc2.weight", "fc3.weight")
BITS = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q4_0": 4.5}
# Rounding to a float type loses a relative error, so that its figure hardly depends on the weights; 6.02 dB per bit.
EXACT = (math.inf, math.inf)  # the weights are float16
SQNR_DB = {"F32": EXACT, "F16": EXACT, "BF16": (52, 58), "Q8_0": (40, 50), "Q4_0": (17, 26)}


@pytest.fixture(scope="module")
def results() -> dict[str, FormatEvaluation]:
    return {result.format: result for result in evaluate_formats()}


FALLBACKS = {
    "Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0", "Q3_K": "Q4_0", "Q2_K": "Q4_0", "TQ1_0": "Q4_0", "TQ2_0": "Q4_0",
    "IQ4_XS": "IQ4_NL", "IQ3_S": "IQ4_NL",
}  # fmt: skip


def test_weights():
    weights = digits_weights()
    assert {name: values.shape for name, values in weights.items()} == SHAPES
    assert all(values.dtype == np.float32 and np.isfinite(values).all() for values in weights.values())
    theirs = load_file(Path(quantcore.__file__).parent / "demo" / "digits.safetensors")
    assert all(np.array_equal(values, theirs[name]) for name, values in weights.items())


def test_test_set():
    images, labels = digits_test_set()
    assert images.shape == (599, 64) and images.dtype == np.uint8 and images.min() == 0 and images.max() == 16
    assert labels.shape == (599,) and labels.dtype == np.uint8
    assert np.bincount(labels).min() > 50 and labels.max() == 9


def test_float_accuracy():
    assert 0.97 <= top1_accuracy(digits_weights()) < 1


def test_accuracy_is_the_share_of_right_answers():
    weights = digits_weights()
    images, labels = digits_test_set()
    x = images / np.float64(16)
    for layer in ("fc1", "fc2"):
        x = np.maximum(x @ weights[f"{layer}.weight"].T.astype(np.float64) + weights[f"{layer}.bias"], 0)
    scores = x @ weights["fc3.weight"].T.astype(np.float64) + weights["fc3.bias"]
    assert top1_accuracy(weights) == sum(scores.argmax(axis=1) == labels) / len(labels)
    assert top1_accuracy({name: np.zeros_like(values) for name, values in weights.items()}) == np.mean(labels == 0)


def test_every_format_is_evaluated(results):
    assert tuple(results) == tuple(t.name for t in DEFAULT_FORMATS)
    need_importance = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}
    assert {t.name for t in SUPPORTED_TYPES} - need_importance == set(results)
    assert {name: results[name].bits_per_weight for name in BITS} == BITS
    assert all(tuple(r.layer_sqnr_db) == MATRICES for r in results.values())


@pytest.mark.parametrize("name", BITS)
def test_sqnr(name, results):
    low, high = SQNR_DB[name]
    assert low <= results[name].sqnr_db <= high
    assert all(low <= value <= high for value in results[name].layer_sqnr_db.values())


@pytest.mark.parametrize("name", [t.name for t in DEFAULT_FORMATS])
def test_figures_are_those_of_quantize_and_dequantize(name, results):
    """Rows that are no whole blocks are stored in the type that takes its place."""
    weights = digits_weights()
    fits = {key: weights[key].shape[1] % GGUFQuantType[name].block_size == 0 for key in MATRICES}
    types = {key: name if fits[key] else FALLBACKS.get(name, "F16") for key in MATRICES}
    restored = weights | {key: dequantize(quantize(weights[key], types[key]), types[key]) for key in MATRICES}
    result = results[name]
    assert result.top1_accuracy == top1_accuracy(restored)
    assert result.layer_sqnr_db == {key: sqnr_db(weights[key], restored[key]) for key in MATRICES}
    together = [np.concatenate([w[key].ravel() for key in MATRICES]) for w in (weights, restored)]
    assert result.sqnr_db == sqnr_db(*together)


def test_fewer_bits_are_a_smaller_file_and_a_lower_sqnr(results):
    assert results["Q4_0"].file_bytes < results["Q8_0"].file_bytes < results["F16"].file_bytes
    assert results["F16"].file_bytes == results["BF16"].file_bytes < results["F32"].file_bytes
    sqnr = [results[name].sqnr_db for name in ("Q4_0", "Q8_0", "BF16", "F16", "F32")]
    assert sqnr == sorted(sqnr)


def test_accuracy_is_kept(results):
    reference = top1_accuracy(digits_weights())
    assert results["F32"].top1_accuracy == reference
    for name, loss in (("F16", 0.002), ("BF16", 0.005), ("Q8_0", 0.005), ("Q4_0", 0.02)):
        assert results[name].top1_accuracy >= reference - loss


def test_files_are_left_in_the_folder(results, tmp_path):
    again = evaluate_formats(["q4_0", 8, GGUFQuantType.F32], folder=tmp_path)
    assert again == tuple(results[name] for name in ("Q4_0", "Q8_0", "F32"))
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {
        f"digits-{name}.gguf": results[name].file_bytes for name in ("Q4_0", "Q8_0", "F32")
    }
    weights = digits_weights()
    reader = gguf.GGUFReader(tmp_path / "digits-Q4_0.gguf")
    assert reader.fields["general.architecture"].contents() == "digits-mlp"
    for tensor in reader.tensors:
        expected = quantize(weights[tensor.name], "Q4_0") if tensor.name in MATRICES else weights[tensor.name]
        assert np.array_equal(tensor.data, expected)
    assert {tensor.name for tensor in reader.tensors} == set(SHAPES)


@pytest.fixture(scope="module")
def four_bits() -> dict[str, FormatEvaluation]:
    return {result.format: result for result in evaluate_formats(["NF4", "fp4", "NF4-double", "FP4-DOUBLE"])}


def test_four_bit_formats_are_evaluated(four_bits):
    assert tuple(four_bits) == ("NF4", "FP4", "NF4-double", "FP4-double")
    assert [r.bits_per_weight for r in four_bits.values()] == pytest.approx([4.5, 4.5, 4.7, 4.7], abs=0.1)
    assert [r.sqnr_db for r in four_bits.values()] == pytest.approx([20.2, 17.2, 20.2, 17.2], abs=0.1)
    reference = top1_accuracy(digits_weights())
    assert all(r.top1_accuracy >= reference - 0.02 for r in four_bits.values())


@pytest.mark.parametrize("name", ["NF4", "FP4"])
def test_four_bit_figures_are_those_of_quantize_4bit(name, four_bits):
    weights = digits_weights()
    restored = weights | {
        key: dequantize_4bit(quantize_4bit(weights[key], quant_type=name.lower())) for key in MATRICES
    }
    result = four_bits[name]
    assert result.top1_accuracy == top1_accuracy(restored)
    assert result.layer_sqnr_db == {key: sqnr_db(weights[key], restored[key]) for key in MATRICES}


def test_four_bit_files_are_left_in_the_folder(four_bits, tmp_path):
    assert evaluate_formats(["nf4-double", "Q8_0"], folder=tmp_path)[0] == four_bits["NF4-double"]
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"digits-NF4-double.safetensors", "digits-Q8_0.gguf"}
    assert sizes["digits-NF4-double.safetensors"] == four_bits["NF4-double"].file_bytes
    assert "fc1.weight.nested_absmax" in load_file(tmp_path / "digits-NF4-double.safetensors")


@pytest.mark.parametrize("qtype", ["Q9", 99, "Q8_K", None])
def test_unknown_format_is_refused(qtype, tmp_path):
    with pytest.raises(QuantcoreError, match=r"Q9|99|Q4_K|None"):
        evaluate_formats([qtype], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folder_may_be_text(tmp_path):
    evaluate_formats(["Q8_0"], folder=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["digits-Q8_0.gguf"]

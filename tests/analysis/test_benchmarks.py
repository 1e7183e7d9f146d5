"""Benchmarks of quantizers: each figure against the functions it stands for, suites, and what they export."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    BenchmarkSuite,
    QuantBenchmarkResult,
    QuantGranularity,
    QuantMode,
    accuracy_retention,
    compare_bit_width_degradation,
    dequantize_4bit,
    dequantize_4bit_double,
    error_stats,
    generate_gaussian_weights,
    generate_uniform_weights,
    quantize_4bit,
    quantize_4bit_double,
    quantize_tensor,
    run_benchmark,
    run_format_benchmark,
    run_full_benchmark_suite,
)
from quantcore.analysis.benchmarks import BLOCK_FORMATS
from quantcore.errors import InvalidTypeError, InvalidValueError, QuantcoreError
from quantcore.ggml import RECORDS, GGUFQuantType

F32 = np.float32
GRANULARITIES = {
    "per_tensor": QuantGranularity.per_tensor(),
    "per_channel(1)": QuantGranularity.per_channel(1),
    "per_group(32)": QuantGranularity.per_group(32),
}


def result(name: str = "w", **changes) -> QuantBenchmarkResult:
    fields = {
        "num_elements": 64, "bits": 4, "granularity": "per_tensor", "mode": "symmetric", "mse": 0.5, "max_error": 1.0,
        "sqnr_db": 20.0, "compression_ratio": 8.0,
    }  # fmt: skip
    return QuantBenchmarkResult(name, **fields | changes)


# One array in one format


@pytest.mark.parametrize("text", GRANULARITIES)
@pytest.mark.parametrize("mode", QuantMode)
@pytest.mark.parametrize("bits", [2, 4, 5, 8])
def test_affine_figures(rng, text, mode, bits):
    values = rng.standard_normal((7, 100)).astype(F32)
    found = run_benchmark("layer", values, bits, GRANULARITIES[text], mode)
    q = quantize_tensor(values, GRANULARITIES[text], mode, bits)
    stats = error_stats(values, q.dequantize())
    assert (found.name, found.num_elements, found.bits) == ("layer", 700, bits)
    assert (found.granularity, found.mode) == (text, mode.value)
    assert (found.mse, found.max_error, found.sqnr_db) == (stats.mse, stats.max_error, stats.sqnr_db)
    assert found.compression_ratio == q.compression_ratio
    assert found == run_benchmark("layer", values, bits, GRANULARITIES[text], mode, n_threads=2)


def test_defaults_are_8_bits_per_tensor(rng):
    values = rng.standard_normal(100)
    assert run_benchmark("x", values) == run_benchmark("x", values, 8, QuantGranularity(), QuantMode.SYMMETRIC)


@pytest.mark.parametrize("n", [1, 31, 64, 1000])
def test_block_figures(rng, n):
    values = rng.standard_normal(n).astype(F32)
    records = {name: RECORDS[name].quantize(values) for name in BLOCK_FORMATS if name in RECORDS}
    restored = {name: q.dequantize() for name, q in records.items()}
    for name in ("int4", "nf4", "fp4"):
        records[name] = quantize_4bit(values, quant_type=name)
        restored[name] = dequantize_4bit(records[name])
        records[f"{name}-double"] = quantize_4bit_double(values, quant_type=name)
        restored[f"{name}-double"] = dequantize_4bit_double(records[f"{name}-double"])
    assert set(records) == set(BLOCK_FORMATS)
    for name, q in records.items():
        found = run_format_benchmark("w", values, name)
        stats = error_stats(values, restored[name])
        assert (found.mse, found.max_error, found.sqnr_db) == (stats.mse, stats.max_error, stats.sqnr_db)
        assert found.compression_ratio == pytest.approx(4 * n / q.memory_bytes)
        assert (found.num_elements, found.mode) == (n, name)
        assert found.bits == (GGUFQuantType[name].bits if name in RECORDS else 4)
        block_size = GGUFQuantType[name].block_size if name in RECORDS else 64
        assert found.granularity == f"per_block({block_size})"


def test_bfloat16_and_shapes_are_taken(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = rng.standard_normal((3, 40)).astype(ml_dtypes.bfloat16)
    for name in BLOCK_FORMATS:
        assert run_format_benchmark("w", values, name) == run_format_benchmark("w", values.astype(F32).ravel(), name)


@pytest.mark.parametrize(
    ("values", "name", "decibels"),
    [
        ("gaussian", "Q4_0", 21.3),
        ("gaussian", "Q8_0", 45.4),
        ("gaussian", "nf4", 20.7),
        ("uniform", "Q4_0", 23.7),
        ("uniform", "Q8_0", 48.5),
    ],
)
def test_known_sqnr(values, name, decibels):
    generate = {"gaussian": generate_gaussian_weights, "uniform": generate_uniform_weights}[values]
    found = run_format_benchmark(values, generate(1 << 19, rng=3), name)
    assert found.sqnr_db == pytest.approx(decibels, abs=0.1)


def test_quality_is_decibels_a_bit():
    found = run_format_benchmark("w", generate_gaussian_weights(1 << 14, rng=1), "Q4_0")
    assert found.bits_per_weight == 4.5 and found.quality_score == found.sqnr_db / 4.5
    assert run_benchmark("zeros", np.zeros(5, F32)).quality_score == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run_benchmark("w", np.zeros(0, F32)), r"^values: must not be empty"),
        (lambda: run_benchmark("w", np.array([1, np.nan], F32)), r"^values: must be finite, got nan at flat index 1$"),
        (lambda: run_benchmark("w", [1.0], 9), r"^bits: expected an integer from 2 to 8, got 9$"),
        (lambda: run_benchmark("w", [1.0], 8, "tensor"), r"^granularity: expected a QuantGranularity"),
        (lambda: run_benchmark("w", [1.0], 8, None, "int8"), r"^mode: expected a QuantMode"),
        (lambda: run_benchmark(1, [1.0]), r"^name: expected a str, got 1$"),
        (lambda: run_format_benchmark("w", np.zeros(0, F32), "Q4_0"), r"^values: must not be empty"),
        (
            lambda: run_format_benchmark("w", [1.0], "Q8_K"),
            r"^format: expected one of Q4_0, .*, got 'Q8_K'; did you",
        ),
        (lambda: run_format_benchmark("w", [1.0], None), r"^format: expected one of"),
        (lambda: run_format_benchmark("w", [np.inf], "nf4"), r"^values: must be finite, got inf"),
        (lambda: compare_bit_width_degradation([1.0], mode=None), r"^mode: expected a QuantMode"),
        (lambda: run_full_benchmark_suite(100, rng=1), r"^size: expected a multiple of channels \(16\), got 100$"),
        (lambda: run_full_benchmark_suite(0, rng=1), r"^size: expected an integer >= 1, got 0$"),
        (lambda: run_full_benchmark_suite(16, rng=1, channels=0), r"^channels: expected an integer >= 1, got 0$"),
        (lambda: run_full_benchmark_suite(16, rng=1, group_size=0), r"^size: expected an integer >= 1, got 0$"),
        (lambda: run_full_benchmark_suite(16, rng=None), r"^rng: expected a numpy"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(QuantcoreError, match=message):
        call()


# Many


@pytest.fixture(scope="module")
def suite() -> BenchmarkSuite:
    return run_full_benchmark_suite(1 << 14, rng=5, channels=8, group_size=128, bits=(3, 8))


def test_full_suite_has_every_combination(suite):
    arrays = ("gaussian", "uniform", "outliers", "multi-channel")
    affine = [
        (array, bits, granularity, mode)
        for array in arrays
        for bits in (3, 8)
        for granularity in ("per_tensor", "per_channel(0)", "per_group(128)")
        for mode in ("symmetric", "asymmetric")
    ]
    found = [(r.name, r.bits, r.granularity, r.mode) for r in suite if not r.granularity.startswith("per_block")]
    assert found == affine
    blocks = [(r.name, r.mode) for r in suite if r.granularity.startswith("per_block")]
    assert blocks == [(array, name) for array in arrays for name in BLOCK_FORMATS]
    assert len(suite) == len(affine) + len(blocks) == len(suite.results)
    assert all(r.num_elements == 1 << 14 and math.isfinite(r.sqnr_db) and r.mse > 0 for r in suite)


def test_full_suite_shows_what_is_known(suite):
    sqnr = {(r.name, r.bits, r.granularity, r.mode): r.sqnr_db for r in suite}
    assert (
        sqnr["multi-channel", 8, "per_channel(0)", "symmetric"]
        > sqnr["multi-channel", 8, "per_tensor", "symmetric"] + 3
    )
    assert sqnr["outliers", 3, "per_group(128)", "symmetric"] > sqnr["outliers", 3, "per_tensor", "symmetric"] + 1
    assert sqnr["gaussian", 4, "per_block(64)", "nf4"] > sqnr["gaussian", 4, "per_block(64)", "fp4"] + 2


def test_full_suite_repeats_with_its_seed(suite):
    again = run_full_benchmark_suite(1 << 14, rng=5, channels=8, group_size=128, bits=(3, 8), n_threads=2)
    assert again.results == suite.results
    other = run_full_benchmark_suite(1 << 14, rng=np.random.default_rng(6), channels=8, group_size=128, bits=(3, 8))
    assert all(a.mse != b.mse for a, b in zip(suite, other, strict=True))


def test_best_results():
    suite = BenchmarkSuite([result("a", sqnr_db=30.0, mse=0.1), result("b", sqnr_db=20.0, mse=0.01)])
    suite.add(result("c", sqnr_db=30.0, mse=0.01, compression_ratio=9.0))
    suite.add(result("d", sqnr_db=30.0, mse=0.01, compression_ratio=9.0))
    assert suite.best_by_sqnr().name == "c" and suite.best_by_mse().name == "c"
    suite.add(result("e", sqnr_db=math.inf, mse=0.0, compression_ratio=1.0))
    assert suite.best_by_sqnr().name == "e" and suite.best_by_mse().name == "e"
    assert [r.name for r in suite.sorted_by_quality()] == ["e", "c", "d", "a", "b"]
    assert [r.name for r in suite] == ["a", "b", "c", "d", "e"]


def test_suite_of_nothing():
    suite = BenchmarkSuite()
    assert (
        len(suite) == 0
        and suite.results == suite.sorted_by_quality() == ()
        and repr(suite) == "BenchmarkSuite(0 results)"
    )
    for call in (suite.best_by_sqnr, suite.best_by_mse):
        with pytest.raises(InvalidValueError, match=r"^results: there are none"):
            call()
    with pytest.raises(InvalidTypeError, match=r"^result: expected a QuantBenchmarkResult, got dict$"):
        suite.add({})
    with pytest.raises(InvalidTypeError, match=r"^result: expected"):
        BenchmarkSuite([None])
    assert json.loads(suite.to_json()) == {"results": []}


def test_json_has_every_figure_and_no_token_of_its_own(suite):
    rows = json.loads(suite.to_json(), parse_constant=pytest.fail)["results"]
    for row, r in zip(rows, suite, strict=True):
        assert row == {name: getattr(r, name) for name in row}
        assert set(row) == {*QuantBenchmarkResult.__dataclass_fields__, "bits_per_weight", "quality_score"}
    text = BenchmarkSuite([result(sqnr_db=math.inf, mse=0.0), result(sqnr_db=-math.inf)]).to_json(indent=None)
    rows = json.loads(text, parse_constant=pytest.fail)["results"]
    assert [row["sqnr_db"] for row in rows] == ["inf", "-inf"] == [row["quality_score"] for row in rows]
    assert "\n" not in text


def test_markdown_and_text(suite):
    for text, separator in ((suite.to_markdown(), "|"), (suite.to_text(), None)):
        head, *lines = text.splitlines()
        assert all(word in head for word in ("name", "bits", "granularity", "mode", "MSE", "SQNR dB"))
        if separator:
            assert set(lines.pop(0)) == set("| -:")
            assert len({line.count("|") for line in lines}) == 1
        assert len(lines) == len(suite)
        for line, r in zip(lines, suite, strict=True):
            cells = [cell.strip() for cell in line.strip("|").split(separator)]
            assert cells[0] == r.name and cells[3:5] == [r.granularity, r.mode]
            assert float(cells[7]) == round(r.sqnr_db, 2)


def test_names_do_not_break_a_table():
    suite = BenchmarkSuite([result("a|b\n\\c\x1b[0m")])
    assert suite.to_markdown().splitlines()[2].startswith("| a\\|b \\\\c\\\\x1b[0m | 64 | 4 |")
    assert suite.to_text().splitlines()[1].startswith("a|b \\c\\x1b[0m  ")


# Widths and metrics


@given(seed=st.integers(0, 2**32 - 1), mode=st.sampled_from(QuantMode))
def test_fewer_bits_lose_more(seed, mode):
    values = np.random.default_rng(seed).standard_normal(3000).astype(F32)
    rows = compare_bit_width_degradation(values, mode=mode)
    assert [row.bits for row in rows] == [8, 7, 6, 5, 4, 3, 2]
    for row in rows:
        one = run_benchmark("w", values, row.bits, mode=mode)
        assert (row.mse, row.max_error, row.sqnr_db) == (one.mse, one.max_error, one.sqnr_db)
        assert row.sqnr_loss_db == rows[0].sqnr_db - row.sqnr_db
    losses = [row.sqnr_loss_db for row in rows]
    assert losses == sorted(losses) and losses[0] == 0
    assert losses[1] == pytest.approx(6.02, abs=0.5)


def test_what_is_kept_exactly_loses_nothing():
    assert [row.sqnr_loss_db for row in compare_bit_width_degradation(np.zeros(3, F32))] == [0] * 7
    rows = compare_bit_width_degradation(np.array([127.0, 64.0], F32), granularity=QuantGranularity.per_tensor())
    assert rows[0].sqnr_db == math.inf and rows[0].sqnr_loss_db == 0 and rows[1].sqnr_loss_db == math.inf


def test_retention():
    assert accuracy_retention(0.8, 0.8) == 100 and accuracy_retention(0.1, 0.1) == 100
    assert accuracy_retention(0.8, 0.6) == pytest.approx(75)
    assert accuracy_retention(98, 99) == pytest.approx(101.0204, abs=1e-4)
    assert accuracy_retention(np.float32(0.5), 0) == 0
    assert accuracy_retention(2.0, -1.0) == -50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.5), r"^original: expected a metric above 0, got 0\.0$"),
        ((-0.1, 0.5), r"^original: expected a metric above 0, got -0\.1$"),
        ((math.nan, 0.5), r"^original: expected a finite number, got nan$"),
        ((0.5, math.nan), r"^quantized: expected a finite number, got nan$"),
        ((0.5, math.inf), r"^quantized: expected a finite number, got inf$"),
        (("1", 0.5), r"^original: expected a number, got '1'$"),
        ((0.5, None), r"^quantized: expected a number, got None$"),
        ((0.5, True), r"^quantized: expected a number, got True$"),
    ],
)
def test_metrics_that_are_none_are_refused(arguments, message):
    with pytest.raises(QuantcoreError, match=message):
        accuracy_retention(*arguments)

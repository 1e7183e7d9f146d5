"""How results show themselves: short reprs with rounded figures, and HTML tables that escape what files call things."""

import copy
import importlib
import inspect
import pickle
import re
from dataclasses import asdict
from enum import Enum
from html.parser import HTMLParser

import numpy as np
import pytest

import quantcore as qc
from quantcore._base.notebook import fields_table, rows_table
from quantcore._base.text import rounded
from quantcore.conversion import compare_models, quantize_model, split_model
from quantcore.embeddings import EmbeddingQuantizer
from quantcore.errors import InvalidTypeError
from quantcore.gguf import GGUFWriter, Imatrix, KeyValue
from quantcore.mixed_precision import suggest_model_types
from quantcore.models import open_model
from quantcore.safetensors import SafetensorsWriter
from tests.support.model_files import normal, write_model

EVIL = "blk.0.<script>&.weight"


class Reader(HTMLParser):
    """The cells of a table, row by row; fails on markup that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def cells(result) -> list[list[str]]:
    return Reader(result._repr_html_()).rows


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.009999999776482582, "0.01"), (1 / 3, "0.333333"), (np.float32(0.1), "0.1"), (float("inf"), "inf"), (7, "7"),
        (True, "True"), (None, "None"), ("<a>", "<a>"), (np.array([0.1, 1], np.float32), "[0.1, 1.0]"),
        (np.zeros((5, 5), np.int8), "<int8 of shape (5, 5)>"),
    ],
)  # fmt: skip
def test_values_are_rounded_for_reading(value, text):
    assert rounded(value) == text


def test_tables_escape_and_shorten():
    assert Reader(fields_table(EVIL, {EVIL: EVIL})).rows == [[EVIL, EVIL]]
    assert "<script" not in fields_table(EVIL, {EVIL: EVIL}) + rows_table(EVIL, (EVIL,), [(EVIL,)], 1)
    rows = Reader(rows_table("t", ("i",), ((i,) for i in range(1000)), 1000)).rows
    assert len(rows) == 42 and rows[-1] == ["… and 960 more"]


PUBLIC = [importlib.import_module(f"quantcore.{name}") for name in qc._WINGS]
SETTINGS = {"CalibrationMethod", "FakeQuantConfig", "GGMLType"}  # what was chosen, digit by digit


def public_classes():
    values = [getattr(module, name) for module in (qc, *PUBLIC) for name in getattr(module, "__all__", ())]
    kinds = {value for value in values if inspect.isclass(value) and not inspect.isabstract(value)}
    return sorted((kind for kind in kinds if not issubclass(kind, (Enum, Exception))), key=str)


@pytest.mark.parametrize("kind", public_classes(), ids=lambda kind: kind.__qualname__)
def test_every_public_class_has_a_repr_of_ours(kind):
    if kind.__name__ not in SETTINGS and kind not in (GGUFWriter, SafetensorsWriter):
        assert "quantcore" in kind.__repr__.__code__.co_filename  # not that of dataclass or NamedTuple, nor object's


@pytest.mark.parametrize("kind", public_classes(), ids=lambda kind: kind.__qualname__)
def test_every_public_record_shows_itself_as_a_table(kind):
    writers_and_parts = {GGUFWriter, SafetensorsWriter, KeyValue, qc.QuantGranularity}
    if kind.__name__ not in SETTINGS and kind not in writers_and_parts:
        assert callable(getattr(kind, "_repr_html_", None))


RECORDS = [
    *(record.quantize(normal(2, 256)) for record in (qc.Q4_0, qc.Q6_K, qc.NVFP4)),
    qc.quantize_4bit(normal(8, 64)),
    qc.quantize_4bit_double(normal(8, 64)),
    qc.quantize_tensor(normal(8, 64), "per_channel"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_of_quantized_values_show_their_shape_and_sizes(record):
    rows = cells(record)
    assert ["shape", rounded(record.shape)] in rows and ["memory_bytes", str(record.memory_bytes)] in rows
    assert ["compression_ratio", rounded(record.compression_ratio)] in rows


def test_parameters_and_quantizers_show_what_they_have():
    params = qc.calibrate_per_tensor(normal(8, 64))
    assert ["scales", rounded(params.scales)] in cells(params) and "offsets" not in dict(cells(params))
    quantizer = qc.FakeQuantize.q4()
    assert ["num_levels", "15"] in cells(quantizer) and "params" not in dict(cells(quantizer))
    quantizer.calibrate(normal(8, 64))
    assert dict(cells(quantizer))["params"].startswith("QuantParams(")
    embeddings = EmbeddingQuantizer("uint8").fit(normal(8, 64))
    assert ["scheme", "uint8"] in cells(embeddings) and ["n_dimensions", "64"] in cells(embeddings)


def test_collections_are_shown_by_their_first_items():
    assert rounded({"a": 1 / 3, "b": 2}) == "{'a': 0.333333, 'b': 2}"
    assert rounded((1 / 3, "x")) == "(0.333333, 'x')" and rounded((1,)) == "(1,)" and rounded([]) == "()"
    assert rounded(range(3)) == "range(0, 3)"
    assert rounded(list(range(100))) == "(0, 1, 2, 3, 4, 5, 6, 7, ... 92 more)"
    assert len(rounded(dict.fromkeys(range(100), "x" * 10**6))) < 800
    assert rounded(qc.QuantMode.OFFSET) == "OFFSET"


WHAT_IF = [
    qc.compare_bit_widths(normal(8, 64)),
    qc.compare_bit_width_degradation(normal(8, 64))[1],
    qc.analyze_outlier_impact(normal(8, 64)),
    qc.scale_sensitivity(normal(8, 64), qc.calibrate_per_tensor(normal(8, 64)), 0.01),
    qc.SpeedResult("Q4_0", 4096, 1, 1e9 / 3, 2e9 / 3),
    qc.type_costs(normal(8, 256))["Q4_0"],
    qc.rank_sensitivity({EVIL: qc.type_costs(normal(8, 256))})[0],
    qc.error_stats(normal(8, 64), normal(8, 64) / 3),
]


@pytest.mark.parametrize("record", WHAT_IF, ids=lambda record: type(record).__name__)
def test_results_round_for_reading_and_keep_every_digit(record):
    values = record._asdict() if isinstance(record, tuple) else asdict(record)
    assert max(map(len, re.findall(r"\d+\.\d+", repr(record)))) <= 11
    assert repr(record) == str(record) and repr(record).startswith(f"{type(record).__name__}({next(iter(values))}=")
    for name, value in values.items():
        assert [name, rounded(value)] in cells(record)
    assert pickle.loads(pickle.dumps(record)) == record == copy.deepcopy(record)
    assert any(len(repr(v)) > 11 for v in values.values() if isinstance(v, float))  # the digits are there


def test_gradients_are_compared_as_records_are():
    gradients = qc.lsq_backward(normal(4, 8), normal(4, 8), qc.calibrate_per_channel(normal(4, 8)))
    again = pickle.loads(pickle.dumps(gradients))
    assert again == gradients and (again != gradients) is False
    assert gradients != again._replace(dscale=again.dscale + 1) and gradients == tuple(gradients)
    assert gradients != (1, 2)
    dx, dscale, dzero_point = gradients
    assert dx.shape == (4, 8) and dscale.shape == dzero_point.shape == (4,)


def test_figures_and_suites():
    stats = qc.error_stats(np.ones(6, np.float32), np.full(6, 1 + 1 / 3, np.float32))
    assert repr(stats).startswith("QuantErrorStats(mse=0.111111, mae=0.333333, max_error=0.333333, sqnr_db=9.54242, ")
    assert ["mse", "0.111111"] in cells(stats)
    suite = qc.run_full_benchmark_suite(256, rng=0)
    assert len(repr(suite)) < 60
    assert len(cells(suite)) == 1 + min(40, len(suite)) + (len(suite) > 40)
    assert re.search(r"mse=[\d.e-]{1,12}, ", repr(suite.results[0]))
    assert ["name", suite.results[0].name] in cells(suite.results[0])


def test_calibrations():
    calibrator = qc.Calibrator.mse()
    assert ["batches", "0"] in cells(calibrator) and repr(calibrator).endswith(", 0 batches>")
    calibrator.observe(np.linspace(-1, 1, 1000, dtype=np.float32))
    assert repr(calibrator).endswith(", 1 batch>")
    result = calibrator.compute()
    assert ["scale", rounded(result.scale)] in cells(result)
    assert max(map(len, re.findall(r"\d+\.\d+", repr(result)))) <= 11
    channels = qc.Calibrator.min_max(axis=0)
    channels.observe(normal(50, 8))
    rows = cells(channels.compute())
    assert rows[0][:3] == ["channel", "scale", "zero point"] and len(rows) == 1 + 40 + 1


def test_models(tmp_path):
    path = write_model(tmp_path / "in.gguf", (EVIL, normal(4, 256)), ("blk.0.b.weight", normal(4, 256)))
    report = quantize_model(path, tmp_path / "out.gguf", "Q4_0", pure=True)
    comparison = compare_models(path, tmp_path / "out.gguf")
    suggestion = suggest_model_types(path, 5)
    matrix = Imatrix.from_activations({EVIL: normal(8, 4)}, datasets=["d" * 10**5])
    with open_model(path) as model:
        for result in (report, comparison, suggestion, suggestion.suggestion, matrix, model, model.container):
            assert len(repr(result)) < 250 and "\n" not in repr(result)
            assert "<script" not in result._repr_html_()
            assert EVIL in [row[0] for row in cells(result)]
    assert repr(report) == "ModelReport(2 tensors, 8.0 KiB to 1.1 KiB)"
    assert repr(split_model(path, tmp_path / "part", max_tensors=1)) == "SplitReport(2 parts, 8.0 KiB)"
    assert re.fullmatch(r"ModelComparison\(2 tensors, 4.50 bits per weight, SQNR \d\d\.\d\d dB\)", repr(comparison))


def test_tensors_and_metadata_of_files(tmp_path):
    path = write_model(tmp_path / "in.gguf", ("blk.0.\x1b[31m.weight", normal(4, 256)))
    with open_model(path) as model:
        [tensor], [info], reader = model.tensors.values(), model.container.tensors, model.container.parts[0]
        assert re.fullmatch(r"<GGUFReader .*in\.gguf: 1 tensors>", repr(reader))
        for record in (tensor, info, *model.container.kvs):
            assert "\x1b" not in repr(record) and len(repr(record)) < 250  # of a long path, 80 characters
        assert cells(reader)[1][1:] == ["4x256", "F32", "4.0 KiB"]
    assert repr(KeyValue.string("a\x1b", "x" * 10**6)) == r"KeyValue('a\x1b', STRING, 1000008 bytes)"
    assert repr(KeyValue.array("a", [1, 2], "int32")) == "KeyValue('a', ARRAY, (1, 2))"


def test_open_files_are_neither_pickled_nor_copied(tmp_path):
    path = write_model(tmp_path / "in.gguf", ("blk.0.weight", normal(4, 256)))
    with open_model(path) as model:
        for thing in (model, model.container, model.tensors["blk.0.weight"]):
            for call in (pickle.dumps, copy.deepcopy):
                with pytest.raises(InvalidTypeError, match=r"in\.gguf: an open file cannot be pickled or copied"):
                    call(thing)

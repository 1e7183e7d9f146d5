"""How results show themselves: short reprs with rounded figures, and HTML tables that escape what files call things."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import quantcore as qc
from quantcore._base.notebook import fields_table, rows_table
from quantcore._base.text import rounded
from quantcore.conversion import quantize_model
from quantcore.gguf import Imatrix
from quantcore.mixed_precision import suggest_model_types
from quantcore.models import compare_models, open_model
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
    assert ["batches", "0"] in cells(calibrator)
    calibrator.observe(np.linspace(-1, 1, 1000, dtype=np.float32))
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
        for result in (report, comparison, suggestion, suggestion.suggestion, matrix, model):
            assert len(repr(result)) < 250 and "\n" not in repr(result)
            assert "<script" not in result._repr_html_()
            assert EVIL in [row[0] for row in cells(result)]
    assert repr(report) == "ModelReport(2 tensors, 8.0 KiB to 1.1 KiB)"
    assert re.fullmatch(r"ModelComparison\(2 tensors, 4.50 bits per weight, SQNR \d\d\.\d\d\)", repr(comparison))

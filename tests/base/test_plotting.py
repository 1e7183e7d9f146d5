"""Results draw themselves with matplotlib: on given axes or new ones, and what they show is what was computed."""

import subprocess
import sys

import numpy as np
import pytest

import quantcore as qc
from quantcore.conversion import compare_models, quantize_model
from quantcore.errors import InvalidStateError, InvalidTypeError, InvalidValueError, MissingExtraError
from tests.support.model_files import normal, write_model

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def observed(calibrator, *shape):
    return calibrator.partial_fit(normal(*shape))


def test_a_calibrator_draws_its_histogram_and_what_is_kept():
    calibrator = observed(qc.Calibrator.mse(4), 50_000)
    axes = calibrator.plot()
    result = calibrator.compute()
    stairs = axes.patches[0].get_data()
    assert stairs.values.sum() == pytest.approx(1) and 100 <= len(stairs.values) <= 200
    width = np.diff(stairs.edges[:2])
    assert stairs.edges[0] <= result.observed_min and stairs.edges[-1] >= result.observed_max
    assert stairs.edges[0] > result.observed_min - 2 * width and stairs.edges[-1] < result.observed_max + 2 * width
    counts, _ = np.histogram(normal(50_000), stairs.edges)
    np.testing.assert_allclose(stairs.values, counts / 50_000, atol=1e-4)
    ends = sorted(line.get_xdata()[0] for line in axes.lines[:2])
    np.testing.assert_allclose(ends, [result.clip_min, result.clip_max])
    levels = axes.lines[2].get_xdata()
    np.testing.assert_allclose(levels, result.scale * np.arange(-7, 8), rtol=1e-6)
    assert axes.get_title() == f"mse: 4 bits symmetric, scale {qc._base.text.rounded(result.scale)}"


def test_offsets_and_zero_points_are_in_the_levels():
    data = np.linspace(280, 300, 1000, dtype=np.float32)
    axes = qc.Calibrator.min_max(3, mode="offset").partial_fit(data).plot()
    np.testing.assert_allclose(axes.lines[2].get_xdata(), np.linspace(280, 300, 8), rtol=1e-5)
    axes = qc.Calibrator.min_max(3, symmetric=False).partial_fit(data - 290).plot()
    assert axes.lines[2].get_xdata().min() == pytest.approx(-10, rel=0.2)


def test_channels_are_drawn_side_by_side_or_one_of_them():
    calibrator = observed(qc.Calibrator.percentile(axis=0, lower=5, upper=95), 4, 1000)
    own = pyplot.figure().add_subplot()
    assert calibrator.plot(own) is own
    assert [text.get_text() for text in own.get_legend().get_texts()] == ["observed", "kept"]
    result = calibrator.compute()
    axes = calibrator.plot(channel=2)
    ends = sorted(line.get_xdata()[0] for line in axes.lines)[0]
    assert ends == pytest.approx(result.clip_min[2])
    assert len(result.plot().collections) == 2
    with pytest.raises(InvalidValueError, match=r"channel: .*got 4"):
        calibrator.plot(channel=4)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InvalidStateError, match="nothing was observed"):
        qc.Calibrator.mse().plot()
    with pytest.raises(InvalidTypeError, match="axes: expected matplotlib's Axes, got 7"):
        observed(qc.Calibrator.mse(), 10).plot(7)
    assert not pyplot.get_fignums()


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"plot needs matplotlib: pip install '.*\[report\]'"):
        observed(qc.Calibrator.min_max(), 10).compute().plot()


def test_suites():
    suite = qc.run_full_benchmark_suite(256, rng=0)
    axes = suite.plot()
    drawn = sum(len(line.get_xdata()) for line in axes.lines)
    assert drawn == sum(np.isfinite(result.sqnr_db) for result in suite)
    assert [text.get_text() for text in axes.get_legend().get_texts()][:2] == ["per_tensor", "per_channel"]
    assert qc.BenchmarkSuite().plot().get_legend() is None


def test_comparisons(tmp_path):
    tensors = [(f"blk.{i}.{kind}.weight", normal(4, 64, seed=i)) for i in range(3) for kind in ("a", "b")]
    write_model(tmp_path / "in.gguf", *tensors)
    quantize_model(tmp_path / "in.gguf", tmp_path / "out.gguf", "Q4_0", pure=True, tensor_types=[("1.a", "F32")])
    result = compare_models(tmp_path / "in.gguf", tmp_path / "out.gguf")
    axes = result.plot()
    values = axes.collections[0].get_array()
    assert values.shape == (2, 3)
    found = {t.name: t.stats.sqnr_db for t in result.tensors}
    assert values[1, 2] == pytest.approx(found["blk.2.b.weight"]) and np.ma.is_masked(values[0, 1])
    write_model(tmp_path / "flat.gguf", ("x.weight", normal(4, 64)))
    quantize_model(tmp_path / "flat.gguf", tmp_path / "flat-out.gguf", "Q8_0", pure=True)
    flat = compare_models(tmp_path / "flat.gguf", tmp_path / "flat-out.gguf").plot()
    assert [label.get_text() for label in flat.get_yticklabels()] == ["x.weight (Q8_0)"]


@pytest.mark.slow
def test_the_plots_of_the_documents_are_drawn(tmp_path):
    pytest.importorskip("ci.doc_plots")
    child = subprocess.run([sys.executable, "-m", "ci.doc_plots", str(tmp_path)], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"digits.png", "methods.png"}


@pytest.mark.parametrize("prefix", ["", "blk.0."])
def test_names_are_no_formulas(tmp_path, prefix):
    name = f"{prefix}$\\frac$\x1b.weight"
    path = write_model(tmp_path / "in.gguf", (name, normal(4, 256)), (f"{prefix}b.weight", normal(4, 256)))
    quantize_model(path, tmp_path / "out.gguf", "Q4_0", pure=True)
    axes = compare_models(path, tmp_path / "out.gguf").plot()
    axes.figure.savefig(tmp_path / "figure.svg")
    assert any("frac" in label.get_text() and "\x1b" not in label.get_text() for label in axes.get_yticklabels())
    axes = qc.BenchmarkSuite([qc.QuantBenchmarkResult("n", 9, 4, "$\\frac$", "m", 1.0, 1.0, 1.0, 2.0)]).plot()
    axes.figure.savefig(tmp_path / "figure.svg")

"""The speed of formats: what is timed is what was asked for, and the rates follow from its time."""

import numpy as np
import pytest

import quantcore as qc
from quantcore.analysis import benchmarks, speed
from quantcore.errors import InvalidTypeError, InvalidValueError


@pytest.mark.slow
def test_every_format_has_a_rate_in_both_directions():
    results = qc.run_speed_benchmark(1 << 16, n_threads=1)
    names = [*benchmarks.BLOCK_FORMATS, "int8 per_tensor", "int8 per_channel"]
    assert [r.format for r in results] == names == list(speed.SPEED_FORMATS)
    for result in results:
        assert result.num_elements == 1 << 16 and result.n_threads == 1
        assert 1e4 < result.quantize_rate < 1e12 and 1e5 < result.dequantize_rate < 1e12
    text = speed.speed_table(results).splitlines()
    assert len(text) == 1 + len(results) and text[0].split()[:3] == ["format", "weights", "threads"]


def test_the_rate_is_that_of_the_call(monkeypatch):
    def slow(values, *, n_threads):
        calls.append((values.shape, values.dtype, n_threads))
        now[0] += 0.5
        return values

    calls, now = [], [0.0]
    monkeypatch.setattr(speed, "perf_counter", lambda: now[0])
    monkeypatch.setitem(speed._WAYS, "slow", (slow, slow))
    [result] = qc.run_speed_benchmark(1 << 17, formats=["slow"], n_threads=3)
    shapes = {shape for shape, *_ in calls}
    assert {call[1:] for call in calls} == {(np.dtype(np.float32), 3)}
    assert max(shapes)[0] * 4096 == result.num_elements < 1 << 17  # not more than can be done in a moment
    assert result.quantize_rate == result.dequantize_rate == result.num_elements / 0.5


def test_threads_are_the_default_ones(monkeypatch):
    monkeypatch.setenv("QUANTCORE_NUM_THREADS", "2")
    [result] = qc.run_speed_benchmark(1, formats=("Q4_0",))
    assert result.n_threads == 2 and result.num_elements == 4096


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 0}, InvalidValueError, "size: expected an integer >= 1, got 0"),
        ({"size": 2.0}, InvalidTypeError, "size: "),
        ({"formats": ["Q9"]}, InvalidValueError, "formats: expected some of Q4_0, .*, got 'Q9'"),
        ({"formats": "Q4_0"}, InvalidTypeError, "formats: expected an iterable of names"),
        ({"n_threads": 0}, InvalidValueError, "n_threads: "),
        ({"rng": "x"}, InvalidTypeError, "rng: "),
    ],
)
def test_what_cannot_be_is_refused(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        qc.run_speed_benchmark(**{"size": 4096, "formats": ["Q8_0"], **options})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": None}, "format: expected a string, got None"),
        ({"num_elements": 0}, "num_elements: expected an integer"),
        ({"n_threads": 1.5}, "n_threads: expected an integer"),
        ({"quantize_rate": "fast"}, "quantize_rate: "),
    ],
)
def test_results_of_wrong_types_are_refused(changes, problem):
    good = {"format": "Q8_0", "num_elements": 64, "n_threads": 1, "quantize_rate": 1e9, "dequantize_rate": 2e9}
    assert speed.SpeedResult(**good).format == "Q8_0"
    with pytest.raises((InvalidTypeError, InvalidValueError), match=f"^{problem}"):
        speed.SpeedResult(**good | changes)

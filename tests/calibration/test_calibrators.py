"""Calibrators as objects: accepted and refused input, merging, and interrupted calls."""

import math
import pickle
from typing import Any

import numpy as np
import pytest

from quantcore import (
    CalibrationMethod,
    Calibrator,
    InvalidStateError,
    InvalidTypeError,
    InvalidValueError,
    QuantcoreError,
    _kernels,
    calibrate_min_max,
    calibrate_percentile,
)
from tests.support.calibrators import F32, MERGING, METHODS, heavy_tailed, make, observed

# The life of a calibrator


def test_observing_in_parts_is_observing_all(rng):
    values = heavy_tailed(rng, 4, 900)
    for method in MERGING:
        for axis in (None, 0):
            whole = observed(method, values, axis=axis)
            parts = observed(method, *np.array_split(values, 7, axis=1), axis=axis)
            assert parts.num_batches == 7
            assert parts.compute().to_dict() == whole.compute().to_dict()


def test_properties(rng):
    calibrator = Calibrator.percentile(4, False, 1, 99, axis=-1)
    assert (calibrator.bits, calibrator.symmetric, calibrator.axis) == (4, False, -1)
    assert calibrator.method == CalibrationMethod("percentile", lower=1, upper=99)
    assert (calibrator.num_batches, calibrator.has_data) == (0, False)
    assert calibrator.observe(np.ones((2, 3))) is None
    assert calibrator.partial_fit(np.ones((2, 3))) is calibrator
    assert (calibrator.num_batches, calibrator.has_data) == (2, True)
    calibrator.reset()
    assert (calibrator.num_batches, calibrator.has_data) == (0, False)
    calibrator.observe(np.ones((2, 5)))  # other channels than before
    assert calibrator.compute().scale.shape == (5,)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_was_observed(method):
    calibrator = make(method)
    with pytest.raises(InvalidStateError) as refusal:
        calibrator.compute()
    assert isinstance(refusal.value, RuntimeError)
    calibrator.observe(np.empty((0, 3), F32))
    assert not calibrator.has_data
    with pytest.raises(RuntimeError):
        calibrator.compute()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_changes_nothing(method, axis, bad, rng):
    values = rng.standard_normal((40, 70)).astype(F32)
    calibrator = observed(method, values, axis=axis)
    state = calibrator.to_dict()
    broken = values * 100
    broken[39, 68] = bad
    for batch in (broken, broken.astype(np.float16), broken.astype(np.float64)):
        with pytest.raises(InvalidValueError, match=rf"batch: .*{abs(bad)} at flat index {39 * 70 + 68}"):
            calibrator.observe(batch)
        assert calibrator.to_dict() == state
    with pytest.raises(InvalidValueError, match="float32"):
        calibrator.observe(np.full((40, 70), 1e39))
    assert calibrator.to_dict() == state
    fresh = make(method, axis=axis)
    with pytest.raises(InvalidValueError):
        fresh.observe(broken)
    assert not fresh.has_data
    assert fresh.to_dict() == make(method, axis=axis).to_dict()


BATCHES: dict[str, Any] = {
    "int": np.ones(3, int),
    "bool": np.ones(3, bool),
    "complex": np.ones(3, complex),
    "object": np.array([1.0, None], object),
    "masked": np.ma.array([1.0, 2.0], mask=[0, 1]),
    "str": "abc",
    "None": None,
}


@pytest.mark.parametrize("case", BATCHES)
def test_batches_of_other_types(case):
    for call in (make("mse").observe, calibrate_min_max, calibrate_percentile):
        with pytest.raises(InvalidTypeError):
            call(BATCHES[case])


def test_shapes_that_do_not_fit():
    with pytest.raises(InvalidValueError, match="batch"):
        make("mse").observe(np.float32(1))
    for axis in (2, -3):
        with pytest.raises(InvalidValueError, match="axis"):
            make("mse", axis=axis).observe(np.ones((2, 3)))
    for method in METHODS:
        calibrator = observed(method, np.ones((2, 3)), axis=1)
        state = calibrator.to_dict()
        with pytest.raises(InvalidValueError, match=r"3 channels .*4"):
            calibrator.observe(np.ones((2, 4)))
        assert calibrator.to_dict() == state
    for call in (calibrate_min_max, calibrate_percentile):
        with pytest.raises(InvalidValueError, match="data"):
            call(np.empty(0))


ARGUMENTS: list[tuple[str, dict[str, Any], type[QuantcoreError], str]] = [
    *((method, {"bits": bits}, InvalidValueError, "bits") for method in METHODS for bits in (1, 9, 0, -8, 10**30)),
    *((method, {"bits": bits}, InvalidTypeError, "bits") for method in METHODS for bits in (8.0, True, "8", None)),
    *((method, {"axis": axis}, InvalidTypeError, "axis") for method in METHODS for axis in (0.0, False, "0")),
    *((method, {"symmetric": 1}, InvalidTypeError, "symmetric") for method in METHODS),
    *((method, {"narrow_range": None}, InvalidTypeError, "narrow_range") for method in METHODS),
    *(
        ("percentile", {"lower": lower, "upper": upper}, InvalidValueError, "lower")
        for lower, upper in ((-0.1, 99), (0, 100.1), (50, 50), (60, 40), (100, 100), (0, 0))
    ),
    *(
        ("percentile", {name: value}, InvalidValueError, name)
        for name in ("lower", "upper")
        for value in (math.nan, math.inf, -math.inf)
    ),
    *(
        ("percentile", {name: value}, InvalidTypeError, name)
        for name in ("lower", "upper")
        for value in (True, "1", 1j, np.ones(1))
    ),
    *(
        ("moving_average", {"averaging_constant": value}, InvalidValueError, "averaging_constant")
        for value in (0, 0.0, -0.5, 1.001, math.nan, math.inf)
    ),
    *(
        ("moving_average", {"averaging_constant": value}, InvalidTypeError, "averaging_constant")
        for value in (True, "0.1", [0.1])
    ),
]


@pytest.mark.parametrize(("method", "options", "error", "name"), ARGUMENTS)
def test_bad_arguments_are_named(method, options, error, name):
    with pytest.raises(error, match=name):
        make(method, **options)
    if method == "percentile" and "axis" not in options and "narrow_range" not in options:
        with pytest.raises(error, match=name):
            calibrate_percentile(np.ones(3), **options)
    if method == "min_max" and "axis" not in options and "narrow_range" not in options:
        with pytest.raises(error, match=name):
            calibrate_min_max(np.ones(3), **options)


@pytest.mark.parametrize("n_threads", [0, -1, 1.5, True])
def test_threads_are_checked(n_threads):
    with pytest.raises((InvalidValueError, InvalidTypeError), match="n_threads"):
        make("mse").observe(np.ones(3), n_threads=n_threads)


def test_methods_are_records():
    method = CalibrationMethod("percentile", lower=1, upper=99.5)
    assert method == CalibrationMethod("percentile", lower=1.0, upper=99.5)
    assert hash(method) == hash(CalibrationMethod("percentile", lower=1.0, upper=99.5))
    assert pickle.loads(pickle.dumps(method)) == method
    with pytest.raises(AttributeError):
        method.lower = 2  # type: ignore[misc]
    for arguments in (("kl",), ("percentile",), ("min_max", 0.1), ("mse", None, 1.0, 99.0), (None,), (["mse"],)):
        with pytest.raises((InvalidValueError, InvalidTypeError)):
            CalibrationMethod(*arguments)


# After calls that fail or are interrupted


def test_an_interrupted_batch_is_never_counted_by_half(monkeypatch):
    """A KeyboardInterrupt comes out of the kernel with some channels counted and others not."""
    values = np.random.default_rng(0).standard_normal((40, 300)).astype(np.float32)
    calibrator = Calibrator.percentile(axis=0)
    calibrator.observe(values)

    class Interrupted(_kernels.CountRuns):
        def run(self, most):
            self.hand_out(8, 8)
            super().run(1)
            raise KeyboardInterrupt

    monkeypatch.setattr(_kernels, "CountRuns", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrator.observe(values)
    monkeypatch.undo()
    other = Calibrator.percentile(axis=0)
    other.observe(values)
    for call in (
        calibrator.compute,
        calibrator.to_dict,
        lambda: calibrator.observe(values),
        lambda: calibrator.merge(other),
        lambda: other.merge(calibrator),
        lambda: pickle.dumps(calibrator),
    ):
        with pytest.raises(InvalidStateError, match=r"interrupted observe .* reset\(\)"):
            call()
    calibrator.reset()
    calibrator.observe(values)
    assert calibrator.to_dict() == other.to_dict()


def test_a_moving_average_of_extremes_that_are_far_apart_stays_finite():
    calibrator = Calibrator.moving_average(8, False, 0.5)
    for value in (3e38, -3e38, 3e38):
        calibrator.observe(np.array([value], np.float32))
    result = calibrator.compute()
    assert result.observed_min == result.observed_max == pytest.approx(1.5e38)
    assert Calibrator.from_dict(calibrator.to_dict()).to_dict() == calibrator.to_dict()


@pytest.mark.parametrize("n_threads", [0, -1, True, 1.5])
def test_threads_are_checked_even_where_none_are_needed(n_threads):
    for call in (
        lambda: Calibrator.mse().observe(np.empty(0, np.float32), n_threads=n_threads),
        lambda: Calibrator.mse().partial_fit(np.ones(3, np.float32), n_threads=n_threads),
        lambda: calibrate_percentile(np.ones(3, np.float32), n_threads=n_threads),
    ):
        with pytest.raises((InvalidValueError, InvalidTypeError), match="n_threads: expected an integer >= 1"):
            call()


def test_a_state_without_an_axis_is_refused():
    state = Calibrator.min_max().to_dict()
    del state["axis"]
    with pytest.raises(InvalidValueError, match="axis: is missing"):
        Calibrator.from_dict(state)

"""Calibrators merged, pickled and written as JSON."""

import copy
import json
import math
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    Calibrator,
    InvalidTypeError,
    InvalidValueError,
)
from tests.support.calibrators import F32, METHODS, heavy_tailed, make, observed

# Merging


DIFFERENT: dict[str, Callable[[], tuple[Calibrator, Calibrator]]] = {
    "method": lambda: (make("mse"), make("entropy")),
    "bits": lambda: (make("mse", 8), make("mse", 4)),
    "mode": lambda: (make("mse", 8, True), make("mse", 8, False)),
    "axis": lambda: (make("mse", axis=0), make("mse", axis=1)),
    "axis and none": lambda: (make("mse", axis=0), make("mse")),
    "percentiles": lambda: (make("percentile", 8, True, 1, 99), make("percentile", 8, True, 1, 98)),
    "range": lambda: (make("mse"), make("mse", narrow_range=False)),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_merging_what_differs_lists_both(case):
    first, second = DIFFERENT[case]()
    for calibrator in (first, second):
        calibrator.observe(np.ones((2, 2)))
    states = first.to_dict(), second.to_dict()
    with pytest.raises(InvalidValueError) as refusal:
        first.merge(second)
    text = str(refusal.value)
    for calibrator in (first, second):
        assert calibrator.method.name in text
        assert str(calibrator.bits) in text
    assert (first.to_dict(), second.to_dict()) == states


def test_merging_other_shapes_lists_both():
    first, second = observed("mse", np.ones((2, 3)), axis=1), observed("mse", np.ones((2, 4)), axis=1)
    state = first.to_dict()
    with pytest.raises(InvalidValueError, match=r"3 channels.*4"):
        first.merge(second)
    assert first.to_dict() == state


def test_axes_counted_from_other_ends_are_told():
    first, second = observed("mse", np.ones((2, 3)), axis=1), observed("mse", np.ones((2, 3)), axis=-1)
    message = (
        r"^other: .*along axis 1, got .*along axis -1; whether these are the same .* count both from the same end$"
    )
    with pytest.raises(InvalidValueError, match=message):
        first.merge(second)
    with pytest.raises(InvalidValueError, match=r"^other: .*along axis 1, got .*along axis 0$"):
        first.merge(observed("mse", np.ones((2, 3)), axis=0))
    assert first.merge(observed("mse", np.ones((2, 3)), axis=1)).num_channels == 3
    assert Calibrator.mse(axis=1).num_channels == 0 and observed("mse", np.ones((2, 3))).num_channels == 1


def test_moving_averages_do_not_merge():
    with pytest.raises(InvalidValueError, match=r"moving average.*order"):
        observed("moving_average", np.ones(3)).merge(observed("moving_average", np.ones(3)))


@pytest.mark.parametrize("other", [None, 5, {}, np.ones(3)])
def test_merging_with_what_is_no_calibrator(other):
    with pytest.raises(InvalidTypeError, match="other"):
        make("mse").merge(other)


@given(
    seed=st.integers(0, 2**32 - 1), size=st.integers(1, 60), n_parts=st.integers(1, 6), axis=st.sampled_from([None, 0])
)
def test_extremes_do_not_depend_on_order_and_merges(seed, size, n_parts, axis):
    rng = np.random.default_rng(seed)
    values = heavy_tailed(rng, 3, size)
    whole = observed("min_max", values, axis=axis).to_dict()
    parts = np.array_split(rng.permutation(values, axis=1), n_parts, axis=1)
    calibrators = [observed("min_max", part, axis=axis) for part in parts if part.size]
    rng.shuffle(calibrators)  # type: ignore[arg-type]
    merged = make("min_max", axis=axis)
    for calibrator in calibrators:
        assert merged.merge(calibrator) is merged
    assert merged.num_batches == len(calibrators)
    assert merged.to_dict() == whole | {"num_batches": len(calibrators)}


def test_moving_average_from_many_threads_equals_some_order(rng):
    calibrator = make("moving_average", averaging_constant=1.0)
    batches = [np.array([-i, i], F32) for i in range(1, 201)]
    threads = [
        threading.Thread(target=lambda part: [calibrator.observe(b) for b in part], args=(batches[i::8],))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = calibrator.compute()
    assert calibrator.num_batches == 200
    assert result.observed_max == -result.observed_min  # of one batch, whole
    assert result.observed_max in {batch.max() for batch in (batches[i::8][-1] for i in range(8))}


# Pickles and JSON


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axis", [None, 1])
def test_states_survive_copies_pickles_and_json(method, axis, rng):
    values = rng.standard_normal((4, 30)).astype(F32)
    for calibrator in (make(method, 5, False, axis=axis), observed(method, values, bits=5, symmetric=False, axis=axis)):
        state = calibrator.to_dict()
        for other in (
            copy.copy(calibrator),
            copy.deepcopy(calibrator),
            pickle.loads(pickle.dumps(calibrator)),
            Calibrator.from_dict(json.loads(json.dumps(state, allow_nan=False))),
        ):
            assert other.to_dict() == state
            assert (other.method, other.bits, other.symmetric, other.axis) == (calibrator.method, 5, False, axis)
            other.observe(values * 3)
            assert calibrator.to_dict() == state
            if calibrator.has_data:
                again = copy.copy(calibrator)
                again.observe(values * 3)
                assert again.to_dict() == other.to_dict()
    result = calibrator.compute()
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
    assert pickle.loads(pickle.dumps(result)).to_dict() == result.to_dict()


_STATE = observed("min_max", np.array([-1, 2], F32)).to_dict()
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "no format": ({"format": ...}, "format"),
    "another format": ({"format": "x"}, "format"),
    "no version": ({"version": ...}, "version"),
    "version 0": ({"version": 0}, "version"),
    "version 2": ({"version": 2}, "version"),
    "version a string": ({"version": "1"}, "version"),
    "version a bool": ({"version": True}, "version"),
    "version a float": ({"version": 1.0}, "version"),
    "no method": ({"method": ...}, "method"),
    "method a string": ({"method": "min_max"}, "method"),
    "an unknown method": ({"method": {"name": "x"}}, "method"),
    "a parameter of another method": ({"method": {"name": "min_max", "lower": 1.0}}, "lower"),
    "an unknown parameter": ({"method": {"name": "min_max", "x": 1.0}}, "method"),
    "a method of a list": ({"method": {"name": ["min_max"]}}, "method"),
    "bits 9": ({"bits": 9}, "bits"),
    "bits a float": ({"bits": 8.0}, "bits"),
    "bits a bool": ({"bits": True}, "bits"),
    "no bits": ({"bits": ...}, "bits"),
    "no mode": ({"mode": ...}, "mode"),
    "mode a bool": ({"mode": True}, "mode"),
    "mode in capitals": ({"mode": "SYMMETRIC"}, "mode"),
    "an unknown mode": ({"mode": "x"}, "mode"),
    "axis a string": ({"axis": "0"}, "axis"),
    "narrow_range null": ({"narrow_range": None}, "narrow_range"),
    "num_batches negative": ({"num_batches": -1}, "num_batches"),
    "num_batches a float": ({"num_batches": 1.0}, "num_batches"),
    "num_batches 0": ({"num_batches": 0}, "num_batches"),
    "no num_batches": ({"num_batches": ...}, "num_batches"),
    "num_batches huge": ({"num_batches": 10**5000}, "num_batches"),
    "state a list": ({"state": []}, "state"),
    "state empty": ({"state": {}}, "state|lowest"),
    "no highest": ({"state": {"lowest": [-1.0]}}, "highest"),
    "NaN": ({"state": {"lowest": [math.nan], "highest": [2.0]}}, "lowest"),
    "inf": ({"state": {"lowest": [-1.0], "highest": [math.inf]}}, "highest"),
    "beyond float32": ({"state": {"lowest": [-1.0], "highest": [1e300]}}, "highest"),
    "huge integer": ({"state": {"lowest": [-1.0], "highest": [10**400]}}, "highest"),
    "no float32": ({"state": {"lowest": [-0.1], "highest": [2.0]}}, "lowest"),
    "a string": ({"state": {"lowest": ["-1"], "highest": [2.0]}}, "lowest"),
    "a bool": ({"state": {"lowest": [False], "highest": [2.0]}}, "lowest"),
    "in the wrong order": ({"state": {"lowest": [3.0], "highest": [2.0]}}, "lowest"),
    "two channels without an axis": (
        {"num_channels": 2, "state": {"lowest": [0.0] * 2, "highest": [1.0] * 2}}, "channels",
    ),
    "a million channels": ({"state": {"lowest": [0.0] * 1_000_000, "highest": [1.0]}}, "channels|lowest"),
    "channels that differ": ({"axis": 0, "state": {"lowest": [0.0, 0.0], "highest": [1.0]}}, "channels|lowest|highest"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_states_are_refused_by_name(case):
    fields, name = HOSTILE[case]
    state = {key: value for key, value in (_STATE | fields).items() if value is not ...}
    with pytest.raises((InvalidValueError, InvalidTypeError), match=name) as refusal:
        Calibrator.from_dict(state)
    assert len(str(refusal.value)) < 400
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("state", [None, 5, "x", [], [["format", "quantcore.calibrator"]], {}])
def test_what_is_no_state(state):
    with pytest.raises((InvalidValueError, InvalidTypeError)):
        Calibrator.from_dict(state)

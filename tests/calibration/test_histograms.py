"""The state of a histogram is order-independent: a function of the values, not of batches, merges or threads."""

import copy
import itertools
import json
import math
import pickle
import threading
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quantcore import Calibrator, InvalidTypeError, InvalidValueError
from quantcore.calibration import histograms
from tests.support import reference_calibration as reference

F32 = np.float32
LARGEST = float(np.finfo(F32).max)
SUBNORMAL = 2.0**-149
METHODS = ("percentile", "entropy", "mse")


def observed(*batches: Any, axis: int | None = None, method: str = "percentile", **options: Any) -> Calibrator:
    calibrator: Calibrator = getattr(Calibrator, method)(axis=axis)
    for batch in batches:
        calibrator.observe(batch, **options)
    return calibrator


def channels_of(calibrator: Calibrator) -> list[dict[str, Any]]:
    return calibrator.to_dict()["state"]["channels"]


def state_of(*batches: Any, **options: Any) -> dict[str, Any]:
    """The state without what depends on how the values are divided into batches."""
    return {key: value for key, value in observed(*batches, **options).to_dict().items() if key != "num_batches"}


def expected(values: Any) -> dict[str, Any]:
    return reference.histogram(np.asarray(values, F32).ravel().tolist()).to_dict()


CASES: dict[str, Sequence[float]] = {
    "zero": [0.0],
    "negative zero": [-0.0],
    "both zeros": [0.0, -0.0, 0.0],
    "one": [1.0],
    "minus one": [-1.0],
    "a constant": [5.1] * 7,
    "neighbours": [1.0, float(np.nextafter(F32(1), F32(2)))],
    "neighbours below a power of two": [float(np.nextafter(F32(2), F32(0))), 2.0],
    "without zero": [5.0, 6.0],
    "all negative": [-6.0, -5.5, -5.0],
    "tiny": [1e-30, -2e-30, 3e-30],
    "huge": [1e30, -2e30, 3e30],
    "the largest": [LARGEST, -LARGEST, 0.0, 1.0],
    "the largest twice": [LARGEST, LARGEST],
    "subnormal": [SUBNORMAL, -3 * SUBNORMAL, 2.0**-127],
    "the smallest": [SUBNORMAL],
    "tiny and huge": [1e-38, SUBNORMAL, -1e38],
    "4096 bins": [0.0, 4095.0],
    "4097 bins": [0.0, 4096.0],
    "4096 bins and a half": [0.0, 4095.5],
    "across zero": [-2048.0, 2047.0],
    "one more across zero": [-2048.0, 2048.0],
    "just below zero": [-SUBNORMAL, 0.0],
    "edges": [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0],
}


@pytest.mark.parametrize("case", CASES)
def test_state_equals_the_definition(case):
    values = np.array(CASES[case], F32)
    (channel,) = channels_of(observed(values))
    assert channel == expected(values)
    for order in itertools.islice(itertools.permutations(range(len(values))), 6):
        batches = [values[i : i + 1] for i in order]
        assert channels_of(observed(*batches)) == [channel]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_dtypes_and_axes(dtype, axis, rng):
    values = rng.standard_normal((9, 11, 41)).astype(dtype)
    rows = values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    assert channels_of(observed(values, axis=axis)) == [expected(row.astype(F32)) for row in rows]


def test_float64_is_rounded_to_float32(rng):
    values = rng.standard_normal(1000)
    assert channels_of(observed(values)) == [expected(values.astype(F32))]


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_layouts_give_the_same(axis, rng):
    values = rng.standard_normal((40, 70)).astype(F32)
    state = state_of(values, axis=axis)
    wide = np.zeros((80, 140), F32)
    wide[::2, ::2] = values
    for other in (np.asfortranarray(values), wide[::2, ::2], values.astype(">f4")):
        assert state_of(other, axis=axis) == state
    assert state_of(values.T, axis=None if axis is None else 1 - axis)["state"] == state["state"]
    assert state_of(values[::-1, ::-1]) == state_of(values)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 400),
    log_scale=st.floats(-44, 37),
    spread=st.floats(0, 30),
    shift=st.sampled_from([0.0, 1.0, -3.0]),
    n_channels=st.sampled_from([None, 1, 3]),
    method=st.sampled_from(METHODS),
)
@example(seed=0, size=2, log_scale=-44, spread=0, shift=0.0, n_channels=None, method="mse")
def test_any_split_order_and_merge_gives_the_same_state(seed, size, log_scale, spread, shift, n_channels, method):
    rng = np.random.default_rng(seed)
    shape = (n_channels or 1, size)
    with np.errstate(over="ignore", under="ignore"):
        values = (rng.standard_normal(shape) * 10.0 ** rng.uniform(-spread, 0, shape) + shift) * 10.0**log_scale
        values = np.clip(values, -LARGEST, LARGEST).astype(F32)
    axis = None if n_channels is None else 0
    whole = state_of(values, axis=axis, method=method)
    assert whole["state"]["channels"] == [expected(row) for row in values]
    parts = np.split(rng.permutation(values, axis=1), np.sort(rng.integers(1, size + 1, rng.integers(0, 6))), axis=1)
    leaves = [observed(part, axis=axis, method=method) for part in parts if part.size]
    n_leaves = len(leaves)
    while len(leaves) > 1:
        first, second = (leaves.pop(rng.integers(len(leaves))) for _ in range(2))
        before = second.to_dict()
        assert first.merge(second) is first
        assert second.to_dict() == before
        leaves.append(first)
    (merged,) = leaves
    assert merged.num_batches == n_leaves
    assert {key: value for key, value in merged.to_dict().items() if key != "num_batches"} == whole
    assert str(merged.compute()) == str(observed(values, axis=axis, method=method).compute())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("axis", [None, 0])
def test_merging_with_one_without_data(method, axis, rng):
    values = rng.standard_normal((3, 50)).astype(F32)
    full, empty = observed(values, axis=axis, method=method), observed(axis=axis, method=method)
    expected_state = full.to_dict()
    assert full.merge(empty).to_dict() == expected_state
    assert not empty.has_data
    assert empty.merge(full).to_dict() == expected_state
    assert observed(axis=axis, method=method).merge(observed(axis=axis, method=method)).has_data is False


def test_merging_with_itself(rng):
    values = rng.standard_normal(100).astype(F32)
    calibrator = observed(values)
    calibrator.merge(calibrator)
    assert channels_of(calibrator) == channels_of(observed(values, values))


def test_a_merge_keeps_nothing_of_the_other(rng):
    first, second = observed(), observed(rng.standard_normal(50).astype(F32))
    first.merge(second)
    state = first.to_dict()
    second.observe(np.full(100, 1e6, F32))
    assert first.to_dict() == state


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_threads_give_the_same(axis, rng):
    values = (rng.standard_normal((64, 40_000)) * 10.0 ** rng.uniform(-3, 3, (64, 1))).astype(F32)
    values = values if axis != 1 else np.ascontiguousarray(values.T)
    one = state_of(values, axis=axis, n_threads=1)
    for n_threads in (2, 3, 7):
        assert state_of(values, axis=axis, n_threads=n_threads) == one


def test_observing_from_many_threads_equals_some_sequence(rng):
    batches = [(rng.standard_normal((5, 300)) * 10.0 ** rng.uniform(-5, 5)).astype(F32) for _ in range(64)]
    for axis, method in ((None, "percentile"), (0, "entropy")):
        calibrator = observed(axis=axis, method=method)
        barrier = threading.Barrier(8)

        def work(i: int, calibrator: Calibrator = calibrator, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            for batch in batches[i::8]:
                calibrator.observe(batch)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert calibrator.to_dict() == observed(*batches, axis=axis, method=method).to_dict()


def test_merging_each_other_from_two_threads_does_not_deadlock(rng):
    first, second = observed(rng.standard_normal(9).astype(F32)), observed(rng.standard_normal(9).astype(F32))

    def work(one: Calibrator, other: Calibrator) -> None:
        for _ in range(30):
            one.merge(copy.copy(other))

    threads = [threading.Thread(target=work, args=pair) for pair in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


# Pickles and JSON


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("method", METHODS)
def test_state_survives_copies_pickles_and_json(method, axis, rng):
    values = rng.standard_normal((4, 100)).astype(F32)
    for calibrator in (observed(axis=axis, method=method), observed(values, axis=axis, method=method)):
        state = calibrator.to_dict()
        for other in (
            copy.copy(calibrator),
            copy.deepcopy(calibrator),
            pickle.loads(pickle.dumps(calibrator)),
            Calibrator.from_dict(state),
            Calibrator.from_dict(json.loads(json.dumps(state, allow_nan=False))),
        ):
            assert other.to_dict() == state
            assert (other.num_batches, other.has_data) == (calibrator.num_batches, calibrator.has_data)
            other.observe(values * 100)  # goes on, and alone
            assert calibrator.to_dict() == state
            assert channels_of(other) == channels_of(
                observed(*[values] * calibrator.has_data, values * 100, axis=axis, method=method)
            )


def test_counts_beyond_32_bits(rng):
    """What would take 2**33 values is made by merging a state with itself."""
    calibrator = observed(rng.standard_normal((2, 64)).astype(F32), axis=0)
    for _ in range(28):
        calibrator.merge(calibrator)
    assert [sum(channel["counts"]) for channel in channels_of(calibrator)] == [64 * 2**28] * 2
    other = Calibrator.from_dict(json.loads(json.dumps(calibrator.to_dict())))
    assert other.to_dict() == calibrator.to_dict()
    other.observe(np.ones((2, 3), F32))
    assert [sum(channel["counts"]) for channel in channels_of(other)] == [64 * 2**28 + 3] * 2


_GOOD = {"lowest": -1.0, "highest": 2.0, "exponent": -10, "first": -1025, "counts": [1] + [0] * 3072 + [2]}


def with_channels(channels: Any) -> dict[str, Any]:
    state = observed(np.array([-1, 2, 2], F32)).to_dict()
    assert state["state"]["channels"] == [_GOOD]
    return state | {"state": {"channels": channels}}


def with_channel(**fields: Any) -> dict[str, Any]:
    """`...` leaves a field out."""
    return with_channels([{key: value for key, value in (_GOOD | fields).items() if value is not ...}])


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "no lowest": ({"lowest": ...}, "lowest"),
    "lowest NaN": ({"lowest": math.nan}, "lowest"),
    "lowest inf": ({"lowest": -math.inf}, "lowest"),
    "lowest above highest": ({"lowest": 3.0}, "lowest"),
    "highest a string": ({"highest": "2"}, "highest"),
    "highest a bool": ({"highest": True}, "highest"),
    "highest no float32": ({"highest": 0.1}, "highest"),
    "highest beyond float32": ({"highest": 1e300}, "highest"),
    "highest a huge integer": ({"highest": 10**400}, "highest"),
    "no exponent": ({"exponent": ...}, "exponent"),
    "another exponent": ({"exponent": -9}, "exponent"),
    "exponent a float": ({"exponent": -10.0}, "exponent"),
    "exponent huge": ({"exponent": 1 << 70}, "exponent"),
    "first elsewhere": ({"first": -1024}, "first"),
    "first a bool": ({"first": False}, "first"),
    "first out of 32 bits": ({"first": 1 << 40}, "first"),
    "no counts": ({"counts": ...}, "counts"),
    "counts a number": ({"counts": 5}, "counts"),
    "counts a string": ({"counts": "1" * 3074}, "counts"),
    "counts empty": ({"counts": []}, "counts"),
    "a count too few": ({"counts": _GOOD["counts"][:-1]}, "counts"),
    "a count too many": ({"counts": [*_GOOD["counts"], 1]}, "counts"),
    "a million counts": ({"counts": [0] * 1_000_000}, "counts"),
    "a negative count": ({"counts": [1, -1, *_GOOD["counts"][2:]]}, "counts"),
    "a count of float": ({"counts": [1.0, *_GOOD["counts"][1:]]}, "counts"),
    "a count of bool": ({"counts": [True, *_GOOD["counts"][1:]]}, "counts"),
    "a huge count": ({"counts": [1 << 80, *_GOOD["counts"][1:]]}, "counts"),
    "nothing at the lowest": ({"counts": [0, *_GOOD["counts"][1:]]}, "counts"),
    "nothing at the highest": ({"counts": [*_GOOD["counts"][:-1], 0]}, "counts"),
    "sums that overflow": ({"counts": [1 << 61, *[1 << 61] * 3072, 1 << 61]}, "counts"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_channels_are_refused_by_name(case):
    fields, name = HOSTILE[case]
    with pytest.raises((InvalidValueError, InvalidTypeError), match=name) as refusal:
        Calibrator.from_dict(with_channel(**fields))
    assert len(str(refusal.value)) < 400
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("channels", [None, [], {}, "x", 5, [None], [[]], [_GOOD, _GOOD], [_GOOD, 3], [[_GOOD]]])
def test_hostile_lists_of_channels_are_refused(channels):
    with pytest.raises((InvalidValueError, InvalidTypeError), match="channels"):
        Calibrator.from_dict(with_channels(channels))


@pytest.mark.parametrize("shape", [(150_000, 11), (40_000, 5, 3), (700, 600), (300, 7, 64)])
@pytest.mark.parametrize("long_column", [0, 1 << 40])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_columns_equal_each_column_alone(n_threads, long_column, shape, monkeypatch, rng):
    """In tables of 16 bits of each thread, which are added up before a bin has too many values for them, or without."""
    monkeypatch.setattr(histograms, "_LONG_COLUMN", long_column)
    values = rng.standard_normal(shape).astype(np.float32)
    values[:, 3] = 1.0
    values[:, -1] *= 1e20
    together = observed(values[:1000], values, axis=1, n_threads=n_threads)
    for channel, state in enumerate(channels_of(together)):
        if channel % 50 < 11 or channel == shape[1] - 1:
            assert [state] == channels_of(observed(values[:1000, channel], values[:, channel])), channel


@pytest.mark.parametrize("axis", [0, 1])
def test_columns_beyond_32_bits(axis, rng):
    """Wide counts are added to as narrow ones are."""
    values = rng.standard_normal((5000, 3) if axis else (3, 5000)).astype(F32)
    calibrator = observed(values, axis=axis)
    for _ in range(21):
        calibrator.merge(calibrator)
    before = [np.array(channel["counts"]) for channel in channels_of(calibrator)]
    calibrator.observe(values)
    calibrator.observe(values[:9] if axis else values[:, :9])
    for n, channel in zip(before, channels_of(calibrator), strict=True):
        assert sum(channel["counts"]) == n.sum() + 5009
        assert n.sum() == 5000 << 21

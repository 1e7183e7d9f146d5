"""How much a calibrator counts has a limit, where states enter and where they join; packed ones take little memory."""

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

from quantcore import Calibrator, InvalidValueError
from tests.calibration.test_memory import growth, needs_proc

F32 = np.float32
MOST = 1 << 62


def state_with(count: int, *, n_channels: int = 1, num_batches: int = 1) -> dict[str, Any]:
    """Of so many zeros in each channel."""
    axis = None if n_channels == 1 else 0
    state = Calibrator.percentile(axis=axis).partial_fit(np.zeros((n_channels, 1), F32)).to_dict()
    state["num_batches"] = num_batches
    for channel in state["state"]["channels"]:
        channel["counts"] = [count]
    return state


@pytest.mark.parametrize("n_channels", [1, 3])
def test_as_many_values_as_can_be_counted(n_channels):
    full = Calibrator.from_dict(state_with(MOST, n_channels=n_channels))
    assert pickle.loads(pickle.dumps(full)).to_dict() == full.to_dict() == copy.deepcopy(full).to_dict()
    before = full.to_dict()
    one = np.zeros((n_channels, 1), F32)
    for add in (
        lambda: full.merge(Calibrator.from_dict(before)),
        lambda: full.merge(Calibrator.from_dict(state_with(1, n_channels=n_channels))),
        lambda: full.observe(one),
        lambda: Calibrator.from_dict(state_with(MOST + 1, n_channels=n_channels)),
    ):
        with pytest.raises(InvalidValueError, match=r"2\*\*62"):
            add()
        assert full.to_dict() == before
    assert np.all(np.asarray(full.compute().scale) == 1)


@pytest.mark.parametrize("n_channels", [1, 3])
def test_halves_of_the_limit_join(n_channels):
    half = state_with(MOST // 2, n_channels=n_channels)
    joined = Calibrator.from_dict(half).merge(Calibrator.from_dict(half))
    assert {sum(channel["counts"]) for channel in joined.to_dict()["state"]["channels"]} == {MOST}
    with pytest.raises(InvalidValueError, match=r"^other: makes 6917529027641081856 values, the limit"):
        joined.merge(Calibrator.from_dict(half))


@pytest.mark.parametrize("method", ["min_max", "percentile"])
def test_batches_have_the_same_limit(method):
    state = getattr(Calibrator, method)().partial_fit(np.zeros(3, F32)).to_dict()
    full = Calibrator.from_dict(state | {"num_batches": MOST})
    assert full.num_batches == MOST
    for add in (lambda: full.merge(Calibrator.from_dict(state)), lambda: full.observe(np.zeros(1, F32))):
        with pytest.raises(InvalidValueError, match=r"batches, the limit of a calibrator is 2\*\*62$"):
            add()
    with pytest.raises(InvalidValueError, match=r"^num_batches: "):
        Calibrator.from_dict(state | {"num_batches": MOST + 1})


def test_more_than_32_bits_of_values(rng):
    """Rows of 32-bit counts are widened, however the two sides are stored."""
    values = rng.standard_normal((3, 50)).astype(F32)
    seen = Calibrator.percentile(axis=0).partial_fit(values)
    large = seen.to_dict()
    for channel in large["state"]["channels"]:
        channel["counts"] = [count * (1 << 27) for count in channel["counts"]]
    expected = copy.deepcopy(large)
    for channel, added in zip(expected["state"]["channels"], seen.to_dict()["state"]["channels"], strict=True):
        channel["counts"] = [a + b for a, b in zip(channel["counts"], added["counts"], strict=True)]
    expected["num_batches"] = 2
    for joined in (
        Calibrator.from_dict(large).merge(seen),
        copy.deepcopy(seen).merge(Calibrator.from_dict(large)),
        Calibrator.percentile(axis=0).partial_fit(values).merge(Calibrator.from_dict(large)),
        Calibrator.from_dict(large).partial_fit(values),
        Calibrator.percentile(axis=0).merge(Calibrator.from_dict(large)).partial_fit(values),
    ):
        assert joined.to_dict() == expected


@pytest.mark.slow
def test_packed_and_counted_channels_join_the_same(rng):
    """Of more channels than are unpacked together, and merged in every order of kinds."""
    batches = [rng.standard_normal((600, 9)).astype(F32) * F32(10.0**k) for k in (0, 3, -2)]
    whole = Calibrator.percentile(axis=0)
    for batch in batches:
        whole.observe(batch)
    counted = [Calibrator.percentile(axis=0).partial_fit(batch) for batch in batches]
    packed = [Calibrator.from_dict(calibrator.to_dict()) for calibrator in counted]
    states = [calibrator.to_dict() for calibrator in counted]
    for first, second, third in (
        (packed[0], packed[1], packed[2]),
        (copy.deepcopy(packed[0]), counted[1], packed[2]),
        (Calibrator.percentile(axis=0).partial_fit(batches[0]), packed[1], counted[2]),
        (Calibrator.percentile(axis=0), counted[1], counted[0]),
    ):
        joined = first.merge(second).merge(third)
        if joined.num_batches == 2:
            joined.observe(batches[2])
        assert joined.to_dict() == whole.to_dict()
        assert joined.compute() == whole.compute()
    assert [calibrator.to_dict() for calibrator in counted] == states
    assert [calibrator.to_dict() for calibrator in packed[1:]] == states[1:]


@pytest.mark.slow
@pytest.mark.may_skip
@needs_proc
def test_merging_small_states_of_very_many_channels():
    """Two states of 60,000 channels with two values each: 4 MB of JSON, not 16 KiB a channel and copies of that."""
    channel = {"lowest": 0.0, "highest": 1.0, "exponent": -11, "first": 0, "counts": [1, *[0] * 2047, 1]}
    reference = Calibrator.percentile(axis=0).partial_fit(np.array([[0, 1], [0, 1]], F32)).to_dict()
    assert reference["state"]["channels"][0] == channel
    program = """
import json
one = {"lowest": 0.5, "highest": 0.5, "exponent": -24, "first": 8388608, "counts": [3]}
state = Calibrator.percentile(axis=0).partial_fit(np.full((2, 3), 0.5, np.float32)).to_dict()
assert state["state"]["channels"][0] == one, state
text = json.dumps(state | {"num_channels": 60_000, "state": {"channels": [one] * 60_000}})
assert 4_000_000 < len(text) < 8_000_000
first, second = (Calibrator.from_dict(json.loads(text)) for _ in "12")
first.merge(second).merge(second)
assert first.num_batches == 3 and first.to_dict()["state"]["channels"][-1]["counts"] == [9]
"""
    assert growth(program) < 200_000_000


def test_states_stay_small_enough_to_be_read():
    assert json.loads(json.dumps(state_with(MOST)))["state"]["channels"][0]["counts"] == [MOST]

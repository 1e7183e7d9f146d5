"""NaN that is left out, masks of padding, arrays of integers in files, and where in an array a bad value is."""

import ml_dtypes
import numpy as np
import pytest

from quantcore import Calibrator, InvalidTypeError, InvalidValueError, calibrate_files
from tests.support.calibrators import F32, MERGING, METHODS, make, observed
from tests.support.levels import at_level, every_other_level


@pytest.mark.parametrize("dtype", [F32, np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_omitted_nan_is_as_if_it_had_not_been_there(method, dtype, rng):
    values = rng.standard_normal((50, 60)).astype(dtype)
    holes = rng.random(values.shape) < 0.2
    with_nan = np.where(holes, np.nan, values).astype(dtype)
    calibrator = make(method)
    calibrator.observe(with_nan, nan_policy="omit")
    assert calibrator.to_dict() == observed(method, values[~holes]).to_dict()
    with pytest.raises(InvalidValueError, match="nan at flat index"):
        calibrator.observe(with_nan)


@pytest.mark.parametrize("axis", [0, 1, 2, -2])
@pytest.mark.parametrize("method", METHODS)
def test_channels_may_keep_different_numbers_of_values(method, axis, rng):
    batches = [rng.standard_normal((6, 7, 8)).astype(F32) for _ in range(3)]
    holes = [rng.random((6, 7, 8)) < 0.3 for _ in batches]
    calibrator = make(method, axis=axis)
    for batch, out in zip(batches, holes, strict=True):
        calibrator.partial_fit(np.where(out, np.nan, batch).astype(F32), nan_policy="omit")
    again = Calibrator.from_dict(calibrator.to_dict())
    assert again.to_dict() == calibrator.to_dict()
    if method in MERGING:
        twice = make(method, axis=axis).merge(calibrator).merge(again)
        assert twice.compute().to_dict() == calibrator.compute().to_dict() or method == "percentile"
    result = again.compute()
    for channel in range(batches[0].shape[axis]):
        kept = [b.take(channel, axis)[~h.take(channel, axis)] for b, h in zip(batches, holes, strict=True)]
        alone = observed(method, *kept).compute()
        assert (result.clip_min[channel], result.clip_max[channel]) == (alone.clip_min, alone.clip_max)


@pytest.mark.parametrize("method", METHODS)
def test_a_mask_of_padding(method, rng):
    hidden = rng.standard_normal((4, 9, 5)).astype(F32)
    attended = np.arange(9) < np.array([[9], [3], [5], [1]])
    calibrator = make(method, axis=2)
    calibrator.observe(hidden, mask=attended[..., None])
    assert calibrator.to_dict() == observed(method, hidden[attended], axis=1).to_dict() | {"axis": 2}
    hidden[~attended] = np.inf  # what is masked may be anything
    again = make(method, axis=2)
    again.observe(hidden, mask=attended[..., None])
    assert again.to_dict() == calibrator.to_dict()
    whole = make(method)
    whole.observe(hidden, mask=np.zeros((4, 9, 5), bool))
    assert not whole.has_data


def test_what_is_refused():
    calibrator = Calibrator.mse(axis=1)
    values = np.ones((3, 4), F32)
    values[2, 1] = np.inf
    with pytest.raises(InvalidValueError, match=r"must be finite, got inf at flat index 9"):
        calibrator.observe(values, nan_policy="omit")
    with pytest.raises(InvalidValueError, match=r"nan_policy: expected one of raise, omit, got 'drop'"):
        calibrator.observe(values, nan_policy="drop")
    with pytest.raises(InvalidValueError, match=r"mask: shape \(4, 3\) does not broadcast"):
        calibrator.observe(values, mask=np.ones((4, 3), bool))
    with pytest.raises(InvalidTypeError, match="mask: expected bool"):
        calibrator.observe(values, mask=np.ones((3, 4)))
    values[:, 1] = np.nan
    with pytest.raises(InvalidValueError, match="no value of channel 1 along axis 1 is left"):
        calibrator.observe(values, nan_policy="omit")
    assert not calibrator.has_data


def test_integers_in_files_are_left_out_with_a_notice(tmp_path, rng):
    arrays = {"x": rng.standard_normal((5, 6)).astype(F32), "ids": np.arange(5), "flags": np.ones(3, bool)}
    np.savez(tmp_path / "a.npz", **arrays)
    said: list[str] = []
    found = calibrate_files([tmp_path / "a.npz"], Calibrator.min_max(), notify=said.append)
    assert list(found) == ["x"]
    assert sorted(text.split(": ", 1)[1] for text in said) == [
        "flags: bool is not a float type: left out",
        "ids: int64 is not a float type: left out",
    ]
    with pytest.warns(UserWarning, match=r"a\.npz: ids: int64"):
        calibrate_files([tmp_path / "a.npz"], Calibrator.min_max(), exclude=["flags"])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_errors_name_the_index_in_the_whole_array(axis, order, tmp_path, rng):
    values = np.asarray(rng.standard_normal((64, 300, 200)), F32, order=order)
    values[40, 250, 117] = np.nan
    np.savez(tmp_path / "a.npz", layer=values)
    calibrator = Calibrator.min_max(axis=axis)
    with pytest.raises(InvalidValueError, match=r"layer: must be finite, got nan at \(40, 250, 117\)$"):
        calibrate_files([tmp_path / "a.npz"], calibrator)
    found = calibrate_files([tmp_path / "a.npz"], calibrator, nan_policy="omit")["layer"].compute()
    assert np.max(found.observed_max) == np.nanmax(values)


def clip_ends(seed: int) -> list[object]:
    values = np.random.default_rng(seed).standard_t(3, (6, 500)).astype(F32)
    calibrators = [make(m, 4, s, axis=0) for m in ("entropy", "mse") for s in (True, False)]
    return [c.partial_fit(np.maximum(values, -0.5)).compute(n_threads=2).to_dict() for c in calibrators]


@every_other_level
def test_ends_do_not_depend_on_the_cpu_level_nor_on_threads(level):
    assert at_level(level, clip_ends, 5) == clip_ends(5)

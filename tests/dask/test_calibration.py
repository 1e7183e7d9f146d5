"""Calibrating on a Dask array equals one process that observes the whole array, with any chunks and any scheduler."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quantcore import Calibrator, InvalidTypeError, InvalidValueError

da = pytest.importorskip("dask.array")
dask = pytest.importorskip("dask")

from quantcore.dask import calibrate  # noqa: E402  (only where dask is)

F32 = np.float32
MAKERS: dict[str, Callable[..., Calibrator]] = {
    "min_max": Calibrator.min_max,
    "percentile": Calibrator.percentile,
    "entropy": Calibrator.entropy,
}
CHUNKS: dict[str, Any] = {
    "one": (12, 10, 60),
    "rows": (3, 10, 60),
    "uneven": ((5, 7), (1, 9), (50, 10)),
    "many": (2, 2, 7),
}


def state_of(calibrator: Calibrator) -> dict[str, Any]:
    return calibrator.to_dict() | {"num_batches": None}


def observed(calibrator: Calibrator, *batches: np.ndarray) -> Calibrator:
    for batch in batches:
        calibrator.observe(batch)
    return calibrator


@pytest.fixture
def values(rng: np.random.Generator) -> np.ndarray:
    return (rng.standard_normal((12, 10, 60)) * 10.0 ** rng.uniform(-4, 4, (12, 1, 1))).astype(F32)


@pytest.mark.parametrize("method", MAKERS)
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_equals_one_process(method, axis, chunks, values):
    array = da.from_array(values, chunks=CHUNKS[chunks])
    calibrator = MAKERS[method](axis=axis)
    found = calibrate(array, calibrator)
    assert state_of(found) == state_of(observed(MAKERS[method](axis=axis), values))
    assert not calibrator.has_data
    n_blocks = math.prod(n for i, n in enumerate(array.numblocks) if axis is None or i != axis % 3)
    assert found.num_batches == n_blocks


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_schedulers(scheduler, values):
    with dask.config.set(scheduler=scheduler):
        found = calibrate(da.from_array(values, chunks=(1, 10, 60)), Calibrator.percentile(axis=2))
    assert state_of(found) == state_of(observed(Calibrator.percentile(axis=2), values))


@pytest.mark.slow
@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("method", MAKERS)
def test_a_cluster_of_processes(method, axis, cluster, values):
    array = da.from_array(values, chunks=(6, 5, 25))
    before = observed(MAKERS[method](axis=axis), values * 2)
    state = before.to_dict()
    found = calibrate(array, before)
    assert state_of(found) == state_of(observed(MAKERS[method](axis=axis), values * 2, values))
    assert before.to_dict() == state
    with pytest.raises(InvalidValueError, match="finite"):
        calibrate(array * np.nan, MAKERS[method](axis=axis))


def test_what_is_refused_names_the_array(values):
    with pytest.raises(InvalidValueError, match=r"^a block of array: must be finite, got nan at flat index 0"):
        calibrate(da.from_array(values * np.nan, chunks=(6, 5, 25)), Calibrator.min_max())


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtypes_and_lazy_arrays(dtype, values):
    lazy = da.from_array(values / 1000, chunks=(5, 5, 60)).astype(dtype)[:, ::2] + 1
    found = calibrate(lazy, Calibrator.percentile(8, False, 1, 99))
    assert state_of(found) == state_of(observed(Calibrator.percentile(8, False, 1, 99), lazy.compute()))


def test_blocks_may_be_empty_or_of_unknown_size(values):
    array = da.from_array(values.ravel(), chunks=500)
    unknown = array[array > 100]
    found = calibrate(unknown, Calibrator.percentile())
    assert state_of(found) == state_of(observed(Calibrator.percentile(), values[values > 100]))
    nothing = calibrate(array[array > 1e30], Calibrator.percentile())
    assert (nothing.has_data, nothing.num_batches) == (False, 0)
    assert not calibrate(da.zeros((0, 3), dtype="float32"), Calibrator.min_max(axis=1)).has_data


def test_what_is_refused(values):
    array = da.from_array(values, chunks=(5, 5, 60))
    with pytest.raises(InvalidValueError, match=r"calibrator: a moving average .*order"):
        calibrate(array, Calibrator.moving_average())
    with pytest.raises(InvalidTypeError, match="array"):
        calibrate(values, Calibrator.min_max())
    with pytest.raises(InvalidTypeError, match="calibrator"):
        calibrate(array, Calibrator.min_max)  # type: ignore[arg-type]
    for axis in (3, -4):
        with pytest.raises(InvalidValueError, match=f"axis {axis} is out of range"):
            calibrate(array, Calibrator.min_max(axis=axis))
    with pytest.raises(InvalidTypeError, match="int"):
        calibrate(array.astype(int), Calibrator.min_max())
    with pytest.raises(InvalidValueError, match="channels"):
        calibrate(array, observed(Calibrator.min_max(axis=0), values[:5]))

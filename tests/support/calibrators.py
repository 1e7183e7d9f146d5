"""What the tests of calibrators share: how one is made and fed, and what its state is to be."""

from typing import Any

import numpy as np

from quantcore import Calibrator
from tests.support import reference_calibration as reference

F32 = np.float32
METHODS = ("min_max", "moving_average", "percentile", "entropy", "mse")
MERGING = tuple(name for name in METHODS if name != "moving_average")


def make(method: str, *arguments: Any, **options: Any) -> Calibrator:
    calibrator: Calibrator = getattr(Calibrator, method)(*arguments, **options)
    return calibrator


def observed(method: str, *batches: Any, **options: Any) -> Calibrator:
    calibrator = make(method, **options)
    for batch in batches:
        calibrator.observe(batch)
    return calibrator


def heavy_tailed(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_t(3, shape).astype(F32)


def state_of(values: np.ndarray) -> reference.Histogram:
    return reference.histogram(values.ravel().tolist())

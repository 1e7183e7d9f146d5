"""Dtypes on which fake quantization is tried, and values on which torch is a reference whatever the CPU is."""

import ml_dtypes
import numpy as np
import pytest

from quantcore import QuantParams
from tests.support.affine_cases import parts

F32, F16, F64 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.float64)
BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [F32, F16, BF16, F64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def without_contracted_ties(x: np.ndarray, params: QuantParams, zero_points: np.ndarray) -> np.ndarray:
    """Zero wherever `x / s + zp` has another code if product and sum are rounded together.

    torch's builds for CPUs with FMA do that, its other ones do not.
    """
    x = x.copy()
    values = x.reshape(-1)
    for part, scale, zero_point in zip(parts(x.shape, params.granularity), params.scales, zero_points, strict=True):
        inverse, zero = np.float32(1) / scale, np.float32(zero_point)
        together = (values[part].astype(np.float64) * np.float64(inverse) + np.float64(zero)).astype(np.float32)
        values[part] *= np.rint(values[part] * inverse + zero) == np.rint(together)
    return x

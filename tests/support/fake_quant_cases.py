"""Dtypes on which fake quantization is tried."""

import ml_dtypes
import numpy as np
import pytest

F32, F16, F64 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.float64)
BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [F32, F16, BF16, F64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

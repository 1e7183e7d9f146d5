"""Dtypes, codes and values on which 4-bit blocks are tried, and the comparison with the definition."""

import ml_dtypes
import numpy as np
import pytest

from quantcore import (
    quantize_4bit,
    quantize_4bit_double,
)

F32 = np.float32
F32_MAX = np.finfo(F32).max
BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(F32), np.dtype(np.float16), BF16, np.dtype(np.float64)]
BLOCK_SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096]
CODES = ["int4", "nf4", "fp4"]
SCALE_CODES = ["linear", "dynamic"]
every_code = pytest.mark.parametrize("quant_type", CODES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_scale_code = pytest.mark.parametrize("scale_code", SCALE_CODES)
both = pytest.mark.parametrize("quantize", [quantize_4bit, quantize_4bit_double])


def gaussian(*shape: int) -> np.ndarray:
    return np.random.default_rng(11).standard_normal(shape, dtype=F32)

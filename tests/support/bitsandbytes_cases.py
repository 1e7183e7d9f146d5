"""Values and tensors for the comparisons with bitsandbytes."""

import sys
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.support.contract import assert_same_floats

F32 = np.float32
DTYPES = ["float32", "float16", "bfloat16"]
every_type = pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def tensor_of(torch: ModuleType, values: np.ndarray, dtype: str) -> Any:
    """The values as a tensor, zero where they do not fit."""
    tensor = torch.tensor(values).to(getattr(torch, dtype))
    return torch.where(tensor.isfinite(), tensor, torch.zeros_like(tensor))


def array_of(tensor: Any) -> np.ndarray:
    """The tensor as an array of the same dtype."""
    torch = sys.modules["torch"]
    is_bfloat16 = tensor.dtype == torch.bfloat16
    return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16) if is_bfloat16 else tensor.numpy()


def decode(bnb: ModuleType, data: Any, state: Any) -> np.ndarray:
    """What bitsandbytes decodes, in the state's dtype and shape.

    It is asked for one long row: its AVX-512 path takes wrong scales where the rows of a matrix cut blocks in two.
    """
    shape, state.shape = state.shape, (int(np.prod(state.shape)),)
    values = array_of(bnb.dequantize_4bit(data, state)).reshape(shape)
    state.shape = shape
    return values


def assert_same_values(ours: np.ndarray, theirs: np.ndarray, quant_type: str) -> None:
    """Equal to the last bit; but FP4's second zero, code 8, is sometimes a negative zero in their CPU path."""
    assert ours.dtype == theirs.dtype
    if quant_type == "fp4":
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert_same_floats(ours, theirs)

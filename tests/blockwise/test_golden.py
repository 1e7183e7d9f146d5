"""What bitsandbytes wrote once is what we write, for good: neither it nor torch is needed."""

import json

import ml_dtypes
import numpy as np
import pytest

from quantcore import (
    Quantized4Bit,
    dequantize_4bit,
    dequantize_4bit_double,
    from_bitsandbytes,
    quantize_4bit,
    quantize_4bit_double,
)
from tests.support import golden
from tests.support import reference_blockwise as reference
from tests.support.bitsandbytes_cases import assert_same_values
from tests.support.golden_bitsandbytes import QUANT_TYPES, decode

VECTORS = [pytest.param(*vector, id=vector[0]) for name in QUANT_TYPES for vector in golden.read_vectors(name)]


@pytest.mark.parametrize(("name", "dtype", "values", "entries", "restored"), VECTORS)
def test_golden(name, dtype, values, entries, restored):
    quant_type, dtype = name[:3], np.dtype(getattr(ml_dtypes, dtype, dtype))
    entries = {key: np.frombuffer(decode(text), np.uint8) for key, text in entries.items()}
    state = json.loads(entries[f"quant_state.bitsandbytes__{quant_type}"].tobytes())
    is_nested = "nested_offset" in state
    absmax = "nested_absmax" if is_nested else "absmax"
    entries |= {absmax: entries[absmax].view("<f4"), "quant_map": reference.TABLES[quant_type]}
    q = from_bitsandbytes(entries | ({"nested_quant_map": reference.dynamic_map()} if is_nested else {}))
    weight = np.frombuffer(decode(values), dtype).reshape(q.shape)
    options = {"block_size": state["blocksize"], "quant_type": quant_type}
    ours = quantize_4bit(weight, **options)
    assert ours.data.tobytes().hex() == q.data.tobytes().hex()
    if isinstance(q, Quantized4Bit):
        assert ours == q
        decoded_again = dequantize_4bit(q, dtype=dtype)
    else:
        scales = quantize_4bit_double(weight, scale_code="dynamic", **options).decoded_scales()
        np.testing.assert_allclose(scales, q.decoded_scales(), atol=2.0**-14 * q.super_scales.max())
        decoded_again = dequantize_4bit_double(q, dtype=dtype)
    assert_same_values(decoded_again, np.frombuffer(decode(restored), dtype).reshape(q.shape), quant_type)

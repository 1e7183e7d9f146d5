"""We write the bytes that ggml once wrote: no peer is needed, and the vectors are never regenerated."""

import numpy as np
import pytest

from quantcore import dequantize, quantize
from tests.support import golden
from tests.support.golden_ggml import GOLDEN_FORMATS, decode

VECTORS = [
    pytest.param(*vector[:5], vector[5] if len(vector) > 5 else "", id=" ".join(vector[:2]))
    for fmt in GOLDEN_FORMATS
    for vector in golden.read_vectors(fmt.name)
]


@pytest.mark.parametrize(("type_name", "name", "values", "data", "floats", "weights"), VECTORS)
def test_golden(type_name, name, values, data, floats, weights):
    imatrix = np.frombuffer(decode(weights), "<f4") if weights else None
    ours = quantize(np.frombuffer(decode(values), "<f4"), type_name, imatrix=imatrix)
    assert ours.tobytes().hex() == decode(data).hex(), name
    assert dequantize(ours, type_name).astype("<f4").tobytes().hex() == decode(floats).hex(), name

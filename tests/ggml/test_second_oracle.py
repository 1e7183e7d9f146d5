"""Two versions of genuine ggml and quantcore write the same bytes and read the same values, IQ1_M's coding apart."""

import importlib.util

import numpy as np
import pytest

from quantcore import dequantize, quantize
from quantcore.ggml import ImatrixUse
from tests.conftest import SEED
from tests.support import ggml, second_ggml
from tests.support.contract import every_format


@pytest.fixture(scope="module")
def second() -> dict[str, dict[str, str]]:
    if importlib.util.find_spec(second_ggml.PACKAGE) is None:
        pytest.skip(f"needs {second_ggml.PACKAGE}")
    version, found = second_ggml.digests_of_second_ggml(SEED)
    assert version != ggml.version()
    return found


@pytest.mark.slow
@every_format
def test_two_versions_of_ggml_agree_with_each_other_and_with_us(fmt, second):
    def quantized(values: np.ndarray, weights: np.ndarray | None) -> bytes:
        return quantize(values, fmt.id, imatrix=weights).tobytes()

    def restored(blocks: np.ndarray) -> np.ndarray:
        return dequantize(blocks, fmt.id, strict=False).reshape(-1)

    ours = second_ggml.digests(fmt, SEED, quantized, restored)
    assert len(set(ours.values())) == (4 if fmt.imatrix is not ImatrixUse.IGNORED else 3)
    assert ours == second_ggml.digests_of_ggml(fmt, SEED)
    if fmt.name in second_ggml.UNKNOWN_THERE:
        assert fmt.name not in second
    elif fmt.name in second_ggml.CODED_OTHERWISE_THERE:
        assert ours["decoded"] == second[fmt.name]["decoded"] and ours != second[fmt.name]
    else:
        assert ours == second[fmt.name]

"""What ggml wrote once is what we write, for good: no peer is needed, and the vectors are never made anew."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quantcore import dequantize, quantize
from tests.make_golden import PATH, decoded

VECTORS = [pytest.param(*vector, id=" ".join(vector[:2])) for vector in json.loads(PATH.read_text())["vectors"]]


def test_there_are_enough():
    assert len(VECTORS) >= 100
    assert PATH.stat().st_size < 200_000
    assert len({vector.id for vector in VECTORS}) == len(VECTORS)


@pytest.mark.parametrize(("type_name", "name", "values", "data", "floats"), VECTORS)
def test_golden(type_name, name, values, data, floats):
    ours = quantize(np.frombuffer(decoded(values), "<f4"), type_name)
    assert ours.tobytes().hex() == decoded(data).hex(), name
    assert dequantize(ours, type_name).astype("<f4").tobytes().hex() == decoded(floats).hex(), name


def test_existing_vectors_are_not_replaced():
    before = PATH.read_bytes()
    command = [sys.executable, "-m", "tests.make_golden"]
    child = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=60)
    assert (child.returncode, child.stderr) == (1, f"{PATH} exists; --force replaces it\n")
    assert PATH.read_bytes() == before

"""bitsandbytes' states that ask for memory, and shapes that no array can have."""

import json
from typing import Any

import numpy as np
import pytest

from quantcore import InvalidValueError, QuantcoreError, from_bitsandbytes, quantize_4bit
from tests.support.memory import MEGABYTE, memory_below

ENTRIES = quantize_4bit(np.ones((4, 64), np.float32), quant_type="nf4").to_bitsandbytes()
STATE = "weight.quant_state.bitsandbytes__nf4"


@pytest.mark.parametrize("value", [np.array(1 << 33), np.array(255, np.uint8), np.zeros((2, 2), np.uint8), np.zeros(9)])
def test_a_state_that_is_no_row_of_bytes(value):
    with memory_below(64 * MEGABYTE), pytest.raises(InvalidValueError, match=rf"^{STATE}: expected uint8 of one dim"):
        from_bitsandbytes(ENTRIES | {STATE: value})


def test_a_state_that_is_too_long():
    value = np.frombuffer(b"[" + b"[]," * (1 << 19) + b"1]", np.uint8)
    with pytest.raises(InvalidValueError, match=rf"^{STATE}: 1572867 bytes, the limit is 1048576$"):
        from_bitsandbytes(ENTRIES | {STATE: value})


def with_shape(shape: Any) -> dict[str, Any]:
    state = json.loads(ENTRIES[STATE].tobytes()) | {"shape": shape}
    return ENTRIES | {STATE: np.frombuffer(json.dumps(state).encode(), np.uint8)}


@pytest.mark.parametrize(
    "shape", [[1] * 65, [256] + [1] * 64, [0, 2**62], [2**62, 0], [0, 2**100], [2**59, 2], [-1, 256]]
)
def test_shapes_that_no_array_has(shape):
    with pytest.raises(InvalidValueError, match=rf"^{STATE}: shape: "):
        from_bitsandbytes(with_shape(shape))


def test_a_shape_of_64_dimensions():
    assert from_bitsandbytes(with_shape([1] * 63 + [256])).shape == (1,) * 63 + (256,)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{", b"\xff", b"9" * 5000, b"null"])
def test_a_state_that_is_no_json_object(text):
    with pytest.raises(QuantcoreError) as error:
        from_bitsandbytes(ENTRIES | {STATE: np.frombuffer(text, np.uint8)})
    assert str(error.value).startswith(STATE) and "\n" not in str(error.value)

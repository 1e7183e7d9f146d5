"""Codes of up to 4 bits, two per byte."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    InvalidTypeError,
    InvalidValueError,
    QuantizedTensor,
    pack_nibbles,
    quantize_tensor,
    unpack_nibbles,
)
from tests.support.affine_cases import F32, SYMMETRIC, TENSOR, every_mode

every_order = pytest.mark.parametrize("order", ["high_first", "low_first"])


# Nibbles


@pytest.mark.parametrize(
    ("codes", "order", "expected"),
    [
        (np.array([1, 2, 3, 4], np.uint8), "high_first", "1234"),
        (np.array([1, 2, 3, 4], np.uint8), "low_first", "2143"),
        (np.array([15, 0, 7], np.uint8), "high_first", "f070"),
        (np.array([15, 0, 7], np.uint8), "low_first", "0f07"),
        (np.array([-1, -8, 7, 0], np.int8), "high_first", "f870"),
        (np.array([-1, -8, 7, 0], np.int8), "low_first", "8f07"),
        (np.array([], np.int8), "low_first", ""),
        (np.array([[1, 2], [3, 4]], np.int8), "high_first", "1234"),
        (np.array([[1, 2], [3, 4]], np.int8).T, "high_first", "1324"),
        (np.array([1, 9, 2, 9, 3], np.uint8)[::2], "high_first", "1230"),
    ],
)
def test_nibbles_are_packed_in_the_order_named(codes, order, expected):
    packed = pack_nibbles(codes, order)
    assert (packed.dtype, packed.tobytes().hex()) == (np.uint8, expected)
    unpacked = unpack_nibbles(packed, codes.size, order, signed=codes.dtype == np.int8)
    assert unpacked.dtype == codes.dtype
    np.testing.assert_array_equal(unpacked, codes.reshape(-1))


@every_order
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(0, 100))
def test_nibbles_come_back(order, dtype, seed, size):
    low = -8 if dtype == np.int8 else 0
    codes = np.random.default_rng(seed).integers(low, low + 16, size, dtype=dtype)
    packed = pack_nibbles(codes, order)
    assert packed.shape == ((size + 1) // 2,)
    for data in (packed, packed.tobytes(), memoryview(packed)):
        unpacked = unpack_nibbles(data, size, order, signed=dtype == np.int8)
        assert unpacked.dtype == dtype
        np.testing.assert_array_equal(unpacked, codes)


@every_mode
@every_order
def test_tensors_of_4_bits_pack_into_their_packed_bytes(order, mode, rng):
    q = quantize_tensor(rng.standard_normal((5, 7)), TENSOR, mode, 4)
    packed = pack_nibbles(q.data, order)
    assert packed.nbytes == q.packed_bytes - (4 if mode is SYMMETRIC else 8)
    codes = unpack_nibbles(packed, len(q), order, signed=mode is SYMMETRIC).reshape(q.shape)
    assert QuantizedTensor(codes, q.params, q.shape) == q


@every_order
def test_nibbles_are_signed_by_default(order):
    assert unpack_nibbles(b"\xf8", 2, order).dtype == np.int8
    assert sorted(unpack_nibbles(b"\xf8", 2, order)) == [-8, -1]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.array([0, 8], np.int8), "-8 to 7, got 8 at flat index 1"),
        (np.array([[0, 1], [-9, 8]], np.int8), "-8 to 7, got -9 at flat index 2"),
        (np.array([16, 0], np.uint8), "0 to 15, got 16 at flat index 0"),
    ],
)
def test_codes_of_more_than_4_bits_are_not_packed(codes, message):
    with pytest.raises(InvalidValueError, match=f"^codes: expected {message}$"):
        pack_nibbles(codes, "high_first")


def test_what_cannot_be_packed_or_unpacked_is_refused():
    for wrong in (np.zeros(2, np.int32), np.zeros(2, F32), [1, 2], np.zeros(2, bool)):
        with pytest.raises(InvalidTypeError, match=r"^codes: expected int8 or uint8, got dtype "):
            pack_nibbles(wrong, "high_first")
    for order in ("high", "", None, 1, "first"):
        with pytest.raises(InvalidValueError, match=r"^order: expected one of high_first, low_first, got "):
            pack_nibbles(np.zeros(2, np.int8), order)
        with pytest.raises(InvalidValueError, match=r"^order: expected one of high_first, low_first, got "):
            unpack_nibbles(np.zeros(1, np.uint8), 2, order)
    for size, needed in [(0, 0), (1, 1), (2, 1), (5, 3), (2**59, 2**58)]:
        with pytest.raises(InvalidValueError, match=rf"^data: {size} codes take {needed} bytes, got 2$"):
            unpack_nibbles(np.zeros(2, np.uint8), size, "high_first")
    with pytest.raises(InvalidValueError, match=r"^size: expected an integer >= 0, got -1$"):
        unpack_nibbles(np.zeros(2, np.uint8), -1, "high_first")
    with pytest.raises(InvalidValueError, match=rf"^size: {2**70} are more than 2\*\*60 - 1 elements$"):
        unpack_nibbles(np.zeros(2, np.uint8), 2**70, "high_first")
    with pytest.raises(InvalidTypeError, match=r"^size: expected an integer >= 0, got 4\.0$"):
        unpack_nibbles(np.zeros(2, np.uint8), 4.0, "high_first")
    with pytest.raises(InvalidTypeError, match=r"^data: expected uint8, got dtype int8$"):
        unpack_nibbles(np.zeros(2, np.int8), 4, "high_first")

"""Q4_0 and Q8_0 as records: the bytes of `quantize` with the shape of the values."""

import copy
import dataclasses
import pickle

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import Q4_0, Q8_0, GGUFQuantType, InvalidTypeError, InvalidValueError, dequantize, quantize
from quantcore.ggml.records import Blocks

BF16 = np.dtype(ml_dtypes.bfloat16)
every_record = pytest.mark.parametrize("record", [Q4_0, Q8_0])


def gaussian(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape, dtype=np.float32)


@every_record
@pytest.mark.parametrize("shape", [(32,), (320,), (3, 64), (2, 3, 96), (4, 0), (0,)])
def test_holds_the_bytes_of_quantize(record, shape):
    values = gaussian(*shape)
    q = record.quantize(values, n_threads=2)
    data = quantize(values, record.__name__)
    assert (q.data.dtype, q.data.shape, q.shape, len(q)) == (np.uint8, data.shape, shape, values.size)
    np.testing.assert_array_equal(q.data, data)
    np.testing.assert_array_equal(q.dequantize(n_threads=2), dequantize(data, record.__name__))
    assert q.qtype is GGUFQuantType[record.__name__]


@every_record
@given(n=st.integers(1, 200), dtype=st.sampled_from([np.float32, np.float16, BF16, np.float64]))
def test_one_dimension_is_filled_up_with_zeros(record, n, dtype):
    values = gaussian(n).astype(dtype)
    q = record.quantize(values)
    n_blocks = -(-n // 32)
    padded = np.zeros(n_blocks * 32, dtype)
    padded[:n] = values
    assert (q.shape, len(q), q.num_blocks, q.data.shape) == ((n,), n, n_blocks, (n_blocks * q.qtype.bytes_per_block,))
    np.testing.assert_array_equal(q.data, quantize(padded, q.qtype))
    np.testing.assert_array_equal(q.dequantize(), dequantize(q.data, q.qtype)[:n])


@every_record
@pytest.mark.parametrize("shape", [(1, 31), (2, 33), (3, 32, 1), (0, 5)])
def test_more_dimensions_must_be_whole_blocks(record, shape):
    with pytest.raises(InvalidValueError, match=rf"^values: .*\({shape[0]}, .*{record.__name__} block size 32$"):
        record.quantize(np.zeros(shape, np.float32))


@every_record
@pytest.mark.parametrize(("n", "where"), [(100, 99), (100, 50), (33, 32), (5, 0), (3_000_001, 3_000_000)])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e7])
def test_bad_values_are_named_in_the_filled_up_block_too(record, n, where, value):
    values = np.zeros(n, np.float32)
    values[where] = value
    what = rf"{value}.* at flat index {where}( \(block {where // 32}\) is too large for {record.__name__})?$"
    with pytest.raises(InvalidValueError, match=f"^values: .*{what}"):
        record.quantize(values)


@every_record
@pytest.mark.parametrize("shape", [(64,), (50,), (4, 32)])
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float16), BF16], ids=str)
def test_dequantize_into_out(record, shape, dtype):
    q = record.quantize(gaussian(*shape))
    values = q.dequantize(dtype=dtype)
    assert (values.dtype, values.shape) == (dtype, shape)
    np.testing.assert_array_equal(values, q.dequantize().astype(dtype))
    out = np.full(shape, 7, dtype)
    assert q.dequantize(dtype=dtype, out=out) is out
    np.testing.assert_array_equal(out, values)
    for unfit in (np.zeros((*shape, 1), dtype), np.zeros(shape, np.float64), np.zeros((*shape, 2), dtype)[..., 0]):
        with pytest.raises(InvalidValueError, match=r"^out: "):
            q.dequantize(dtype=dtype, out=unfit)


@every_record
@pytest.mark.parametrize("shape", [(64,), (50,)])
def test_dequantize_refuses_what_it_cannot_do(record, shape):
    q = record.quantize(gaussian(*shape))
    with pytest.raises(InvalidTypeError, match=r"^dtype: "):
        q.dequantize(dtype=np.float64)
    with pytest.raises(InvalidTypeError, match=r"^out: "):
        q.dequantize(out=[0.0] * shape[0])
    with pytest.raises(InvalidTypeError, match=r"^n_threads: "):
        q.dequantize(n_threads=1.5)


@every_record
@pytest.mark.parametrize("shape", [(96,), (70,), (2, 3, 64), (0,)])
def test_scales_are_a_view(record, shape):
    q = record.quantize(gaussian(*shape))
    assert (q.scales.dtype, q.scales.shape) == (np.float16, (q.num_blocks,))
    assert not q.num_blocks or np.shares_memory(q.scales, q.data)
    assert not q.scales.flags.writeable
    padded = np.zeros(q.num_blocks * 32, np.float32)
    padded[: len(q)] = gaussian(*shape).reshape(-1)
    steps = {"Q4_0": 8, "Q8_0": 127}[record.__name__]
    extremes = np.abs(padded.reshape(-1, 32)).max(axis=1, initial=0)
    np.testing.assert_array_equal(np.abs(q.scales), (extremes / np.float32(steps)).astype(np.float16))


@pytest.mark.parametrize(
    ("record", "shape", "nbytes", "ratio"),
    [
        (Q4_0, (64,), 36, 32 / 4.5),
        (Q4_0, (5, 96), 270, 32 / 4.5),
        (Q4_0, (33,), 36, 33 * 4 / 36),
        (Q8_0, (64,), 68, 32 / 8.5),
        (Q8_0, (1,), 34, 4 / 34),
        (Q8_0, (2, 0), 0, 1.0),
    ],
)
def test_sizes(record, shape, nbytes, ratio):
    q = record.quantize(gaussian(*shape))
    assert (q.gguf_bytes, q.memory_bytes, len(q.to_bytes()), q.data.nbytes) == (nbytes,) * 4
    assert q.compression_ratio == pytest.approx(ratio)


# Bytes


@every_record
@pytest.mark.parametrize("shape", [(64,), (50,), (3, 32), (2, 2, 64), (0,), (3, 0)])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda raw: np.frombuffer(raw, np.uint8)])
def test_bytes_round_trip(record, shape, kind):
    q = record.quantize(gaussian(*shape))
    again = record.from_bytes(kind(q.to_bytes()), shape)
    assert again == q and again.shape == shape and again.data.shape == q.data.shape
    assert record.from_bytes(q.data, list(shape)) == q


@every_record
def test_from_bytes_copies(record):
    buffer = bytearray(record.quantize(gaussian(64)).to_bytes())
    q = record.from_bytes(buffer, (64,))
    before = q.to_bytes()
    buffer[:] = bytes(len(buffer))
    assert q.to_bytes() == before


@every_record
@pytest.mark.parametrize("change", [-1, 1, -18, 34, 18 * 34])
def test_from_bytes_needs_the_exact_length(record, change):
    raw = record.quantize(gaussian(4, 64)).to_bytes()
    raw = raw[:change] if change < 0 else raw + bytes(change)
    with pytest.raises(InvalidValueError, match=rf"^buffer: {record.__name__} of shape \(4, 64\) .* got {len(raw)}$"):
        record.from_bytes(raw, (4, 64))


@every_record
@pytest.mark.parametrize("shape", [(), (-32,), (2, -32), (2, 33), (2, 16)])
def test_from_bytes_needs_a_shape_of_blocks(record, shape):
    with pytest.raises(InvalidValueError, match=r"^shape: "):
        record.from_bytes(bytes(record.qtype.bytes_per_block), shape)


@every_record
@pytest.mark.parametrize("shape", [32, None, "32", (32.0,), (True,), (None,), ("32",), 32.0])
def test_from_bytes_needs_integers(record, shape):
    with pytest.raises(InvalidTypeError, match=r"^shape: "):
        record.from_bytes(bytes(record.qtype.bytes_per_block), shape)


@every_record
@pytest.mark.parametrize("buffer", [None, "text", [0] * 34, np.zeros(34, np.int8), np.zeros(34, np.float32)])
def test_from_bytes_needs_bytes(record, buffer):
    with pytest.raises(InvalidTypeError, match=r"^buffer: "):
        record.from_bytes(buffer, (32,))


# As a Python object


@every_record
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("shape", [(50,), (3, 64), (0,)])
def test_pickle(record, shape, protocol):
    q = record.quantize(gaussian(*shape))
    again = pickle.loads(pickle.dumps(q, protocol))
    assert type(again) is record and again == q and not again.data.flags.writeable
    assert copy.deepcopy(q) == copy.copy(q) == q


@every_record
def test_pickle_that_was_tampered_with_is_refused(record):
    pickled = pickle.dumps(record.quantize(gaussian(50)), 0)
    with pytest.raises(InvalidValueError, match=r"^data: "):
        pickle.loads(pickled.replace(b"I50\n", b"I500\n"))


@every_record
def test_equality(record):
    values = gaussian(2, 64)
    q = record.quantize(values)
    assert q == record.quantize(values)
    assert q != record.quantize(-values)
    assert q != record.quantize(values.reshape(128))
    assert Q4_0.quantize(np.zeros((0, 32), np.float32)) != Q8_0.quantize(np.zeros((0, 32), np.float32))
    assert q != values.tolist() and q != q.to_bytes() and q is not None
    assert record.quantize(values[0, :50]) != record.quantize(values[0, :64])
    with pytest.raises(TypeError, match="unhashable"):
        hash(q)


@every_record
def test_repr_is_short(record):
    q = record.quantize(np.zeros(100, np.float32))
    nbytes = 4 * record.qtype.bytes_per_block
    assert repr(q) == f"{record.__name__}(shape=(100,), num_blocks=4, memory_bytes={nbytes})"


@every_record
@pytest.mark.parametrize(
    "make", [lambda q: q, lambda q: q.from_bytes(q.to_bytes(), q.shape)], ids=["made", "from bytes"]
)
def test_immutable(record, make):
    q = make(record.quantize(gaussian(64)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        q.shape = (32,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del q.data
    with pytest.raises(ValueError, match="read-only"):
        q.data[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        q.scales[0] = 1


def test_blocks_of_no_type_are_refused():
    for make in (
        lambda: Blocks(data=np.zeros(34, np.uint8), shape=(32,)),
        lambda: Blocks.quantize(np.zeros(32, np.float32)),
        lambda: Blocks.from_bytes(bytes(34), (32,)),
    ):
        with pytest.raises(InvalidTypeError, match=r"^Blocks: has no type of its own; use Q8_0"):
            make()

"""The codecs as filters of numcodecs, for zarr v2: the same codes and values."""

import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import quantcore as qc
from quantcore import QuantGranularity, QuantMode
from quantcore.errors import InvalidTypeError, InvalidValueError, QuantcoreError
from tests.support.zarr_cases import GRANULARITIES, blocks, expect_own, weather

zarr = pytest.importorskip("zarr")
numcodecs = pytest.importorskip("numcodecs")
qz = pytest.importorskip("quantcore.zarr")

F32 = np.float32


def create(path, filter, shape, chunks, **options):
    return zarr.create_array(
        path, shape=shape, chunks=chunks, dtype=options.pop("dtype", "<f4"), filters=[filter], zarr_format=2, **options
    )


@given(
    chunks=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    counts=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    granularity=st.sampled_from(GRANULARITIES),
    mode=st.sampled_from([mode.value for mode in QuantMode]),
    bits=st.integers(2, 8),
    order=st.sampled_from("CF"),
    dtype=st.sampled_from(["<f4", ">f4", "<f8", ">f2"]),
    seed=st.integers(0, 1000),
)
def test_each_chunk_has_its_own_parameters(chunks, counts, granularity, mode, bits, order, dtype, seed):
    shape = (chunks[0] * counts[0], chunks[1] * counts[1])
    values = weather(*shape, seed=seed).astype(dtype)
    found = create(
        {}, qz.AffineFilter(granularity=granularity, mode=mode, bits=bits, dtype=dtype), shape, chunks,
        dtype=dtype, order=order,
    )  # fmt: skip
    found[:] = values
    for region in blocks(shape, chunks):
        narrow = np.float16 if np.dtype(dtype).itemsize == 2 else F32
        expected = qc.quantize_tensor(values[region], granularity, mode, bits).dequantize(dtype=narrow)
        np.testing.assert_array_equal(found[region], expected)


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("axis", [None, 1])
def test_parameters_found_beforehand(axis, order, tmp_path):
    values = weather(23, 10)
    params = qc.Calibrator.min_max(axis=axis, mode="offset").partial_fit(values).compute().params
    path = tmp_path / "a.zarr"
    create(path, qz.AffineFilter(params), values.shape, (5, 10), order=order)[:] = values  # the last chunk is partial
    expected = qc.dequantize_with_params(qc.quantize_with_params(values, params), params)
    np.testing.assert_array_equal(zarr.open_array(path)[:], expected)
    da = pytest.importorskip("dask.array")
    np.testing.assert_array_equal(da.from_zarr(str(path)).compute(), expected)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "nf4"])
@pytest.mark.parametrize("order", "CF")
def test_blocks(order, name, tmp_path):
    values = weather(256, 256)
    path = tmp_path / "a.zarr"
    create(path, qz.BlockFilter(name), values.shape, (256, 256), order=order, compressors=None)[:] = values
    rows = values if order == "C" else np.ascontiguousarray(values.T)
    if name == "nf4":
        expected = qc.dequantize_4bit(qc.quantize_4bit(rows, quant_type=name))
    else:
        data = qc.quantize(rows, name)
        assert (path / "0.0").read_bytes() == data.tobytes()
        expected = qc.dequantize(data, name)
    np.testing.assert_array_equal(zarr.open_array(path)[:], expected if order == "C" else expected.T)


def test_filters_are_values():
    params = qc.calibrate_per_channel(weather(4, 8))
    filters = [
        qz.AffineFilter(params),
        qz.AffineFilter(bits=4, dtype=">f8"),
        qz.BlockFilter("Q8_0"),
        qz.BlockFilter("nf4"),
    ]
    for filter in filters:
        again = numcodecs.get_codec(json.loads(json.dumps(filter.get_config())))
        assert again == filter and repr(again) == repr(filter)
    assert [repr(f) for f in filters[1:3]] == ["AffineFilter(4 bits, offset, >f8)", "BlockFilter('Q8_0', <f4)"]


def test_decoding_into_an_array():
    values = weather(4, 64)
    filter = qz.AffineFilter()
    data = filter.encode(values)
    out = np.empty_like(values)
    assert filter.decode(data.tobytes(), out=out) is not None
    np.testing.assert_array_equal(out, expect_own(values, QuantGranularity.per_tensor(), "offset", 8))
    with pytest.raises(InvalidValueError, match=r"out: has 12 bytes, the chunk 1024"):
        filter.decode(data, out=np.empty(3, F32))


def test_what_is_refused():
    filter = qz.AffineFilter()
    with pytest.raises(InvalidTypeError, match=r"quantcore.affine: dtype: is <f4, got a chunk of >f4"):
        filter.encode(weather(4).astype(">f4"))
    with pytest.raises(InvalidValueError, match=r"finite, got nan .*; NaN may be the array's fill value"):
        filter.encode(np.array([1, np.nan], F32))
    with pytest.raises(InvalidValueError, match=r"quantcore.affine: values: must be finite, got inf at flat index 1$"):
        filter.encode(np.array([1, np.inf], F32))
    with pytest.raises(InvalidValueError, match=r"quantcore.block: chunks: the last axis of \(3, 5\)"):
        qz.BlockFilter("Q8_0").encode(weather(3, 5))
    data = bytearray(filter.encode(weather(3, 5)).tobytes())
    for bad in (b"", data[:3], data[:-1], data + b"1"):
        with pytest.raises(InvalidValueError, match=r"quantcore.affine: chunk: "):
            filter.decode(bytes(bad))
    data[4:12] = (1 << 62).to_bytes(8, "little")
    with pytest.raises(InvalidValueError, match=r"quantcore.affine: chunk: .* are too few for shape"):
        filter.decode(bytes(data))
    with pytest.raises(InvalidValueError, match=r"quantcore.block: chunk: 33 bytes are not whole blocks in Q8_0"):
        qz.BlockFilter("Q8_0").decode(bytes(33))
    for dtype in ("i4", "no dtype", None, "O", "f4,(", {"names": ["a"]}, "\ud800"):
        with pytest.raises(InvalidTypeError, match="dtype: expected"):
            qz.AffineFilter(dtype=dtype)


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"bits": 99}, {"mode": "x"}, {"more": 1}]
    + [{"dtype": x} for x in ("|O", None, 3, "f4,(", "2)f4", "9" * 5000, {"names": ["a"]}, ["<f4"], "\ud800", "<f4\n")],
)
def test_metadata_that_is_hostile(change, tmp_path):
    path = tmp_path / "a.zarr"
    create(path, qz.AffineFilter(), (4,), (4,))[:] = weather(4)
    metadata = json.loads((path / ".zarray").read_text())
    metadata["filters"][0] |= change
    (path / ".zarray").write_text(json.dumps(metadata))
    with pytest.raises(QuantcoreError, match=r"^quantcore.affine: (configuration|dtype): "):
        zarr.open_array(path)

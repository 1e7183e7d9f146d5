"""Arrays of blocks become the codes of the whole array, with any chunks and any scheduler."""

from typing import Any

import numpy as np
import pytest

import quantcore as qc
from quantcore import InvalidTypeError, InvalidValueError, QuantGranularity, QuantMode

da = pytest.importorskip("dask.array")
dask = pytest.importorskip("dask")

from quantcore.dask import dequantize, quantize  # noqa: E402  (only where dask is)

SHAPE = (6, 5, 512)
CHUNKS: dict[str, Any] = {
    "one": SHAPE,
    "rows": (2, 3, 512),
    "blocks": (2, 3, 256),
    "cut blocks": (4, 5, 100),
    "uneven": ((1, 5), (4, 1), (300, 200, 12)),
    "short": (6, 5, 31),
}
GRANULARITIES = {
    "tensor": QuantGranularity.per_tensor(),
    "axis 0": QuantGranularity.per_channel(0),
    "axis 1": QuantGranularity.per_channel(1),
    "axis -1": QuantGranularity.per_channel(-1),
    "group": QuantGranularity.per_group(32),
    "ragged group": QuantGranularity.per_group(100),
    "long group": QuantGranularity.per_group(1000),
}


@pytest.fixture(autouse=True)
def scheduler() -> Any:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def values(rng: np.random.Generator) -> np.ndarray:
    return (rng.standard_normal(SHAPE) * 10.0 ** rng.uniform(-3, 3, (6, 5, 1))).astype(np.float32)


def check(lazy: Any, expected: np.ndarray) -> None:
    """Equal to an array, and what the lazy one says of itself holds of every block."""
    assert (lazy.dtype, lazy._meta.dtype, lazy.shape) == (expected.dtype, expected.dtype, expected.shape)
    np.testing.assert_array_equal(lazy.compute(), expected, strict=True)
    for place in {(0,) * lazy.ndim, tuple(n - 1 for n in lazy.numblocks)}:
        block = lazy.blocks[place].compute()
        assert type(block) is np.ndarray
        assert block.shape == tuple(sizes[i] for sizes, i in zip(lazy.chunks, place, strict=True))


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("scheme", ["Q4_0", qc.GGUFQuantType.Q4_K, "iq4_nl", 8, "F16", "F32"])
def test_blocks(scheme, chunks, values):
    lazy = quantize(da.from_array(values, chunks=CHUNKS[chunks]), scheme)
    expected = qc.quantize(values, scheme)
    check(lazy, expected)
    for codes in (lazy, da.from_array(expected, chunks=(5, 2, 77))):
        check(dequantize(codes, scheme, dtype="float16"), qc.dequantize(expected, scheme, dtype="float16"))


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("scheme", ["Q4_0", "Q5_1", "Q3_K", "IQ2_XS", "Q8_0"])
@pytest.mark.parametrize("per_expert", [False, True])
def test_blocks_with_importance(per_expert, scheme, chunks, values, rng):
    weights = rng.random((6, 512) if per_expert else 512)
    lazy = quantize(da.from_array(values, chunks=CHUNKS[chunks]), scheme, imatrix=weights)
    check(lazy, qc.quantize(values, scheme, imatrix=weights))


def test_equal_calls_have_equal_names(values):
    array = da.from_array(values, chunks=(2, 5, 256))

    def names() -> list[str]:
        params = qc.calibrate_per_channel(values)
        codes = quantize(array, params)
        blocks = quantize(array, "Q4_0", imatrix=np.ones(512, np.float32))
        return [codes.name, dequantize(codes, params).name, blocks.name]

    assert names() == names()
    assert (
        quantize(array, qc.calibrate_per_channel(values)).name
        != quantize(array, qc.calibrate_per_channel(values * 2)).name
    )


def test_a_wider_search(values):
    lazy = quantize(da.from_array(values, chunks=(2, 5, 256)), "Q4_0", effort="best")
    expected = qc.quantize(values, "Q4_0", effort="best")
    check(lazy, expected)
    assert (expected != qc.quantize(values, "Q4_0")).any()


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("mode", QuantMode)
def test_parameters(mode, granularity, chunks, values):
    whole = qc.quantize_tensor(values, GRANULARITIES[granularity], mode)
    lazy = quantize(da.from_array(values, chunks=CHUNKS[chunks]), whole.params)
    check(lazy, whole.data)
    if granularity in ("tensor", "axis 0", "axis 1", "axis -1"):
        assert lazy.chunks == da.from_array(values, chunks=CHUNKS[chunks]).chunks
    for codes in (lazy, da.from_array(whole.data, chunks=(5, 2, 77))):
        check(dequantize(codes, whole.params, dtype="float32"), whole.dequantize())


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtypes(dtype, values):
    values = (values / 1000).astype(dtype)
    array = da.from_array(values, chunks=(2, 3, 256))
    check(quantize(array, "Q8_0"), qc.quantize(values, "Q8_0"))
    params = qc.calibrate_per_channel(values)
    check(quantize(array, params), qc.quantize_with_params(values, params))


def test_bfloat16(values):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    values = values.astype(bfloat16)
    codes = quantize(da.from_array(values, chunks=(2, 3, 256)), "Q4_K")
    check(codes, qc.quantize(values, "Q4_K"))
    check(dequantize(codes, "Q4_K", dtype=bfloat16), qc.dequantize(codes.compute(), "Q4_K", dtype=bfloat16))


def test_vectors_and_empty_arrays(values):
    params = qc.calibrate_per_tensor(values)
    check(quantize(da.from_array(values.ravel(), chunks=1000), "Q4_0"), qc.quantize(values.ravel(), "Q4_0"))
    for shape in ((0, 512), (3, 0)):
        empty = da.zeros(shape, dtype="float32", chunks=2)
        check(quantize(empty, "Q4_K"), qc.quantize(np.zeros(shape, np.float32), "Q4_K"))
        check(quantize(empty, params), np.zeros(shape, np.int8))


def test_chunks_of_unknown_length(values):
    rows = values.reshape(-1, 512)
    array = da.from_array(rows, chunks=(7, 512))
    some = array[array[:, 0] > 0]
    expected = rows[rows[:, 0] > 0]
    assert 0 < len(expected) < len(rows)
    np.testing.assert_array_equal(quantize(some, "Q4_0").compute(), qc.quantize(expected, "Q4_0"))
    for granularity in (QuantGranularity.per_tensor(), QuantGranularity.per_channel(1)):
        params = qc.quantize_tensor(rows, granularity).params
        np.testing.assert_array_equal(quantize(some, params).compute(), qc.quantize_with_params(expected, params))
    for granularity in (QuantGranularity.per_channel(0), QuantGranularity.per_group(32)):
        params = qc.quantize_tensor(expected, granularity).params
        with pytest.raises(InvalidValueError, match=r"array: has chunks of unknown length .*compute_chunk_sizes"):
            quantize(some, params)
        known = some.compute_chunk_sizes()
        np.testing.assert_array_equal(quantize(known, params).compute(), qc.quantize_with_params(expected, params))
        some = array[array[:, 0] > 0]
    with pytest.raises(InvalidValueError, match="array: has chunks of unknown length along the last axis"):
        quantize(some.T, "Q4_0")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a pool", "a cluster"])
def test_processes(name, request, values):
    array = da.from_array(values, chunks=(3, 5, 200))
    params = qc.quantize_tensor(values, QuantGranularity.per_channel(0), "offset").params
    with dask.config.set(scheduler="processes" if name == "a pool" else request.getfixturevalue("cluster")):
        codes = quantize(array, params)
        blocks, found, back = dask.compute(quantize(array, "Q4_K"), codes, dequantize(codes, params))
        np.testing.assert_array_equal(blocks, qc.quantize(values, "Q4_K"))
        np.testing.assert_array_equal(found, qc.quantize_with_params(values, params))
        np.testing.assert_array_equal(back, qc.dequantize_with_params(found, params))
        with pytest.raises(InvalidValueError, match=r"block \(., 0, .\) of the array: values: must be finite"):
            quantize(array * np.inf, params).compute()


def test_bad_values_are_named_by_their_block(values):
    values[5, 0, 300] = np.nan
    lazy = quantize(da.from_array(values, chunks=(2, 3, 256)), "Q4_0")  # nothing is computed yet
    with pytest.raises(InvalidValueError, match=r"^block \(2, 0, 1\) of the array: values: .*nan .*index 1, 0, 44"):
        lazy.compute()


def test_what_is_refused(values):
    array = da.from_array(values, chunks=(2, 3, 256))
    params = qc.calibrate_per_tensor(values)
    for function in (quantize, dequantize):
        with pytest.raises(InvalidTypeError, match=r"array: expected a dask\.array\.Array, got ndarray"):
            function(values, "Q4_0")
        with pytest.raises(InvalidValueError, match="array: must have at least one dimension"):
            function(array.sum(), "Q4_0")
        with pytest.raises(InvalidTypeError, match="scheme: expected QuantParams or a GGUF type, got None"):
            function(array.astype("uint8") if function is dequantize else array, None)
        with pytest.raises(InvalidValueError, match=r"scheme: .*Q9"):
            function(array, "Q9")
        for name in ("nf4", "FP4", "int4"):
            with pytest.raises(InvalidValueError, match=rf"scheme: {name} .*quantize_4bit"):
                function(array, name)
    with pytest.raises(InvalidTypeError, match=r"array: expected dtype float32.*, got int64"):
        quantize(array.astype("int64"), params)
    with pytest.raises(InvalidValueError, match=r"array: last axis of shape \(6, 5, 500\).* Q4_0 block size 32"):
        quantize(array[..., :500], "Q4_0")
    with pytest.raises(InvalidValueError, match="needs an importance matrix"):
        quantize(array, "IQ2_XXS")
    with pytest.raises(InvalidValueError, match=r"imatrix: expected shape \(512,\)"):
        quantize(array, "Q4_0", imatrix=np.ones(511, np.float32))
    with pytest.raises(InvalidValueError, match="effort"):
        quantize(array, "Q4_0", effort="more")
    with pytest.raises(InvalidValueError, match="imatrix, effort: go with a GGUF type"):
        quantize(array, params, imatrix=np.ones(512, np.float32))
    with pytest.raises(InvalidValueError, match="params: 5 scales per_channel, but array of shape"):
        quantize(array[:, :4], qc.calibrate_per_channel(values, axis=1))
    with pytest.raises(InvalidTypeError, match="array: expected dtype int8, got uint8"):
        dequantize(array.astype("uint8"), params)
    with pytest.raises(InvalidTypeError, match=r"array: expected dtype uint8 \(blocks of Q4_0\), got float32"):
        dequantize(array, "Q4_0")
    with pytest.raises(InvalidValueError, match="the 18 bytes of a Q4_0 block"):
        dequantize(array.astype("uint8"), "Q4_0")
    with pytest.raises(InvalidTypeError, match="dtype"):
        dequantize(array.astype("int8"), params, dtype="int32")

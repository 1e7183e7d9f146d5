"""Codecs of zarr v3: codes and values are those of quantcore, whatever the chunks."""

import json
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import quantcore as qc
from quantcore import QuantGranularity, QuantMode, QuantParams
from quantcore.errors import InvalidTypeError, InvalidValueError, QuantcoreError
from tests.support.zarr_cases import GRANULARITIES, blocks, expect_own, weather

zarr = pytest.importorskip("zarr")
qz = pytest.importorskip("quantcore.zarr")

F32 = np.float32
MODES = [mode.value for mode in QuantMode]


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    chunks=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    granularity=st.sampled_from(GRANULARITIES),
    mode=st.sampled_from(MODES),
    bits=st.integers(2, 8),
    fill=st.sampled_from([0.0, 7.5, np.nan]),
    seed=st.integers(0, 1000),
)
def test_each_chunk_has_its_own_parameters(shape, chunks, granularity, mode, bits, fill, seed):
    values = weather(*shape, seed=seed)
    codec = qz.AffineCodec(granularity=granularity, mode=mode, bits=bits)
    array = zarr.create_array({}, shape=shape, dtype="f4", chunks=chunks, serializer=codec, fill_value=fill)
    array[:] = values
    for region in blocks(shape, chunks):  # what fills chunks up at the border takes no part
        np.testing.assert_array_equal(array[region], expect_own(values[region], granularity, mode, bits))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_parameters_found_beforehand(bits, mode, axis, dtype, tmp_path):
    values = weather(23, 10).astype(dtype)
    params = qc.Calibrator.min_max(bits, axis=axis, mode=mode).partial_fit(values[:20]).compute().params
    path = tmp_path / "a.zarr"
    array = zarr.create_array(path, data=values, chunks=(5, 10), serializer=qz.AffineCodec(params), compressors=None)
    codes = qc.quantize_with_params(values, params)
    narrow = np.float16 if dtype == "float16" else F32
    expected = qc.dequantize_with_params(codes, params, dtype=narrow).astype(dtype)
    np.testing.assert_array_equal(array[:], expected)
    again = zarr.open_array(path)
    assert again.metadata.codecs == (qz.AffineCodec(params),) and again.metadata.codecs[0].params == params
    np.testing.assert_array_equal(again[3:17, 2], expected[3:17, 2])
    stored = (path / "c" / "1" / "0").read_bytes()[20:]  # behind the head of a chunk of two dimensions
    packed = qc.pack_nibbles(codes[5:10], "low_first") if bits <= 4 else codes[5:10]
    assert stored == packed.tobytes()


@pytest.mark.parametrize("fill", [0.0, np.nan])
@pytest.mark.parametrize("compressors", [None, "auto"])
def test_shards(compressors, fill, tmp_path):
    values = weather(37, 53)
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=values.shape, dtype="f4", chunks=(10, 20), shards=(20, 40), fill_value=fill,
        serializer=qz.AffineCodec(), compressors=compressors,
    )  # fmt: skip
    array[:] = values
    found = zarr.open_array(tmp_path / "a.zarr")
    for region in blocks(values.shape, (10, 20)):
        np.testing.assert_array_equal(found[region], expect_own(values[region], GRANULARITIES[0], "offset", 8))


def test_what_was_not_written_stays_the_fill_value():
    array = zarr.create_array(
        {}, shape=(10, 10), dtype="f4", chunks=(6, 6), serializer=qz.AffineCodec(), fill_value=np.nan
    )
    array[:3, :4] = weather(3, 4)
    found = array[:]
    assert np.isfinite(found[:3, :4]).all()
    assert np.isnan(found).sum() == 100 - 12


def test_chunks_of_fill_value_that_are_stored():
    config = {"write_empty_chunks": True}
    for params in (None, qc.calibrate_per_tensor(weather(10))):
        array = zarr.create_array(
            {},
            shape=(10,),
            dtype="f4",
            chunks=(4,),
            serializer=qz.AffineCodec(params),
            fill_value=np.nan,
            config=config,
        )
        array[:] = np.nan
        assert array.nchunks_initialized == 3 and np.isnan(array[:]).all()


def test_with_a_transposition_before_it():
    values = weather(6, 9, 4)
    array = zarr.create_array(
        {}, data=values, chunks=(3, 9, 4), serializer=qz.AffineCodec(granularity=QuantGranularity.per_channel(1)),
        filters=[zarr.codecs.TransposeCodec(order=(2, 0, 1))],
    )  # fmt: skip
    moved = values.transpose(2, 0, 1)
    expected = np.concatenate(
        [expect_own(moved[:, i : i + 3], QuantGranularity.per_channel(1), "offset", 8) for i in (0, 3)], axis=1
    )
    np.testing.assert_array_equal(array[:], expected.transpose(1, 2, 0))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "IQ4_NL", "MXFP4", "BF16"])
def test_blocks_of_ggml(name, tmp_path):
    values = weather(10, 512)
    codec = qz.BlockCodec(name)
    array = zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(4, 256), serializer=codec, compressors=None)
    for i, region in enumerate(blocks(values.shape, (4, 256))):
        part = np.zeros((4, 256), F32)
        part[: values[region].shape[0]] = values[region]
        data = qc.quantize(part, name)
        assert (tmp_path / "a.zarr" / "c" / str(i // 2) / str(i % 2)).read_bytes() == data.tobytes()
        np.testing.assert_array_equal(array[region], qc.dequantize(data, name)[: values[region].shape[0]])
    assert zarr.open_array(tmp_path / "a.zarr").metadata.codecs == (codec,)


@pytest.mark.parametrize("name", ["int4", "nf4", "fp4"])
@pytest.mark.parametrize("block_size", [None, 32])
def test_blocks_of_4_bits(block_size, name):
    values = weather(12, 64)
    codec = qz.BlockCodec(name, block_size=block_size)
    array = zarr.create_array({}, data=values, chunks=(5, 64), serializer=codec)
    found = qc.quantize_4bit(values[:5], quant_type=name, block_size=block_size or 64)
    np.testing.assert_array_equal(array[:5], qc.dequantize_4bit(found))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("name", ["Q8_0", "nf4"])
def test_blocks_of_other_floats(name, dtype):
    values = weather(2, 64).astype(dtype)
    array = zarr.create_array({}, data=values, chunks=(2, 64), serializer=qz.BlockCodec(name))
    wide = zarr.create_array({}, data=values.astype(F32), chunks=(2, 64), serializer=qz.BlockCodec(name))
    np.testing.assert_array_equal(array[:], wide[:].astype(dtype))
    assert array[:].dtype == dtype


def test_codecs_are_values():
    params = qc.calibrate_per_channel(weather(4, 8))
    codecs = [
        qz.AffineCodec(params),
        qz.AffineCodec(),
        qz.AffineCodec(bits=4),
        qz.BlockCodec("Q8_0"),
        qz.BlockCodec("nf4"),
    ]
    for i, codec in enumerate(codecs):
        text = json.dumps(codec.to_dict(), allow_nan=False)
        again = type(codec).from_dict(json.loads(text))
        assert again == codec and hash(again) == hash(codec) and repr(again) == repr(codec)
        assert pickle.loads(pickle.dumps(codec)) == codec
        assert [codec == other for other in codecs] == [i == j for j in range(len(codecs))]
    assert repr(codecs[0]) == "AffineCodec(8 bits, symmetric, per_channel, 4 given)"
    assert repr(codecs[4]) == "BlockCodec('nf4', block_size=64)" and codecs[4].format == "nf4"
    with pytest.raises(NotImplementedError):
        codecs[0].compute_encoded_size(1, None)


def test_dask_reads_and_writes_them(tmp_path):
    da = pytest.importorskip("dask.array")
    values = weather(40, 30)
    params = qc.calibrate_per_tensor(values, mode="offset")
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=values.shape, dtype="f4", chunks=(8, 30), serializer=qz.AffineCodec(params)
    )
    da.from_array(values, chunks=(8, 30)).store(array)
    expected = qc.dequantize_with_params(qc.quantize_with_params(values, params), params)
    np.testing.assert_array_equal(da.from_zarr(str(tmp_path / "a.zarr")).compute(), expected)


# What is refused


def create(codec, shape=(8, 64), chunks=(4, 64), dtype="f4", fill=0.0):
    return zarr.create_array({}, shape=shape, dtype=dtype, chunks=chunks, serializer=codec, fill_value=fill)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "codec", [lambda: qz.AffineCodec(), lambda: qz.BlockCodec("Q8_0"), lambda: qz.BlockCodec("nf4")]
)
def test_values_that_are_not_finite(codec, bad):
    array = create(codec())
    values = weather(8, 64)
    values[5, 7] = bad
    with pytest.raises(
        InvalidValueError, match=r"^quantcore\.\w+: values: must be finite, got (nan|inf) at"
    ) as refusal:
        array[:] = values
    assert "fill value" not in str(refusal.value)


def test_a_fill_value_that_gets_into_the_values_is_named():
    array = create(qz.BlockCodec("Q8_0"), shape=(7, 64), fill=np.nan)
    with pytest.raises(
        InvalidValueError, match=r"must be finite, got nan .*; the array's fill value is nan, with which"
    ):
        array[:] = weather(7, 64)


ARGUMENTS = {
    "params: expected a QuantParams, got int": lambda: qz.AffineCodec(3),
    "params: goes without granularity, mode and bits": lambda: qz.AffineCodec(
        qc.calibrate_per_tensor(weather(4)), bits=4
    ),
    "params: scales per group belong to one chunk": lambda: qz.AffineCodec(qc.calibrate_per_group(weather(4, 4), 2)),
    "bits: expected an integer from 2 to 8": lambda: qz.AffineCodec(bits=9),
    "mode: expected a QuantMode or one of": lambda: qz.AffineCodec(mode="linear"),
    "granularity: expected a QuantGranularity": lambda: qz.AffineCodec(granularity="per_chunk"),
    "codes of 16 bits are only fake-quantized": lambda: qz.AffineCodec(
        QuantParams(np.ones(1, F32), np.zeros(1, np.int32), GRANULARITIES[0], QuantMode.SYMMETRIC, 16, -9, 9)
    ),
    "params: has no scales": lambda: qz.AffineCodec(
        QuantParams.without_scales(GRANULARITIES[1], QuantMode.SYMMETRIC, 8, -127, 127)
    ),
    "format: unknown type 'Q9_9'": lambda: qz.BlockCodec("Q9_9"),
    "format: IQ2_XXS": lambda: qz.BlockCodec("IQ2_XXS"),
    "block_size: goes with int4, nf4, fp4 only": lambda: qz.BlockCodec("Q8_0", block_size=32),
    "block_size: expected a power of two": lambda: qz.BlockCodec("nf4", block_size=48),
    "quantcore.affine: dtype: expected one of float16": lambda: create(qz.AffineCodec(), dtype="i4"),
    "quantcore.affine: shape: must have at least one": lambda: create(qz.AffineCodec(), (), ()),
    "quantcore.affine: params: 8 scales per_channel, but chunks of shape": lambda: create(
        qz.AffineCodec(qc.calibrate_per_channel(weather(8, 64)))
    ),
    "quantcore.affine: axis: 2 is out of range": lambda: create(
        qz.AffineCodec(granularity=QuantGranularity.per_channel(2))
    ),
    "quantcore.block: chunks: the last axis of": lambda: create(qz.BlockCodec("Q4_K")),
    "quantcore.block: chunks: elements of": lambda: create(qz.BlockCodec("nf4"), chunks=(1, 8)),
}  # fmt: skip


@pytest.mark.parametrize("message", ARGUMENTS)
def test_arguments_that_are_wrong(message):
    with pytest.raises(QuantcoreError) as refusal:
        ARGUMENTS[message]()
    assert str(refusal.value).startswith(message) or f" {message}" in str(refusal.value)


GIVEN = {"version": 1, "params": qc.calibrate_per_tensor(weather(4)).to_dict()}
OWN = {"version": 1, "mode": "offset", "bits": 8, "axis": None, "group_size": None}
FOUR_BIT = {"version": 1, "format": "nf4", "block_size": 64}
HOSTILE = {
    "empty": ("affine", {}),
    "no version": ("affine", {name: value for name, value in OWN.items() if name != "version"}),
    "later": ("affine", OWN | {"version": 2}),
    "version is a bool": ("affine", OWN | {"version": True}),
    "unknown field": ("affine", OWN | {"speed": 1}),
    "both": ("affine", GIVEN | {"bits": 8}),
    "mode": ("affine", OWN | {"mode": 7}),
    "bits": ("affine", OWN | {"bits": 8.0}),
    "axis": ("affine", OWN | {"axis": "0"}),
    "axis and group": ("affine", OWN | {"axis": 0, "group_size": 3}),
    "params": ("affine", {"version": 1, "params": "x"}),
    "scales": ("affine", {"version": 1, "params": GIVEN["params"] | {"scales": [float("nan")]}}),
    "negative scales": ("affine", {"version": 1, "params": GIVEN["params"] | {"scales": [-1.0]}}),
    "no scales": ("affine", {"version": 1, "params": GIVEN["params"] | {"scales": [], "zero_points": []}}),
    "many bits": ("affine", {"version": 1, "params": GIVEN["params"] | {"bits": 16}}),
    "format": ("block", {"version": 1, "format": ["Q8_0"]}),
    "format unknown": ("block", {"version": 1, "format": "Q8_9"}),
    "block size without": ("block", {"version": 1, "format": "nf4"}),
    "block size": ("block", FOUR_BIT | {"block_size": 10**9}),
    "block size with": ("block", {"version": 1, "format": "Q8_0", "block_size": 32}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_metadata_that_is_hostile(case, tmp_path):
    codec, configuration = HOSTILE[case]
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=weather(4, 64), chunks=(4, 64), serializer=qz.BlockCodec("nf4"), compressors=None)
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["codecs"] = [{"name": f"quantcore.{codec}", "configuration": configuration}]
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(QuantcoreError, match=rf"^quantcore\.{codec}: configuration: ") as refusal:
        zarr.open_array(path)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300
    metadata["codecs"] = [{"name": "quantcore.block", "configuration": FOUR_BIT}]  # the valid neighbour
    (path / "zarr.json").write_text(json.dumps(metadata))
    assert zarr.open_array(path)[:].shape == (4, 64)


CODECS = {
    "own": lambda: qz.AffineCodec(granularity=QuantGranularity.per_channel(0), mode="asymmetric"),
    "4 bits": lambda: qz.AffineCodec(bits=4),
    "given": lambda: qz.AffineCodec(qc.calibrate_per_tensor(weather(4, 64))),
    "Q8_0": lambda: qz.BlockCodec("Q8_0"),
    "nf4": lambda: qz.BlockCodec("nf4"),
}


@pytest.mark.parametrize("name", CODECS)
def test_chunks_that_are_damaged(name, tmp_path):
    array = zarr.create_array(
        tmp_path / "a.zarr", data=weather(4, 64), chunks=(4, 64), serializer=CODECS[name](), compressors=None
    )
    (path,) = [p for p in (tmp_path / "a.zarr" / "c").rglob("*") if p.is_file()]
    whole = path.read_bytes()
    for data in (b"", whole[:3], whole[:10], whole[:21], whole[:-1], whole + b"\0", whole * 2):
        path.write_bytes(data)
        with pytest.raises(InvalidValueError, match=r"^quantcore\.\w+: chunk: "):
            array[:]
    path.write_bytes(whole)
    array[:]


@pytest.mark.parametrize(
    ("at", "data", "message"),
    [
        (0, b"\2", "its head .* is unknown"),
        (1, b"\2", "its head .* is unknown"),
        (2, b"\0", "its head .* is unknown"),
        (2, b"\1", "has shape .* which is not within"),
        (3, b"\1", "its head .* is unknown"),
        (4, b"\5", "has shape .* which is not within"),
        (10, b"\x80", "has shape .* which is not within"),
        (12, b"\40", "bytes are expected for shape"),
        (20, np.float32(np.nan).tobytes(), "scales: must be positive and finite"),
        (20, np.float32(-1).tobytes(), "scales: must be positive and finite"),
        (36, np.int32(256).tobytes(), "zero_points: expected 0 to 255"),
    ],
)
def test_heads_that_are_hostile(at, data, message, tmp_path):
    array = zarr.create_array(
        tmp_path / "a.zarr", data=weather(4, 64), chunks=(4, 64), serializer=CODECS["own"](), compressors=None
    )
    path = tmp_path / "a.zarr" / "c" / "0" / "0"
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)
    with pytest.raises(InvalidValueError, match=rf"^quantcore\.affine: chunk: .*{message}"):
        array[:]


def test_scales_that_are_not_finite_in_blocks(tmp_path):
    for name, bad in (("Q8_0", np.float16(np.inf)), ("nf4", np.float32(np.nan))):
        path = tmp_path / f"{name}.zarr"
        array = zarr.create_array(
            path, data=weather(4, 64), chunks=(4, 64), serializer=qz.BlockCodec(name), compressors=None
        )
        chunk = path / "c" / "0" / "0"
        data = bad.tobytes() + chunk.read_bytes()[bad.nbytes :]
        chunk.write_bytes(data)
        with pytest.raises(InvalidValueError, match=r"^quantcore\.block: "):
            array[:]


def test_a_wrong_type_of_configuration_is_a_type_error():
    for entry in ({"name": "quantcore.affine"}, {"name": "quantcore.affine", "configuration": [1]}):
        with pytest.raises(InvalidTypeError, match=r"quantcore.affine: configuration: expected an object, got "):
            qz.AffineCodec.from_dict(entry)

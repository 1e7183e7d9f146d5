"""Affine parameters in the codecs `scale_offset` and `cast_value`, beside a naive version of their specifications."""

import numpy as np
import pytest

import quantcore as qc
from quantcore import QuantMode
from quantcore.errors import InvalidValueError
from tests.support.zarr_cases import weather

zarr = pytest.importorskip("zarr")
qz = pytest.importorskip("quantcore.zarr")

F32 = np.float32
ULPS = 3 * 2.0**-24  # of dividing by the reciprocal, and of the reciprocal


def apply(codecs, values):
    """Encode and decode as the specifications say, in the arithmetic of the array's dtype."""
    scale_offset, cast_value = (codec["configuration"] for codec in codecs)
    offset, scale = F32(scale_offset["offset"]), F32(scale_offset["scale"])
    limits = np.iinfo(cast_value["data_type"])
    assert (cast_value["rounding"], cast_value["out_of_range"]) == ("nearest-even", "clamp")
    codes = np.clip(np.rint((values - offset) * scale), limits.min, limits.max).astype(cast_value["data_type"])
    return codes, codes.astype(F32) / scale + offset


@pytest.mark.parametrize("mode", [mode.value for mode in QuantMode])
def test_the_same_codes(mode):
    values = weather(1000) - (0 if mode == "offset" else 279)
    params = qc.calibrate_per_tensor(values, mode=mode)
    codecs = qz.standard_codecs(params)
    assert [codec["name"] for codec in codecs] == ["scale_offset", "cast_value"]
    codes, decoded = apply(codecs, values)
    ours = qc.quantize_with_params(values, params)
    assert codes.dtype == ours.dtype
    if mode == "asymmetric":
        assert np.abs(codes.astype(int) - ours).max() <= 1 and (codes != ours).mean() < 0.01
    else:
        np.testing.assert_array_equal(codes, ours)
    expected = qc.dequantize_with_params(codes, params)
    largest = np.abs(decoded).max() + float(params.scales[0]) * 255
    np.testing.assert_allclose(decoded, expected, atol=ULPS * largest, rtol=0)


def test_values_beyond_the_range():
    params = qc.calibrate_per_tensor(np.array([-1, 1], F32))
    codes, _ = apply(qz.standard_codecs(params), np.array([-9, 9], F32))
    assert codes.tolist() == [-128, 127]  # documented: the codec's lowest code is that of int8
    assert qc.quantize_with_params(np.array([-9, 9], F32), params).tolist() == [-127, 127]


def test_what_the_two_codecs_cannot_tell():
    values = weather(4, 8)
    for params in (
        qc.calibrate_per_channel(values),
        qc.calibrate_per_tensor(values, 4),
        qc.calibrate_per_group(values[:1], 8),
    ):
        with pytest.raises(InvalidValueError, match="params: expected one scale and 8 bits, got "):
            qz.standard_codecs(params)
    tiny = qc.QuantParams(
        np.array([1e-40], F32),
        np.zeros(1, np.int32),
        qc.QuantGranularity.per_tensor(),
        QuantMode.SYMMETRIC,
        8,
        -127,
        127,
    )
    with pytest.raises(InvalidValueError, match="the reciprocal of the scale"):
        qz.standard_codecs(tiny)


@pytest.mark.may_skip
@pytest.mark.parametrize("mode", [mode.value for mode in QuantMode])
def test_zarr_itself(mode):
    """zarr-python has the two codecs from 3.2 on, which needs Python 3.12."""
    if not hasattr(zarr.codecs, "ScaleOffset"):
        pytest.skip(f"zarr {zarr.__version__} has no scale_offset")
    pytest.importorskip("cast_value_rs")
    values = weather(20, 30) - (0 if mode == "offset" else 279)
    params = qc.calibrate_per_tensor(values, mode=mode)
    array = zarr.create_array({}, data=values, chunks=(7, 30), filters=qz.standard_codecs(params))
    np.testing.assert_array_equal(array[:], apply(qz.standard_codecs(params), values)[1])

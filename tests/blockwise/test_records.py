"""The records of 4-bit blocks: made by hand, pickled, compared, shown."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

import quantcore
from quantcore import (
    InvalidValueError,
    QuantcoreError,
    dequantize_4bit_double,
    quantize_4bit,
    quantize_4bit_double,
)
from tests.support.blockwise_cases import F32, F32_MAX, gaussian

# Records made by hand

SINGLE = quantize_4bit(gaussian(3, 50), quant_type="nf4")
DOUBLE = quantize_4bit_double(gaussian(3, 50), quant_type="nf4")
DYNAMIC = quantize_4bit_double(gaussian(3, 50), quant_type="nf4", scale_code="dynamic")
every_record = pytest.mark.parametrize("record", [SINGLE, DOUBLE, DYNAMIC], ids=["single", "linear", "dynamic"])
BAD_FIELDS = [
    ("data", np.zeros(74, np.uint8)),
    ("data", np.zeros(76, np.uint8)),
    ("data", b"\0" * 74),
    ("data", np.zeros(75, np.int8)),
    ("data", np.zeros(75, F32)),
    ("data", np.uint8(0)),
    ("data", np.ma.array(np.zeros(75, np.uint8))),
    ("data", None),
    ("shape", ()),
    ("shape", (3, -50)),
    ("shape", (3.0, 50)),
    ("shape", (True, 150)),
    ("shape", None),
    ("shape", 150),
    ("shape", (2**40, 2**40)),
    ("shape", (0, 2**80)),
    ("shape", (0, 2**62)),
    ("shape", (1,) * 63 + (3, 50)),
    ("block_size", 63),
    ("block_size", 0),
    ("block_size", 64.0),
    ("block_size", True),
    ("quant_type", "int8"),
    ("quant_type", None),
    ("quant_type", ["nf4"]),
]
BAD_SINGLE_FIELDS = [
    ("scales", np.ones(2, F32)),
    ("scales", np.ones(4, F32)),
    ("scales", np.ones(3, np.float64)),
    ("scales", np.ones(3, np.float16)),
    ("scales", np.ones(3, ">f4")),
    ("scales", np.array([1, np.nan, 1], F32)),
    ("scales", np.array([1, np.inf, 1], F32)),
    ("scales", np.array([1, -1, 1], F32)),
    ("scales", None),
    ("shape", (2, 50)),
    ("block_size", 32),
]
BAD_DOUBLE_FIELDS = [
    ("quantized_scales", np.ones(2, np.uint8)),
    ("quantized_scales", np.ones(3, np.int8)),
    ("quantized_scales", np.ones(3, F32)),
    ("super_scales", np.ones(2, F32)),
    ("super_scales", np.ones(1, np.float64)),
    ("super_scales", np.array([np.nan], F32)),
    ("super_scales", np.array([-1], F32)),
    ("offset", np.nan),
    ("offset", np.inf),
    ("offset", 1e39),
    ("offset", 10**400),
    ("offset", None),
    ("offset", "0"),
    ("offset", 1j),
    ("offset", True),
    ("offset", np.zeros(2)),
    ("super_block_size", 100),
    ("super_block_size", 16),
    ("super_block_size", True),
    ("scale_code", "lines"),
    ("scale_code", None),
    ("scale_code", np.array(["linear", "dynamic"])),
]
ALLOWED_TO_BLAME = {"shape": "data", "block_size": "scales"}  # which of two that contradict is wrong, nobody knows


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [(r, *bad) for r in (SINGLE, DOUBLE, DYNAMIC) for bad in BAD_FIELDS]
    + [(SINGLE, *bad) for bad in BAD_SINGLE_FIELDS]
    + [(r, *bad) for r in (DOUBLE, DYNAMIC) for bad in BAD_DOUBLE_FIELDS]
    + [(DOUBLE, "offset", 0.5)],
)
def test_contradicting_fields_are_refused_by_name(record, field, value):
    with pytest.raises(QuantcoreError) as error:
        dataclasses.replace(record, **{field: value})
    assert isinstance(error.value, (ValueError, TypeError))
    assert str(error.value).startswith((f"{field}: ", f"{ALLOWED_TO_BLAME.get(field, field)}: "))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@every_record
def test_fields_are_taken_in_other_forms(record):
    given = {"data": record.data.tobytes(), "shape": list(record.shape), "block_size": np.int64(record.block_size)}
    assert dataclasses.replace(record, **given) == record
    scales = "scales" if record is SINGLE else "super_scales"
    array = getattr(record, scales)
    assert dataclasses.replace(record, **{scales: np.repeat(array, 2)[::2]}) == record


def test_a_scale_of_any_size_decodes_without_warning():
    largest = np.full(1, F32_MAX)
    q = dataclasses.replace(DOUBLE, super_scales=largest, quantized_scales=np.full(3, 255, np.uint8))
    assert np.isfinite(dequantize_4bit_double(q)).all()
    assert not np.isnan(dequantize_4bit_double(q, dtype=np.float16)).any()


# As Python objects


@every_record
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(record, protocol):
    again = pickle.loads(pickle.dumps(record, protocol))
    assert type(again) is type(record) and again == record
    assert not again.data.flags.writeable
    assert copy.deepcopy(record) == copy.copy(record) == record


@every_record
def test_pickle_that_was_tampered_with_is_refused(record):
    pickled = pickle.dumps(record, 0)
    assert pickled.count(b"I50\n") == 1
    with pytest.raises(InvalidValueError, match=r"^data: "):
        pickle.loads(pickled.replace(b"I50\n", b"I500\n"))


@every_record
def test_pickle_of_another_version_is_refused(record):
    function, (version, *fields) = record.__reduce__()
    assert function(version, *fields) == record
    with pytest.raises(InvalidValueError, match=rf"version {version + 1} is unknown"):
        function(version + 1, *fields)


@every_record
def test_immutable(record):
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.shape = (150,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del record.data
    for name in ("data", "scales", "quantized_scales", "super_scales"):
        if hasattr(record, name):
            with pytest.raises(ValueError, match="read-only"):
                getattr(record, name)[0] = 1


def test_equality():
    values = gaussian(3, 50)
    assert quantize_4bit(values, quant_type="nf4") == SINGLE
    assert quantize_4bit_double(values, quant_type="nf4") == DOUBLE != DYNAMIC
    assert SINGLE != DOUBLE and SINGLE is not None and SINGLE.data.tolist() != SINGLE
    for other in (
        quantize_4bit(-values, quant_type="nf4"),
        quantize_4bit(values.reshape(-1), quant_type="nf4"),
        quantize_4bit(values, quant_type="fp4"),
        quantize_4bit(values, quant_type="nf4", block_size=32),
        dataclasses.replace(SINGLE, scales=SINGLE.scales * F32(2)),
    ):
        assert other != SINGLE
    for field, value in (("super_block_size", 128), ("super_scales", DOUBLE.super_scales * F32(2))):
        assert dataclasses.replace(DOUBLE, **{field: value}) != DOUBLE
    assert dataclasses.replace(DYNAMIC, offset=DYNAMIC.offset + 1) != DYNAMIC
    with pytest.raises(TypeError, match="unhashable"):
        hash(SINGLE)


@every_record
def test_repr_is_short(record):
    what = "shape=(3, 50), quant_type='nf4', block_size=64, num_blocks=3"
    assert repr(record) == f"{type(record).__name__}({what}, memory_bytes={record.memory_bytes})"
    assert len(record) == 150


def test_constants():
    assert (quantcore.BLOCK_SIZE, quantcore.DOUBLE_QUANT_BLOCK_SIZE) == (64, 256)
    assert (SINGLE.block_size, DOUBLE.super_block_size, DOUBLE.scale_code) == (64, 256, "linear")
    assert quantize_4bit(gaussian(64)).quant_type == quantize_4bit_double(gaussian(64)).quant_type == "int4"

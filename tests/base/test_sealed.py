"""Records hold memory that nobody can change: not by a view, not by its owner, not by the record's own arrays."""

import pickle
import sys
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import quantcore as qc
from quantcore import QuantGranularity, QuantMode

F32 = np.float32
VALUES = np.random.default_rng(11).standard_normal((4, 64)).astype(F32)


def hidden_view(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.setflags(write=False)
    return view


def frozen_for_now(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def read_only_buffer(array: np.ndarray) -> np.ndarray:
    return np.asarray(memoryview(array).toreadonly())


WAYS = {"view": hidden_view, "owner": frozen_for_now, "memoryview": read_only_buffer}


def fields_of(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


MADE = {
    "Q4_0": qc.Q4_0.quantize(VALUES),
    "Q8_0": qc.Q8_0.quantize(VALUES),
    "Quantized4Bit": qc.quantize_4bit(VALUES),
    "DoubleQuantized4Bit": qc.quantize_4bit_double(VALUES),
    "QuantParams": qc.calibrate_per_channel(VALUES, mode=QuantMode.ASYMMETRIC),
    "QuantizedTensor": qc.quantize_tensor(VALUES, QuantGranularity.per_channel()),
    "CalibrationResult": qc.Calibrator.min_max(axis=0).partial_fit(VALUES).compute(),
}
every_record = pytest.mark.parametrize("record", MADE.values(), ids=MADE)


@every_record
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_read_only_arrays_that_somebody_can_still_write_to_are_copied(record, way):
    for name, kept in fields_of(record).items():
        if isinstance(kept, np.ndarray):
            mine = kept.copy()
            made = type(record)(**fields_of(record) | {name: way(mine)})
            before = getattr(made, name).copy()
            mine.setflags(write=True)
            mine.view(np.uint8)[...] = 255
            np.testing.assert_array_equal(getattr(made, name), before)
            assert made == record


@every_record
def test_the_arrays_of_a_record_can_be_made_neither_writable_nor_shorter(record):
    again = type(record)(**fields_of(record))
    for made in (record, again, pickle.loads(pickle.dumps(record))):
        arrays = [value for value in fields_of(made).values() if isinstance(value, np.ndarray)]
        assert arrays
        for array in [*arrays, *([made.coding_rows] if isinstance(made, qc.QuantParams) else [])]:
            owner = array
            while isinstance(owner, np.ndarray):
                with pytest.raises(ValueError, match="WRITEABLE"):
                    owner.setflags(write=True)
                with pytest.raises(ValueError, match="does not own its data"):
                    owner.resize((0,), refcheck=False)
                owner = owner.base
            assert memoryview(owner).readonly
    for ours, theirs in zip(fields_of(again).values(), fields_of(record).values(), strict=True):
        assert not isinstance(ours, np.ndarray) or (ours is not theirs and np.shares_memory(ours, theirs))


def test_bytes_are_taken_without_a_copy_and_what_can_change_is_not():
    data = qc.Q8_0.quantize(VALUES).to_bytes()
    assert np.shares_memory(qc.Q8_0.from_bytes(data, (4, 64)).data, np.frombuffer(data, np.uint8))
    assert np.shares_memory(qc.Q8_0.from_bytes(memoryview(data), (4, 64)).data, np.frombuffer(data, np.uint8))
    changing = bytearray(data)
    record = qc.Q8_0.from_bytes(memoryview(changing).toreadonly(), (4, 64))
    changing[:] = bytes(len(changing))
    changing.append(0)  # nothing holds it
    assert record.to_bytes() == data


def test_tables_that_are_shared_cannot_be_changed():
    entries = qc.quantize_4bit_double(VALUES, quant_type="nf4", scale_code="dynamic").to_bitsandbytes()
    for name in ("weight.quant_map", "weight.nested_quant_map"):
        with pytest.raises(ValueError, match="WRITEABLE"):
            entries[name].setflags(write=True)


@every_record
def test_the_size_that_dask_goes_by(record):
    held = sum(value.nbytes for value in fields_of(record).values() if isinstance(value, np.ndarray))
    assert held < sys.getsizeof(record) < held + 2000
    dask_sizeof = pytest.importorskip("dask.sizeof").sizeof
    assert dask_sizeof(record) == sys.getsizeof(record)


def test_the_size_of_what_holds_statistics():
    calibrator = qc.Calibrator.percentile(axis=0)
    small = sys.getsizeof(calibrator)
    calibrator.observe(VALUES)
    assert sys.getsizeof(calibrator) > small + 4 * 4096 * 4
    fq = qc.FakeQuantize.q8(QuantGranularity.per_channel())
    fq.calibrate(np.ones((4096, 2), F32))
    assert sys.getsizeof(fq) > 4096 * 8
    gradients = qc.lsq_backward(VALUES, VALUES, MADE["QuantParams"])
    assert sys.getsizeof(gradients) > VALUES.nbytes


def test_reprs_are_short_however_many_channels_there_are():
    values = np.random.default_rng(0).standard_normal((384, 8)).astype(F32)
    params = qc.calibrate_per_channel(values)
    result = qc.Calibrator.min_max(axis=0).partial_fit(values).compute()
    gradients = qc.lsq_backward(values, values, params)
    for record in (params, result, gradients):
        assert len(repr(record)) < 900 and "\n" not in repr(record)
        assert "<float32 of shape (384,)>" in repr(record)
    assert "scales=[1.0]" in repr(qc.calibrate_per_tensor(np.full(2, 127, F32)))


@pytest.mark.parametrize("axis", [None, 0])
def test_a_calibration_result_equals_its_pickle_and_no_other(axis):
    def calibrated(scale: float) -> Any:
        return qc.Calibrator.percentile(axis=axis).partial_fit(VALUES * F32(scale)).compute()

    result = calibrated(1)
    assert pickle.loads(pickle.dumps(result)) == result == calibrated(1) != calibrated(2)
    assert result != 1
    restore, (_, *values) = result.__reduce__()
    with pytest.raises(qc.InvalidValueError, match="version 99"):
        restore(99, *values)


def test_figures_of_a_calibration_result_are_checked():
    right = fields_of(MADE["CalibrationResult"])
    for name, value, message in (
        ("scale", np.ones(3, F32), r"^scale: expected float32 of shape \(4,\)"),
        ("zero_point", np.zeros(4, F32), r"^zero_point: expected int32"),
        ("clip_min", "x", r"^clip_min: "),
        ("method", "min_max", r"^method: "),
        ("params", None, r"^params: "),
    ):
        with pytest.raises((qc.InvalidValueError, qc.InvalidTypeError), match=message):
            qc.CalibrationResult(**right | {name: value})


def test_an_empty_batch_of_vectors_with_a_scale_each():
    for granularity in (QuantGranularity.per_channel(0), QuantGranularity.per_group(16)):
        for mode in (QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC):
            q = qc.quantize_tensor(np.zeros((0, 64), F32), granularity, mode)
            assert (q.shape, q.params.num_groups, q.dequantize().shape) == ((0, 64), 0, (0, 64))
            assert pickle.loads(pickle.dumps(q)) == q
    with pytest.raises(qc.InvalidValueError, match=r"^values: must not be empty, got shape \(0, 64\)$"):
        qc.quantize_tensor(np.zeros((0, 64), F32), QuantGranularity.per_channel(1))
    with pytest.raises(qc.InvalidValueError, match=r"^params: 0 scales"):
        qc.quantize_with_params(VALUES, q.params)

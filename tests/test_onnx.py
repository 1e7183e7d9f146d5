"""Static quantization of ONNX models beside ONNX Runtime's own."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
from onnxruntime.quantization import quantize_static as peer

import quantcore.onnx as qo
from quantcore import Calibrator, InvalidTypeError, InvalidValueError


@pytest.fixture
def model(rng):
    """Conv, Relu, Gemm (transposed), MatMul."""
    shapes = {"w0": (6, 3, 3, 3), "w1": (10, 6 * 16), "b1": (10,), "w2": (10, 4)}
    tensors = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32) * 0.2, n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w1", "b1"], ["g"], transB=1),
        helper.make_node("Tanh", ["g"], ["t"]),
        helper.make_node("MatMul", ["t", "w2"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", 3, 6, 6]), ("y", ["n", 4]))]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return made


@pytest.fixture
def batches(rng):
    return [{"x": rng.standard_normal((16, 3, 6, 6)).astype(np.float32)} for _ in range(4)]


def run(path, batch, names=None):
    source = path.SerializeToString() if hasattr(path, "SerializeToString") else str(path)
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(names, batch)[0]


class Reader(CalibrationDataReader):
    def __init__(self, batches):
        self.left = iter(batches)

    def get_next(self):
        return next(self.left, None)


@pytest.mark.slow
@pytest.mark.parametrize("per_channel", [True, False])
def test_scales_and_outputs_are_those_of_onnx_runtime(model, batches, per_channel, tmp_path):
    onnx.save(model, tmp_path / "model.onnx")
    found = qo.calibrate_activations(tmp_path / "model.onnx", batches, Calibrator.min_max(symmetric=False))
    assert list(found) == ["x", "f", "t"]
    results = qo.quantize_static(model, tmp_path / "ours.onnx", found, per_channel=per_channel)
    peer(
        tmp_path / "model.onnx", tmp_path / "theirs.onnx", Reader(batches), quant_format=QuantFormat.QDQ,
        per_channel=per_channel, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
    )  # fmt: skip
    theirs = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "theirs.onnx").graph.initializer}
    assert results["x"].scale == pytest.approx(float(theirs["x_scale"].ravel()[0]), rel=1e-6)
    assert results["x"].zero_point == theirs["x_zero_point"].ravel()[0]
    wanted, ours, beside = (run(p, batches[0]) for p in (model, tmp_path / "ours.onnx", tmp_path / "theirs.onnx"))
    assert np.square(ours - wanted).mean() <= 1.2 * np.square(beside - wanted).mean()


def test_the_file_has_quantized_nodes_and_no_float_weights(model, batches, tmp_path):
    found = qo.calibrate_activations(model, batches, Calibrator.mse(symmetric=False))
    qo.quantize_static(model, tmp_path / "a.onnx", found)
    made = onnx.load(tmp_path / "a.onnx")
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("QuantizeLinear") == 3
    assert kinds.count("DequantizeLinear") == 6
    assert {t.name for t in made.graph.initializer} & {"w0", "w1", "w2"} == set()
    wanted = run(model, batches[0])
    assert np.square(run(tmp_path / "a.onnx", batches[0]) - wanted).mean() < 1e-2 * np.square(wanted).mean()
    with pytest.raises(OSError, match="exists already"):
        qo.quantize_static(model, tmp_path / "a.onnx", found)


def test_what_is_refused(model, batches, tmp_path):
    with pytest.raises(InvalidTypeError, match="calibrator"):
        qo.calibrate_activations(model, batches, 3)
    with pytest.raises(InvalidValueError, match="batches: nothing was observed"):
        qo.calibrate_activations(model, [], Calibrator.min_max())
    with pytest.raises(InvalidValueError, match=r"^x: batch: must be finite, got nan"):
        qo.calibrate_activations(model, [{"x": batches[0]["x"] * np.nan}], Calibrator.min_max())
    found = qo.calibrate_activations(model, batches, Calibrator.min_max(bits=4))
    with pytest.raises(InvalidValueError, match="expected 8 bits, got 4 for 'x'"):
        qo.quantize_static(model, tmp_path / "b.onnx", found)
    assert not (tmp_path / "b.onnx").exists()

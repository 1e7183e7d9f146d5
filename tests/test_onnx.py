"""Static quantization of ONNX models beside ONNX Runtime's own."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
from onnxruntime.quantization import quantize_static as peer

import quantcore.onnx as qo
from quantcore import Calibrator, FileFormatError, InvalidTypeError, InvalidValueError, OutputFileError


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


def run(path, batch, names=None, *, is_optimized=False):
    source = path.SerializeToString() if hasattr(path, "SerializeToString") else str(path)
    options = onnxruntime.SessionOptions()
    if not is_optimized:  # integers of products saturate on CPUs without VNNI
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(names, batch)[0]


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
    with pytest.raises(InvalidValueError, match=r"^x: must be finite, got nan"):
        qo.calibrate_activations(model, [{"x": batches[0]["x"] * np.nan}], Calibrator.min_max())
    found = qo.calibrate_activations(model, batches, Calibrator.min_max(bits=4))
    with pytest.raises(InvalidValueError, match="expected 8 bits, got 4 for 'x'"):
        qo.quantize_static(model, tmp_path / "b.onnx", found)
    assert not (tmp_path / "b.onnx").exists()


def test_calibrators_that_quantize_nothing_are_refused(model, batches, tmp_path):
    """A file of floats under the name of a quantized model would pass for one."""
    found = qo.calibrate_activations(model, batches, Calibrator.min_max())
    out = tmp_path / "out.onnx"
    with pytest.raises(InvalidValueError, match="calibrators: expected at least one"):
        qo.quantize_static(model, out, {})
    with pytest.raises(InvalidValueError, match=r"calibrators: 'X' is the input of no MatMul, .* did you mean x"):
        qo.quantize_static(model, out, {"X": found["x"]})
    qo.quantize_static(model, out, {"x": found["x"]})  # the others stay in floats
    assert [node.op_type for node in onnx.load(out).graph.node].count("DequantizeLinear") == 2
    qo.quantize_static(model, tmp_path / "all.onnx", found)
    with pytest.raises(InvalidValueError, match="model: no MatMul, Gemm, Conv with a constant weight"):
        qo.quantize_static(tmp_path / "all.onnx", tmp_path / "again.onnx", found)
    assert not (tmp_path / "again.onnx").exists()


def test_a_model_is_not_replaced_by_its_own_quantized_file(model, batches, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    before = path.read_bytes()
    found = qo.calibrate_activations(path, batches, Calibrator.min_max())
    with pytest.raises(OutputFileError, match="is the same file as the input"):
        qo.quantize_static(path, path, found, force=True)
    assert path.read_bytes() == before


def test_what_onnx_runtime_refuses_is_an_error_of_quantcore(model, batches, tmp_path):
    x = batches[0]["x"]
    for batch, message in (
        ({"X": x}, "batches: 'X' is no input of the model; it has x"),
        ({"x": x, "y": x}, "batches: 'y' is no input of the model; it has x"),
        ({}, "batches: the input 'x' is missing"),
        ({"x": x.astype(np.float64)}, "batches: ONNX Runtime refuses one: .*Unexpected input data type"),
        ({"x": x[:, :2]}, "batches: ONNX Runtime refuses one: .*Got: 2 Expected: 3"),
        ({"x": None}, "batches: ONNX Runtime refuses one: "),
    ):
        with pytest.raises(InvalidValueError, match=message):
            qo.calibrate_activations(model, [batches[0], batch], Calibrator.min_max())
    model.graph.node[1].op_type = "NoSuchOperator"
    with pytest.raises(InvalidValueError, match=r"model: ONNX Runtime does not load it: .*NoSuchOperator"):
        qo.calibrate_activations(model, batches, Calibrator.min_max())


def test_files_that_are_no_models(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "b.onnx").write_bytes(b"\xff" * 100)
    (tmp_path / "c.onnx").write_bytes(b"")
    for name, message in (
        ("a.npy", "a.npy: is a .npy array of NumPy, not an ONNX model"),
        ("b.onnx", "b.onnx: cannot be read as an ONNX model: "),
        ("c.onnx", "c.onnx: is no ONNX model: it has no nodes"),
    ):
        with pytest.raises(FileFormatError, match=message):
            qo.calibrate_activations(tmp_path / name, [], Calibrator.min_max())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        qo.calibrate_activations(tmp_path / "nowhere.onnx", [], Calibrator.min_max())


# Models as exporters make them


def tensor(name, shape, seed=0, dtype=np.float32):
    return numpy_helper.from_array(np.random.default_rng(seed).standard_normal(shape).astype(dtype), name)


def build(nodes, tensors, in_shape, out_shape, *, opset=17, inputs=(), kind=TensorProto.FLOAT):
    ends = [helper.make_tensor_value_info(n, kind, s) for n, s in (("x", in_shape), ("y", out_shape))]
    graph = helper.make_graph(nodes, "net", [ends[0], *inputs], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"])
BRANCHES = {
    "then_branch": helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["t"])], "then", [], [
        helper.make_tensor_value_info("t", TensorProto.FLOAT, [4, 8])]),
    "else_branch": helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [], [
        helper.make_tensor_value_info("e", TensorProto.FLOAT, [4, 8])]),
}  # fmt: skip
YES = numpy_helper.from_array(np.array(True), "yes")
NETS = {
    "initializers that are inputs": build(
        [MATMUL], [tensor("w", (8, 5))], ["n", 8], ["n", 5],
        inputs=[helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 5])],
    ),
    "a Constant node": build(
        [helper.make_node("Constant", [], ["w"], value=tensor("", (8, 5))), MATMUL], [], ["n", 8], ["n", 5]
    ),
    "a stack of matrices": build([MATMUL], [tensor("w", (3, 8, 5))], [3, 4, 8], [3, 4, 5]),
    "a weight that two nodes share": build(
        [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])],
        [tensor("w", (8, 8))], ["n", 8], ["n", 8],
    ),
    "names that ours could meet": build(
        [helper.make_node("Identity", ["x"], ["x.quantized"]),
         helper.make_node("MatMul", ["x", "w"], ["w.1.quantized"]),
         helper.make_node("Add", ["x.quantized", "w.1.quantized"], ["y"])], [tensor("w", (8, 8))], ["n", 8], ["n", 8],
    ),
    "a weight that a branch takes, too": build(
        [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("If", ["yes"], ["b"], **BRANCHES),
         helper.make_node("Add", ["a", "b"], ["y"])], [tensor("w", (8, 8)), YES], [4, 8], [4, 8],
    ),
    "float16": build(
        [MATMUL], [tensor("w", (8, 5), dtype=np.float16)], ["n", 8], ["n", 5], opset=19, kind=TensorProto.FLOAT16
    ),
    "float16 in part": build(
        [helper.make_node("MatMul", ["x", "v"], ["a"]), helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT16),
         helper.make_node("MatMul", ["b", "w"], ["c"]), helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT)],
        [tensor("v", (8, 8)), tensor("w", (8, 5), dtype=np.float16)], ["n", 8], ["n", 5],
    ),
}  # fmt: skip
SHAPES = {"a stack of matrices": (3, 4, 8)}


@pytest.mark.parametrize("name", NETS)
def test_models_as_they_are(name, tmp_path, rng):
    net = NETS[name]
    dtype = helper.tensor_dtype_to_np_dtype(net.graph.input[0].type.tensor_type.elem_type)
    batch = {"x": rng.standard_normal(SHAPES.get(name, (4, 8))).astype(dtype)}
    before = net.SerializeToString()
    found = qo.calibrate_activations(net, [batch], Calibrator.min_max(symmetric=False))
    qo.quantize_static(net, tmp_path / "a.onnx", found)
    assert net.SerializeToString() == before
    kinds = [node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node]
    assert kinds.count("QuantizeLinear") == len(found) > 0
    wanted, ours = run(net, batch).astype(np.float64), run(tmp_path / "a.onnx", batch).astype(np.float64)
    assert 0 < np.square(ours - wanted).mean() < 1e-3 * np.square(wanted).mean()


@pytest.mark.parametrize("opset", range(13, 23))
def test_every_operator_set(opset, tmp_path, rng):
    gemm = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    net = build([gemm], [tensor("w", (5, 8))], ["n", 8], ["n", 5], opset=opset)
    batch = {"x": rng.standard_normal((4, 8)).astype(np.float32)}
    found = qo.calibrate_activations(net, [batch], Calibrator.min_max(symmetric=False))
    qo.quantize_static(net, tmp_path / "a.onnx", found)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", batch), run(net, batch), atol=0.2)


@pytest.mark.parametrize("per_channel", [True, False])
def test_reduced_range_does_not_saturate_on_any_cpu(per_channel, tmp_path, rng):
    net = build([MATMUL], [tensor("w", (64, 5))], ["n", 64], ["n", 5])
    batch = {"x": rng.uniform(0.9, 1, (16, 64)).astype(np.float32)}  # codes near 255
    found = qo.calibrate_activations(net, [batch], Calibrator.min_max(symmetric=False))
    qo.quantize_static(net, tmp_path / "a.onnx", found, per_channel=per_channel, reduce_range=True)
    codes = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "a.onnx").graph.initializer]
    (weights,) = (c for c in codes if c.dtype == np.int8 and c.ndim == 2)
    assert np.abs(weights.astype(int)).max() == 63
    exact = run(tmp_path / "a.onnx", batch)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", batch, is_optimized=True), exact, atol=1e-3)
    np.testing.assert_allclose(exact, run(net, batch), atol=0.5)


def test_weights_in_a_file_of_their_own(tmp_path, rng):
    net = build([MATMUL], [tensor("w", (64, 5))], ["n", 64], ["n", 5])
    batch = {"x": rng.standard_normal((4, 64)).astype(np.float32)}
    wanted = run(net, batch)
    path = tmp_path / "net.onnx"
    onnx.save_model(net, path, save_as_external_data=True, location="net.bin", size_threshold=0)
    found = qo.calibrate_activations(path, [batch], Calibrator.min_max(symmetric=False))
    qo.quantize_static(path, tmp_path / "a.onnx", found)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", batch), wanted, atol=0.5)
    with pytest.raises(InvalidValueError, match=r"^model: 'w' is in a file of its own; give the path"):
        qo.calibrate_activations(onnx.load(path, load_external_data=False), [batch], Calibrator.min_max())


def test_old_operator_sets_are_refused(tmp_path, rng):
    net = build([MATMUL], [tensor("w", (8, 5))], ["n", 8], ["n", 5], opset=12)
    found = qo.calibrate_activations(net, [{"x": np.ones((4, 8), np.float32)}], Calibrator.min_max())
    with pytest.raises(InvalidValueError, match=r"^model: operator set 12, at least 13 is needed$"):
        qo.quantize_static(net, tmp_path / "a.onnx", found)
    half = build(
        [MATMUL], [tensor("w", (8, 5), dtype=np.float16)], ["n", 8], ["n", 5], opset=18, kind=TensorProto.FLOAT16
    )
    with pytest.raises(InvalidValueError, match=r"^model: no MatMul, Gemm, Conv with .*float16 from operator set 19"):
        qo.calibrate_activations(half, [], Calibrator.min_max())

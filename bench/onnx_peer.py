"""onnxruntime as a peer: QuantizeLinear and DequantizeLinear on our arrays, and its packing of 4-bit weights."""

from importlib.util import find_spec

import numpy as np

from bench.ggml_peer import ROW
from bench.work import Call
from quantcore import QuantParams

OPSET = 21  # the first with blocks of the last axis
IR_VERSION = 10
BNB4_TYPES = {"fp4": 0, "nf4": 1}


def is_installed() -> bool:
    """Whether both onnxruntime and what its models are made with can be imported."""
    return find_spec("onnxruntime") is not None and find_spec("onnx") is not None


def quantize(values: np.ndarray, params: QuantParams, out: np.ndarray, n_threads: int) -> Call:
    """QuantizeLinear to signed codes in `out`."""
    return _call("QuantizeLinear", values, params, out, n_threads)


def dequantize(codes: np.ndarray, params: QuantParams, out: np.ndarray, n_threads: int) -> Call:
    """DequantizeLinear of signed codes into `out`."""
    return _call("DequantizeLinear", codes, params, out, n_threads)


def _call(operator: str, source: np.ndarray, params: QuantParams, out: np.ndarray, n_threads: int) -> Call:
    """A session of one node that reads and writes these arrays; its threads do not spin while others are timed."""
    import onnxruntime
    from onnx import helper

    axis, group_size = params.granularity.axis, params.granularity.group_size
    attributes: dict[str, int] = {}
    shape: tuple[int, ...] = ()
    if group_size is not None:
        attributes, shape = {"axis": 1, "block_size": group_size}, (len(source), source.shape[1] // group_size)
    elif axis is not None:
        attributes, shape = {"axis": axis}, (source.shape[axis],)
    scales, zero_points = params.scales.reshape(shape), params.zero_points.astype(np.int8).reshape(shape)
    element_type = helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "scale", "zero_point"], ["y"], **attributes)],
        operator,
        [helper.make_tensor_value_info("x", element_type(source.dtype), source.shape)],
        [helper.make_tensor_value_info("y", element_type(out.dtype), out.shape)],
        [
            helper.make_tensor(name, element_type(array.dtype), shape, array.tobytes(), raw=True)
            for name, array in (("scale", scales), ("zero_point", zero_points))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, source.dtype.type, source.shape, source.ctypes.data)
    binding.bind_output("y", "cpu", 0, out.dtype.type, out.shape, out.ctypes.data)
    return lambda: session.run_with_iobinding(binding)


def quantize_4bit(values: np.ndarray, block_size: int, quant_type: str = "int4") -> Call:
    """The packing of the weights of a MatMulNBits (int4) or a MatMulBnb4 (nf4, fp4). Its threads are not configurable.

    The values are taken for a matrix of 4096 rows. A block of int4 is a part of a column, as in the operator's weights;
    of nf4 and fp4, a part of the flattened matrix.
    """
    from onnxruntime.capi import _pybind_state

    matrix = values.reshape(ROW, -1)
    n_columns, n_blocks = matrix.shape[1], ROW // block_size
    packed = np.zeros((n_columns, n_blocks, block_size // 2), np.uint8)
    scales = np.zeros((n_columns, n_blocks), np.float32)
    if quant_type in BNB4_TYPES:
        codes, absmax, type_id = packed.reshape(-1), scales.reshape(-1), BNB4_TYPES[quant_type]
        return lambda: _pybind_state.quantize_matmul_bnb4(codes, matrix, absmax, block_size, type_id, n_columns, ROW)
    unused = np.zeros((n_columns, n_blocks // 2), np.uint8)  # zero points
    return lambda: _pybind_state.quantize_matmul_4bits(packed, matrix, scales, unused, block_size, n_columns, ROW, True)

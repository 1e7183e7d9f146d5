"""The nodes that quantize: a pair for each activation, and DequantizeLinear behind the codes of each weight."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from quantcore.affine.granularity import QuantGranularity
from quantcore.affine.modes import QuantMode
from quantcore.affine.params import QuantParams
from quantcore.affine.tensor import quantize_tensor, quantize_with_params
from quantcore.calibration.results import CalibrationResult
from quantcore.errors import InvalidValueError
from quantcore.onnx.graphs import names_in, opset_of

__all__ = ["NodeMaker"]

_LEAST_OPSET = 13
"""The operator set from which on DequantizeLinear has channels."""


class NodeMaker:
    """Makes nodes and adds initializers to a model; whatever is asked for twice is made once.

    Parameters
    ----------
    model : onnx.ModelProto
        Of operator set 13 or later.
    per_channel : bool
        Whether the output channels of a weight have a scale each.
    weight_bits : int
        Of the codes of weights, which are stored as int8.

    Attributes
    ----------
    nodes : dict of str to list
        The new nodes, by the name of the value that they take.
    """

    def __init__(self, model: Any, *, per_channel: bool, weight_bits: int) -> None:
        self.nodes: dict[str, list[Any]] = {}
        self._initializers = model.graph.initializer
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        if opset_of(model) < _LEAST_OPSET:
            raise InvalidValueError(f"model: operator set {opset_of(model)}, at least {_LEAST_OPSET} is needed")
        self._per_channel, self._weight_bits = per_channel, weight_bits
        self._taken = names_in(model.graph)
        self._made: dict[tuple[str, int | None], str] = {}

    def activation(self, name: str, result: CalibrationResult, weight: str) -> str:
        """The name of an activation once it is quantized and decoded, in the type of the weight that it meets."""
        key = name, None
        if key not in self._made:
            dtype = helper.tensor_dtype_to_np_dtype(self._weights[weight].data_type)
            zero_point = np.array(result.zero_point, np.int8 if result.params.mode is QuantMode.SYMMETRIC else np.uint8)
            codes, decoded = self._name(f"{name}.quantized.codes"), self._name(f"{name}.quantized")
            inputs = self._parameters(decoded, _rounded(np.float32(result.scale), dtype), zero_point)
            self.nodes[name] = [
                helper.make_node("QuantizeLinear", [name, *inputs], [codes]),
                helper.make_node("DequantizeLinear", [codes, *inputs], [decoded]),
            ]
            self._made[key] = decoded
        return self._made[key]

    def weight(self, node: Any, name: str) -> str:
        """The name of a node's weight once it is decoded from codes."""
        axis = _channel_axis(node, len(self._weights[name].dims)) if self._per_channel else None
        key = name, -1 if axis is None else axis
        if key not in self._made:
            values = np.array(numpy_helper.to_array(self._weights[name]))
            params, codes = _quantize(values, axis, self._weight_bits)
            label, decoded = self._name(f"{name}.{axis}.quantized.codes"), self._name(f"{name}.{axis}.quantized")
            shape = () if axis is None else (-1,)
            scales = params.scales.reshape(shape).astype(values.dtype)
            inputs = self._parameters(decoded, scales, params.zero_points.astype(np.int8).reshape(shape))
            self._initializers.append(numpy_helper.from_array(codes, label))
            attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
            self.nodes[label] = [helper.make_node("DequantizeLinear", [label, *inputs], [decoded], **attributes)]
            self._made[key] = decoded
        return self._made[key]

    def _name(self, wanted: str) -> str:
        """A name that nothing in the model has."""
        name, i = wanted, 1
        while name in self._taken:
            name, i = f"{wanted}.{i}", i + 1
        self._taken.add(name)
        return name

    def _parameters(self, name: str, scale: Any, zero_point: Any) -> tuple[str, str]:
        names = self._name(f"{name}.scale"), self._name(f"{name}.zero_point")
        for label, value in zip(names, (scale, zero_point), strict=True):
            made = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), label)
            self._initializers.append(made)
        return names


def _channel_axis(node: Any, n_dims: int) -> int | None:
    """The axis of a weight that is that of the outputs; ONNX Runtime knows none for stacked matrices."""
    if node.op_type == "Conv":
        return 0
    if n_dims > 2:
        return None
    is_transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if node.op_type == "Gemm" and is_transposed else 1


def _quantize(values: NDArray[Any], axis: int | None, bits: int) -> tuple[QuantParams, NDArray[Any]]:
    """Symmetric int8 codes; the scales are what is stored, so that the codes are the nearest ones for them."""
    made = quantize_tensor(values, QuantGranularity(axis=axis), bits=bits)
    if values.dtype == np.float32:
        return made.params, made.data
    found = made.params
    scales = _rounded(found.scales, values.dtype).astype(np.float32)
    limits = (found.quant_min, found.quant_max)
    params = QuantParams(scales, found.zero_points, found.granularity, found.mode, found.bits, *limits)
    return params, quantize_with_params(values, params)


def _rounded(scales: Any, dtype: np.dtype[Any]) -> Any:
    """Scales in the type in which they are stored; never zero."""
    return np.maximum(scales.astype(dtype), np.finfo(dtype).smallest_subnormal)

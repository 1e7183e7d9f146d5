"""ONNX models: activations calibrated with quantcore's calibrators, and written as QuantizeLinear and DequantizeLinear.

Needs the extra `onnx`. Nothing in quantcore imports this module.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from quantcore._base.extras import missing_extra as _missing_extra
from quantcore._base.text import brief
from quantcore.affine.params import QuantGranularity, QuantMode
from quantcore.affine.tensor import quantize_tensor
from quantcore.calibration.calibrator import Calibrator
from quantcore.calibration.results import CalibrationResult
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.files.disk import OutputFile

try:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise _missing_extra("quantcore.onnx", "onnx", error) from None

__all__ = ["calibrate_activations", "quantize_static"]

_WEIGHTED = {"MatMul": 1, "Gemm": 1, "Conv": 1}
"""The operators that are quantized, and which of their inputs is the weight."""


def calibrate_activations(
    model: Any, batches: Iterable[Mapping[str, Any]], calibrator: Calibrator
) -> dict[str, Calibrator]:
    """Run a model in ONNX Runtime and observe the inputs of its MatMul, Gemm and Conv nodes.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Not changed.
    batches : iterable of mapping
        From the names of the model's inputs to arrays.
    calibrator : Calibrator
        Without data, per tensor; each activation gets a copy of it.

    Returns
    -------
    dict of str to Calibrator
        By the name of the activation.

    Raises
    ------
    ValueError
        There is no such node, no batch, or an activation is not finite: it is named.
    TypeError
        An argument has another type.
    """
    if not isinstance(calibrator, Calibrator):
        raise InvalidTypeError(f"calibrator: expected a Calibrator, got {brief(calibrator)}")
    if calibrator.has_data or calibrator.axis is not None:
        raise InvalidValueError("calibrator: expected one without data and without an axis")
    watched = _load(model)
    initial = {tensor.name for tensor in watched.graph.initializer}
    names = [name for name in dict.fromkeys(n.input[0] for n in _weighted(watched)) if name not in initial]
    if not names:
        raise InvalidValueError(f"model: no {', '.join(_WEIGHTED)} with an initializer as weight")
    outputs = {output.name for output in watched.graph.output}
    inputs = {tensor.name for tensor in watched.graph.input}
    for name in names:
        if name not in outputs and name not in inputs:
            watched.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    made = {name: Calibrator.from_dict(calibrator.to_dict()) for name in names}
    wanted = [name for name in names if name not in inputs]
    for batch in batches:
        if not isinstance(batch, Mapping):
            raise InvalidTypeError(f"batches: expected mappings from input names to arrays, got {brief(batch)}")
        values = dict(zip(wanted, session.run(wanted, dict(batch)) if wanted else (), strict=True))
        for name, observer in made.items():
            try:
                observer.observe(values[name] if name in values else batch[name])
            except InvalidValueError as error:
                raise InvalidValueError(f"{name}: {error}") from None
    if not all(observer.has_data for observer in made.values()):
        raise InvalidValueError("batches: nothing was observed")
    return made


def quantize_static(
    model: Any,
    path: str | os.PathLike[str],
    calibrators: Mapping[str, Calibrator],
    *,
    per_channel: bool = True,
    force: bool = False,
) -> dict[str, CalibrationResult]:
    """Write a model with QuantizeLinear and DequantizeLinear at the activations and weights of its nodes.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Not changed.
    path : path
        The output, written atomically.
    calibrators : mapping of str to Calibrator
        What `calibrate_activations` returned; 8 bits.
    per_channel : bool, default True
        One scale per output channel of a weight; False: one per weight. Weights are int8, symmetric.
    force : bool, default False
        Replace an existing file.

    Returns
    -------
    dict of str to CalibrationResult
        The scales of the activations.
    """
    made = _load(model)
    if bad := [name for name, calibrator in calibrators.items() if calibrator.bits != 8]:
        raise InvalidValueError(f"calibrators: expected 8 bits, got {calibrators[bad[0]].bits} for {bad[0]!r}")
    results = {name: calibrator.compute() for name, calibrator in calibrators.items()}
    weights = {tensor.name: tensor for tensor in made.graph.initializer}
    before: dict[str, list[Any]] = {}
    replaced: dict[str, str] = {}
    for node in list(_weighted(made)):
        activation, weight = node.input[0], node.input[1]
        if activation not in results:
            continue
        if activation not in replaced:
            replaced[activation] = _add_activation(made, activation, results[activation], before)
        axis = _channel_axis(node, len(weights[weight].dims)) if per_channel else None
        key = f"{weight}.{axis}"
        if key not in replaced:
            replaced[key] = _add_weight(made, key, numpy_helper.to_array(weights[weight]), axis, before)
        node.input[0], node.input[1] = replaced[activation], replaced[key]
    _insert(made, before)
    _drop_unused(made)
    _raise_opset(made, 13)
    onnx.checker.check_model(made)
    with OutputFile(path, force=force) as file:
        file.write(made.SerializeToString())
    return {name: result for name, result in results.items() if name in replaced}


def _load(model: Any) -> Any:
    if isinstance(model, onnx.ModelProto):
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        return copied
    if not isinstance(model, str | os.PathLike):
        raise InvalidTypeError(f"model: expected a path or an onnx.ModelProto, got {brief(model)}")
    return onnx.load(model)


def _weighted(model: Any) -> Iterator[Any]:
    """The nodes whose weight is a float32 initializer."""
    floats = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1}
    for node in model.graph.node:
        if node.op_type in _WEIGHTED and len(node.input) > 1 and node.input[_WEIGHTED[node.op_type]] in floats:
            yield node


def _channel_axis(node: Any, n_dims: int) -> int:
    """The axis of a weight that is that of the outputs."""
    if node.op_type == "Conv":
        return 0
    is_transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return n_dims - 2 if node.op_type == "Gemm" and is_transposed else n_dims - 1


def _add_activation(model: Any, name: str, result: CalibrationResult, before: dict[str, list[Any]]) -> str:
    params = result.params
    zero_point = np.array(result.zero_point, np.int8 if params.mode is QuantMode.SYMMETRIC else np.uint8)
    inputs = _parameters(model, f"{name}.quantized", np.float32(result.scale), zero_point)
    codes, decoded = f"{name}.quantized.codes", f"{name}.quantized"
    before[name] = [
        helper.make_node("QuantizeLinear", [name, *inputs], [codes]),
        helper.make_node("DequantizeLinear", [codes, *inputs], [decoded]),
    ]
    return decoded


def _add_weight(model: Any, key: str, values: Any, axis: int | None, before: dict[str, list[Any]]) -> str:
    made = quantize_tensor(np.array(values), QuantGranularity(axis=axis))
    scales, zero_points = made.params.scales, made.params.zero_points.astype(np.int8)
    shape = () if axis is None else (-1,)
    inputs = _parameters(model, f"{key}.quantized", scales.reshape(shape), zero_points.reshape(shape))
    codes, decoded = f"{key}.quantized.codes", f"{key}.quantized"
    model.graph.initializer.append(numpy_helper.from_array(made.data, codes))
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    before.setdefault("", []).append(helper.make_node("DequantizeLinear", [codes, *inputs], [decoded], **attributes))
    return decoded


def _parameters(model: Any, name: str, scale: Any, zero_point: Any) -> tuple[str, str]:
    names = f"{name}.scale", f"{name}.zero_point"
    for label, value in zip(names, (scale, zero_point), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), label))
    return names


def _insert(model: Any, before: dict[str, list[Any]]) -> None:
    """Put new nodes behind those that make their inputs: first the weights and what the inputs of the model need."""
    made_by_nodes = {name for node in model.graph.node for name in node.output}
    nodes = list(before.get("", ()))
    nodes += [node for name, added in before.items() if name and name not in made_by_nodes for node in added]
    for node in model.graph.node:
        nodes.append(node)
        nodes += [new for name in node.output for new in before.get(name, ())]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _drop_unused(model: Any) -> None:
    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)


def _raise_opset(model: Any, least: int) -> None:
    """Channels of DequantizeLinear are known from this operator set on."""
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version < least:
            raise InvalidValueError(f"model: operator set {opset.version}, at least {least} is needed")

"""Activations of ONNX models observed in ONNX Runtime, and models written with quantized weights and activations."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx
import onnxruntime
from onnx import helper

from quantcore._base import arguments
from quantcore._base.text import brief, did_you_mean, reason
from quantcore.calibration.calibrator import Calibrator
from quantcore.calibration.results import CalibrationResult
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.files.disk import OutputFile
from quantcore.onnx.graphs import OPERATORS, insert, load_model, quantized_activations, remove_unused, weighted_nodes
from quantcore.onnx.nodes import NodeMaker

__all__ = ["calibrate_activations", "quantize_static"]

_OPERATORS = ", ".join(OPERATORS)


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
        There is no such node, no batch, or an activation is not finite: it is named. The file is no ONNX model, or ONNX
        Runtime refuses the model or a batch.
    TypeError
        An argument has another type.
    OSError
        The file cannot be read.
    """
    if not isinstance(calibrator, Calibrator):
        raise InvalidTypeError(f"calibrator: expected a Calibrator, got {brief(calibrator)}")
    if calibrator.has_data or calibrator.axis is not None:
        raise InvalidValueError("calibrator: expected one without data and without an axis")
    watched = load_model(model)
    initial = {tensor.name for tensor in watched.graph.initializer}
    names = [name for name in quantized_activations(watched) if name not in initial]
    outputs = {output.name for output in watched.graph.output}
    inputs = {tensor.name for tensor in watched.graph.input}
    for name in names:
        if name not in outputs and name not in inputs:
            watched.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = _session(watched)
    made = {name: Calibrator.from_dict(calibrator.to_dict()) for name in names}
    wanted = [name for name in names if name not in inputs]
    for batch in arguments.iterator(batches, "batches", "mappings"):
        values = dict(zip(wanted, _run(session, wanted, batch), strict=True))
        for name, observer in made.items():
            observer.observe_named(values[name] if name in values else batch[name], name)
    if not all(observer.has_data for observer in made.values()):
        raise InvalidValueError("batches: nothing was observed")
    return made


def quantize_static(
    model: Any,
    path: str | os.PathLike[str],
    calibrators: Mapping[str, Calibrator],
    *,
    per_channel: bool = True,
    reduce_range: bool = False,
    force: bool = False,
) -> dict[str, CalibrationResult]:
    """Write a model with QuantizeLinear and DequantizeLinear at the activations and weights of its nodes.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Not changed. Operator set 13 or later. What is in float16 is quantized from 19 on, with scales in float16.
    path : path
        The output, written atomically.
    calibrators : mapping of str to Calibrator
        What `calibrate_activations` returned; 8 bits. Nodes whose activation has none stay in floats.
    per_channel : bool, default True
        One scale per output channel of a weight; False, or for stacked matrices: one per weight. Weights are int8,
        symmetric.
    reduce_range : bool, default False
        Give weights 7 bits, as ONNX Runtime's own `quantize_static` does: on x86-64 CPUs without VNNI, its products of
        uint8 and int8 saturate, and outputs may be far off with 8 bits.
    force : bool, default False
        Replace an existing file.

    Returns
    -------
    dict of str to CalibrationResult
        The scales of the activations.

    Raises
    ------
    ValueError
        The operator set is too old; a calibrator has other bits, or there is none, or one for an activation that no
        quantized node of this model takes; the weights are not in the model; the file is no ONNX model.
    OSError
        The output exists, is the model itself or cannot be written; the model cannot be read.
    """
    made = load_model(model)
    _check_names(calibrators, quantized_activations(made))
    if bad := [name for name, calibrator in calibrators.items() if calibrator.bits != 8]:
        raise InvalidValueError(f"calibrators: expected 8 bits, got {calibrators[bad[0]].bits} for {bad[0]!r}")
    results = {name: calibrator.compute_named(name) for name, calibrator in calibrators.items()}
    weight_bits = 7 if arguments.flag(reduce_range, "reduce_range") else 8
    maker = NodeMaker(made, per_channel=arguments.flag(per_channel, "per_channel"), weight_bits=weight_bits)
    used = {}
    for node in list(weighted_nodes(made)):
        activation, weight = node.input[0], node.input[1]
        if activation in results:
            used[activation] = results[activation]
            node.input[0] = maker.activation(activation, results[activation], weight)
            node.input[1] = maker.weight(node, weight)
    insert(made, maker.nodes)
    remove_unused(made)
    onnx.checker.check_model(made)
    inputs = () if isinstance(model, onnx.ModelProto) else (model,)
    with OutputFile(path, force=force, inputs=inputs) as file:
        file.write(made.SerializeToString())
    return used


@contextlib.contextmanager
def _refusals(said: str) -> Iterator[None]:
    """Errors of ONNX Runtime as those of a parameter."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # of classes of its own, which have no common base but this one
        raise InvalidValueError(f"{said}: {reason(error)}") from None


def _session(model: Any) -> onnxruntime.InferenceSession:
    with _refusals("model: ONNX Runtime does not load it"):
        return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, wanted: list[str], batch: Any) -> list[Any]:
    """The values of some outputs for a batch, whose names are those of the model's inputs."""
    if not isinstance(batch, Mapping):
        raise InvalidTypeError(f"batches: expected mappings from input names to arrays, got {brief(batch)}")
    inputs = [entry.name for entry in session.get_inputs()]
    for name in batch:
        if name not in inputs:
            raise InvalidValueError(f"batches: {brief(name)} is no input of the model; it has {', '.join(inputs)}")
    for name in inputs:
        if name not in batch:
            raise InvalidValueError(f"batches: the input {name!r} is missing")
    with _refusals("batches: ONNX Runtime refuses one"):
        return list(session.run(wanted, dict(batch))) if wanted else []


def _check_names(calibrators: Mapping[str, Calibrator], activations: list[str]) -> None:
    if not arguments.mapping(calibrators, "calibrators", "from names to Calibrators"):
        raise InvalidValueError("calibrators: expected at least one, as calibrate_activations returns them")
    for name, calibrator in calibrators.items():
        if not isinstance(calibrator, Calibrator):
            raise InvalidTypeError(f"calibrators: expected Calibrators, got {brief(calibrator)}")
        if arguments.text(name, "calibrators: name") not in activations:
            hint = did_you_mean(name, activations)
            raise InvalidValueError(f"calibrators: {brief(name)} is the input of no {_OPERATORS} to quantize{hint}")

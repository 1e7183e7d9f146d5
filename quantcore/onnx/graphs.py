"""Models as graphs: loaded with all their weights as initializers, and changed so that they stay valid."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
from onnx import TensorProto, external_data_helper

from quantcore._base.text import brief, reason
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError
from quantcore.files.disk import InputFile, label
from quantcore.files.kinds import HEAD_BYTES, kind_of

__all__ = [
    "OPERATORS",
    "insert",
    "load_model",
    "names_in",
    "opset_of",
    "quantized_activations",
    "remove_unused",
    "weighted_nodes",
]

OPERATORS = ("MatMul", "Gemm", "Conv")
"""The operators that are quantized; the weight is the second input."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_HALF_OPSET = 19
"""The operator set from which on values in float16 can be quantized."""
_OWN_INITIALIZERS = 4
"""The version of the format from which on initializers need not be inputs of the graph."""


def load_model(model: Any) -> Any:
    """A copy of a model; constant tensors are initializers in it, and no initializer is an input.

    Raises
    ------
    ValueError
        The weights are in a file of their own that was not loaded, or the file is no ONNX model.
    TypeError
        It is neither a path nor an `onnx.ModelProto`.
    OSError
        The file, or one with its weights, cannot be read.
    """
    if isinstance(model, onnx.ModelProto):
        made = onnx.ModelProto()
        made.CopyFrom(model)
        for tensor in made.graph.initializer:
            if external_data_helper.uses_external_data(tensor):
                raise InvalidValueError(f"model: {tensor.name!r} is in a file of its own; give the path of the model")
    elif isinstance(model, str | os.PathLike):
        made = _read(model)
    else:
        raise InvalidTypeError(f"model: expected a path or an onnx.ModelProto, got {brief(model)}")
    nodes = []
    for node in made.graph.node:
        values = [a.t for a in node.attribute if a.name == "value"] if node.op_type == "Constant" else []
        if values and values[0].data_type in _FLOATS:
            tensor = made.graph.initializer.add()
            tensor.CopyFrom(values[0])
            tensor.name = node.output[0]
        else:
            nodes.append(node)
    _replace(made.graph.node, nodes)
    initial = {tensor.name for tensor in made.graph.initializer}
    _replace(made.graph.input, [entry for entry in made.graph.input if entry.name not in initial])
    made.ir_version = max(made.ir_version, _OWN_INITIALIZERS)
    return made


def _read(path: str | os.PathLike[str]) -> Any:
    with InputFile(path) as file:
        kind = kind_of(file.read(0, min(HEAD_BYTES, file.size)))
    if kind is not None:
        raise FileFormatError(f"{label(path)}: is {kind.name}, not an ONNX model")
    try:
        made = onnx.load(path)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # protobuf's, or a ValidationError about a file with weights
        raise FileFormatError(f"{label(path)}: cannot be read as an ONNX model: {reason(error)}") from None
    if not made.graph.node:
        raise FileFormatError(f"{label(path)}: is no ONNX model: it has no nodes")
    return made


def weighted_nodes(model: Any) -> Iterator[Any]:
    """The nodes whose weight is a constant matrix, or more, of floats that can be quantized."""
    kinds = _FLOATS if opset_of(model) >= _HALF_OPSET else _FLOATS[:1]
    floats = {t.name for t in model.graph.initializer if t.data_type in kinds and len(t.dims) > 1}
    for node in model.graph.node:
        if node.op_type in OPERATORS and node.domain in ("", "ai.onnx") and node.input[1] in floats:
            yield node


def quantized_activations(model: Any) -> list[str]:
    """The names of the first inputs of the `weighted_nodes`, each once.

    Raises
    ------
    ValueError
        There is no such node.
    """
    names = list(dict.fromkeys(node.input[0] for node in weighted_nodes(model)))
    if not names:
        raise InvalidValueError(
            f"model: no {', '.join(OPERATORS)} with a constant weight of float32 (of float16 from operator set 19 on)"
        )
    return names


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators; 0 if the model uses none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def names_in(graph: Any) -> set[str]:
    """All names of values in a graph and in the graphs within its nodes."""
    names = {entry.name for part in (graph.initializer, graph.input, graph.output) for entry in part}
    for node in graph.node:
        names.update(node.input, node.output)
        names.update(*(names_in(inner) for inner in _graphs_within(node)))
    return names


def insert(model: Any, nodes: Mapping[str, Sequence[Any]]) -> None:
    """Put new nodes behind the node that makes their input, or to the start if none makes it."""
    made_by_nodes = {name for node in model.graph.node for name in node.output}
    ordered = [node for name, added in nodes.items() if name not in made_by_nodes for node in added]
    for node in model.graph.node:
        ordered.append(node)
        ordered += [new for name in node.output for new in nodes.get(name, ())]
    _replace(model.graph.node, ordered)


def remove_unused(model: Any) -> None:
    """Remove the initializers that nothing takes."""
    used = {output.name for output in model.graph.output}
    for node in model.graph.node:
        used.update(node.input, *(names_in(inner) for inner in _graphs_within(node)))
    _replace(model.graph.initializer, [tensor for tensor in model.graph.initializer if tensor.name in used])


def _graphs_within(node: Any) -> Iterator[Any]:
    """The branches of an If, the body of a Loop."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _replace(entries: Any, others: list[Any]) -> None:
    copies = [type(other).FromString(other.SerializeToString()) for other in others]
    del entries[:]
    entries.extend(copies)

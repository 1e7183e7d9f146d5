"""Exported to ONNX, a model has QuantizeLinear and DequantizeLinear, and ONNX Runtime computes the same codes."""

import io
import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from quantcore import QuantGranularity
from quantcore.torch import FakeQuantize, convert
from tests.torch.test_export import KINDS, trained

ACTIVATION_BITS = {"8 bits": (8, False), "4 bits": (4, True), "16 bits": (16, False), "5 bits": (5, True)}


def exported(model: nn.Module, x: torch.Tensor, **options: Any) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if options.get("dynamo"):
            program = torch.onnx.export(model, (x,), verbose=False, opset_version=21, **options)
            return program.model_proto.SerializeToString()
        file = io.BytesIO()
        torch.onnx.export(model, (x,), file, **options)
        return file.getvalue()


def run(data: bytes, x: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def operators(data: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(data).graph.node)


@pytest.mark.slow
@pytest.mark.parametrize("is_converted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_computes_the_same(kind, is_converted):
    model = trained(KINDS[kind])
    if is_converted:
        convert(model)
    x = torch.randn(4, 3, 6, 6)
    data = exported(model, x, dynamo=True)
    found = operators(data)
    assert found["QuantizeLinear"] >= 2
    assert found["DequantizeLinear"] >= 4
    assert np.abs(run(data, x) - model(x).detach().numpy()).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("bits", ACTIVATION_BITS)
def test_activations_of_other_widths(bits):
    model = convert(trained(KINDS["per channel, 8 bits"], *ACTIVATION_BITS[bits]))
    x = torch.randn(4, 3, 6, 6)
    data = exported(model, x, dynamo=True)
    assert np.abs(run(data, x) - model(x).detach().numpy()).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_codes_are_the_same_in_onnx_runtime(bits, symmetric, axis):
    x = torch.randn(40, 50) * 3
    layer = FakeQuantize(bits, symmetric, granularity=QuantGranularity(axis=axis), observer="percentile")
    layer(x)
    layer.disable_observer()
    scale = layer.scale if axis is None else layer.scale.reshape([-1 if i == axis else 1 for i in range(2)])
    ours, theirs = (y / scale.numpy() for y in (layer(x).numpy(), run(exported(layer, x, dynamo=True), x)))
    assert np.array_equal(np.rint(ours), np.rint(theirs))


@pytest.mark.slow
@pytest.mark.parametrize("is_converted", [False, True])
def test_the_older_exporter(is_converted):
    model = trained(KINDS["per channel, 8 bits"], 8)
    if is_converted:
        convert(model)
    x = torch.randn(4, 3, 6, 6)
    data = exported(model, x, dynamo=False, opset_version=17)
    assert operators(data)["QuantizeLinear"] >= 2
    assert np.abs(run(data, x) - model(x).detach().numpy()).max() < 1e-4

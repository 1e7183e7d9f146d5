"""ONNX models: activations calibrated with quantcore's calibrators, and written as QuantizeLinear and DequantizeLinear.

Needs the extra `onnx`. Nothing in quantcore imports this package.

Modules
-------
static : `calibrate_activations` and `quantize_static`.
nodes : the nodes and initializers that are added.
graphs : reading a model, and putting nodes into its graph.
"""

from quantcore._base.extras import missing_extra as _missing_extra

try:
    import onnx as _onnx  # noqa: F401
    import onnxruntime as _onnxruntime  # noqa: F401
except ImportError as _error:
    raise _missing_extra("quantcore.onnx", "onnx", _error) from None

from quantcore.onnx.static import calibrate_activations, quantize_static

__all__ = ["calibrate_activations", "quantize_static"]

"""Quantization-aware training: fake quantization, the straight-through estimator, learned step sizes.

Modules
-------
config : which codes values are rounded to.
fake_quant : the forward and backward pass with given parameters.
quantizer : the object that calibrates itself.
lsq : gradients of scales and zero points.
"""

from quantcore.qat.config import FakeQuantConfig
from quantcore.qat.fake_quant import fake_quantize_backward, fake_quantize_with_params, ste_backward
from quantcore.qat.lsq import LsqGradients, lsq_backward
from quantcore.qat.quantizer import FakeQuantize, fake_quantize

__all__ = [
    "FakeQuantConfig",
    "FakeQuantize",
    "LsqGradients",
    "fake_quantize",
    "fake_quantize_backward",
    "fake_quantize_with_params",
    "lsq_backward",
    "ste_backward",
]

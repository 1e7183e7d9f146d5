"""Affine codes, `x = (code - zero_point) * scale`: parameters per tensor, per channel and per group, and both ways.

Modules
-------
params : `QuantParams`; modes, granularity : `QuantMode` and `QuantGranularity`, and the checks of them.
from_extremes : parameters from the extremes of an array, `calibrate_per_*`.
tensor : arrays to codes and back, and the record of both.
part_params : the parameters of a part of an array.
nibbles : two 4-bit codes per byte.
sharing : which elements share a scale, as groups or columns for the kernels.
passes : the kernels over those: extremes, codes, values.
"""

from quantcore.affine.from_extremes import calibrate_per_channel, calibrate_per_group, calibrate_per_tensor
from quantcore.affine.granularity import QuantGranularity
from quantcore.affine.modes import QuantMode
from quantcore.affine.nibbles import pack_nibbles, unpack_nibbles
from quantcore.affine.params import QuantParams
from quantcore.affine.tensor import (
    QuantizedTensor,
    dequantize_tensor,
    dequantize_with_params,
    quantize_tensor,
    quantize_with_params,
)

__all__ = [
    "QuantGranularity",
    "QuantMode",
    "QuantParams",
    "QuantizedTensor",
    "calibrate_per_channel",
    "calibrate_per_group",
    "calibrate_per_tensor",
    "dequantize_tensor",
    "dequantize_with_params",
    "pack_nibbles",
    "quantize_tensor",
    "quantize_with_params",
    "unpack_nibbles",
]

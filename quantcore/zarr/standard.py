"""Affine parameters in zarr's own codecs `scale_offset` and `cast_value`, which readers without quantcore know.

Sources: the registry zarr-extensions (`codecs/scale_offset`, `codecs/cast_value`). zarr-python has them from 3.2 on.
"""

from typing import Any

import numpy as np

from quantcore.affine import QuantMode, QuantParams
from quantcore.affine.params import check_params
from quantcore.errors import InvalidValueError

__all__ = ["standard_codecs"]


def standard_codecs(params: QuantParams) -> tuple[dict[str, Any], dict[str, Any]]:
    """The codecs `scale_offset` and `cast_value` of the same codes, for `zarr.create_array(filters=...)`.

    Parameters
    ----------
    params : QuantParams
        Per tensor, of 8 bits.

    Returns
    -------
    (dict, dict)
        Their metadata, for arrays of float32.

    Raises
    ------
    ValueError
        There are several scales, or codes of fewer bits, which the two codecs cannot tell; a scale is so small that its
        reciprocal is infinite.
    TypeError
        `params` is not a QuantParams.

    Notes
    -----
    The codecs store `(x - offset) * (1 / scale)`, rounded half to even, which is what `quantize_with_params` does with
    offsets and symmetrically; the asymmetric zero point becomes the offset `-zero_point * scale`, where a code beside a
    tie may differ by one. Beyond the range they clamp at -128 rather than -127. They decode by dividing by `1 / scale`:
    values differ from `dequantize_with_params` by up to two units in the last place of the largest.
    """
    params = check_params(params)
    if params.num_groups != 1 or params.granularity.group_size is not None or params.bits != 8:
        raise InvalidValueError(
            f"params: expected one scale and 8 bits, got {params.num_groups} scales {params.granularity.name} and "
            f"{params.bits} bits"
        )
    with np.errstate(over="ignore"):
        inverse = np.float32(1) / params.scales[0]
    if not np.isfinite(inverse):
        raise InvalidValueError(f"params: the reciprocal of the scale {params.scales[0]} is infinite")
    offset = -float(params.zero_points[0]) * float(params.scales[0])
    if params.mode is QuantMode.OFFSET and params.offsets is not None:
        offset = float(params.offsets[0])
    scaled = {"offset": float(np.float32(offset)) + 0.0, "scale": float(inverse)}
    cast = {"data_type": str(params.code_dtype), "rounding": "nearest-even", "out_of_range": "clamp"}
    return {"name": "scale_offset", "configuration": scaled}, {"name": "cast_value", "configuration": cast}

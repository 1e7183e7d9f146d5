"""What a calibrator leaves out of a batch: masked values, such as padding, and NaN where `nan_policy` says so."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore.affine.granularity import QuantGranularity
from quantcore.errors import InvalidTypeError, InvalidValueError

NAN_POLICIES = ("raise", "omit")


def check_nan_policy(nan_policy: Any) -> str:
    """One of `NAN_POLICIES`."""
    return arguments.choice(nan_policy, "nan_policy", NAN_POLICIES)


def kept_channels(
    source: arrays.Floats, granularity: QuantGranularity, mask: Any, nan_policy: str, name: str
) -> list[NDArray[Any]]:
    """The values of each channel that are left, in order of their place in the batch.

    Raises
    ------
    ValueError
        `mask` does not broadcast to the batch; what is left holds inf (or NaN); of several channels one is left empty.
    TypeError
        `mask` is not boolean.
    """
    values = source.values(0, source.size).reshape(source.shape)
    keep = ~np.isnan(values) if nan_policy == "omit" else np.ones(source.shape, bool)
    if mask is not None:
        keep &= _mask(mask, source.shape)
    bad = np.flatnonzero(keep & ~arrays.are_finite(values))
    if bad.size:
        arrays.refuse_range(source, name, int(bad[0]), int(bad[0]) + 1)
    axis = granularity.axis
    if axis is None:
        return [values[keep]]
    rows, kept = (np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1) for a in (values, keep))
    channels = [row[is_kept] for row, is_kept in zip(rows, kept, strict=True)]
    if any(channel.size for channel in channels):
        for i, channel in enumerate(channels):
            if not channel.size:
                raise InvalidValueError(f"{name}: no value of channel {i} along axis {axis} is left")
    return channels


def _mask(mask: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if (torch := arrays.torch_of(mask)) is not None:
        mask, _ = arrays.from_torch(mask, "mask", torch)
    mask = arrays.as_array(mask, "mask")
    if mask.dtype != np.bool_:
        raise InvalidTypeError(f"mask: expected bool, True where values count, got dtype {mask.dtype}")
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise InvalidValueError(f"mask: shape {mask.shape} does not broadcast to that of the batch, {shape}") from None

"""The parameters of a part of an array: those of its channels or groups, out of the whole array's."""

from dataclasses import replace
from math import prod

import numpy as np

from quantcore.affine.params import QuantParams
from quantcore.errors import InvalidValueError

Location = list[tuple[int, int]]
"""Where a part lies: start and stop in each dimension."""


def params_of_part(params: QuantParams, shape: tuple[int, ...], location: Location) -> QuantParams:
    """The parameters of the part at `location` of an array of a shape that they fit.

    Raises
    ------
    InvalidValueError
        The part begins or ends inside a group.
    """
    granularity = params.granularity
    if granularity.axis is not None:
        start, stop = location[granularity.axis]
        chosen = np.arange(start, stop)
    elif granularity.group_size is not None:
        size = granularity.group_size
        start, stop = location[-1]
        if start % size or (stop % size and stop != shape[-1]):
            raise InvalidValueError(f"array: a part with columns {start} to {stop} cuts a group of {size}")
        rows = (*shape[:-1], -(-shape[-1] // size))
        numbers = np.arange(prod(rows)).reshape(rows)
        slices = (*(slice(*place) for place in location[:-1]), slice(start // size, -(-stop // size)))
        chosen = numbers[slices].ravel()
    else:
        return params
    if chosen.size == params.num_groups:
        return params
    if not chosen.size:
        rest = (params.mode, params.bits, params.quant_min, params.quant_max)
        return QuantParams.without_scales(granularity, *rest)
    offsets = None if params.offsets is None else params.offsets[chosen]
    return replace(params, scales=params.scales[chosen], zero_points=params.zero_points[chosen], offsets=offsets)

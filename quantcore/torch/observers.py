"""The calibrators of fake-quantize modules: up to 16 bits, and one statistic for all processes of a training."""

from typing import Any

import torch

from quantcore.affine.modes import MOST_BITS
from quantcore.calibration.calibrator import Calibrator
from quantcore.calibration.files import batch_of

__all__ = ["Observer", "is_distributed", "observe_together"]


class Observer(Calibrator):
    """A calibrator for codes that are not stored."""

    _most_bits = MOST_BITS


def is_distributed() -> bool:
    """Whether several processes train together."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def observe_together(observer: Calibrator, x: torch.Tensor, name: str, *, is_shared: bool) -> None:
    """Observe a tensor of this name; if it is shared, what every process has observed, in the order of ranks.

    Statistics merge exactly, so all processes get the same scales, those of one process with the whole batch. For a
    moving average the extremes of the whole batch are one step.
    """
    if not is_shared or not is_distributed():
        observer.observe_named(x, name)
        return
    is_average = observer.method.name == "moving_average"
    part = _empty_like(observer, is_average)
    part.observe_named(x, name)
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, part.to_dict())
    whole = _empty_like(observer, is_average)
    for state in parts:
        whole.merge(Observer.from_dict(state))
    if is_average:
        result = whole.compute_named(name)
        observer.observe_named(batch_of(result.observed_min, result.observed_max, x.ndim, observer.axis), name)
    else:
        observer.merge(whole)


def _empty_like(observer: Calibrator, is_average: bool) -> Calibrator:
    options: dict[str, Any] = {"axis": observer.axis, "narrow_range": observer.narrow_range}
    if is_average:
        return Observer.min_max(observer.bits, observer.symmetric, **options)
    return Observer(observer.method, observer.bits, observer.symmetric, **options)

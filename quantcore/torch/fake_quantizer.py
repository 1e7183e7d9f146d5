"""The module that observes what passes through it and fake-quantizes it, with scales that are observed or learned."""

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from quantcore import _arrays, affine
from quantcore.affine_parameters import params_within
from quantcore.calibration import Calibrator
from quantcore.calibration_records import CalibrationMethod
from quantcore.errors import InvalidStateError, InvalidTypeError, InvalidValueError
from quantcore.granularity import QuantGranularity, QuantMode, QuantParams, check_bits, check_granularity, code_range
from quantcore.tables import brief
from quantcore.torch import _tensors
from quantcore.torch.functional import fake_quantize, learned, learned_params

__all__ = ["FakeQuantize"]

_STATE_VERSION = 1
_SWITCHES = ("is_fake_quant_enabled", "is_observer_enabled")
_BY_NAME = ("min_max", "moving_average", "percentile", "entropy", "mse")


class FakeQuantize(_tensors.ChecksState, _tensors.KeepsDtypes, nn.Module):
    """Observes a tensor, and returns it quantized and dequantized: what QAT puts on weights and activations.

    Parameters
    ----------
    bits : int, default 8
        2 to 8.
    symmetric : bool, default True
        Codes around 0; False: from 0 to `2**bits - 1`, with a zero point.
    granularity : QuantGranularity, optional
        None: per tensor.
    narrow_range : bool, default True
        Symmetric codes from -qmax; False: from -qmax - 1, as torch's observers.
    observer : str or CalibrationMethod, default "min_max"
        "current": parameters of each tensor alone, which suits weights, and the only one per group. Or what
        `quantcore.Calibrator` makes of all tensors so far: "min_max", "moving_average", "percentile", "entropy", "mse",
        or a CalibrationMethod with parameters of its own.
    learn_scale : bool, default False
        LSQ: the observer gives the first scales (and zero points), which then are parameters that are trained.

    Attributes
    ----------
    scale : torch.Tensor or torch.nn.Parameter, float32, shape (num_groups,)
        Without elements before the first tensor.
    zero_point : torch.Tensor, int32; or torch.nn.Parameter, float32 (asymmetric codes that are learned)
        Of the shape of `scale`.
    params : QuantParams
        The same as a record.

    Raises
    ------
    ValueError, TypeError
        A parameter is not one of the allowed; the message names it.

    Notes
    -----
    As in torch, the observer follows its own switch and not `train()` or `eval()`: `model.apply(disable_observer)`
    before a model is evaluated. `.half()` and the like leave scales and zero points as they are. A learned scale keeps
    its Parameter when it gets its first value, so an optimizer may be made before or after that.

    Examples
    --------
    >>> fq = FakeQuantize(bits=2, observer="current")
    >>> fq(torch.tensor([-1.0, -0.4, 0.7, 1.0]))
    tensor([-1.,  0.,  1.,  1.])
    """

    _exact = ("scale", "zero_point")

    def __init__(
        self,
        bits: int = 8,
        symmetric: bool = True,
        *,
        granularity: QuantGranularity | None = None,
        narrow_range: bool = True,
        observer: str | CalibrationMethod = "min_max",
        learn_scale: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("symmetric", symmetric), ("narrow_range", narrow_range), ("learn_scale", learn_scale)):
            if not isinstance(value, bool):
                raise InvalidTypeError(f"{name}: expected a bool, got {brief(value)}")
        self.bits = check_bits(bits)
        self.mode = QuantMode.SYMMETRIC if symmetric else QuantMode.ASYMMETRIC
        self.granularity = check_granularity(granularity)
        self.narrow_range = narrow_range
        self.quant_min, self.quant_max = code_range(self.bits, self.mode, narrow_range=narrow_range)
        self.learn_scale = learn_scale
        self.observer = self._new_observer(observer)
        self.is_fake_quant_enabled = True
        self.is_observer_enabled = True
        if learn_scale:
            self.scale = nn.Parameter(torch.empty(0))
        else:
            self.register_buffer("scale", torch.empty(0))
        if learn_scale and not symmetric:
            self.zero_point = nn.Parameter(torch.empty(0))
        else:
            self.register_buffer("zero_point", torch.empty(0, dtype=torch.int32))

    def _new_observer(self, observer: Any) -> Calibrator | None:
        if isinstance(observer, str) and observer == "current":
            return None
        if isinstance(observer, str) and observer not in _BY_NAME:
            raise InvalidValueError(f"observer: expected one of current, {', '.join(_BY_NAME)}, got {brief(observer)}")
        if not isinstance(observer, str | CalibrationMethod):
            raise InvalidTypeError(f"observer: expected a name or a CalibrationMethod, got {brief(observer)}")
        if self.granularity.group_size is not None:
            raise InvalidValueError(f"observer: expected 'current', which alone works per group, got {brief(observer)}")
        symmetric = self.mode is QuantMode.SYMMETRIC
        options: dict[str, Any] = {"axis": self.granularity.axis, "narrow_range": self.narrow_range}
        if isinstance(observer, CalibrationMethod):
            return Calibrator(observer, self.bits, symmetric, **options)
        made: Calibrator = getattr(Calibrator, observer)(self.bits, symmetric, **options)
        return made

    @property
    def is_calibrated(self) -> bool:
        """Whether there are scales."""
        return self.scale.numel() > 0

    @property
    def params(self) -> QuantParams:
        """The parameters as a record. Before the first tensor: InvalidStateError."""
        if not self.is_calibrated:
            raise InvalidStateError("FakeQuantize: has no scale yet; enable its observer, or call calibrate")
        if self.learn_scale:
            zero_point = None if self.mode is QuantMode.SYMMETRIC else self.zero_point
            return learned_params(self.scale, zero_point, self.bits, self.mode, self.granularity, self.narrow_range)
        scales, zero_points = _tensors.array(self.scale, "scale"), _tensors.array(self.zero_point, "zero_point")
        return QuantParams(scales, zero_points, self.granularity, self.mode, self.bits, self.quant_min, self.quant_max)

    @_tensors.eager
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Observe `x` if that is enabled, fake-quantize it if that is."""
        if self.is_observer_enabled and not (self.learn_scale and self.is_calibrated):
            self.calibrate(x)
        return self._fake_quantized(x)

    @_tensors.eager
    def preview(self, x: torch.Tensor) -> torch.Tensor:
        """What `forward` would return now, with nothing observed; before the first tensor, as if `x` were that."""
        is_kept = self.is_calibrated and (self.learn_scale or not self.is_observer_enabled)
        if is_kept or not self.is_fake_quant_enabled or not x.numel():
            return self._fake_quantized(x)
        return fake_quantize(x, self._observed(x, copy.deepcopy(self.observer)))

    def _fake_quantized(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_fake_quant_enabled or not x.numel():
            return x
        if not self.learn_scale:
            return fake_quantize(x, self.params)
        zero_point = None if self.mode is QuantMode.SYMMETRIC else self.zero_point
        return learned(x, self.scale, zero_point, self.params, None)

    def calibrate(self, x: torch.Tensor) -> None:
        """Observe `x`, and take scales and zero points from all that was observed; nothing of an empty tensor."""
        _tensors.floats(x, "x")
        if not x.numel():
            return
        params = self._observed(x, self.observer)
        self._set("scale", params.scales)
        self._set("zero_point", params.zero_points)

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Let tensors be quantized, or pass as they are."""
        self.is_fake_quant_enabled = bool(enabled)

    def disable_fake_quant(self) -> None:
        """Let tensors pass as they are."""
        self.enable_fake_quant(False)

    def enable_observer(self, enabled: bool = True) -> None:
        """Let tensors change the scales, or not."""
        self.is_observer_enabled = bool(enabled)

    def disable_observer(self) -> None:
        """Keep the scales."""
        self.enable_observer(False)

    def get_extra_state(self) -> torch.Tensor:
        """What was observed, and which of the switches are on, for `state_dict`."""
        switches = {name: getattr(self, name) for name in _SWITCHES}
        observed = None if self.observer is None else self.observer.to_dict()
        return _tensors.packed_state(_STATE_VERSION, self._layout() | switches | {"observed": observed})

    def set_extra_state(self, state: Any) -> None:
        """Take over what was observed; refused if it was observed with other parameters."""
        fields, self.observer = self._checked_state(state)
        for name in _SWITCHES:
            setattr(self, name, bool(fields[name]))

    def _checked_state(self, state: Any) -> tuple[dict[str, Any], Calibrator | None]:
        others = (*_SWITCHES, "observed")
        fields = _tensors.unpacked_state(state, _STATE_VERSION, self._layout(), "FakeQuantize", others)
        if self.observer is None:
            return fields, None
        observer = Calibrator.from_dict(fields["observed"])
        for name in ("name", "averaging_constant", "lower", "upper"):
            ours, theirs = getattr(self.observer.method, name), getattr(observer.method, name)
            if ours != theirs:
                raise InvalidValueError(f"{name}: the observer has {ours!r}, the state_dict {theirs!r}")
        for name in ("bits", "symmetric", "narrow_range", "axis"):
            if fields["observed"].get(name) != fields[name]:
                raise InvalidValueError(f"{name}: the observer of the state_dict contradicts the rest of it")
        return fields, observer

    def extra_repr(self) -> str:
        """What stands in the parentheses of `repr`."""
        layout = ", ".join(f"{name}={value!r}" for name, value in self._layout().items() if value is not None)
        return f"{layout}, num_groups={self.scale.numel()}"

    def _layout(self) -> dict[str, Any]:
        return {
            "bits": self.bits,
            "symmetric": self.mode is QuantMode.SYMMETRIC,
            "narrow_range": self.narrow_range,
            "axis": self.granularity.axis,
            "group_size": self.granularity.group_size,
            "method": "current" if self.observer is None else self.observer.method.name,
            "learn_scale": self.learn_scale,
        }

    def _observed(self, x: torch.Tensor, observer: Calibrator | None) -> QuantParams:
        """The parameters after `x`."""
        if observer is not None:
            observer.observe(x)
            return observer.compute().params
        source = _arrays.floats(x, "x")
        bounds = affine.extremes(source, self.granularity.sharing(source.shape), "x", None)
        limits = code_range(self.bits, self.mode, narrow_range=self.narrow_range)
        return params_within(bounds, self.granularity, self.bits, self.mode, limits)

    def _set(self, name: str, values: Any) -> None:
        """New values for a buffer or a parameter, which stays the same object."""
        tensor = getattr(self, name)
        tensor.data = _tensors.tensor_of(np.asarray(values)).to(tensor.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        if (key := prefix + "_extra_state") in state_dict:
            self._checked_state(state_dict[key])
        # The number of scales is known from the first tensor only: it is the state's.
        for name in self._exact:
            values = state_dict.get(prefix + name)
            if isinstance(values, torch.Tensor):
                tensor = getattr(self, name)
                tensor.data = torch.empty(values.shape, dtype=tensor.dtype, device=tensor.device)
        super()._load_from_state_dict(state_dict, prefix, *others)

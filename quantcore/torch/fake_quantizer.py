"""The module that observes tensors and fake-quantizes them, with observed or learned scales."""

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from quantcore._base import arguments, arrays
from quantcore._base.text import brief
from quantcore.affine import passes
from quantcore.affine.from_extremes import params_within
from quantcore.affine.granularity import QuantGranularity, check_granularity
from quantcore.affine.modes import MOST_BITS, QuantMode, check_bits, code_range
from quantcore.affine.params import QuantParams
from quantcore.calibration.calibrator import Calibrator
from quantcore.calibration.results import METHODS, CalibrationMethod
from quantcore.errors import InvalidStateError, InvalidTypeError, InvalidValueError
from quantcore.torch import _tensors, traced
from quantcore.torch.functional import SMALLEST_SCALE, fake_quantize_named, learned, read_learned_params
from quantcore.torch.observers import Observer, is_distributed, observe_together

__all__ = ["FakeQuantize"]

_STATE_VERSION = 1
_SWITCHES = ("is_fake_quant_enabled", "is_observer_enabled")


class FakeQuantize(_tensors.ChecksState, _tensors.KeepsDtypes, nn.Module):
    """Observes a tensor and returns it quantized and dequantized, for weights and activations in QAT.

    Parameters
    ----------
    bits : int, default 8
        2 to 16; a weight that is to be converted has up to 8.
    symmetric : bool, default True
        Codes around 0; False: from 0 to `2**bits - 1`, with a zero point.
    granularity : QuantGranularity, "per_tensor" or "per_channel", optional
        None: per tensor.
    narrow_range : bool, default True
        Symmetric codes from -qmax; False: from -qmax - 1, as torch's observers.
    observer : str or CalibrationMethod, default "min_max"
        "current": parameters from the current tensor alone; suits weights, and is the only choice per group. Otherwise
        a method of `quantcore.Calibrator` over all tensors so far: "min_max", "moving_average", "percentile",
        "entropy", "mse", or a CalibrationMethod with parameters of its own.
    learn_scale : bool, default False
        LSQ: the observer gives the initial scales (and zero points), which are trainable parameters from then on.

    Attributes
    ----------
    scale : torch.Tensor or torch.nn.Parameter, float32, shape (num_groups,)
        0 before the first tensor; per channel and per group it is empty until `allocate` or the first tensor.
    zero_point : torch.Tensor, int32; or torch.nn.Parameter, float32 (learned asymmetric codes)
        Has the shape of `scale`.
    params : QuantParams
        Scales and zero points as a record.

    Raises
    ------
    ValueError, TypeError
        A parameter is not allowed; the message names it.

    Notes
    -----
    As in torch, the observer has its own switch and ignores `train()` and `eval()`: use `model.apply(disable_observer)`
    before evaluating a model. `.half()` and the like do not convert scales and zero points. A learned scale keeps its
    Parameter object when it gets its first value, so an optimizer may be created before or after that.

    Examples
    --------
    >>> fq = FakeQuantize(bits=2, observer="current")
    >>> fq(torch.tensor([-1.0, -0.4, 0.7, 1.0]))
    tensor([-1.,  0.,  1.,  1.])
    """

    bits: int
    granularity: QuantGranularity
    quant_min: int
    quant_max: int
    is_fake_quant_enabled: bool
    is_observer_enabled: bool
    scale: torch.Tensor
    zero_point: torch.Tensor

    _exact = ("scale", "zero_point")

    def __init__(
        self,
        bits: int = 8,
        symmetric: bool = True,
        *,
        granularity: QuantGranularity | str | None = None,
        narrow_range: bool = True,
        observer: str | CalibrationMethod = "min_max",
        learn_scale: bool = False,
    ) -> None:
        super().__init__()
        symmetric = arguments.flag(symmetric, "symmetric")
        narrow_range = arguments.flag(narrow_range, "narrow_range")
        learn_scale = arguments.flag(learn_scale, "learn_scale")
        self.bits = check_bits(bits, MOST_BITS)
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
        self.label = ""
        self._is_calibrated = False
        if self.granularity.axis is None and self.granularity.group_size is None:
            self._allocate(1)

    def _new_observer(self, observer: Any) -> Calibrator | None:
        if isinstance(observer, str):
            observer = arguments.choice(observer, "observer", ("current", *METHODS))
            if observer == "current":
                return None
        if not isinstance(observer, str | CalibrationMethod):
            raise InvalidTypeError(f"observer: expected a name or a CalibrationMethod, got {brief(observer)}")
        if self.granularity.group_size is not None:
            raise InvalidValueError(f"observer: expected 'current', which alone works per group, got {brief(observer)}")
        symmetric = self.mode is QuantMode.SYMMETRIC
        options: dict[str, Any] = {"axis": self.granularity.axis, "narrow_range": self.narrow_range}
        if isinstance(observer, CalibrationMethod):
            return Observer(observer, self.bits, symmetric, **options)
        made: Calibrator = getattr(Observer, observer)(self.bits, symmetric, **options)
        return made

    def along(self, axis: int) -> "FakeQuantize":
        """A copy without statistics that has a scale per index of another axis."""
        made = copy.deepcopy(self)
        made.granularity = QuantGranularity.per_channel(axis)
        if made.observer is not None:
            made.observer = made._new_observer(made.observer.method)
        return made

    @property
    def is_calibrated(self) -> bool:
        """Whether there are scales."""
        if not self._is_calibrated and not traced.is_tracing():  # they may have come from a state or an average
            self._is_calibrated = bool(self.scale.detach().numpy().any())
        return self._is_calibrated

    def allocate(self, shape: tuple[int, ...]) -> None:
        """Give scales and zero points their final length, for tensors of this shape; what is calibrated is kept.

        Nothing changes its length then, as DistributedDataParallel and averages of models need it.
        """
        n = self.granularity.sharing(arguments.shape(shape)).n_scales
        if not self.is_calibrated and n:
            self._allocate(n)

    def _allocate(self, n: int) -> None:
        for name in self._exact:
            tensor = getattr(self, name)
            tensor.data = torch.zeros(n, dtype=tensor.dtype)

    @property
    def params(self) -> QuantParams:
        """The parameters as a record; InvalidStateError before the first tensor."""
        if not self.is_calibrated:
            raise InvalidStateError("FakeQuantize: has no scale yet; enable its observer, or call calibrate")
        if self.learn_scale:
            zero_point = None if self.mode is QuantMode.SYMMETRIC else self.zero_point
            return read_learned_params(
                self.scale, zero_point, self.bits, self.mode, self.granularity, self.narrow_range
            )
        scales, zero_points = _tensors.array(self.scale, "scale"), _tensors.array(self.zero_point, "zero_point")
        return QuantParams(scales, zero_points, self.granularity, self.mode, self.bits, self.quant_min, self.quant_max)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Observe `x` and fake-quantize it, each if enabled. Recorded for export, it takes scales as constants."""
        return self._record(x) if traced.is_tracing() else self._forward(x)

    def _record(self, x: torch.Tensor) -> torch.Tensor:
        name = self.label or "FakeQuantize"
        if not self.is_fake_quant_enabled:
            return x
        if not self.is_calibrated:
            raise InvalidStateError(f"{name}: has no scale yet; run the model before exporting it")
        if self.is_observer_enabled and not self.learn_scale:
            raise InvalidStateError(f"{name}: still observes, which cannot be exported: model.apply(disable_observer)")
        scale = self.scale.clamp(min=SMALLEST_SCALE) if self.learn_scale else self.scale
        limits = self.quant_min, self.quant_max
        return traced.fake_quantize(x, scale, self.zero_point, self.granularity, limits, self.bits)

    @_tensors.eager
    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        try:
            if self.is_observer_enabled and not (self.learn_scale and self.is_calibrated):
                self.calibrate(x)
            return self._fake_quantize(x)
        except (InvalidValueError, InvalidTypeError) as error:
            if self.label in str(error):
                raise
            raise type(error)(f"{self.label}: {error}") from None

    @property
    def _name(self) -> str:
        """What messages call the tensor."""
        return self.label or "x"

    def preview(self, x: torch.Tensor) -> torch.Tensor:
        """What `forward` would return, without observing; before the first tensor, as if `x` were the first."""
        return self._record(x) if traced.is_tracing() else self._preview(x)

    @_tensors.eager
    def _preview(self, x: torch.Tensor) -> torch.Tensor:
        _tensors.take_floats(x, "x")
        is_kept = self.is_calibrated and (self.learn_scale or not self.is_observer_enabled)
        if is_kept or not self.is_fake_quant_enabled or not x.numel():
            return self._fake_quantize(x)
        return fake_quantize_named(x, self._name, self._observe(x, copy.deepcopy(self.observer)))

    def _fake_quantize(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_fake_quant_enabled or not _tensors.take_floats(x, "x").numel():
            return x
        if not self.learn_scale:
            return fake_quantize_named(x, self._name, self.params)
        zero_point = None if self.mode is QuantMode.SYMMETRIC else self.zero_point
        return learned(x, self._name, self.scale, zero_point, self.params, None)

    def calibrate(self, x: torch.Tensor) -> None:
        """Observe `x` and update scales and zero points from everything observed; an empty tensor changes nothing."""
        _tensors.take_floats(x, self._name)
        if not x.numel():
            return
        params = self._observe(x, self.observer)
        self._set("scale", params.scales)
        self._set("zero_point", params.zero_points)
        self._is_calibrated = True

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Switch fake quantization on or off."""
        self.is_fake_quant_enabled = arguments.flag(enabled, "enabled")

    def disable_fake_quant(self) -> None:
        """Switch fake quantization off: tensors pass unchanged."""
        self.enable_fake_quant(False)

    def enable_observer(self, enabled: bool = True) -> None:
        """Switch the observer on or off."""
        self.is_observer_enabled = arguments.flag(enabled, "enabled")

    def disable_observer(self) -> None:
        """Switch the observer off: scales no longer change."""
        self.enable_observer(False)

    def get_extra_state(self) -> torch.Tensor:
        """The observed statistics and the switches, for `state_dict`."""
        switches = {name: getattr(self, name) for name in _SWITCHES}
        observed = None if self.observer is None else self.observer.to_dict()
        return _tensors.pack_state(_STATE_VERSION, self._layout() | switches | {"observed": observed})

    def set_extra_state(self, state: Any) -> None:
        """Restore the observed statistics; refused if the observer had other parameters."""
        fields, self.observer = self._checked_state(state)
        for name in _SWITCHES:
            setattr(self, name, bool(fields[name]))

    def _checked_state(self, state: Any) -> tuple[dict[str, Any], Calibrator | None]:
        others = (*_SWITCHES, "observed")
        fields = _tensors.unpack_state(state, _STATE_VERSION, self._layout(), "FakeQuantize", others)
        if self.observer is None:
            return fields, None
        observer = Observer.from_dict(fields["observed"])
        for name in ("name", "averaging_constant", "lower", "upper"):
            ours, theirs = getattr(self.observer.method, name), getattr(observer.method, name)
            if ours != theirs:
                raise InvalidValueError(f"{name}: the observer has {ours!r}, the state_dict {theirs!r}")
        for name in ("bits", "symmetric", "narrow_range", "axis"):
            if getattr(observer, name) != fields[name]:
                raise InvalidValueError(f"{name}: the observer of the state_dict contradicts the rest of it")
        return fields, observer

    def __prepare_scriptable__(self) -> Any:
        return traced.refuse_script(self)

    def extra_repr(self) -> str:
        """The text in the parentheses of `repr`."""
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

    def _observe(self, x: torch.Tensor, observer: Calibrator | None) -> QuantParams:
        """The parameters after `x` was observed."""
        if observer is not None:
            observe_together(observer, x, self._name, is_shared=self.training and observer is self.observer)
            return observer.compute_named(self._name).params
        if self.learn_scale and self.training and self.granularity.group_size is None and is_distributed():
            extremes = Observer.min_max(
                self.bits, self.mode is QuantMode.SYMMETRIC, axis=self.granularity.axis, narrow_range=self.narrow_range
            )
            observe_together(extremes, x, self._name, is_shared=True)
            return extremes.compute_named(self._name).params
        source = arrays.take_floats(x, self._name)
        bounds = passes.extremes(source, self.granularity.sharing(source.shape), self._name, None)
        limits = code_range(self.bits, self.mode, narrow_range=self.narrow_range)
        return params_within(bounds, self.granularity, self.bits, self.mode, limits, self._name)

    def _set(self, name: str, values: Any) -> None:
        """Set a buffer or a parameter, which stays the same object."""
        tensor, made = getattr(self, name), _tensors.tensor_of(np.asarray(values))
        if tensor.shape == made.shape:
            tensor.data.copy_(made)
        else:
            tensor.data = made.to(tensor.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        if (key := prefix + "_extra_state") in state_dict:
            self._checked_state(state_dict[key])
        self._is_calibrated = False
        # The number of scales is only known from the first tensor, so it is taken from the state.
        for name in self._exact:
            values = state_dict.get(prefix + name)
            if isinstance(values, torch.Tensor):
                tensor = getattr(self, name)
                tensor.data = torch.empty(values.shape, dtype=tensor.dtype, device=tensor.device)
        super()._load_from_state_dict(state_dict, prefix, *others)

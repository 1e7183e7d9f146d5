"""Fake quantization that calibrates itself: the object for quantization-aware training."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore._base.records import reduce, size_of, tabled
from quantcore._base.text import brief
from quantcore.affine import passes
from quantcore.affine.from_extremes import params_within
from quantcore.affine.granularity import QuantGranularity, check_granularity, counting_hint
from quantcore.affine.params import QuantParams, check_params
from quantcore.errors import InvalidStateError, InvalidTypeError, InvalidValueError
from quantcore.qat import fake_quant
from quantcore.qat.config import FakeQuantConfig

__all__ = ["FakeQuantize", "fake_quantize"]


class FakeQuantize:
    """Rounds values to the codes of a configuration, with parameters that are calibrated on data.

    Parameters
    ----------
    config : FakeQuantConfig
    granularity : QuantGranularity, "per_tensor" or "per_channel", optional
        None: per tensor.
    params : QuantParams, optional
        Initial parameters, of the same codes and granularity. None: not calibrated yet.

    Raises
    ------
    ValueError
        `params` contradicts `config` or `granularity`.
    TypeError
        An argument has another type.

    Examples
    --------
    >>> fq = FakeQuantize(FakeQuantConfig.symmetric(2))
    >>> fq.forward_with_calibration(np.array([-1.0, -0.4, 0.7, 1.0], np.float32))
    array([-1.,  0.,  1.,  1.], dtype=float32)
    >>> fq.backward_clamped(np.ones(4, np.float32), np.array([-2.0, -0.4, 0.7, 1.0], np.float32))
    array([0., 1., 1., 1.], dtype=float32)
    """

    __slots__ = ("_config", "_granularity", "_params")

    def __init__(
        self,
        config: FakeQuantConfig,
        granularity: QuantGranularity | str | None = None,
        params: QuantParams | None = None,
    ) -> None:
        if not isinstance(config, FakeQuantConfig):
            raise InvalidTypeError(f"config: expected a FakeQuantConfig, got {brief(config)}")
        self._config = config
        self._granularity = check_granularity(granularity)
        self._params: QuantParams | None = None
        if params is not None:
            params = check_params(params)
            ours = (self._granularity, config.mode, config.bits, config.qmin, config.qmax)
            theirs = (params.granularity, params.mode, params.bits, params.quant_min, params.quant_max)
            if ours != theirs:
                hint = counting_hint(self._granularity.axis, params.granularity.axis)
                raise InvalidValueError(f"params: {theirs} contradict the configuration {ours}{hint}")
            self._params = params

    @classmethod
    def q4(cls, granularity: QuantGranularity | str | None = None) -> Self:
        """4 bits, symmetric."""
        return cls(FakeQuantConfig.q4_symmetric(), granularity)

    @classmethod
    def q8(cls, granularity: QuantGranularity | str | None = None) -> Self:
        """8 bits, symmetric."""
        return cls(FakeQuantConfig.q8_symmetric(), granularity)

    @property
    def config(self) -> FakeQuantConfig:
        """The configuration of the codes."""
        return self._config

    @property
    def granularity(self) -> QuantGranularity:
        """Which elements share a scale."""
        return self._granularity

    @property
    def is_initialized(self) -> bool:
        """Whether there are parameters."""
        return self._params is not None

    @property
    def num_levels(self) -> int:
        """The number of codes."""
        return self._config.num_levels

    @property
    def params(self) -> QuantParams:
        """The parameters. InvalidStateError before the first calibration, as from every method that needs them."""
        if self._params is None:
            raise InvalidStateError("FakeQuantize: has no parameters yet; call calibrate or forward_with_calibration")
        return self._params

    @property
    def scale(self) -> float | NDArray[np.float32]:
        """The scale if per tensor, otherwise the array of scales."""
        scales = self.params.scales
        return float(scales[0]) if self._granularity.name == "per_tensor" else scales

    @property
    def zero_point(self) -> int | NDArray[np.int32]:
        """The zero point if per tensor, otherwise the array of zero points."""
        zero_points = self.params.zero_points
        return int(zero_points[0]) if self._granularity.name == "per_tensor" else zero_points

    def calibrate(self, data: Any, *, n_threads: int | None = None) -> QuantParams:
        """Compute the parameters from the extremes of an array, replacing earlier ones.

        Parameters
        ----------
        data : array_like
            float32, float16, bfloat16 or float64, finite, not empty.
        n_threads : int, optional
            Threads to use; None: `get_num_threads()`.

        Returns
        -------
        QuantParams
            As `calibrate_per_tensor`, `calibrate_per_channel` or `calibrate_per_group` find them for these codes.

        Raises
        ------
        ValueError
            `data` is empty, holds NaN or inf, or lacks the axis.
        TypeError
            `data` is not a float array.
        """
        self._params = self._find_params(data, "data", n_threads)
        return self._params

    def forward(self, x: Any, *, n_threads: int | None = None, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The fake-quantized values (see `fake_quantize_with_params`)."""
        return fake_quant.forward(x, self.params, "x", n_threads, out)

    def forward_with_calibration(
        self, x: Any, *, n_threads: int | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """As `forward`; calibrates on the values if there are no parameters yet."""
        params = self._find_params(x, "x", n_threads) if self._params is None else self._params
        result = fake_quant.forward(x, params, "x", n_threads, out)
        self._params = params
        return result

    def backward(self, grad: Any, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The plain straight-through gradient (see `ste_backward`)."""
        return fake_quant.ste_backward(grad, out=out)

    def backward_clamped(
        self, grad: Any, x: Any, *, n_threads: int | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The gradient where codes are in range, zero elsewhere (see `fake_quantize_backward`)."""
        return fake_quant.backward(grad, x, self.params, "x", n_threads, out)

    def _find_params(self, data: Any, name: str, n_threads: int | None) -> QuantParams:
        source = arrays.take_floats(data, name)
        if not source.size:
            raise InvalidValueError(f"{name}: must not be empty, got shape {source.shape}")
        config, granularity = self._config, self._granularity
        bounds = passes.extremes(source, granularity.sharing(source.shape), name, n_threads)
        return params_within(bounds, granularity, config.bits, config.mode, (config.qmin, config.qmax), name)

    def __repr__(self) -> str:
        state = f"num_groups={self._params.num_groups}" if self._params is not None else "not calibrated"
        return f"FakeQuantize({self._config}, {self._granularity.name}, {state})"

    def _repr_html_(self) -> str:
        names = ("config", "granularity", "num_levels", *(["params"] if self.is_initialized else []))
        return tabled(self, *names)

    def __sizeof__(self) -> int:
        return size_of(self, self._params)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce(self, self._config, self._granularity, self._params)


def fake_quantize(
    values: Any,
    bits: int = 8,
    symmetric: bool = True,
    *,
    granularity: QuantGranularity | str | None = None,
    n_threads: int | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Calibrate on an array's own extremes, quantize and dequantize it.

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite.
    bits : int, default 8
        2 to 8.
    symmetric : bool, default True
        Codes around 0; False: from 0 to `2**bits - 1`, with a zero point.
    granularity : QuantGranularity, "per_tensor" or "per_channel", optional
        None: per tensor.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.
    out : ndarray of the result's dtype and shape, optional
        Where to write the result.

    Returns
    -------
    ndarray of the dtype and shape of `values`, float32 for float64

    Raises
    ------
    ValueError
        `values` is empty or holds NaN or inf; `bits` is out of range; `out` does not fit.
    TypeError
        `values` is not a float array; an argument has another type.

    Examples
    --------
    >>> fake_quantize(np.array([-1.0, 0.3, 0.9], np.float32), bits=2)
    array([-1.,  0.,  1.], dtype=float32)
    """
    symmetric = arguments.flag(symmetric, "symmetric")
    config = FakeQuantConfig.symmetric(bits) if symmetric else FakeQuantConfig.asymmetric(bits)
    params = FakeQuantize(config, granularity)._find_params(values, "values", n_threads)
    return fake_quant.forward(values, params, "values", n_threads, out)

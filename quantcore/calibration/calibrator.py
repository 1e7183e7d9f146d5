"""Post-training calibration: a scale and a zero point from batches of activations or weights.

A `Calibrator` keeps the `statistic` that its method needs, in memory that depends on the number of channels and not on
the data. `affine.from_extremes` computes scales from the range that is left of it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays, parallel
from quantcore._base.notebook import fields_table
from quantcore._base.text import brief
from quantcore.affine.granularity import QuantGranularity, counting_hint
from quantcore.affine.modes import QuantMode, check_bits, code_range
from quantcore.affine.sharing import Sharing
from quantcore.calibration.calibrator_states import describe, take_settings
from quantcore.calibration.clipping import Bins
from quantcore.calibration.histograms import Histograms
from quantcore.calibration.modes import mode_of
from quantcore.calibration.omission import check_nan_policy, kept_channels
from quantcore.calibration.results import METHODS, CalibrationMethod, CalibrationResult, result_of
from quantcore.calibration.statistic import Statistic, clip, new_statistic, restore_statistic
from quantcore.calibration.totals import TORN
from quantcore.calibration.turns import Turns
from quantcore.errors import InvalidStateError, InvalidTypeError, InvalidValueError

__all__ = ["Calibrator"]


class Calibrator:
    """Collects statistics of batches and computes quantization parameters. Construct it with `min_max` and the like.

    `observe` may be called from several threads. Memory: a few numbers per channel for min_max and moving_average,
    16 KiB per channel (32 KiB per tensor) for the methods that need a histogram.

    Raises
    ------
    ValueError, TypeError
        A parameter is out of its range or of a wrong type; the message names it.

    Examples
    --------
    >>> calibrator = Calibrator.min_max(bits=8, symmetric=False)
    >>> for batch in ([0.0, 1.5], [-1.0, 1.55]):
    ...     calibrator.observe(np.array(batch, np.float32))
    >>> result = calibrator.compute()
    >>> round(result.scale, 4), result.zero_point
    (0.01, 100)
    """

    _most_bits = 8

    def __init__(
        self,
        method: CalibrationMethod,
        bits: int = 8,
        symmetric: bool = True,
        *,
        axis: int | None = None,
        narrow_range: bool = True,
        mode: QuantMode | str | None = None,
    ) -> None:
        self._method = method = _check_method(method)
        self._bits = check_bits(bits, self._most_bits)
        self._mode = mode_of(symmetric, mode, method)
        self._granularity = QuantGranularity(axis=axis)
        self._narrow_range = arguments.flag(narrow_range, "narrow_range")
        self._turns = Turns()
        self._statistic: Statistic | None = None  # one attribute holds all that was observed, so that it is whole

    @classmethod
    def min_max(
        cls,
        bits: int = 8,
        symmetric: bool = True,
        *,
        axis: int | None = None,
        narrow_range: bool = True,
        mode: QuantMode | str | None = None,
    ) -> Self:
        """The extremes of all batches, as torch's MinMaxObserver and PerChannelMinMaxObserver take them.

        Parameters
        ----------
        bits : int, default 8
            2 to 8.
        symmetric : bool, default True
            int8 codes around zero; False: uint8 codes with a zero point.
        axis : int, optional
            The axis of the batches that gets one scale per index; None: one scale for all.
        narrow_range : bool, default True
            Symmetric codes from -(2**(bits-1) - 1); False: from -2**(bits-1) as torch's qint8.
        mode : QuantMode or its name, optional
            Instead of `symmetric`, which it overrules. OFFSET, for data, takes the range as it is; it does not go with
            entropy, which searches around zero.
        """
        return cls(CalibrationMethod("min_max"), bits, symmetric, axis=axis, narrow_range=narrow_range, mode=mode)

    @classmethod
    def moving_average(
        cls,
        bits: int = 8,
        symmetric: bool = True,
        averaging_constant: float = 0.01,
        *,
        axis: int | None = None,
        narrow_range: bool = True,
        mode: QuantMode | str | None = None,
    ) -> Self:
        """The moving average of the batches' extremes, as torch's MovingAverageMinMaxObserver: the first batch as it
        is, then `m += averaging_constant * (new - m)` in float32. The order of batches matters, so two of these do not
        merge. Other parameters as for `min_max`.
        """
        constant = arguments.number(averaging_constant, "averaging_constant")
        method = CalibrationMethod("moving_average", averaging_constant=constant)
        return cls(method, bits, symmetric, axis=axis, narrow_range=narrow_range, mode=mode)

    @classmethod
    def percentile(
        cls,
        bits: int = 8,
        symmetric: bool = True,
        lower: float = 0.01,
        upper: float = 99.99,
        *,
        axis: int | None = None,
        narrow_range: bool = True,
        mode: QuantMode | str | None = None,
    ) -> Self:
        """Clips to two percentiles (in percent) from a histogram: accurate to one bin, of which the range of the data
        has 2048 to 4096. `calibrate_percentile` gives exact percentiles of a single array. Other parameters as for
        `min_max`.
        """
        method = CalibrationMethod(
            "percentile", lower=arguments.number(lower, "lower"), upper=arguments.number(upper, "upper")
        )
        return cls(method, bits, symmetric, axis=axis, narrow_range=narrow_range, mode=mode)

    @classmethod
    def entropy(
        cls,
        bits: int = 8,
        symmetric: bool = True,
        *,
        axis: int | None = None,
        narrow_range: bool = True,
        mode: QuantMode | str | None = None,
    ) -> Self:
        """Clips |x| where the codes lose the least information: the search for the smallest KL divergence of TensorRT
        and NVIDIA's pytorch-quantization, in which zeros do not count. For activations of 8 bits with one peak; use
        `mse` for fewer bits or several peaks. Parameters as for `min_max`.
        """
        return cls(CalibrationMethod("entropy"), bits, symmetric, axis=axis, narrow_range=narrow_range, mode=mode)

    @classmethod
    def mse(
        cls,
        bits: int = 8,
        symmetric: bool = True,
        *,
        axis: int | None = None,
        narrow_range: bool = True,
        mode: QuantMode | str | None = None,
    ) -> Self:
        """Clips where the squared error over the histogram is least; never worse there than `min_max`. Parameters as
        for `min_max`.
        """
        return cls(CalibrationMethod("mse"), bits, symmetric, axis=axis, narrow_range=narrow_range, mode=mode)

    @property
    def method(self) -> CalibrationMethod:
        """The method and its parameters."""
        return self._method

    @property
    def bits(self) -> int:
        """The number of bits per code."""
        return self._bits

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is 0."""
        return self._mode is QuantMode.SYMMETRIC

    @property
    def mode(self) -> QuantMode:
        """The mode of the codes."""
        return self._mode

    @property
    def axis(self) -> int | None:
        """The axis of the channels; None: one scale for all."""
        return self._granularity.axis

    @property
    def narrow_range(self) -> bool:
        """Whether symmetric codes leave out -2**(bits-1)."""
        return self._narrow_range

    @property
    def num_batches(self) -> int:
        """The number of batches observed, including those of merged calibrators; empty batches do not count."""
        statistic = self._statistic
        return 0 if statistic is None else statistic.num_batches

    @property
    def num_channels(self) -> int:
        """The number of channels that batches have, 1 without an axis; 0 before the first batch."""
        statistic = self._statistic
        return 0 if statistic is None else statistic.n_channels

    @property
    def has_data(self) -> bool:
        """Whether anything was observed."""
        return self._statistic is not None

    def observe(self, batch: Any, *, mask: Any = None, nan_policy: str = "raise", n_threads: int | None = None) -> None:
        """Add the statistics of a batch; a batch that is refused changes nothing.

        Parameters
        ----------
        batch : array_like
            float32, float16, bfloat16 or float64, finite, at least one-dimensional. An empty one has no effect. With
            an axis, every batch has the same extent there.
        mask : array_like of bool, optional
            True where values count, such as a mask of padding; it broadcasts to the shape of the batch.
        nan_policy : {"raise", "omit"}, default "raise"
            "omit": NaN is left out; inf is refused as ever.
        n_threads : int, optional
            Threads to use; None: `get_num_threads()`. The statistics do not depend on it.

        Raises
        ------
        ValueError
            `batch` holds NaN or inf; its axis is missing or has another extent than before; `mask` does not broadcast;
            nothing is left of a channel.
        TypeError
            `batch` is not a float array, or `mask` not boolean.
        """
        self.observe_named(batch, "batch", mask=mask, nan_policy=nan_policy, n_threads=n_threads)

    def observe_named(
        self,
        values: Any,
        name: str,
        *,
        mask: Any = None,
        nan_policy: str = "raise",
        n_threads: int | None = None,
    ) -> None:
        """`observe` of values that messages call by another name, which the caller's user knows them by."""
        source = arrays.take_floats(values, name)
        nan_policy = check_nan_policy(nan_policy)
        if nan_policy == "omit" or mask is not None:
            self._observe_kept(source, name, mask, nan_policy, n_threads)
            return
        self.observe_shared(source, self._granularity.sharing(source.shape), name, n_threads)

    def partial_fit(
        self, batch: Any, *, mask: Any = None, nan_policy: str = "raise", n_threads: int | None = None
    ) -> Self:
        """`observe` under the name that scikit-learn pipelines use; returns the calibrator."""
        self.observe(batch, mask=mask, nan_policy=nan_policy, n_threads=n_threads)
        return self

    def _observe_kept(
        self, source: arrays.Floats, name: str, mask: Any, nan_policy: str, n_threads: int | None
    ) -> None:
        """Add what is left of a batch: as an array if all channels keep as many values, else channel by channel."""
        self._granularity.sharing(source.shape)  # refuses a missing axis
        channels = kept_channels(source, self._granularity, mask, nan_policy, name)
        if not channels or not channels[0].size:
            return
        if len({channel.size for channel in channels}) == 1:
            even = arrays.take_floats(np.stack(channels), name)
            granularity = self._granularity if self.axis is None else QuantGranularity(axis=0)
            self.observe_shared(even, granularity.sharing(even.shape), name, n_threads)
            return
        sources = [arrays.take_floats(channel, name) for channel in channels]
        self._add(len(sources), name, n_threads, lambda s: s.observe_channels(sources, name, n_threads))

    def observe_shared(self, source: arrays.Floats, sharing: Sharing, name: str, n_threads: int | None) -> None:
        """Add a batch that has passed the boundary and is divided into channels."""
        parallel.check_threads(n_threads)
        if source.size:
            self._add(sharing.n_scales, name, n_threads, lambda s: s.observe(source, sharing, name, n_threads))

    def _add(
        self, n_channels: int, name: str, n_threads: int | None, observe: Callable[[Statistic], Statistic]
    ) -> None:
        parallel.check_threads(n_threads)
        with self._turns.change("observe"):
            statistic = self._whole_statistic()
            if statistic is None:
                statistic = new_statistic(self._method, n_channels)
            elif statistic.n_channels != n_channels:
                raise InvalidValueError(
                    f"{name}: expected {statistic.n_channels} channels along axis {self.axis} as before, "
                    f"got {n_channels}"
                )
            self._statistic = observe(statistic)

    def compute(self, *, n_threads: int | None = None) -> CalibrationResult:
        """Scale and zero point for everything observed so far.

        Parameters
        ----------
        n_threads : int, optional
            Threads to use; None: `get_num_threads()`. The result does not depend on it.

        Raises
        ------
        RuntimeError
            Nothing was observed (`InvalidStateError`).
        ValueError
            The range is too wide for the mode OFFSET.
        """
        return self.compute_named("compute", n_threads=n_threads)

    def compute_named(self, name: str, *, n_threads: int | None = None) -> CalibrationResult:
        """`compute` where messages call what was observed by a name that the caller's user knows it by."""
        parallel.check_threads(n_threads)
        with self._turns.read():
            statistic = self._whole_statistic()
            if statistic is None:
                raise InvalidStateError(f"{name}: nothing was observed yet")
            limits = code_range(self._bits, self._mode, narrow_range=self._narrow_range)
            clipped = clip(statistic, self._method, self._bits, self._mode, limits, n_threads=n_threads)
            whole = statistic.lowest, statistic.highest
        kind = self._granularity, self._bits, self._mode, self._narrow_range, self._method
        return result_of(whole, clipped, *kind, name)

    def plot(self, axes: Any = None, *, channel: int | None = None) -> Any:
        """Draw what was observed and what `compute` keeps of it with matplotlib (extra `report`).

        Parameters
        ----------
        axes : matplotlib.axes.Axes, optional
            What to draw on; None: a new figure.
        channel : int, optional
            Draw the histogram of a channel; by default the ranges of all channels are drawn. Methods without a
            histogram (min_max, moving_average) have ranges only.

        Raises
        ------
        RuntimeError
            Nothing was observed (`InvalidStateError`).

        Returns
        -------
        matplotlib.axes.Axes
        """
        from quantcore.calibration.plots import draw_histogram, draw_result

        result = self.compute()
        n_channels = result.params.num_groups
        chosen = None if channel is None else arguments.integer(channel, "channel", 0, n_channels - 1)
        with self._turns.read():
            statistic = self._whole_statistic()
            if not isinstance(statistic, Histograms) or (chosen is None and self.axis is not None):
                return draw_result(axes, result)
            return draw_histogram(axes, Bins(*statistic.bins(chosen or 0)), result, chosen or 0)

    def merge(self, other: Self) -> Self:
        """Add everything that another calibrator of the same method and parameters observed; returns this one.

        The result is exactly that of observing all batches with one calibrator.

        Raises
        ------
        ValueError
            The two differ in method, bits, mode, axis or channels (axes -1 and 1 differ, since they are the same in
            matrices only); the method is moving_average.
        TypeError
            `other` is not a Calibrator.
        """
        if not isinstance(other, Calibrator):
            raise InvalidTypeError(f"other: expected a Calibrator, got {brief(other)}")
        if self._key() != other._key():
            hint = counting_hint(self.axis, other.axis)
            raise InvalidValueError(f"other: expected {self._text()}, got {other._text()}{hint}")
        if self._method.name == "moving_average":
            raise InvalidValueError("other: moving averages do not merge, since the order of their batches matters")
        theirs = other._packed_statistic()
        with self._turns.change("merge"):
            mine = self._whole_statistic()
            if theirs is None:
                return self
            if mine is None:
                self._statistic = theirs
            elif mine.n_channels != theirs.n_channels:
                raise InvalidValueError(f"other: expected {mine.n_channels} channels, got {theirs.n_channels}")
            else:
                self._statistic = mine.merge(theirs)  # type: ignore[arg-type]
        return self

    def reset(self) -> None:
        """Forget everything observed."""
        with self._turns.change("reset"):
            self._statistic = None

    def to_dict(self) -> dict[str, Any]:
        """The parameters and everything observed, for JSON; `Calibrator.from_dict` restores an equal calibrator."""
        return self._describe(lambda counts: counts.tolist())

    def _describe(self, listed: Callable[[NDArray[Any]], Any]) -> dict[str, Any]:
        with self._turns.read():
            statistic = self._whole_statistic()
            return describe(
                self._method, self._bits, self._mode, self._granularity, self._narrow_range, statistic, listed
            )

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """Restore a calibrator from what `to_dict` returned.

        Raises
        ------
        ValueError, TypeError
            The format or version is unknown, or a field is missing, out of range or contradicts another one.
        """
        calibrator = cls(**take_settings(mapping))
        calibrator._statistic = restore_statistic(calibrator.method, calibrator.axis, mapping)
        return calibrator

    def _whole_statistic(self) -> Statistic | None:
        if self._statistic is not None and self._statistic.is_torn:
            raise InvalidStateError(TORN)
        return self._statistic

    def _packed_statistic(self) -> Statistic | None:
        """What was observed, as a record that never changes."""
        with self._turns.read():
            statistic = self._whole_statistic()
            return None if statistic is None else statistic.packed()

    def _key(self) -> tuple[Any, ...]:
        return self._method, self._bits, self._mode, self.axis, self._narrow_range

    def _text(self) -> str:
        where = "per tensor" if self.axis is None else f"along axis {self.axis}"
        full = "" if self._narrow_range else ", full range"
        return f"{self._method} with {self._bits} bits {self._mode.value} {where}{full}"

    def __repr__(self) -> str:
        return f"<Calibrator: {self._text()}, {self.num_batches} batch{'' if self.num_batches == 1 else 'es'}>"

    def _repr_html_(self) -> str:
        fields = {"method": str(self._method), "bits": self._bits, "mode": self._mode.value, "axis": self.axis}
        return fields_table("Calibrator", fields | {"batches": self.num_batches})

    def __sizeof__(self) -> int:
        statistic = self._statistic
        return object.__sizeof__(self) + (0 if statistic is None else statistic.nbytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (type(self), self._describe(np.array))


def _check_method(method: Any) -> CalibrationMethod:
    if not isinstance(method, CalibrationMethod):
        hint = f"; see Calibrator.{method}()" if isinstance(method, str) and method in METHODS else ""
        raise InvalidTypeError(f"method: expected a CalibrationMethod, got {brief(method)}{hint}")
    return method


def _unpickle(kind: type[Calibrator], state: Mapping[str, Any]) -> Calibrator:
    return kind.from_dict(state)

"""Post-training calibration: batches of activations or weights go in, a scale and a zero point come out.

A `Calibrator` remembers what its method needs (`statistics.py`, `histograms.py`), in memory that depends on the number
of channels and not on the data. Where to clip is found in `clipping.py`, scales from a range in `granularity.py`.
"""

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quantcore import _arrays, _parallel
from quantcore.affine import Sharing
from quantcore.calibration_records import CalibrationMethod, CalibrationResult, result_of
from quantcore.clipping import Bins, clipped_to, entropy_threshold, least_error_range
from quantcore.clipping import percentiles as percentiles_of_bins
from quantcore.errors import InvalidStateError, InvalidTypeError, InvalidValueError
from quantcore.granularity import QuantGranularity, QuantMode, check_bits, code_range
from quantcore.histograms import Histograms
from quantcore.statistics import Extremes, MovingExtremes, sequence
from quantcore.tables import brief

__all__ = ["Calibrator"]

_FORMAT, _VERSION = "quantcore.calibrator", 1


class Calibrator:
    """Collects statistics of batches and computes quantization parameters; made by `min_max`, `percentile`, ….

    `observe` may be called from several threads. Memory: a few numbers a channel for min_max and moving_average, 16 KiB
    a channel (32 KiB per tensor) for the methods that need a histogram.

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

    def __init__(
        self,
        method: CalibrationMethod,
        bits: int = 8,
        symmetric: bool = True,
        *,
        axis: int | None = None,
        narrow_range: bool = True,
    ) -> None:
        if not isinstance(method, CalibrationMethod):
            raise InvalidTypeError(f"method: expected a CalibrationMethod, got {brief(method)}")
        self._method = method
        self._bits = check_bits(bits)
        self._mode = QuantMode.SYMMETRIC if _arrays.flag(symmetric, "symmetric") else QuantMode.ASYMMETRIC
        self._granularity = QuantGranularity(axis=axis)
        self._narrow_range = _arrays.flag(narrow_range, "narrow_range")
        self._lock = threading.Lock()
        self._statistic: Extremes | Histograms | None = None
        self._num_batches = 0

    @classmethod
    def min_max(
        cls, bits: int = 8, symmetric: bool = True, *, axis: int | None = None, narrow_range: bool = True
    ) -> Self:
        """The extremes of all batches, as torch's MinMaxObserver and PerChannelMinMaxObserver take them.

        Parameters
        ----------
        bits : int, default 8
            2 to 8.
        symmetric : bool, default True
            int8 codes around zero; else uint8 codes with a zero point.
        axis : int, optional
            The axis of the batches that has a scale for each index; None: one scale.
        narrow_range : bool, default True
            Symmetric codes from -(2**(bits-1) - 1); False: from -2**(bits-1) as torch's qint8.
        """
        return cls(CalibrationMethod("min_max"), bits, symmetric, axis=axis, narrow_range=narrow_range)

    @classmethod
    def moving_average(
        cls,
        bits: int = 8,
        symmetric: bool = True,
        averaging_constant: float = 0.01,
        *,
        axis: int | None = None,
        narrow_range: bool = True,
    ) -> Self:
        """The moving average of the batches' extremes, as torch's MovingAverageMinMaxObserver: the first batch as it
        is, then `m += averaging_constant * (new - m)` in float32. The order of batches matters, so two of these do not
        merge. Other parameters as for `min_max`.
        """
        constant = _arrays.number(averaging_constant, "averaging_constant")
        method = CalibrationMethod("moving_average", averaging_constant=constant)
        return cls(method, bits, symmetric, axis=axis, narrow_range=narrow_range)

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
    ) -> Self:
        """Clips to two percentiles (in percent), found from a histogram: wrong by at most one of its bins, of which the
        data's range has 2048 to 4096. Exact ones of a single array: `calibrate_percentile`. Other parameters as for
        `min_max`.
        """
        method = CalibrationMethod(
            "percentile", lower=_arrays.number(lower, "lower"), upper=_arrays.number(upper, "upper")
        )
        return cls(method, bits, symmetric, axis=axis, narrow_range=narrow_range)

    @classmethod
    def entropy(
        cls, bits: int = 8, symmetric: bool = True, *, axis: int | None = None, narrow_range: bool = True
    ) -> Self:
        """Clips |x| where the codes lose least information (TensorRT's search for the smallest KL divergence).
        Parameters as for `min_max`.
        """
        return cls(CalibrationMethod("entropy"), bits, symmetric, axis=axis, narrow_range=narrow_range)

    @classmethod
    def mse(cls, bits: int = 8, symmetric: bool = True, *, axis: int | None = None, narrow_range: bool = True) -> Self:
        """Clips where the squared error over the histogram is least; never worse there than `min_max`. Parameters as
        for `min_max`.
        """
        return cls(CalibrationMethod("mse"), bits, symmetric, axis=axis, narrow_range=narrow_range)

    @property
    def method(self) -> CalibrationMethod:
        """The method and its parameters."""
        return self._method

    @property
    def bits(self) -> int:
        """Of a code."""
        return self._bits

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is 0."""
        return self._mode is QuantMode.SYMMETRIC

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
        """How many batches were observed, those of merged calibrators included; empty ones do not count."""
        return self._num_batches

    @property
    def has_data(self) -> bool:
        """Whether anything was observed."""
        return self._statistic is not None

    def observe(self, batch: Any, *, n_threads: int | None = None) -> None:
        """Take in a batch; one that is refused changes nothing.

        Parameters
        ----------
        batch : array_like
            float32, float16, bfloat16 or float64, finite, at least one-dimensional. An empty one has no effect. With
            an axis, every batch has the same extent there.
        n_threads : int, optional
            Threads to use; None: `get_num_threads()`. What is found does not depend on it.

        Raises
        ------
        ValueError
            `batch` holds NaN or inf; its axis is missing or has another extent than before.
        TypeError
            `batch` is not a float array.
        """
        source = _arrays.floats(batch, "batch")
        self.observe_shared(source, self._granularity.sharing(source.shape), "batch", n_threads)

    def partial_fit(self, batch: Any, *, n_threads: int | None = None) -> Self:
        """`observe`, under the name that pipelines know; returns the calibrator."""
        self.observe(batch, n_threads=n_threads)
        return self

    def observe_shared(self, source: _arrays.Floats, sharing: Sharing, name: str, n_threads: int | None) -> None:
        """Take in a batch that passed the boundary, of which is known how it is divided into channels."""
        _parallel.check_threads(n_threads)
        if not source.size:
            return
        with self._lock:
            statistic = self._whole_statistic()
            if statistic is None:
                statistic = self._new_statistic(sharing.n_scales)
            elif statistic.n_channels != sharing.n_scales:
                raise InvalidValueError(
                    f"{name}: expected {statistic.n_channels} channels along axis {self.axis} as before, "
                    f"got {sharing.n_scales}"
                )
            statistic.observe(source, sharing, name, n_threads)
            self._statistic = statistic
            self._num_batches += 1

    def compute(self) -> CalibrationResult:
        """Scale and zero point for all that was observed.

        Raises
        ------
        RuntimeError
            Nothing was observed (`InvalidStateError`).
        """
        with self._lock:
            statistic = self._whole_statistic()
            if statistic is None:
                raise InvalidStateError("compute: nothing was observed yet")
            lowest, highest = statistic.lowest, statistic.highest
            clip_low, clip_high = lowest, highest
            if isinstance(statistic, Histograms):
                clips = [
                    self._clip(Bins(*statistic.bins(channel)), float(low), float(high))
                    for channel, (low, high) in enumerate(zip(lowest, highest, strict=True))
                ]
                clip_low, clip_high = (np.array(ends, np.float32) for ends in zip(*clips, strict=True))
        return result_of(
            (lowest, highest), (clip_low, clip_high), self._granularity, self._bits, self._mode, self._narrow_range,
            self._method,
        )  # fmt: skip

    def merge(self, other: Self) -> Self:
        """Take in all that another calibrator of the same method and parameters observed; returns this one.

        The result is exactly that of observing all batches with one calibrator.

        Raises
        ------
        ValueError
            The two differ in method, bits, mode, axis or channels; the method is moving_average.
        TypeError
            `other` is no Calibrator.
        """
        if not isinstance(other, Calibrator):
            raise InvalidTypeError(f"other: expected a Calibrator, got {brief(other)}")
        if self._key() != other._key():
            raise InvalidValueError(f"other: expected {self._text()}, got {other._text()}")
        if self._method.name == "moving_average":
            raise InvalidValueError("other: moving averages do not merge, since the order of their batches matters")
        theirs, num_batches = other._copied()
        with self._lock:
            mine = self._whole_statistic()
            if theirs is None:
                return self
            if mine is None:
                self._statistic = theirs
            elif mine.n_channels != theirs.n_channels:
                raise InvalidValueError(f"other: expected {mine.n_channels} channels, got {theirs.n_channels}")
            else:
                mine.merge(theirs)  # type: ignore[arg-type]
            self._num_batches += num_batches
        return self

    def reset(self) -> None:
        """Forget everything observed."""
        with self._lock:
            self._statistic, self._num_batches = None, 0

    def to_dict(self) -> dict[str, Any]:
        """The parameters and everything observed, for JSON: `Calibrator.from_dict` makes an equal calibrator of it."""
        return self._described(lambda counts: counts.tolist())

    def _described(self, listed: Callable[[NDArray[Any]], Any]) -> dict[str, Any]:
        with self._lock:
            statistic = self._whole_statistic()
            return {
                "format": _FORMAT,
                "version": _VERSION,
                "method": self._method.to_dict(),
                "bits": self._bits,
                "symmetric": self.symmetric,
                "narrow_range": self._narrow_range,
                "axis": self.axis,
                "num_batches": self._num_batches,
                "num_channels": 0 if statistic is None else statistic.n_channels,
                "state": None if statistic is None else statistic.to_state(listed),
            }

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """A calibrator as `to_dict` described it.

        Raises
        ------
        ValueError, TypeError
            The format or version is unknown, or a field is missing, out of range or contradicts another one.
        """
        if not isinstance(mapping, Mapping):
            raise InvalidTypeError(f"mapping: expected a mapping, got {brief(mapping)}")
        if mapping.get("format") != _FORMAT:
            raise InvalidValueError(f"format: expected {_FORMAT!r}, got {brief(mapping.get('format'))}")
        if type(mapping.get("version")) is not int or mapping["version"] != _VERSION:
            raise InvalidValueError(f"version: {brief(mapping.get('version'))} is unknown; known: {_VERSION}")
        method = mapping.get("method")
        if not isinstance(method, Mapping) or not set(method) <= {"name", "averaging_constant", "lower", "upper"}:
            raise InvalidValueError(f"method: expected a name and its parameters, got {brief(method)}")
        if "axis" not in mapping:
            raise InvalidValueError("axis: is missing")
        calibrator = cls(
            CalibrationMethod(**{"name": None, **method}),
            mapping.get("bits"),  # type: ignore[arg-type]
            mapping.get("symmetric"),  # type: ignore[arg-type]
            axis=mapping.get("axis"),
            narrow_range=mapping.get("narrow_range"),  # type: ignore[arg-type]
        )
        calibrator._restore(mapping)
        return calibrator

    def _restore(self, mapping: Mapping[str, Any]) -> None:
        num_batches = _arrays.integer(mapping.get("num_batches"), "num_batches", 0, 1 << 62)
        n_channels = _arrays.integer(mapping.get("num_channels"), "num_channels", 0, 1 << 62)
        state = mapping.get("state")
        if (state is None) != (num_batches == 0) or (state is None) != (n_channels == 0):
            raise InvalidValueError(
                f"state: contradicts num_batches {brief(num_batches)} and num_channels {brief(n_channels)}"
            )
        if state is None:
            return
        if not isinstance(state, Mapping):
            raise InvalidValueError(f"state: expected a mapping, got {brief(state)}")
        if self.axis is None and n_channels != 1:
            raise InvalidValueError(f"num_channels: expected 1 without an axis, got {n_channels}")
        for key in ("channels",) if "channels" in state else ("lowest", "highest"):
            sequence(state, key, n_channels)  # before anything is made for so many channels
        statistic = self._new_statistic(n_channels)
        statistic.restore(state)
        self._statistic = statistic
        self._num_batches = num_batches

    def _new_statistic(self, n_channels: int) -> Extremes | Histograms:
        if self._method.averaging_constant is not None:
            return MovingExtremes(n_channels, self._method.averaging_constant)
        return Extremes(n_channels) if self._method.name == "min_max" else Histograms(n_channels)

    def _whole_statistic(self) -> Extremes | Histograms | None:
        if isinstance(self._statistic, Histograms) and self._statistic.is_torn:
            raise InvalidStateError("an interrupted observe left channels without its batch; reset() and begin anew")
        return self._statistic

    def _copied(self) -> tuple[Extremes | Histograms | None, int]:
        with self._lock:
            return copy.deepcopy(self._whole_statistic()), self._num_batches

    def _clip(self, bins: Bins, lowest: float, highest: float) -> tuple[float, float]:
        if self._method.lower is not None and self._method.upper is not None:
            low, high = percentiles_of_bins(bins, (self._method.lower, self._method.upper), lowest, highest)
            return low, high
        if self._method.name == "entropy":
            threshold = entropy_threshold(bins, self._bits)
            return clipped_to(threshold, lowest, highest)
        limits = code_range(self._bits, self._mode, narrow_range=self._narrow_range)
        return least_error_range(bins, lowest, highest, limits, symmetric=self.symmetric)

    def _key(self) -> tuple[Any, ...]:
        return self._method, self._bits, self._mode, self.axis, self._narrow_range

    def _text(self) -> str:
        parameters = ", ".join(f"{key} {value}" for key, value in self._method.to_dict().items() if key != "name")
        method = f"{self._method.name}({parameters})" if parameters else self._method.name
        where = "per tensor" if self.axis is None else f"along axis {self.axis}"
        full = "" if self._narrow_range else ", full range"
        return f"{method} with {self._bits} bits {self._mode.value} {where}{full}"

    def __repr__(self) -> str:
        return f"<Calibrator: {self._text()}, {self._num_batches} batches>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._described(np.array),)


def _unpickled(state: Mapping[str, Any]) -> Calibrator:
    return Calibrator.from_dict(state)

"""`EmbeddingQuantizer`: ranges from batches of vectors, codes of vectors, and the recall that is left."""

import json
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from quantcore._base import arguments, arrays
from quantcore._base.records import tabled
from quantcore._base.text import brief
from quantcore.affine import QuantizedTensor, QuantParams, dequantize_with_params
from quantcore.affine.tensor import quantize_floats
from quantcore.calibration import CalibrationMethod, Calibrator
from quantcore.embeddings import coding, rows
from quantcore.embeddings.packing import unpack_rows
from quantcore.embeddings.schemes import AFFINE, Rounding, Scheme, scheme_of
from quantcore.embeddings.search import nearest, recall_at_k
from quantcore.errors import FileFormatError, InvalidStateError, InvalidTypeError, InvalidValueError, QuantcoreError
from quantcore.files.disk import InputFile, OutputFile
from quantcore.files.strict_json import parse_object

__all__ = ["EmbeddingQuantizer"]

_FORMAT, _VERSION = "quantcore.embeddings", 1
_MOST_BYTES = 1 << 30
_FEWEST_ROWS = 2
_MOST_ROWS = 1 << 62
_METHODS = ("min_max", "mse")
_PER = ("dimension", "vector")


class EmbeddingQuantizer:
    """Codes for embeddings, with a range for each dimension that is found from data, or one for each vector.

    Parameters
    ----------
    scheme : str, default "uint8"
        In any case. Layout "affine": "uint8" (offset and scale, rounded to nearest), "int8" (scale alone), "uint4" (as
        uint8, two codes a byte, the first in the low nibble). Layout "faiss": "QT_8bit", "QT_6bit", "QT_4bit",
        "QT_8bit_uniform", "QT_4bit_uniform". Layout "sentence-transformers": "int8", "uint8", "binary", "ubinary".
    per : {"dimension", "vector"}, default "dimension"
        What has a range of its own. Per vector, for the layout "affine" with 8 bits: nothing needs to be fitted, and
        `transform` returns a `QuantizedTensor`, which has the scales beside the codes.
    layout : {"affine", "faiss", "sentence-transformers"}, default "affine"
        Whose codes these are: faiss' `ScalarQuantizer.compute_codes` after `train`, sentence-transformers'
        `quantize_embeddings`, byte for byte.
    method : {"min_max", "mse"}, default "min_max"
        How the layout "affine" finds ranges: the extremes, or the range of least squared error over a histogram of each
        dimension, which takes longer. The other layouts have the extremes.

    Raises
    ------
    ValueError
        A parameter is unknown, or does not go with another one.

    Notes
    -----
    faiss: `floor(levels * clip((x - low) / (high - low), 0, 1))`. sentence-transformers:
    `clip(floor((x - low) / step), 0, 255)` with `step = (high - low) / 255` in float32, minus 128 for int8. Other
    floats than float32 are taken as float32. What codes stand for (`params`, `inverse_transform`) is the middle of what
    they hold: faiss' `decode` to the last bits, which differ between its own builds; sentence-transformers rescores
    with the lower ends.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).standard_normal((1000, 64), np.float32) + 5
    >>> quantizer = EmbeddingQuantizer("uint8").fit(vectors)
    >>> codes = quantizer.transform(vectors)
    >>> codes.dtype, codes.shape
    (dtype('uint8'), (1000, 64))
    >>> bool(np.abs(quantizer.inverse_transform(codes) - vectors).max() < 0.02)
    True
    """

    def __init__(
        self, scheme: str = "uint8", *, per: str = "dimension", layout: str = AFFINE, method: str = "min_max"
    ) -> None:
        self._scheme = scheme_of(layout, scheme)
        per, method = arguments.choice(per, "per", _PER), arguments.choice(method, "method", _METHODS)
        is_affine = self._scheme.rounding is Rounding.NEAREST
        if per == "vector" and not (is_affine and self._scheme.bits == 8):
            raise InvalidValueError(f"per: vector goes with int8 and uint8 of the layout {AFFINE}, got {self._text}")
        if method != "min_max" and not (is_affine and per == "dimension"):
            raise InvalidValueError(f"method: {method} goes with the layout {AFFINE} per dimension, got {self._text}")
        self._per, self._method = per, method
        self.reset()

    @property
    def scheme(self) -> str:
        """The name of the scheme."""
        return self._scheme.name

    @property
    def per(self) -> str:
        """What has a range of its own: "dimension" or "vector"."""
        return self._per

    @property
    def layout(self) -> str:
        """Whose codes these are."""
        return self._scheme.layout

    @property
    def method(self) -> str:
        """How ranges are found."""
        return self._method

    @property
    def n_dimensions(self) -> int | None:
        """The values of a vector; None before the first one was seen."""
        return self._n_dimensions

    @property
    def num_rows(self) -> int:
        """The vectors that ranges were fitted on."""
        return self._num_rows

    def reset(self) -> None:
        """Forget everything fitted."""
        bits = max(self._scheme.bits, 2)  # signs need no calibrator
        self._calibrator = Calibrator(CalibrationMethod(self._method), bits, axis=1, mode=self._scheme.mode)
        self._n_dimensions: int | None = None
        self._num_rows = 0
        self._params: QuantParams | None = None

    def fit(self, values: Any, *, on_bad: str = "error", n_threads: int | None = None) -> Self:
        """Find the ranges of these vectors, and forget those of earlier ones.

        Parameters
        ----------
        values : array_like, shape (n, d)
            float32, float16, bfloat16 or float64; or a list of vectors. At least two, unless nothing needs ranges.
        on_bad : {"error", "drop"}, default "error"
            What to do about a row that is missing, has another length, or holds NaN, inf or what is beyond float32.
        n_threads : int, optional
            Threads to use; None: `get_num_threads()`. The ranges do not depend on it.

        Returns
        -------
        EmbeddingQuantizer
            This one.

        Raises
        ------
        ValueError
            A row is bad, which the message names with its column; there are fewer than two vectors, whose ranges would
            clip all others.
        TypeError
            The values are no floats.
        """
        source = rows.take_rows(values, "values", None, on_bad)
        if self._needs_ranges and source.shape[0] < _FEWEST_ROWS:
            raise InvalidValueError(
                f"values: ranges need at least {_FEWEST_ROWS} vectors, got {source.shape[0]}; partial_fit takes single "
                f"ones"
            )
        fresh = type(self)(self.scheme, per=self._per, layout=self.layout, method=self._method)
        fresh._add(source, n_threads)
        self.__dict__.update(fresh.__dict__)
        return self

    def partial_fit(self, values: Any, *, on_bad: str = "error", n_threads: int | None = None) -> Self:
        """Widen the ranges by a batch of vectors, of which there may be one or none; otherwise as `fit`.

        Known ranges go in as a batch of two rows, the lower and the upper ends.
        """
        self._add(rows.take_rows(values, "values", self._n_dimensions, on_bad), n_threads)
        return self

    def _add(self, source: arrays.Floats, n_threads: int | None) -> None:
        if self._needs_ranges:
            sharing = coding.PER_DIMENSION.sharing(source.shape)
            self._calibrator.observe_shared(source, sharing, "values", n_threads)
            self._num_rows += source.shape[0]
        self._n_dimensions, self._params = source.shape[1], None

    @property
    def _needs_ranges(self) -> bool:
        return self._per == "dimension" and self._scheme.needs_ranges

    def merge(self, other: Self) -> Self:
        """Add everything that another quantizer of the same kind was fitted on; returns this one.

        The result is exactly that of one quantizer that saw all vectors, in any order.

        Raises
        ------
        ValueError
            The two differ in scheme, layout, method or dimensions.
        TypeError
            `other` is not an EmbeddingQuantizer.
        """
        if not isinstance(other, EmbeddingQuantizer):
            raise InvalidTypeError(f"other: expected an EmbeddingQuantizer, got {brief(other)}")
        if self._key != other._key:
            raise InvalidValueError(f"other: expected {self._text}, got {other._text}")
        mine, theirs = self._n_dimensions, other._n_dimensions
        if mine is not None and theirs is not None and mine != theirs:
            raise InvalidValueError(f"other: expected vectors of {mine} values, got {theirs}")
        self._calibrator.merge(other._calibrator)
        self._num_rows += other._num_rows
        self._n_dimensions, self._params = theirs if mine is None else mine, None
        return self

    def good_rows(self, values: Any) -> NDArray[np.bool_]:
        """Which vectors are not bad: those that `on_bad="drop"` keeps.

        Parameters
        ----------
        values : array_like, shape (n, d)
            As for `fit`.

        Returns
        -------
        ndarray of bool, shape (n,)
        """
        return rows.good_rows(values, "values", self._n_dimensions)[1]

    @property
    def ranges(self) -> NDArray[np.float32]:
        """The lower and the upper end of each dimension, shape (2, d): sentence-transformers' `ranges`.

        faiss' `trained` is the lower ends and then the differences, of a uniform scheme those of one dimension. What
        method mse clips to is not in here, but in `params`.

        Raises
        ------
        InvalidStateError
            Fewer than two vectors were seen, or the scheme has no ranges per dimension.
        """
        found = self._found()
        ranges = np.stack([found.observed_min, found.observed_max])
        if self._scheme.is_uniform:
            ranges = np.repeat([[ranges[0].min()], [ranges[1].max()]], ranges.shape[1], axis=1)
        return ranges

    @property
    def params(self) -> QuantParams:
        """What codes per dimension stand for, one scale and offset per dimension: for `dequantize_with_params`.

        Codes of int8 of sentence-transformers are first raised by 128. Errors as for `ranges`.
        """
        if self._params is None:
            found = self._found()
            is_affine = self._scheme.rounding is Rounding.NEAREST
            self._params = found.params if is_affine else coding.floor_params(self._scheme, self.ranges)
        return self._params

    def _found(self) -> Any:
        if not self._needs_ranges:
            raise InvalidStateError(f"ranges: {self._text} has none per dimension")
        if self._num_rows < _FEWEST_ROWS:
            raise InvalidStateError(
                f"ranges: they need at least {_FEWEST_ROWS} vectors, fit and partial_fit saw {self._num_rows}"
            )
        return self._calibrator.compute()

    def transform(
        self, values: Any, *, on_bad: str = "error", n_threads: int | None = None, out: NDArray[Any] | None = None
    ) -> Any:
        """The codes of vectors; what lies beyond the ranges is clipped.

        Parameters
        ----------
        values : array_like, shape (n, d)
            As for `fit`.
        on_bad : {"error", "drop"}, default "error"
            As for `fit`; "drop" leaves out bad rows (see `good_rows`).
        n_threads : int, optional
            Threads to use; None: `get_num_threads()`. The codes do not depend on it.
        out : ndarray of int8 or uint8, shape (n, row bytes), optional
            Where to write the codes; not per vector.

        Returns
        -------
        ndarray of int8 or uint8, shape (n, row bytes), or QuantizedTensor
            The latter per vector. A row has d bytes, or `(d * bits + 7) // 8` with fewer than 8 bits.

        Raises
        ------
        ValueError
            A row is bad, which the message names with its column; `out` does not fit.
        TypeError
            The values are no floats.
        InvalidStateError
            Ranges are needed, and fewer than two vectors were seen.
        """
        scheme = self._scheme
        if self._per == "vector":
            if out is not None:
                raise InvalidValueError("out: does not go with ranges per vector, whose scales it could not hold")
            source = rows.take_rows(values, "values", self._n_dimensions, on_bad)
            return quantize_floats(source, coding.PER_VECTOR, scheme.mode, scheme.bits, n_threads)
        ranges = params = None
        if scheme.rounding is Rounding.NEAREST:
            params = self.params
        elif scheme.needs_ranges:
            ranges = self.ranges
        source = rows.take_rows(values, "values", self._n_dimensions, on_bad)
        return coding.encode(source, scheme, ranges, params, out, n_threads)

    def inverse_transform(
        self, codes: Any, *, n_threads: int | None = None, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The vectors that codes stand for; bits of a sign become 1 and -1.

        Parameters
        ----------
        codes : ndarray of int8 or uint8, shape (n, row bytes), or QuantizedTensor
            As `transform` returns.
        n_threads : int, optional
            Threads to use; None: `get_num_threads()`.
        out : ndarray of float32, shape (n, d), optional
            Where to write the vectors. A new array of many vectors takes as long to get as to fill.

        Returns
        -------
        ndarray of float32, shape (n, d)

        Raises
        ------
        ValueError, TypeError
            The codes have another shape or dtype than those of `transform`; `out` does not fit.
        InvalidStateError
            Ranges are needed, and fewer than two vectors were seen.
        """
        scheme = self._scheme
        if self._per == "vector":
            if not isinstance(codes, QuantizedTensor):
                raise InvalidTypeError(f"codes: expected a QuantizedTensor, got {type(codes).__name__}")
            return codes.dequantize(n_threads=n_threads, out=out)
        dtype = np.dtype(np.int8 if scheme.is_signed else np.uint8)
        array = arrays.as_array(codes, "codes")
        if array.dtype != dtype:
            raise InvalidTypeError(f"codes: expected {dtype} ({self._text}), got dtype {array.dtype}")
        if array.ndim != 2:
            raise InvalidValueError(f"codes: expected a matrix, a vector in each row, got shape {array.shape}")
        n_dimensions = self._n_dimensions
        if n_dimensions is None:
            n_dimensions = array.shape[1] * 8 // scheme.bits
        if array.shape[1] != scheme.row_bytes(n_dimensions):
            raise InvalidValueError(
                f"codes: vectors of {n_dimensions} values take {scheme.row_bytes(n_dimensions)} bytes each, got "
                f"{array.shape[1]}"
            )
        result = arrays.output(out, (len(array), n_dimensions), np.dtype(np.float32), array)
        self._decode(np.ascontiguousarray(array), result, n_threads)
        return result if out is None else out

    def _decode(self, codes: NDArray[Any], out: NDArray[np.float32], n_threads: int | None) -> None:
        scheme, n_dimensions = self._scheme, out.shape[1]
        if scheme.is_signed and scheme.rounding is not Rounding.NEAREST:
            codes = codes.view(np.uint8) ^ np.uint8(128)
        if scheme.rounding is Rounding.SIGN:
            bits = np.unpackbits(codes, axis=-1, count=n_dimensions)
            np.multiply(bits, np.float32(2), out=out)
            out -= np.float32(1)
            return
        unpacked = unpack_rows(codes, scheme.bits, n_dimensions)
        dequantize_with_params(unpacked, self.params, n_threads=n_threads, out=out)

    def recall_at_k(self, base: Any, queries: Any, k: int = 10, *, metric: str = "l2") -> float:
        """The share of the k nearest vectors that are found where their codes are searched, with queries as they are.

        Every query is compared with every vector, so that tens of thousands of vectors are a matter of seconds.

        Parameters
        ----------
        base, queries : array_like, shape (n, d) and (n_queries, d)
            As for `fit`.
        k : int, default 10
            Neighbours, at most n.
        metric : {"l2", "ip", "cosine"}, default "l2"
            The distance, or the inner product or cosine, of which larger is nearer.

        Returns
        -------
        float
            From 0 to 1.
        """
        matrices = []
        for name, values in (("base", base), ("queries", queries)):
            source = rows.take_rows(values, name, self._n_dimensions, rows.ERROR)
            if not source.size:
                raise InvalidValueError(f"{name}: must not be empty, got shape {source.shape}")
            matrices.append(source.values(0, source.size).astype(np.float32).reshape(source.shape))
        vectors, asked = matrices
        if vectors.shape[1] != asked.shape[1]:
            raise InvalidValueError(f"queries: expected vectors of {vectors.shape[1]} values, got {asked.shape[1]}")
        decoded = self.inverse_transform(self.transform(vectors))
        return recall_at_k(nearest(vectors, asked, k, metric), nearest(decoded, asked, k, metric))

    def to_dict(self) -> dict[str, Any]:
        """The parameters and everything fitted, for JSON; `EmbeddingQuantizer.from_dict` restores an equal one."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "layout": self.layout,
            "scheme": self.scheme,
            "per": self._per,
            "method": self._method,
            "n_dimensions": self._n_dimensions,
            "num_rows": self._num_rows,
            "calibrator": self._calibrator.to_dict(),
        }

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` returned.

        Raises
        ------
        ValueError, TypeError
            The format or version is unknown; a field is missing, unknown, out of range or contradicts another one.
        """
        mapping = arguments.state(mapping, _FORMAT, _VERSION)
        quantizer = cls("uint8")
        if set(mapping) != set(quantizer.to_dict()):
            wrong = sorted(set(map(str, mapping)) ^ set(quantizer.to_dict()))
            raise InvalidValueError(f"{brief(wrong[0])}: is missing, or not a field of a quantizer")
        quantizer = cls(mapping["scheme"], per=mapping["per"], layout=mapping["layout"], method=mapping["method"])
        calibrator = Calibrator.from_dict(mapping["calibrator"])
        if calibrator._key() != quantizer._calibrator._key():
            raise InvalidValueError(f"calibrator: contradicts {quantizer._text}, got {brief(calibrator)}")
        num_rows = arguments.integer(mapping["num_rows"], "num_rows", 0, _MOST_ROWS)
        n_dimensions = mapping["n_dimensions"]
        if n_dimensions is not None:
            n_dimensions = arguments.integer(n_dimensions, "n_dimensions", 0, _MOST_ROWS)
        n_channels = calibrator.to_dict()["num_channels"]
        if bool(num_rows) != calibrator.has_data or (n_channels and n_channels != n_dimensions):
            raise InvalidValueError("calibrator: contradicts num_rows or n_dimensions")
        quantizer._calibrator, quantizer._num_rows, quantizer._n_dimensions = calibrator, num_rows, n_dimensions
        return quantizer

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write `to_dict` to a JSON file, atomically.

        Raises
        ------
        OSError
            The file exists and `force` is false, or it cannot be written (OutputFileError).
        """
        with OutputFile(path, force=force) as file:
            file.write(json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        FileFormatError
            The file does not hold a quantizer of a known version; the message names what is wrong.
        OSError
            The file cannot be read.
        """
        with InputFile(path) as file:
            if file.size > _MOST_BYTES:
                raise FileFormatError(f"{file.label}: {file.size} bytes, the limit of a quantizer is {_MOST_BYTES}")
            content = parse_object(file.read(0, file.size), file.label, "quantizer")
            try:
                return cls.from_dict(content)
            except QuantcoreError as error:
                raise FileFormatError(f"{file.label}: {error}") from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EmbeddingQuantizer):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    @property
    def _key(self) -> tuple[Scheme, str, str]:
        return self._scheme, self._per, self._method

    @property
    def _text(self) -> str:
        return f"{self._scheme.layout} {self._scheme.name}"

    def __repr__(self) -> str:
        of = "" if self._n_dimensions is None else f", {self._n_dimensions} dimensions, fitted on {self._num_rows} rows"
        return f"<EmbeddingQuantizer: {self._text} per {self._per}, {self._method}{of}>"

    def _repr_html_(self) -> str:
        return tabled(self, "layout", "scheme", "per", "method", "n_dimensions", "num_rows")

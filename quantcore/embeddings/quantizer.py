"""`EmbeddingQuantizer`: ranges from batches of vectors, codes of vectors, and the recall that is left."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quantcore._base.records import tabled
from quantcore._base.text import brief
from quantcore.affine import QuantParams
from quantcore.affine.tensor import quantize_floats
from quantcore.embeddings import coding, rows
from quantcore.embeddings.fitting import Fitted
from quantcore.embeddings.schemes import AFFINE
from quantcore.embeddings.search import nearest, recall_at_k
from quantcore.embeddings.states import SavedQuantizer
from quantcore.errors import InvalidTypeError, InvalidValueError

__all__ = ["EmbeddingQuantizer"]


class EmbeddingQuantizer(SavedQuantizer):
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
        self._fitted = Fitted(layout, scheme, per, method)

    @property
    def scheme(self) -> str:
        """The name of the scheme."""
        return self._fitted.scheme.name

    @property
    def per(self) -> str:
        """What has a range of its own: "dimension" or "vector"."""
        return self._fitted.per

    @property
    def layout(self) -> str:
        """Whose codes these are."""
        return self._fitted.scheme.layout

    @property
    def method(self) -> str:
        """How ranges are found."""
        return self._fitted.method

    @property
    def n_dimensions(self) -> int | None:
        """The values of a vector; None before the first one was seen."""
        return self._fitted.n_dimensions

    @property
    def num_rows(self) -> int:
        """The vectors that ranges were fitted on."""
        return self._fitted.num_rows

    def reset(self) -> None:
        """Forget everything fitted."""
        self._fitted = self._fitted.like()

    def fit(self, values: Any, *, on_bad: str = "error", n_threads: int | None = None) -> Self:
        """Find the ranges of these vectors, and forget those of earlier ones.

        Parameters
        ----------
        values : array_like, shape (n, d)
            float32, float16, bfloat16 or float64; or a list of vectors. At least two, unless nothing needs ranges.
        on_bad : {"error", "drop"}, default "error"
            What to do about a row that is missing (None or NaN instead of a vector), has another length, or holds NaN,
            inf or what is beyond float32. The length is `n_dimensions`, or before that is known, and in `fit`, the one
            of more than half of the vectors; if there is none, they are refused.
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
        self._fitted.check_enough(source.shape[0])
        fresh = self._fitted.like()
        fresh.add(source, n_threads)
        self._fitted = fresh
        return self

    def partial_fit(self, values: Any, *, on_bad: str = "error", n_threads: int | None = None) -> Self:
        """Widen the ranges by a batch of vectors, of which there may be one or none; otherwise as `fit`.

        A batch of missing rows alone, or an empty list, changes nothing, nor the number of dimensions.
        Known ranges go in as a batch of two rows, the lower and the upper ends.
        """
        self._fitted.add(rows.take_rows(values, "values", self.n_dimensions, on_bad), n_threads)
        return self

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
        self._fitted.merge(other._fitted)
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
        return rows.good_rows(values, "values", self.n_dimensions)[1]

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
        return self._fitted.ranges()

    @property
    def params(self) -> QuantParams:
        """What codes per dimension stand for, one scale and offset per dimension: for `dequantize_with_params`.

        Codes of int8 of sentence-transformers are first raised by 128. Errors as for `ranges`.
        """
        return self._fitted.params()

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
        scheme = self._fitted.scheme
        if self.per == "vector":
            if out is not None:
                raise InvalidValueError("out: does not go with ranges per vector, whose scales it could not hold")
            source = rows.take_rows(values, "values", self.n_dimensions, on_bad)
            return quantize_floats(source, coding.PER_VECTOR, scheme.mode, scheme.bits, n_threads)
        ranges, params = self._fitted.for_coding()
        source = rows.take_rows(values, "values", self.n_dimensions, on_bad)
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
            The codes have another shape or dtype than those of `transform`, or another granularity, mode or number of
            bits; `out` does not fit.
        InvalidStateError
            Ranges are needed, and fewer than two vectors were seen.
        """
        scheme = self._fitted.scheme
        if self.per == "vector":
            tensor = coding.check_tensor(codes, scheme, self.n_dimensions)
            return tensor.dequantize(n_threads=n_threads, out=out)
        params = self.params if scheme.needs_ranges else None
        return coding.decode(codes, scheme, self.n_dimensions, params, out, n_threads)

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
        vectors = rows.take_float32(base, "base", self.n_dimensions)
        asked = rows.take_float32(queries, "queries", vectors.shape[1])
        decoded = self.inverse_transform(self.transform(vectors))
        return recall_at_k(nearest(vectors, asked, k, metric), nearest(decoded, asked, k, metric))

    def __repr__(self) -> str:
        of = "" if self.n_dimensions is None else f", {self.n_dimensions} dimensions, fitted on {self.num_rows} rows"
        return f"<EmbeddingQuantizer: {self._fitted.scheme.text} per {self.per}, {self.method}{of}>"

    def _repr_html_(self) -> str:
        return tabled(self, "layout", "scheme", "per", "method", "n_dimensions", "num_rows")

"""The size and the error of a tensor in each type that a model file may use."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from quantcore._base import arguments, arrays
from quantcore._base.records import shown
from quantcore.affine import passes
from quantcore.analysis.sums import ErrorSums
from quantcore.errors import InvalidValueError
from quantcore.ggml.formats import SUPPORTED_TYPES, dequantize, quantize, unweighted_format
from quantcore.ggml.types import Family, GGUFQuantType

__all__ = ["TypeCost", "type_costs"]

_FAMILIES = (Family.FLOAT, Family.LEGACY, Family.K_QUANT)
DEFAULT_TYPES = tuple(
    sorted((t for t in SUPPORTED_TYPES if t.layout.family in _FAMILIES), key=lambda t: (t.bits_per_weight, t.name))
)
"""What is tried unless told otherwise: every type but those that are slow to quantize or need an importance matrix."""


@shown()
class TypeCost(NamedTuple):
    """The size and the error of a tensor in one type.

    Attributes
    ----------
    nbytes : int
        The size in bytes.
    error : float
        The error, in any measure that can be summed over tensors; not negative.
    """

    nbytes: int
    error: float


def type_costs(
    values: Any, types: Iterable[GGUFQuantType | str | int] = DEFAULT_TYPES, *, n_threads: int | None = None
) -> dict[str, TypeCost]:
    """The size and the relative error of a tensor in each type that can hold it.

    Parameters
    ----------
    values : array_like
        float32, float16, bfloat16 or float64, finite, not empty.
    types : iterable of GGUFQuantType, str or int
        Types that `quantize` takes.
    n_threads : int, optional
        Threads to use; None: `get_num_threads()`.

    Returns
    -------
    dict of str to TypeCost
        `error` is `sum((x - y)**2) / sum(x**2)`, 0 for a tensor of zeros. A type is left out if its blocks do not fit
        the rows, or a value is too large for it.

    Raises
    ------
    ValueError
        `values` is empty or holds NaN or inf; a type is unknown.
    TypeError
        `values` is not a float array.
    """
    formats = [unweighted_format(t, "types") for t in arguments.entries(types, "types", "types")]
    source = arrays.take_floats(values, "values")
    if not source.size:
        raise InvalidValueError(f"values: must not be empty, got shape {source.shape}")
    passes.refuse_not_finite(source, "values", n_threads)
    costs = {}
    for fmt in formats:
        if source.shape[-1] % fmt.block_size:
            continue
        try:
            packed = quantize(values, fmt.id, n_threads=n_threads)
        except InvalidValueError:  # too large
            continue
        sums = ErrorSums()
        sums.add(values, dequantize(packed, fmt.id, n_threads=n_threads), n_threads=n_threads)
        costs[fmt.name] = TypeCost(packed.nbytes, sums.relative_noise)
    return costs

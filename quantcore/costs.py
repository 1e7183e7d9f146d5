"""What each type that a model file may use does to a tensor: its size, and what it loses."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from quantcore import _arrays, affine
from quantcore.error_sums import ErrorSums
from quantcore.errors import InvalidValueError
from quantcore.formats import dequantize, quantize, supported_format
from quantcore.ggml_types import GGUFQuantType

__all__ = ["TypeCost", "type_costs"]

DEFAULT_TYPES = (GGUFQuantType.Q4_0, GGUFQuantType.Q8_0, GGUFQuantType.BF16, GGUFQuantType.F16, GGUFQuantType.F32)


class TypeCost(NamedTuple):
    """What a type does to a tensor.

    Attributes
    ----------
    nbytes : int
        Its size.
    error : float
        What it loses, in any measure that may be added over tensors; not negative.
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
    formats = [supported_format(t, "types") for t in types]
    source = _arrays.floats(values, "values")
    if not source.size:
        raise InvalidValueError(f"values: must not be empty, got shape {source.shape}")
    affine.refuse_not_finite(source, "values", n_threads)
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

"""Mixed precision: which tensors lose the most, and the type for each of them under a budget of bits per weight."""

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from quantcore._base import arguments
from quantcore._base.notebook import rows_table
from quantcore._base.records import shown
from quantcore._base.text import brief, rounded
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.mixed_precision.costs import TypeCost

__all__ = ["TensorSensitivity", "TypeSuggestion", "rank_sensitivity", "suggest_types"]

Costs = Mapping[str, Mapping[str, TypeCost]]
_MOST = 1 << 60  # bytes or weights


@shown()
class TensorSensitivity(NamedTuple):
    """How much a tensor loses in its smallest type.

    Attributes
    ----------
    name : str
    smallest_type : str
    error : float
        The error in that type.
    share : float
        Its share of the errors of all tensors in their smallest types; 0 if all of these are 0.
    gain_per_byte : float
        The largest reduction of the error per byte spent on a larger type; 0 if no type is better.
    """

    name: str
    smallest_type: str
    error: float
    share: float
    gain_per_byte: float


@dataclass(frozen=True, repr=False)
class TypeSuggestion:
    """A type for each tensor.

    Attributes
    ----------
    types : dict of str to str
        The type of each tensor, in the given order.
    nbytes : int
        The bytes of all tensors together.
    bits_per_weight : float
    error : float
        The sum of the errors of all tensors.
    least_error : float
        A lower bound of the error for any choice within the budget; `error` is optimal if they are equal.
    """

    types: dict[str, str]
    nbytes: int
    bits_per_weight: float
    error: float
    least_error: float

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name}" for name, n in Counter(self.types.values()).most_common())
        return f"TypeSuggestion({counts}; {self.bits_per_weight:.2f} bits per weight, error {rounded(self.error)})"

    def _repr_html_(self) -> str:
        return rows_table(repr(self), ("tensor", "type"), self.types.items(), len(self.types))


def rank_sensitivity(costs: Costs) -> tuple[TensorSensitivity, ...]:
    """The tensors in descending order of the error that a larger type saves per byte.

    Parameters
    ----------
    costs : mapping of str to mapping of str to TypeCost
        The costs of the types of each tensor (see `type_costs`).

    Returns
    -------
    tuple of TensorSensitivity

    Raises
    ------
    ValueError
        A tensor has no types, or a cost is not a size and an error that is finite and not negative.
    """
    ladders = _ladders(costs)
    total = sum(ladder[0][1].error for ladder in ladders.values())
    ranked = (
        TensorSensitivity(
            name,
            ladder[0][0],
            ladder[0][1].error,
            ladder[0][1].error / total if total else 0.0,
            float(_gain(ladder[0][1], ladder[1][1])) if len(ladder) > 1 else 0.0,
        )
        for name, ladder in ladders.items()
    )
    return tuple(sorted(ranked, key=lambda s: -s.gain_per_byte))


def suggest_types(
    costs: Costs, num_weights: int, bits_per_weight: float | None = None, *, max_bytes: int | None = None
) -> TypeSuggestion:
    """Choose a type for each tensor so that the sum of the errors is small within a budget.

    Parameters
    ----------
    costs : mapping of str to mapping of str to TypeCost
        The costs of the types of each tensor (see `type_costs`).
    num_weights : int
        The number of weights of all tensors together.
    bits_per_weight : float, optional
        The budget: `floor(num_weights * bits_per_weight / 8)` bytes for all tensors together.
    max_bytes : int, optional
        The budget in bytes; one of the two is given.

    Returns
    -------
    TypeSuggestion

    Raises
    ------
    ValueError
        Even the smallest types exceed the budget; a cost is not a size and an error that is finite and not
        negative; a number is out of its range.
    TypeError
        An argument that must be a number is not one.

    Notes
    -----
    This is the multiple-choice knapsack problem. Every tensor starts with its smallest type. The steps along the lower
    convex hulls of (bytes, error) of all tensors are then taken in descending order of error saved per byte, as long as
    they fit; a tensor whose step does not fit keeps its type. Up to the first step that does not fit, the choice is
    optimal for its bytes. In the end, the error exceeds the optimum by less than that step would have saved;
    `TypeSuggestion.least_error` is the corresponding bound (from the linear relaxation).
    """
    num_weights = arguments.integer(num_weights, "num_weights", 1, _MOST)
    if (bits_per_weight is None) == (max_bytes is None):
        raise InvalidValueError("bits_per_weight, max_bytes: one of the two must be given")
    if max_bytes is not None:
        budget = arguments.integer(max_bytes, "max_bytes", 0, _MOST)
        given = f"max_bytes: {budget} bytes are given"
    else:
        bits = arguments.number(bits_per_weight, "bits_per_weight")
        budget = int(Fraction(bits) * num_weights / 8) if bits > 0 else 0
        given = f"bits_per_weight: {bits:g} are {budget} bytes"
    ladders = _ladders(costs)
    rung = dict.fromkeys(ladders, 0)
    left = budget - sum(ladder[0][1].nbytes for ladder in ladders.values())
    if left < 0:
        raise InvalidValueError(
            f"{given}, but the smallest types take {budget - left} "
            f"({8 * (budget - left) / num_weights:.4g} bits per weight)"
        )
    steps = [
        (_gain(low, high), -i, name, k, low, high)
        for i, (name, ladder) in enumerate(ladders.items())
        for k, ((_, low), (_, high)) in enumerate(itertools.pairwise(ladder), 1)
    ]
    least_error = None
    for gain, _, name, k, low, high in sorted(steps, key=lambda step: step[:2], reverse=True):
        size = high.nbytes - low.nbytes
        if size > left and least_error is None:
            least_error = max(0.0, _error(ladders, rung) - float(gain * left))
        if size <= left and rung[name] == k - 1:
            rung[name] = k
            left -= size
    error = _error(ladders, rung)
    return TypeSuggestion(
        types={name: ladder[rung[name]][0] for name, ladder in ladders.items()},
        nbytes=budget - left,
        bits_per_weight=8 * (budget - left) / num_weights,
        error=error,
        least_error=error if least_error is None else min(least_error, error),
    )


def _ladders(costs: Costs) -> dict[str, list[tuple[str, TypeCost]]]:
    """The types of each tensor on the lower convex hull of (bytes, error), the smallest first."""
    ladders = {}
    if not isinstance(costs, Mapping):
        raise InvalidTypeError(f"costs: expected a mapping of names to their types' costs, got {brief(costs)}")
    for name, types in costs.items():
        if not isinstance(types, Mapping):
            raise InvalidTypeError(f"costs: {brief(name)}: expected a mapping of types to costs, got {brief(types)}")
        if not types:
            raise InvalidValueError(f"costs: {brief(name)} has no types")
        checked = [(type_name, _check_cost(cost, name)) for type_name, cost in types.items()]
        hull: list[tuple[str, TypeCost]] = []
        for candidate in sorted(checked, key=lambda item: item[1]):
            if hull and candidate[1].error >= hull[-1][1].error:
                continue
            while len(hull) > 1 and _gain(hull[-1][1], candidate[1]) >= _gain(hull[-2][1], hull[-1][1]):
                hull.pop()
            hull.append(candidate)
        ladders[name] = hull
    return ladders


def _check_cost(cost: Any, name: str) -> TypeCost:
    try:
        nbytes, error = cost
    except (TypeError, ValueError):
        raise InvalidTypeError(f"costs: {brief(name)}: expected (nbytes, error), got {brief(cost)}") from None
    label = f"costs: {brief(name)}"
    error = arguments.number(error, f"{label}: error")
    if error < 0:
        raise InvalidValueError(f"{label}: error: expected at least 0, got {error}")
    return TypeCost(arguments.integer(nbytes, f"{label}: nbytes", 0, _MOST), error)


def _gain(low: TypeCost, high: TypeCost) -> Fraction:
    """The error saved per byte, as an exact fraction, so that rounding cannot make the hull concave."""
    return (Fraction(low.error) - Fraction(high.error)) / (high.nbytes - low.nbytes)


def _error(ladders: dict[str, list[tuple[str, TypeCost]]], rung: dict[str, int]) -> float:
    return sum(ladder[rung[name]][1].error for name, ladder in ladders.items())

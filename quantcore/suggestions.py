"""Mixed precision: which tensors lose most, and the type for each of them under a budget of bits a weight."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from quantcore import _arrays
from quantcore.costs import TypeCost
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.patterns import exactly
from quantcore.tables import brief

__all__ = ["TensorSensitivity", "TypeSuggestion", "rank_sensitivity", "suggest_types"]

Costs = Mapping[str, Mapping[str, TypeCost]]


class TensorSensitivity(NamedTuple):
    """How much a tensor suffers in its smallest type.

    Attributes
    ----------
    name : str
    smallest_type : str
    error : float
        In that type.
    share : float
        Of the errors of all tensors in their smallest types; 0 if nobody loses anything.
    gain_per_byte : float
        The most error that a byte spent on a larger type takes away; 0 if no type is better.
    """

    name: str
    smallest_type: str
    error: float
    share: float
    gain_per_byte: float


@dataclass(frozen=True)
class TypeSuggestion:
    """A type for each tensor.

    Attributes
    ----------
    types : dict of str to str
        By tensor, in the order in which they were given.
    nbytes : int
        Of all tensors together.
    bits_per_weight : float
    error : float
        The sum over all tensors.
    least_error : float
        What no choice within the budget can go below: `error` is the optimum if they are equal.
    """

    types: dict[str, str]
    nbytes: int
    bits_per_weight: float
    error: float
    least_error: float

    def overrides(self, base: str) -> tuple[tuple[str, str], ...]:
        """(regex, type) for each tensor whose type is not `base`: what `--tensor-type REGEX=TYPE` takes."""
        return tuple((exactly(name), chosen) for name, chosen in self.types.items() if chosen != base)


def rank_sensitivity(costs: Costs) -> tuple[TensorSensitivity, ...]:
    """The tensors in the order in which a larger type pays most for each byte.

    Parameters
    ----------
    costs : mapping of str to mapping of str to TypeCost
        For each tensor, its types (see `type_costs`).

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


def suggest_types(costs: Costs, num_weights: int, bits_per_weight: float) -> TypeSuggestion:
    """Choose a type for each tensor so that the errors add up to little within a budget.

    Parameters
    ----------
    costs : mapping of str to mapping of str to TypeCost
        For each tensor, its types (see `type_costs`).
    num_weights : int
        Of all tensors together.
    bits_per_weight : float
        The budget: `floor(num_weights * bits_per_weight / 8)` bytes for all tensors together.

    Returns
    -------
    TypeSuggestion

    Raises
    ------
    ValueError
        Even the smallest types are beyond the budget; a cost is not a size and an error that is finite and not
        negative; a number is out of its range.
    TypeError
        A number is none.

    Notes
    -----
    This is the multiple-choice knapsack problem. Every tensor begins with its smallest type; then come the steps along
    the lower convex hull of its (bytes, error), those of all tensors in the order of error taken away per byte, as long
    as they fit; a tensor whose step does not fit stays where it is. Up to the first step that does not fit, the choice
    is the best there is for its bytes. With it, the error is above the optimum by less than what that one step would
    have taken away; `TypeSuggestion.least_error` is the bound that follows (that of the linear relaxation).
    """
    num_weights = _arrays.integer(num_weights, "num_weights", 1)
    bits = _arrays.number(bits_per_weight, "bits_per_weight")
    budget = int(Fraction(bits) * num_weights / 8) if bits > 0 else 0
    ladders = _ladders(costs)
    rung = dict.fromkeys(ladders, 0)
    left = budget - sum(ladder[0][1].nbytes for ladder in ladders.values())
    if left < 0:
        raise InvalidValueError(
            f"bits_per_weight: {bits:g} are {budget} bytes, but the smallest types take {budget - left} "
            f"({8 * (budget - left) / num_weights:.4g} bits a weight)"
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
    """For each tensor, the types on the lower convex hull of (bytes, error), the smallest first."""
    ladders = {}
    for name, types in costs.items():
        if not types:
            raise InvalidValueError(f"costs: {brief(name)} has no types")
        checked = [(type_name, _checked(cost, name)) for type_name, cost in types.items()]
        hull: list[tuple[str, TypeCost]] = []
        for candidate in sorted(checked, key=lambda item: item[1]):
            if hull and candidate[1].error >= hull[-1][1].error:
                continue
            while len(hull) > 1 and _gain(hull[-1][1], candidate[1]) >= _gain(hull[-2][1], hull[-1][1]):
                hull.pop()
            hull.append(candidate)
        ladders[name] = hull
    return ladders


def _checked(cost: Any, name: str) -> TypeCost:
    try:
        nbytes, error = cost
    except (TypeError, ValueError):
        raise InvalidTypeError(f"costs: {brief(name)}: expected (nbytes, error), got {brief(cost)}") from None
    label = f"costs: {brief(name)}"
    error = _arrays.number(error, f"{label}: error")
    if error < 0:
        raise InvalidValueError(f"{label}: error: expected at least 0, got {error}")
    return TypeCost(_arrays.integer(nbytes, f"{label}: nbytes", 0), error)


def _gain(low: TypeCost, high: TypeCost) -> Fraction:
    """Error taken away per byte, exactly, so that the hull is convex beyond rounding."""
    return (Fraction(low.error) - Fraction(high.error)) / (high.nbytes - low.nbytes)


def _error(ladders: dict[str, list[tuple[str, TypeCost]]], rung: dict[str, int]) -> float:
    return sum(ladder[rung[name]][1].error for name, ladder in ladders.items())

"""Types for tensors under a budget: never above it, and as near the optimum of all choices as the bound says."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import GGUFQuantType, dequantize, quantize, rank_sensitivity, suggest_types, type_costs
from quantcore.errors import InvalidTypeError, InvalidValueError, QuantcoreError
from quantcore.mixed_precision.costs import TypeCost

F32 = np.float32
COSTS = {
    "robust": {"Q4_0": TypeCost(45, 0.2), "Q8_0": TypeCost(85, 0.1), "F16": TypeCost(160, 0.0)},
    "delicate": {"Q4_0": TypeCost(45, 9.0), "Q8_0": TypeCost(85, 1.0), "F16": TypeCost(160, 0.5)},
}  # of 80 weights each


def exhaustive(costs, budget: int) -> float | None:
    """The least error of all choices within the budget."""
    choices = itertools.product(*(types.values() for types in costs.values()))
    return min((math.fsum(c.error for c in x) for x in choices if sum(c.nbytes for c in x) <= budget), default=None)


costs_drawn = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d", "e"]),
    st.dictionaries(
        st.sampled_from(["Q4_0", "Q8_0", "F16", "F32"]),
        st.builds(TypeCost, st.integers(1, 60), st.integers(0, 50).map(float) | st.floats(0, 50)),
        min_size=1,
    ),
    min_size=1,
)


@given(costs=costs_drawn, num_weights=st.integers(1, 300), bits=st.floats(0.1, 32))
def test_error_is_near_the_least_of_all_choices(costs, num_weights, bits):
    budget = math.floor(num_weights * bits / 8)
    best = exhaustive(costs, budget)
    if best is None:
        with pytest.raises(InvalidValueError, match=r"^bits_per_weight: .* the smallest types take"):
            suggest_types(costs, num_weights, bits)
        return
    found = suggest_types(costs, num_weights, bits)
    chosen = [costs[name][type_name] for name, type_name in found.types.items()]
    assert list(found.types) == list(costs)
    assert found.nbytes == sum(c.nbytes for c in chosen) <= budget
    assert found.error == pytest.approx(sum(c.error for c in chosen), abs=1e-9)
    assert found.bits_per_weight == 8 * found.nbytes / num_weights
    assert found.least_error <= best + 1e-9 and best <= found.error + 1e-9
    largest_step = max(a.error - b.error for types in costs.values() for a in types.values() for b in types.values())
    assert found.error <= best + largest_step + 1e-9


@given(costs=costs_drawn)
def test_a_budget_for_everything_gives_the_least_error(costs):
    found = suggest_types(costs, 10_000, 32)
    assert found.error == found.least_error == pytest.approx(exhaustive(costs, 40_000))


@given(costs=costs_drawn, more=st.integers(0, 50))
def test_a_choice_that_reaches_the_bound_is_the_best(costs, more):
    budget = sum(min(types.values()).nbytes for types in costs.values()) + more
    found = suggest_types(costs, budget, 8)
    if found.error == found.least_error:
        assert found.error == pytest.approx(exhaustive(costs, budget), abs=1e-9)
    if not more:
        assert found.nbytes == budget and found.error == pytest.approx(exhaustive(costs, budget), abs=1e-9)


def test_the_delicate_tensor_gets_the_bits():
    chosen = {bits: suggest_types(COSTS, 160, bits).types for bits in (4.5, 6.5, 8.5, 12.25, 16)}
    assert chosen[4.5] == {"robust": "Q4_0", "delicate": "Q4_0"}
    assert chosen[6.5] == {"robust": "Q4_0", "delicate": "Q8_0"}
    assert chosen[8.5] == {"robust": "Q8_0", "delicate": "Q8_0"}
    assert chosen[12.25] == {"robust": "Q8_0", "delicate": "F16"}
    assert chosen[16] == {"robust": "F16", "delicate": "F16"}
    with pytest.raises(
        InvalidValueError, match=r"^bits_per_weight: 4\.4 are 88 bytes, .* take 90 \(4\.5 bits per weight\)$"
    ):
        suggest_types(COSTS, 160, 4.4)


def test_a_step_that_does_not_fit_is_bounded():
    found = suggest_types(COSTS, 160, 6.0)  # 30 bytes more than the smallest types; the best step takes 40
    assert found.types == {"robust": "Q4_0", "delicate": "Q4_0"}
    assert found.error == 9.2 and found.least_error == pytest.approx(9.2 - 8 * 30 / 40)


def test_types_that_pay_less_than_larger_ones_are_passed_over():
    costs = {"a": {"small": (10, 8.0), "bad": (20, 7.9), "worse": (25, 9.0), "large": (30, 0.0)}}
    assert suggest_types(costs, 8, 25).types == {"a": "small"}
    assert suggest_types(costs, 8, 30).types == {"a": "large"}


def test_ranking():
    ranked = rank_sensitivity(COSTS)
    assert [s.name for s in ranked] == ["delicate", "robust"]
    assert ranked[0].smallest_type == "Q4_0" and ranked[0].error == 9.0
    assert ranked[0].share == pytest.approx(9 / 9.2) and ranked[0].gain_per_byte == pytest.approx(8 / 40)
    assert ranked[1].gain_per_byte == pytest.approx(0.1 / 40)
    (alone,) = rank_sensitivity({"a": {"F32": (4, 0.0)}})
    assert alone == ("a", "F32", 0.0, 0.0, 0.0)
    assert rank_sensitivity({}) == ()


# Costs of a tensor


def test_costs_are_those_of_quantize(rng):
    values = rng.standard_normal((20, 64)).astype(F32)
    costs = type_costs(values)
    assert list(costs) == ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16", "F32"]
    for name, (nbytes, error) in costs.items():
        packed = quantize(values, name)
        difference = values.astype(np.float64) - dequantize(packed, name)
        assert nbytes == packed.nbytes
        assert error == pytest.approx(np.square(difference).sum() / np.square(values.astype(np.float64)).sum())
    errors = [costs[name].error for name in ("Q4_0", "Q8_0", "BF16", "F16", "F32")]
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0


def test_types_that_do_not_fit_are_left_out():
    ones = np.ones((2, 64), F32)
    assert list(type_costs(np.ones((64, 40), F32))) == ["BF16", "F16", "F32"]
    assert list(type_costs(ones * F32(1e5))) == ["Q4_0", "Q5_0", "Q8_0", "BF16", "F32"]
    assert list(type_costs(np.ones((1, 256), F32)))[:2] == ["Q2_K", "Q3_K"]
    assert list(type_costs(ones, ["q8_0", 0])) == ["Q8_0", "F32"]
    assert all(error == 0 for _, error in type_costs(ones * 0).values())
    assert list(type_costs(ones, [GGUFQuantType.Q4_0], n_threads=2)) == ["Q4_0"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: type_costs(np.ones((0, 32), F32)), r"^values: must not be empty, got shape \(0, 32\)$"),
        (lambda: type_costs(np.array([1.0, np.nan], F32)), r"^values: must be finite, got nan at flat index 1$"),
        (lambda: type_costs(np.ones(32, int)), r"^values: expected float32"),
        (lambda: type_costs(np.ones(32, F32), ["Q9"]), r"^types: "),
        (lambda: rank_sensitivity({"a": {}}), r"^costs: 'a' has no types$"),
        (lambda: rank_sensitivity({"a": {"F32": 4}}), r"^costs: 'a': expected \(nbytes, error\), got 4$"),
        (lambda: rank_sensitivity({"a": {"F32": (4, math.nan)}}), r"^costs: 'a': error: expected a finite number"),
        (lambda: rank_sensitivity({"a": {"F32": (4, -1.0)}}), r"^costs: 'a': error: expected at least 0, got -1\.0$"),
        (lambda: rank_sensitivity({"a": {"F32": (4.0, 1.0)}}), r"^costs: 'a': nbytes: expected an integer from 0 "),
        (
            lambda: rank_sensitivity({"a": {"F32": (10**400, 1.0)}}),
            r"^costs: 'a': nbytes: expected an integer from 0 ",
        ),
        (lambda: suggest_types(COSTS, 160, max_bytes=10**5000), r"^max_bytes: expected an integer from 0 to"),
        (lambda: suggest_types(COSTS, 0, 5), r"^num_weights: expected an integer from 1 to \d+, got 0$"),
        (lambda: suggest_types(COSTS, 160, "5"), r"^bits_per_weight: expected a number, got '5'$"),
        (lambda: suggest_types(COSTS, 160, math.inf), r"^bits_per_weight: expected a finite number, got inf$"),
        (lambda: suggest_types(COSTS, 160, -1), r"^bits_per_weight: -1 are 0 bytes, but"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(QuantcoreError, match=message) as caught:
        call()
    assert isinstance(caught.value, InvalidValueError | InvalidTypeError)

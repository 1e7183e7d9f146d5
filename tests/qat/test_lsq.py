"""The gradients of LSQ: equal to the definition's and to torch's, the same for any threads."""

import re
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    InvalidTypeError,
    InvalidValueError,
    LsqGradients,
    QuantMode,
    QuantParams,
    calibrate_per_group,
    fake_quantize_backward,
    fake_quantize_with_params,
    lsq_backward,
)
from tests.support import reference_fake_quant
from tests.support.affine_cases import (
    ASYMMETRIC,
    CHANNEL,
    GROUP,
    SHAPES,
    SYMMETRIC,
    TENSOR,
    any_params,
    every_bits,
    every_mode,
    every_threaded,
    granularities,
    of,
    parts,
)
from tests.support.contract import DISTRIBUTIONS, assert_same_floats
from tests.support.fake_quant_cases import DTYPES, F16, F32, F64, every_dtype, without_contracted_ties


def assert_equals_reference(grad: np.ndarray, x: np.ndarray, params: QuantParams) -> None:
    """Every sum within 1e-6 of the sum of its terms' magnitudes, which may cancel, or be subnormal before `/ s`."""
    found = lsq_backward(grad, x, params)
    sharing = parts(x.shape, params.granularity)
    dx, *terms = reference_fake_quant.lsq_terms(grad, x, sharing, of(params))
    assert_same_floats(found.dx, dx)
    for ours, of_scales in zip(found[1:], terms, strict=True):
        assert (ours.dtype, ours.shape) == (np.float32, (params.num_groups,))
        factors = np.array([1 / np.sqrt(part.size * params.quant_max) for part in of_scales])
        expected = factors * np.array([part.sum() for part in of_scales])
        magnitudes = factors * np.array([np.abs(part).sum() for part in of_scales])
        subnormal = x.size * 2.0**-149 * (1 + 1 / params.scales.astype(float))
        assert np.all(np.abs(ours - expected) <= 1e-6 * magnitudes + subnormal)


# Equal to the definition


@every_mode
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_granularity_of_any_shape_equals_reference(shape, mode, rng):
    x, grad = rng.standard_normal((2, *shape), dtype=np.float32)
    for granularity in granularities(shape):
        if granularity.sharing(shape).n_scales > 1500:
            continue  # the reference takes one after the other
        assert_equals_reference(grad, x, any_params(rng, shape, granularity, mode))


@given(
    kind=st.sampled_from([kind for kind in DISTRIBUTIONS if kind != "random bits"]),
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-60, 60),
    shape=st.sampled_from([(130,), (5, 64), (65, 4), (3, 5, 11)]),
    granularity=st.sampled_from([TENSOR, CHANNEL(0), CHANNEL(-1), GROUP(16), GROUP(64)]),
    mode=st.sampled_from([QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC]),
    bits=st.integers(2, 8),
)
def test_equals_reference(kind, seed, exponent, shape, granularity, mode, bits):
    rng = np.random.default_rng(seed)
    x = np.ldexp(DISTRIBUTIONS[kind](rng, int(np.prod(shape))), exponent).reshape(shape)
    grad = rng.uniform(0.5, 1, shape).astype(F32)
    assert_equals_reference(grad, x, any_params(rng, shape, granularity, mode, bits, (exponent - 6, exponent + 4)))


def test_terms_of_a_few_elements():
    """Below, in and above the range of -2 to 1 steps of 0.5; the factor is 1 / sqrt(5 * 3)."""
    params = QuantParams(np.array([0.5], F32), np.array([2], np.int32), TENSOR, ASYMMETRIC, 2, 0, 3)
    x = np.array([-3, -0.9, 0.1, 0.5, 2], F32)
    grad = np.array([1, 2, 4, 8, 16], F32)
    found = lsq_backward(grad, x, params)
    assert isinstance(found, LsqGradients)
    assert found.dx.tolist() == [0, 2, 4, 8, 0]
    dscale = 1 * -2 + 2 * (-1 + 0.9) / 0.5 + 4 * (0 - 0.1) / 0.5 + 0 + 16 * 1
    np.testing.assert_allclose(found.dscale, [dscale / 15**0.5], rtol=1e-6)
    np.testing.assert_allclose(found.dzero_point, [-0.5 * 17 / 15**0.5], rtol=1e-6)


@every_mode
@pytest.mark.parametrize("granularity", [TENSOR, CHANNEL(0), CHANNEL(1), GROUP(20)], ids=repr)
def test_gradient_of_the_scale_is_that_of_the_output(granularity, mode, rng):
    """In range (y - x) / scale with the forward pass's y, except where x / scale is almost halfway between codes."""
    x, grad = rng.standard_normal((2, 40, 50), dtype=np.float32)
    params = any_params(rng, x.shape, granularity, mode)
    y = fake_quantize_with_params(x, params)
    in_range = fake_quantize_backward(np.ones_like(x), x, params) == 1
    found = lsq_backward(grad, x, params, grad_factor=1)
    for i, part in enumerate(parts(x.shape, granularity)):
        scale = float(params.scales[i])
        slopes = (y.astype(float) - x * in_range) / scale  # out of range y / scale is the last code less the zero point
        terms = (slopes * grad).reshape(-1)[part]
        is_tie = np.abs((x.astype(float) / scale) % 1 - 0.5) < 1e-4  # may go to the next code, one step away
        tied = np.abs(grad * is_tie).reshape(-1)[part].sum()
        assert abs(found.dscale[i] - terms.sum()) <= 3e-5 * np.abs(grad).sum() + tied * params.is_asymmetric


# Equal to torch


def torchs(torch: ModuleType, grad: np.ndarray, x: np.ndarray, params: QuantParams, factor: float) -> list[np.ndarray]:
    """The gradients of x, the scales and the zero points."""
    tensors = [torch.tensor(a) for a in (x, params.scales, params.zero_points.astype(F32))]
    for tensor in tensors:
        tensor.requires_grad_()
    limits = (params.quant_min, params.quant_max)
    if params.granularity == TENSOR:
        y = torch._fake_quantize_learnable_per_tensor_affine(*tensors, *limits, factor)
    else:
        y = torch._fake_quantize_learnable_per_channel_affine(*tensors, params.granularity.axis, *limits, factor)
    y.backward(torch.tensor(grad))
    return [tensor.grad.numpy() for tensor in tensors]


@every_bits
@every_mode
def test_equals_torch(torch, mode, bits, rng):
    """Within 1e-5 of the sum of the terms' magnitudes: torch adds up in float32. dx bit for bit, on ties too."""
    for shape in ((7, 500), (500, 7), (3, 5, 40), (20_000,)):
        noise, grad = rng.standard_normal((2, *shape), dtype=np.float32)
        ties = (rng.integers(-600, 601, shape) / 2 ** rng.integers(1, 9, shape)).astype(F32)
        # torch's gradients of a vector per channel have no dimension.
        for granularity in (TENSOR, *(CHANNEL(axis) for axis in range(len(shape)) if len(shape) > 1)):
            for is_tied, x in enumerate((noise, ties)):
                params = any_params(rng, shape, granularity, mode, bits)
                if is_tied:
                    scales = np.exp2(np.rint(np.log2(params.scales)))
                    limits = (params.quant_min, params.quant_max)
                    params = QuantParams(scales, params.zero_points, granularity, mode, bits, *limits)
                x = without_contracted_ties(x, params, params.zero_points)
                dx, *theirs = torchs(torch, grad, x, params, factor=0.37)
                found = lsq_backward(grad, x, params, grad_factor=0.37)
                assert_same_floats(found.dx, dx)
                _, *terms = reference_fake_quant.lsq_terms(grad, x, parts(shape, granularity), of(params))
                for ours, expected, summed in zip(found[1:], theirs, terms, strict=True):
                    magnitudes = 0.37 * np.array([np.abs(part).sum() for part in summed])
                    assert np.all(np.abs(ours - expected) <= 1e-5 * magnitudes)


def test_ties_that_are_contracted_are_found():
    """This element gets the code 36 if the product is rounded first, and 37 if it is not."""
    x = np.array([0.48742902, 0.5, 0.25], F32)
    params = QuantParams(np.array([0.08862343], F32), np.array([31], np.int32), TENSOR, ASYMMETRIC, 7, 0, 127)
    assert without_contracted_ties(x, params, params.zero_points).tolist() == [0, 0.5, 0.25]


@every_bits
@every_mode
def test_single_elements_equal_torchs_bit_for_bit(torch, mode, bits, rng):
    """Nothing is added up then. torch multiplies by the factor first, which is 1 here."""
    x, grad = rng.standard_normal((2, 5000, 1), dtype=np.float32)
    params = any_params(rng, x.shape, CHANNEL(0), mode, bits)
    x = without_contracted_ties(x, params, params.zero_points)
    found = lsq_backward(grad, x, params, grad_factor=1)
    for ours, theirs in zip(found, torchs(torch, grad, x, params, factor=1.0), strict=True):
        assert_same_floats(ours + F32.type(0), theirs + F32.type(0))  # zeros of one sign


@every_mode
def test_equals_torch_where_nothing_cancels(torch, mode, rng):
    """Then the sums themselves are within 1e-5."""
    x = rng.uniform(20, 30, (30, 400)).astype(F32)
    grad = rng.uniform(0.5, 1, x.shape).astype(F32)
    for granularity in (TENSOR, CHANNEL(0), CHANNEL(1)):
        params = any_params(rng, x.shape, granularity, mode, 4, exponents=(-5, -4))
        factor = 1 / np.sqrt(granularity.sharing(x.shape).counts[0] * params.quant_max)
        dx, dscale, dzero_point = torchs(torch, grad, x, params, factor)
        found = lsq_backward(grad, x, params)
        assert_same_floats(found.dx, dx)
        np.testing.assert_allclose(found.dzero_point, dzero_point, rtol=1e-5)
        np.testing.assert_allclose(found.dscale, dscale, rtol=1e-5)


# Dtypes, out, threads


@every_dtype
def test_other_dtypes_are_computed_in_float32(dtype, rng):
    x, grad = rng.standard_normal((2, 60, 70)).astype(dtype)
    result_dtype = F32 if dtype == F64 else dtype
    for granularity in (TENSOR, CHANNEL(0), CHANNEL(1), GROUP(30)):
        params = any_params(rng, x.shape, granularity)
        for other in DTYPES:
            values = x.astype(other)
            expected = lsq_backward(grad.astype(F32), values.astype(F32), params)
            found = lsq_backward(np.asfortranarray(grad), values, params)
            assert_same_floats(found.dx, expected.dx.astype(result_dtype))
            assert_same_floats(found.dscale, expected.dscale)
            assert_same_floats(found.dzero_point, expected.dzero_point)


def test_gradient_into_out(rng):
    x, grad = rng.standard_normal((2, 6, 50)).astype(F32)
    params = any_params(rng, x.shape, CHANNEL(0))
    out = np.full(x.shape, 77, F32)
    found = lsq_backward(grad, x, params, out=out)
    assert found.dx is out
    assert_same_floats(out, lsq_backward(grad, x, params).dx)
    for wrong, message in [
        (np.zeros(x.shape, F16), "expected dtype float32, got float16"),
        (np.zeros((50, 6), F32), r"expected shape \(6, 50\), got \(50, 6\)"),
        (np.zeros((50, 6), F32).T, "must be C-contiguous"),
        (grad, "shares memory with the input"),
        (x, "shares memory with the input"),
    ]:
        with pytest.raises(InvalidValueError, match=f"^out: {message}"):
            lsq_backward(grad, x, params, out=wrong)


@every_threaded
def test_threads_change_nothing(shape, granularity, rng):
    x, grad = rng.standard_normal((2, *shape), dtype=np.float32)
    params = any_params(rng, shape, granularity)
    expected = lsq_backward(grad, x, params, n_threads=1)
    for n_threads in (2, 3, 4):
        for ours, theirs in zip(lsq_backward(grad, x, params, n_threads=n_threads), expected, strict=True):
            assert_same_floats(ours, theirs)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)], ids=str)
def test_nothing_adds_nothing(shape):
    params = QuantParams(np.ones(1, F32), np.zeros(1, np.int32), TENSOR, SYMMETRIC, 8, -127, 127)
    found = lsq_backward(np.zeros(shape, F16), np.zeros(shape, F32), params)
    assert (found.dx.shape, found.dx.dtype) == (shape, F16)
    assert (found.dscale.tolist(), found.dzero_point.tolist()) == ([0], [0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gradients_that_are_not_finite_are_passed_on(bad):
    params = QuantParams(np.ones(2, F32), np.zeros(2, np.int32), CHANNEL(0), SYMMETRIC, 8, -127, 127)
    grad = np.ones((2, 40), F32)
    grad[1, 7] = bad
    found = lsq_backward(grad, np.full((2, 40), 0.25, F32), params)
    assert np.isfinite(found.dscale).tolist() == [True, False]
    assert np.isfinite(found.dx).tolist() == np.isfinite(grad).tolist()


# What is refused


def test_what_does_not_fit_is_refused(rng):
    x = rng.standard_normal((3, 4)).astype(F32)
    params = any_params(rng, x.shape, CHANNEL(0))

    def refused(error: type[Exception], message: str, grad: Any = x, values: Any = x, given: Any = params, **kw: Any):
        with pytest.raises(error, match=f"^{message}"):
            lsq_backward(grad, values, given, **kw)

    refused(InvalidValueError, r"grad: expected the shape of x \(3, 4\), got \(4, 3\)$", grad=x.reshape(4, 3))
    wrong = x.reshape(4, 3)
    message = re.escape("params: 3 scales per_channel, but x of shape (4, 3) needs 4")
    refused(InvalidValueError, message, grad=wrong, values=wrong)
    refused(InvalidTypeError, "params: expected a QuantParams, got tuple", given=(1.0, 0))
    refused(InvalidTypeError, "x: expected float32, ", values=np.ones((3, 4), int))
    refused(InvalidTypeError, "grad: expected float32, ", grad=np.ones((3, 4), int))
    refused(InvalidValueError, "n_threads: ", n_threads=0)
    for factor in ("1", True, None.__class__, 1j):
        refused(InvalidTypeError, "grad_factor: expected a number, got ", grad_factor=factor)
    for factor in (np.nan, np.inf):
        refused(InvalidValueError, "grad_factor: expected a finite number, got ", grad_factor=factor)
    for where in range(12):
        bad = x.copy()
        bad.reshape(-1)[where] = np.nan
        refused(InvalidValueError, f"x: must be finite, got nan at flat index {where}( .*)?$", values=bad)


def test_codes_without_a_positive_one_need_a_factor():
    params = QuantParams(np.ones(1, F32), np.zeros(1, np.int32), TENSOR, SYMMETRIC, 8, -127, 0)
    x = np.array([-2.2, 3.0], F32)
    with pytest.raises(InvalidValueError, match=r"^params: quant_max must be positive for the factor .*, got 0; give"):
        lsq_backward(x, x, params)
    assert lsq_backward(x, x, params, grad_factor=2).dzero_point.tolist() == [-6]


@pytest.mark.parametrize("group_size", [64, 2**62, 2**63, 2**70])
def test_a_group_that_is_longer_than_every_row(group_size):
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    params, rows = calibrate_per_group(values, group_size), calibrate_per_group(values, 64)
    for ours, theirs in zip(lsq_backward(values, values, params), lsq_backward(values, values, rows), strict=True):
        np.testing.assert_array_equal(ours, theirs)

"""Fake quantization and its straight-through gradients: equal to the definition's and to torch's, bit for bit."""

import zlib
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    InvalidTypeError,
    InvalidValueError,
    QuantMode,
    QuantParams,
    calibrate_per_channel,
    calibrate_per_group,
    calibrate_per_tensor,
    dequantize_with_params,
    fake_quantize_backward,
    fake_quantize_with_params,
    lsq_backward,
    quantize_with_params,
    ste_backward,
)
from tests.conftest import SEED
from tests.support import reference_fake_quant
from tests.support.affine_cases import (
    ASYMMETRIC,
    CHANNEL,
    GROUP,
    SHAPES,
    TENSOR,
    THREADED,
    any_params,
    every_bits,
    every_mode,
    every_threaded,
    granularities,
    of,
    parts,
)
from tests.support.contract import DISTRIBUTIONS, assert_same_floats
from tests.support.fake_quant_cases import BF16, DTYPES, F16, F32, F64, every_dtype
from tests.support.levels import at_level, differences, every_other_level
from tests.support.marks import slow_but_first


def assert_equals_reference(values: np.ndarray, grad: np.ndarray, params: QuantParams) -> None:
    sharing = parts(values.shape, params.granularity)
    with np.errstate(over="ignore"):
        expected = reference_fake_quant.forward(values, sharing, of(params))
    assert_same_floats(fake_quantize_with_params(values, params), expected)
    expected = reference_fake_quant.backward(grad, values, sharing, of(params))
    assert_same_floats(fake_quantize_backward(grad, values, params), expected)


# Equal to the definition


@every_mode
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_granularity_of_any_shape_equals_reference(shape, mode, rng):
    values, grad = rng.standard_normal((2, *shape), dtype=np.float32)
    for granularity in granularities(shape):
        if granularity.sharing(shape).n_scales > 1500:
            continue  # the reference takes one after the other
        assert_equals_reference(values, grad, any_params(rng, shape, granularity, mode))


@given(
    kind=st.sampled_from(list(DISTRIBUTIONS)),
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-140, 120),
    shape=st.sampled_from([(130,), (5, 64), (65, 4), (3, 5, 11)]),
    granularity=st.sampled_from([TENSOR, CHANNEL(0), CHANNEL(-1), GROUP(16), GROUP(64)]),
    mode=st.sampled_from([QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC]),
    bits=st.integers(2, 8),
)
def test_equals_reference(kind, seed, exponent, shape, granularity, mode, bits):
    """With any scale, values beyond the codes are clipped, even if the product overflows float32."""
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        values = np.ldexp(DISTRIBUTIONS[kind](rng, int(np.prod(shape))), exponent).reshape(shape)
    values[~np.isfinite(values)] = 0
    grad = rng.standard_normal(shape, dtype=np.float32)
    exponents = (max(exponent - 6, -125), max(exponent + 4, -120))
    assert_equals_reference(values, grad, any_params(rng, shape, granularity, mode, bits, exponents))
    assert_equals_reference(values, grad, any_params(rng, shape, granularity, mode, bits, (-125, 125)))


@every_bits
@every_mode
def test_is_the_round_trip_through_codes(mode, bits, rng):
    values = rng.standard_normal((40, 90), dtype=np.float32)
    for params in (
        calibrate_per_tensor(values, bits, mode),
        calibrate_per_channel(values, bits, mode, axis=1),
        calibrate_per_group(values, 32, bits, mode),
    ):
        expected = dequantize_with_params(quantize_with_params(values, params), params)
        assert_same_floats(fake_quantize_with_params(values, params), expected)


def test_ties_and_ends_of_the_range():
    """Half to even before the zero point is added; the gradient ends half a step beyond the last code."""
    params = QuantParams(np.array([0.5], F32), np.array([3], np.int32), TENSOR, ASYMMETRIC, 4, 0, 15)
    steps = np.array([-9, -3.5, -3.49, -3, -2.5, -1.5, -0.5, -0.0, 0.5, 1.5, 2.5, 12, 12.5, 12.51, 1e30], F32)
    expected = np.array([-3, -3, -3, -3, -2, -2, 0, 0, 0, 2, 2, 12, 12, 12, 12], F32) / 2
    assert_same_floats(fake_quantize_with_params(steps / 2, params), expected)
    in_range = fake_quantize_backward(np.ones_like(steps), steps / 2, params)
    assert in_range.tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("shape", [(5,), (64,), (40, 3)])
def test_zero_stays_zero_even_if_the_inverse_scale_overflows(shape, rng):
    for granularity in (TENSOR, CHANNEL(-1)):
        params = any_params(rng, shape, granularity, exponents=(-149, -130))
        assert not fake_quantize_with_params(np.zeros(shape, F32), params).any()
        assert fake_quantize_backward(np.ones(shape, F32), np.zeros(shape, F32), params).all()


# Equal to torch


def tensor_of(torch: ModuleType, array: np.ndarray) -> object:
    if array.dtype == BF16:
        return torch.tensor(array.view(np.uint16)).view(torch.bfloat16)
    return torch.tensor(array)


def array_of(torch: ModuleType, tensor: object) -> np.ndarray:
    tensor = tensor.detach()
    return tensor.view(torch.uint16).numpy().view(BF16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


@every_bits
@every_mode
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_equals_torch_bit_for_bit(torch, dtype, mode, bits, rng):
    """Forward and backward; on random values, and on ties and ends of the range of scales that are powers of two."""
    for shape in ((7, 500), (500, 7), (3, 5, 40), (2, 3000)):
        noise = rng.standard_normal(shape, dtype=np.float32)
        ties = (rng.integers(-600, 601, shape) / 2 ** rng.integers(1, 9, shape)).astype(F32)
        for granularity in (TENSOR, *(CHANNEL(axis) for axis in range(len(shape)))):
            for values in (noise, ties, noise * np.float32(100)):
                params = any_params(rng, shape, granularity, mode, bits)
                if values is ties:
                    scales = np.exp2(np.rint(np.log2(params.scales)))
                    limits = (params.quant_min, params.quant_max)
                    params = QuantParams(scales, params.zero_points, granularity, mode, bits, *limits)
                ours = values.astype(dtype)
                grad = rng.standard_normal(shape, dtype=np.float32).astype(dtype)
                theirs, theirs_dx = torchs(torch, ours, grad, params)
                assert_same_floats(fake_quantize_with_params(ours, params), theirs)
                assert_same_floats(fake_quantize_backward(grad, ours, params), theirs_dx)


def torchs(
    torch: ModuleType, values: np.ndarray, grad: np.ndarray, params: QuantParams
) -> tuple[np.ndarray, np.ndarray]:
    """What torch makes of the values, and their gradient."""
    x = tensor_of(torch, values).requires_grad_()
    limits = (params.quant_min, params.quant_max)
    if params.granularity == TENSOR:
        scale, zero_point = float(params.scales[0]), int(params.zero_points[0])
        y = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, *limits)
    else:
        scales, zero_points = torch.tensor(params.scales), torch.tensor(params.zero_points)
        y = torch.fake_quantize_per_channel_affine(x, scales, zero_points, params.granularity.axis, *limits)
    y.backward(tensor_of(torch, grad))
    return array_of(torch, y), array_of(torch, x.grad)


def test_beyond_torchs_integers_the_highest_code_is_taken(torch):
    values = np.array([[1e30, -1e30, 1e16]], F32)
    for params, expected in [
        (calibrate_per_tensor(np.ones(1, F32)), [1, -1, 1]),
        (calibrate_per_channel(np.ones((1, 3), F32)), [-1, -1, 1]),
    ]:
        theirs, _ = torchs(torch, values, values, params)
        assert theirs.tolist() == [expected]
        assert fake_quantize_with_params(values, params).tolist() == [[1, -1, 1]]
        assert not fake_quantize_backward(values, values, params).any()


def test_gradients_that_are_not_finite_are_passed_on_as_torch_does(torch):
    params = calibrate_per_tensor(np.ones(1, F32))
    values = np.array([0, 0, 0, 9, 9, 9], F32)
    grad = np.array([np.inf, -np.inf, np.nan] * 2, F32)
    _, theirs = torchs(torch, values, grad, params)
    assert_same_floats(fake_quantize_backward(grad, values, params), theirs)
    assert_same_floats(ste_backward(grad), grad)


# Dtypes, memory layouts, out


@every_mode
@every_dtype
@pytest.mark.parametrize("shape", [(130,), (7, 3000), (3000, 7), (3, 70_000)], ids=str)
def test_other_dtypes_are_computed_in_float32(shape, dtype, mode, rng):
    result_dtype = F32 if dtype == F64 else dtype
    values, grad = rng.standard_normal((2, *shape)).astype(dtype)
    for granularity in (TENSOR, CHANNEL(0), CHANNEL(-1), GROUP(100), GROUP(1500)):
        params = any_params(rng, shape, granularity, mode)
        expected = fake_quantize_with_params(values.astype(F32), params).astype(result_dtype)
        assert_same_floats(fake_quantize_with_params(values, params), expected)
        for other in DTYPES:  # the gradient's dtype counts
            x = values.astype(other)
            expected = fake_quantize_backward(grad.astype(F32), x.astype(F32), params).astype(result_dtype)
            assert_same_floats(fake_quantize_backward(grad, x, params), expected)


@every_dtype
def test_plain_gradient_is_a_copy(dtype, rng):
    grad = rng.standard_normal((30, 40)).astype(dtype)
    expected = grad.astype(F32) if dtype == F64 else grad
    for view in (grad, np.asfortranarray(grad), grad[::2, ::-3]):
        copied = ste_backward(view)
        assert not np.shares_memory(copied, view)
        assert_same_floats(copied, ste_backward(np.ascontiguousarray(view)))
    assert_same_floats(ste_backward(grad), expected)
    out = np.zeros_like(expected)
    assert ste_backward(grad, out=out) is out
    assert_same_floats(out, expected)
    assert ste_backward(np.array([1e39])).tolist() == [np.inf]


def test_strided_and_foreign_arrays_are_taken_as_their_values(torch, rng):
    base = rng.standard_normal((30, 40)).astype(F32)
    misaligned = np.frombuffer(b"\0" + base.tobytes(), np.uint8)[1:].view(F32).reshape(base.shape)
    assert not misaligned.flags.aligned
    for view in (base[::2, ::-3], base.T, base[:, 5:6], base.astype(">f4"), np.asfortranarray(base), misaligned):
        params = calibrate_per_channel(view, axis=1)
        plain = np.ascontiguousarray(view, F32)
        forward = fake_quantize_with_params(plain, params)
        assert_same_floats(fake_quantize_with_params(view, params), forward)
        backward = fake_quantize_backward(plain * 2, plain, params)
        for grad in (view * 2, np.asfortranarray(view * 2), torch.tensor(plain * 2)):
            assert_same_floats(fake_quantize_backward(grad, view, params), backward)
    tensor = torch.tensor(base).bfloat16()
    params = calibrate_per_channel(tensor)
    assert_same_floats(fake_quantize_with_params(tensor, params), fake_quantize_with_params(base.astype(BF16), params))


@every_dtype
@every_mode
def test_results_into_out(mode, dtype, rng):
    values, grad = rng.standard_normal((2, 6, 50)).astype(dtype)
    params = calibrate_per_channel(values, 8, mode)
    out = np.full(values.shape, 77, F32 if dtype == F64 else dtype)
    assert fake_quantize_with_params(values, params, out=out) is out
    assert_same_floats(out, fake_quantize_with_params(values, params))
    assert fake_quantize_backward(grad, values, params, out=out) is out
    assert_same_floats(out, fake_quantize_backward(grad, values, params))


def test_out_that_does_not_fit_is_refused(rng):
    values, grad = rng.standard_normal((2, 64)).astype(F32)
    params = calibrate_per_tensor(values)
    read_only = np.zeros(64, F32)
    read_only.setflags(write=False)
    for out, message in [
        (np.zeros(64, F16), "expected dtype float32, got float16"),
        (np.zeros(63, F32), r"expected shape \(64,\), got \(63,\)"),
        (np.zeros((1, 64), F32), r"expected shape \(64,\), got \(1, 64\)"),
        (read_only, "is read-only"),
        (np.zeros(128, F32)[::2], "must be C-contiguous"),
        (values, "shares memory with the input"),
    ]:
        with pytest.raises(InvalidValueError, match=f"^out: {message}"):
            fake_quantize_with_params(values, params, out=out)
        with pytest.raises(InvalidValueError, match=f"^out: {message}"):
            fake_quantize_backward(grad, values, params, out=out)
        with pytest.raises(InvalidValueError, match=f"^out: {message}"):
            ste_backward(values, out=out)
    with pytest.raises(InvalidValueError, match=r"^out: shares memory with the input"):
        fake_quantize_backward(grad, values, params, out=grad)
    with pytest.raises(InvalidValueError, match=r"^out: expected dtype float16, got float32"):
        fake_quantize_backward(grad.astype(F16), values, params, out=np.zeros(64, F32))
    with pytest.raises(InvalidTypeError, match=r"^out: expected a numpy.ndarray, got list"):
        fake_quantize_with_params(values, params, out=[0.0] * 64)


@every_mode
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3)], ids=str)
def test_nothing_gives_nothing(shape, mode):
    params = calibrate_per_tensor(np.ones(3, F32), 8, mode)
    nothing, out = np.zeros(shape, F16), np.zeros(shape, F16)
    assert fake_quantize_with_params(nothing, params, out=out) is out
    assert fake_quantize_backward(nothing, nothing, params).shape == shape
    assert ste_backward(nothing).shape == shape


# Threads and CPU levels


@every_threaded
def test_threads_change_nothing(shape, granularity, rng):
    values, grad = rng.standard_normal((2, *shape), dtype=np.float32)
    params = any_params(rng, shape, granularity)
    forward = fake_quantize_with_params(values, params, n_threads=1)
    backward = fake_quantize_backward(grad, values, params, n_threads=1)
    for n_threads in (2, 3, 4):
        assert_same_floats(fake_quantize_with_params(values, params, n_threads=n_threads), forward)
        assert_same_floats(fake_quantize_backward(grad, values, params, n_threads=n_threads), backward)


@pytest.mark.parametrize("name", slow_but_first(["long runs", "columns", "narrow columns", "large groups"]))
def test_large_arrays_equal_reference(name, rng):
    shape, granularity = THREADED[name]
    values, grad = rng.standard_normal((2, *shape), dtype=np.float32)
    assert_equals_reference(values, grad, any_params(rng, shape, granularity))


def digests(seed: int) -> dict[str, int]:
    """A checksum of every result that a level might compute differently, by name."""
    rng = np.random.default_rng(seed)
    results: dict[str, int] = {}
    for shape in ((20_003,), (40, 1003), (1003, 40), (3000, 3, 4), (2, 3, 1000)):
        for kind in ("gaussian", "half integers", "random bits", "zeros of both signs"):
            values = DISTRIBUTIONS[kind](rng, int(np.prod(shape))).reshape(shape)
            grad = rng.standard_normal(shape)
            for granularity in (TENSOR, CHANNEL(0), CHANNEL(-1), GROUP(48)):
                for mode in (QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC):
                    params = any_params(rng, shape, granularity, mode)
                    for dtype in DTYPES if kind == "gaussian" else [F32]:
                        x, g = values.astype(dtype), grad.astype(dtype)
                        found = (fake_quantize_with_params(x, params), *lsq_backward(g, x, params))
                        for what, array in zip(
                            ("y", "dx of LSQ", "scales", "zero points", "dx"),
                            (*found, fake_quantize_backward(g, x, params)),
                            strict=True,
                        ):
                            name = f"{what}: {kind} {shape} {granularity} {mode} {dtype}"
                            results[name] = zlib.crc32(array.view(np.uint8))
    return results


@pytest.mark.slow
@every_other_level
def test_every_level_gives_the_same(level, expected_digests):
    assert differences(at_level(level, digests, SEED), expected_digests) == set(), f"QUANTCORE_TEST_SEED={SEED}"

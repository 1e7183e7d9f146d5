"""Fake quantization with gradients: torch's own operators are the oracle."""

import numpy as np
import pytest

import quantcore
from quantcore import QuantGranularity, QuantMode
from quantcore.errors import InvalidTypeError, InvalidValueError
from tests.support.fake_quant_cases import without_contracted_ties

torch = pytest.importorskip("torch")
functional = pytest.importorskip("quantcore.torch")
fake_quantize, fake_quantize_learned = functional.fake_quantize, functional.fake_quantize_learned

MODES = [QuantMode.SYMMETRIC, QuantMode.ASYMMETRIC]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
GRANULARITIES = [
    QuantGranularity.per_tensor(),
    QuantGranularity.per_channel(0),
    QuantGranularity.per_channel(1),
    QuantGranularity.per_channel(-1),
    QuantGranularity.per_group(5),
]


def tensor(rng, shape, dtype=torch.float32):
    return torch.from_numpy(rng.standard_normal(shape) * 2 + 0.5).to(dtype)


def params_of(x, granularity, mode, bits=4, shrink=2.0):
    """Parameters that clip some of the values."""
    if granularity.group_size is not None:
        found = quantcore.calibrate_per_group(x, granularity.group_size, bits, mode)
    elif granularity.axis is not None:
        found = quantcore.calibrate_per_channel(x, bits, mode, axis=granularity.axis)
    else:
        found = quantcore.calibrate_per_tensor(x, bits, mode)
    fields = (found.zero_points, found.granularity, found.mode, found.bits, found.quant_min, found.quant_max)
    return quantcore.QuantParams(found.scales / np.float32(shrink), *fields)


def torchs(x, params):
    """The same by torch, per tensor or per channel."""
    scales, zero_points = torch.tensor(params.scales), torch.tensor(params.zero_points)
    ends = params.quant_min, params.quant_max
    if params.granularity.axis is None:
        return torch.fake_quantize_per_tensor_affine(x, scales[0].item(), int(zero_points[0]), *ends)
    return torch.fake_quantize_per_channel_affine(x, scales, zero_points, params.granularity.axis % x.ndim, *ends)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("granularity", GRANULARITIES[:4], ids=str)
def test_forward_and_backward_equal_torchs(rng, granularity, mode):
    ours = tensor(rng, (6, 7, 33)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    params = params_of(ours, granularity, mode)
    y, expected = fake_quantize(ours, params), torchs(theirs, params)
    assert torch.equal(y, expected)
    grad = tensor(rng, y.shape)
    y.backward(grad)
    expected.backward(grad)
    assert torch.equal(ours.grad, theirs.grad)
    assert 0 < int((ours.grad == 0).sum()) < ours.numel()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_every_dtype_is_what_the_codes_decode_to(rng, granularity, dtype):
    x = tensor(rng, (3, 4, 12), dtype).requires_grad_()
    params = params_of(x, granularity, QuantMode.ASYMMETRIC)
    y = fake_quantize(x, params)
    codes = quantcore.quantize_with_params(x, params)
    expected = torch.from_numpy(quantcore.dequantize_with_params(codes, params)).to(dtype)
    assert y.dtype == dtype
    assert torch.equal(y, expected)
    y.backward(torch.ones_like(y))
    assert x.grad.dtype == dtype
    unclipped = quantcore.fake_quantize_backward(np.ones(x.shape, np.float32), x, params)
    assert torch.equal(x.grad.float(), torch.from_numpy(unclipped))


def learnable(rng, x, granularity, mode, dtype=torch.float32):
    """Scales and zero points that clip some of the values; not whole ones, and never negative."""
    params = params_of(x, granularity, mode)
    scale = torch.tensor(params.scales, dtype=dtype).requires_grad_()
    if mode is QuantMode.SYMMETRIC:
        return params, scale, None
    zero_point = torch.tensor(params.zero_points, dtype=dtype) + 0.25
    return params, scale, zero_point.requires_grad_()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("granularity", GRANULARITIES[:4], ids=str)
@pytest.mark.parametrize("grad_factor", [None, 0.3])
def test_learned_scales_equal_torchs(rng, granularity, mode, grad_factor):
    x = tensor(rng, (6, 7, 33))
    params, scale, zero_point = learnable(rng, x, granularity, mode)
    zero_points = np.zeros(params.num_groups) if zero_point is None else np.floor(zero_point.detach().numpy() + 0.5)
    x = torch.from_numpy(without_contracted_ties(x.numpy(), params, zero_points)).requires_grad_()
    y = fake_quantize_learned(x, scale, zero_point, bits=4, granularity=granularity, grad_factor=grad_factor)
    grad = tensor(rng, y.shape)
    y.backward(grad)

    other, their_scale = x.detach().clone().requires_grad_(), scale.detach().clone().requires_grad_()
    their_zero_point = (torch.zeros_like(scale) if zero_point is None else zero_point).detach().clone()
    their_zero_point.requires_grad_()
    n = x.numel() // params.num_groups
    factor = (n * params.quant_max) ** -0.5 if grad_factor is None else grad_factor
    ends = params.quant_min, params.quant_max
    if granularity.axis is None:
        expected = torch._fake_quantize_learnable_per_tensor_affine(other, their_scale, their_zero_point, *ends, factor)
    else:
        axis = granularity.axis % x.ndim
        expected = torch._fake_quantize_learnable_per_channel_affine(
            other, their_scale, their_zero_point, axis, *ends, factor
        )
    assert torch.equal(y, expected)
    expected.backward(grad)
    assert torch.equal(x.grad, other.grad)
    torch.testing.assert_close(scale.grad, their_scale.grad, rtol=1e-5, atol=1e-5)
    if zero_point is not None:
        torch.testing.assert_close(zero_point.grad, their_zero_point.grad, rtol=1e-5, atol=1e-5)


def surrogate(x, scale, zero_point, params):
    """LSQ's forward pass in float64, of which autograd makes LSQ's gradients: what is rounded is a constant there."""
    scaled = x / scale
    x32, scale32, zero_point32 = (t.detach().float() for t in (x, scale, zero_point))
    rounded = torch.round(x32 * (1 / scale32) + zero_point32).double() - zero_point.detach()  # as float32 rounds it
    codes = scaled + (rounded - scaled).detach()
    low, high = params.quant_min - zero_point, params.quant_max - zero_point
    return torch.where(rounded < low, low, torch.where(rounded > high, high, codes)) * scale


@pytest.mark.parametrize("granularity", GRANULARITIES[:2], ids=str)
def test_learned_scales_equal_the_formula_in_float64(rng, granularity):
    x = tensor(rng, (5, 40))
    params, scale, zero_point = learnable(rng, x, granularity, QuantMode.ASYMMETRIC)
    leaves = [t.detach().double().requires_grad_() for t in (x, scale, zero_point.detach().round())]
    ours = [t.detach().clone().requires_grad_() for t in (x, scale, zero_point)]
    y = fake_quantize_learned(*ours, bits=4, granularity=granularity, grad_factor=1.0)
    columns = [t.reshape(-1, 1) if t.ndim == 1 else t for t in leaves]
    expected = surrogate(*columns, params)
    grad = tensor(rng, y.shape)
    y.backward(grad)
    expected.backward(grad.double())
    for tensor_of_ours, leaf in zip(ours, leaves, strict=True):
        torch.testing.assert_close(tensor_of_ours.grad.double(), leaf.grad, rtol=1e-4, atol=1e-4)


def test_gradcheck_where_every_code_is_clipped(rng):
    # There alone is the true derivative what LSQ says: zero by x, the code by the scale, minus the scale by the zero
    # point. It is exactly linear, so a step may be as large as float32 needs; a zero point is rounded.
    x = torch.tensor([-9.0, -8.0, 7.0, 20.0], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.25], dtype=torch.float64, requires_grad=True)

    def function(x, scale):
        return fake_quantize_learned(x, scale, bits=4, grad_factor=1.0)

    assert torch.autograd.gradcheck(function, (x, scale), eps=2**-7, atol=1e-4)
    assert torch.autograd.gradcheck(lambda scale: function(x.detach(), scale) * 3, (scale,), eps=2**-7, atol=1e-4)
    assert torch.autograd.gradcheck(
        lambda x: fake_quantize(x, quantcore.calibrate_per_tensor(np.float32([1.0]), 4)), (x,), eps=2**-7, atol=1e-4
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_learned_scales_of_every_dtype(rng, dtype):
    x = tensor(rng, (4, 9), dtype).requires_grad_()
    _, scale, zero_point = learnable(rng, x, GRANULARITIES[0], QuantMode.ASYMMETRIC, dtype)
    y = fake_quantize_learned(x, scale, zero_point, bits=4)
    y.float().sum().backward()
    assert y.dtype == x.grad.dtype == scale.grad.dtype == zero_point.grad.dtype == dtype
    assert scale.grad.shape == zero_point.grad.shape == (1,)


def test_a_scale_that_vanished_counts_as_the_smallest():
    x = torch.tensor([1.0, -1.0])
    for value in (0.0, -1.0, 1e-30):
        scale = torch.tensor([value], requires_grad=True)
        y = fake_quantize_learned(x, scale, bits=4)
        assert torch.equal(y, torch.tensor([7.0, -7.0]) * 2**-23)
        y.backward(x)
        assert scale.grad.item() > 0
    assert scale.item() == pytest.approx(1e-30)


def test_zero_points_are_rounded_and_kept_in_range():
    scale, x = torch.tensor([1.0]), torch.tensor([3.0, 50.0])
    for zero_point, expected in ((-3.0, [3.0, 15.0]), (99.0, [0.0, 0.0]), (2.6, [3.0, 12.0])):
        y = fake_quantize_learned(x, scale, torch.tensor([zero_point]), bits=4)
        assert y.tolist() == expected
    with pytest.raises(InvalidValueError, match="zero_point: must be finite"):
        fake_quantize_learned(x, scale, torch.tensor([float("nan")]))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)], ids=str)
def test_empty(shape):
    x = torch.empty(shape, requires_grad=True)
    params = quantcore.calibrate_per_tensor(np.ones(1, np.float32))
    for y in (fake_quantize(x, params), fake_quantize_learned(x, torch.ones(1, requires_grad=True))):
        assert y.shape == shape
        y.sum().backward()
        assert x.grad.shape == shape


def test_strided_tensors(rng):
    x = tensor(rng, (8, 6)).t()
    params = params_of(x.contiguous(), GRANULARITIES[1], QuantMode.SYMMETRIC)
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    assert not leaf.is_contiguous()
    y = fake_quantize(leaf, params)
    assert torch.equal(y, fake_quantize(x.contiguous(), params))
    y.backward(tensor(rng, (8, 6)).t())
    assert leaf.grad.shape == (6, 8)
    y = fake_quantize(leaf, params)
    leaf.grad = None
    y.sum().backward()  # a gradient with strides of zero
    assert set(leaf.grad.unique().tolist()) == {0.0, 1.0}


def test_a_leaf_is_not_written_to(rng):
    x = tensor(rng, (4, 8)).requires_grad_()
    before, version = x.detach().clone(), x._version
    y = fake_quantize(x, params_of(x, GRANULARITIES[0], QuantMode.SYMMETRIC))
    y.add_(1)  # of the output alone
    assert torch.equal(x, before)
    assert x._version == version
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("granularity", GRANULARITIES[:4], ids=str)
def test_higher_derivatives_equal_torchs(rng, granularity, mode):
    values = tensor(rng, (5, 4, 7))
    params = params_of(values**2, granularity, mode)
    results = []
    for function in (fake_quantize, torchs):
        x = values.clone().requires_grad_()
        derivatives = [(function(x * x, params) ** 3).sum()]
        for _ in range(3):
            derivatives += torch.autograd.grad(derivatives[-1].sum(), x, create_graph=True)
        results.append(derivatives)
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.any()


@pytest.mark.parametrize("wrt", [0, 1, 2], ids=["x", "scale", "zero_point"])
@pytest.mark.parametrize("power", [1, 2])
def test_a_second_derivative_through_a_learned_scale_is_refused(rng, wrt, power):
    """Also where only what goes into the function depends on the leaf, which is when it could be silently wrong."""
    leaves = [t.requires_grad_() for t in (tensor(rng, (4, 8)), torch.tensor([0.7]), torch.tensor([1.5]))]
    x, scale, zero_point = (leaf * leaf for leaf in leaves)
    y = fake_quantize_learned(x, scale, zero_point, bits=4) ** power
    (grad,) = torch.autograd.grad(y.sum(), leaves[wrt], create_graph=True)
    with pytest.raises(RuntimeError, match="fake_quantize_learned: cannot differentiate twice"):
        torch.autograd.grad(grad.sum(), leaves[wrt])


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.empty(2, device="meta"), InvalidTypeError, "x: expected a dense CPU tensor, got .* device meta"),
        (torch.ones(2).to_sparse(), InvalidTypeError, "x: expected a dense CPU tensor, got torch.sparse_coo"),
        (torch.ones(2, dtype=torch.int32), InvalidTypeError, "x: expected float32, .* got torch.int32"),
        ([1.0], InvalidTypeError, "x: expected a torch.Tensor, got list"),
        (torch.ones(()), InvalidValueError, "x: must have at least one dimension"),
        (torch.tensor([1.0, float("nan")]), InvalidValueError, "x: must be finite, got nan at flat index 1"),
    ],
)
def test_what_is_refused(x, error, message):
    params = quantcore.calibrate_per_tensor(np.ones(1, np.float32))
    with pytest.raises(error, match=message):
        fake_quantize(x, params)
    with pytest.raises(error, match=message):
        fake_quantize_learned(x, torch.ones(1))


def test_wrong_parameters_are_refused():
    x = torch.ones(4)
    with pytest.raises(InvalidTypeError, match="params: expected a QuantParams"):
        fake_quantize(x, 0.5)
    with pytest.raises(InvalidTypeError, match="scale: expected a dense CPU tensor"):
        fake_quantize_learned(x, torch.ones(1, device="meta"))
    with pytest.raises(InvalidValueError, match="params: 2 scales per_tensor"):
        fake_quantize_learned(x, torch.ones(2))
    with pytest.raises(InvalidValueError, match="bits"):
        fake_quantize_learned(x, torch.ones(1), bits=9)


def test_threads_of_autograd(rng):
    """Many small calls from several threads at once give what each gives alone."""
    from concurrent.futures import ThreadPoolExecutor

    params = quantcore.calibrate_per_tensor(np.ones(1, np.float32), 4)
    inputs = [tensor(rng, (50,)) for _ in range(64)]

    def gradient(x):
        x = x.clone().requires_grad_()
        fake_quantize(x, params).sum().backward()
        return x.grad

    with ThreadPoolExecutor(4) as pool:
        for ours, x in zip(pool.map(gradient, inputs), inputs, strict=True):
            assert torch.equal(ours, gradient(x))


@pytest.mark.parametrize("name", ["grad_factor", "narrow_range"])
def test_options_of_a_wrong_type_are_refused_at_once(name):
    with pytest.raises(InvalidTypeError, match=f"^{name}: expected .*, got 'x'$"):
        fake_quantize_learned(torch.ones(2), torch.ones(1), **{name: "x"})

"""Products with a 4-bit weight: torch's own with the decoded weight are the oracle, forward and backward."""

import numpy as np
import pytest

import quantcore
from quantcore.errors import InvalidTypeError, InvalidValueError

torch = pytest.importorskip("torch")
matmul = pytest.importorskip("quantcore.torch.matmul")
matmul_4bit = matmul.matmul_4bit

SHAPES = [(96, 128), (7, 33), (5, 31), (64, 1), (1, 4096), (40, 96)]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def quantized(rng, shape, **options):
    return quantcore.quantize_4bit(rng.standard_normal(shape, dtype=np.float32), **options)


def decode(q):
    decode = quantcore.dequantize_4bit if isinstance(q, quantcore.Quantized4Bit) else quantcore.dequantize_4bit_double
    return torch.from_numpy(decode(q))


def tensor(rng, shape, dtype=torch.float32):
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def assert_close(ours, theirs, dtype):
    scale = float(theirs.detach().abs().max()) if theirs.numel() else 1.0
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype] * max(scale, 1.0))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_linear_with_the_decoded_weight(rng, shape, dtype):
    q = quantized(rng, shape, quant_type="nf4")
    weight, bias = decode(q).to(dtype), tensor(rng, shape[0], dtype)
    ours, theirs = (tensor(rng, (2, 3, shape[1]), dtype) for _ in range(2))
    theirs.copy_(ours)
    ours.requires_grad_()
    theirs.requires_grad_()
    y, expected = matmul_4bit(ours, q, bias), torch.nn.functional.linear(theirs, weight, bias)
    assert y.dtype == dtype
    assert_close(y, expected, dtype)
    grad = tensor(rng, y.shape, dtype)
    y.backward(grad)
    expected.backward(grad)
    assert_close(ours.grad, theirs.grad, dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("block_size", [32, 128])
def test_blocks_of_rows_do_not_show(rng, shape, block_size, monkeypatch):
    q = quantized(rng, shape, quant_type="int4", block_size=block_size)
    x = tensor(rng, (4, shape[1]), torch.float64).requires_grad_()
    monkeypatch.setattr(matmul, "BLOCK_ELEMENTS", 1)  # as few rows as begin with a block of codes
    y = matmul_4bit(x, q)
    torch.testing.assert_close(y, x @ decode(q).double().t())
    y.backward(torch.ones_like(y))
    torch.testing.assert_close(x.grad, decode(q).double().sum(0).expand(4, -1))


@pytest.mark.parametrize("scale_code", ["linear", "dynamic"])
@pytest.mark.parametrize("quant_type", ["int4", "nf4", "fp4"])
def test_double_quantized_weights(rng, quant_type, scale_code):
    values = rng.standard_normal((48, 80), dtype=np.float32)
    q = quantcore.quantize_4bit_double(values, quant_type=quant_type, scale_code=scale_code)
    x = tensor(rng, (5, 80))
    torch.testing.assert_close(matmul_4bit(x, q), x @ decode(q).t())


def test_gradcheck(rng):
    q = quantized(rng, (6, 10), quant_type="nf4", block_size=32)
    inputs = tensor(rng, (3, 10), torch.float64).requires_grad_(), tensor(rng, 6, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, bias: matmul_4bit(x, q, bias), inputs)


def test_higher_derivatives_are_those_of_the_decoded_weight(rng):
    q = quantized(rng, (6, 10), quant_type="nf4", block_size=32)
    values = tensor(rng, (2, 10), torch.float64)
    results = []
    for function in (lambda x: matmul_4bit(x, q), lambda x: x @ decode(q).double().t()):
        x = values.clone().requires_grad_()
        derivatives = [(function(x * x) ** 3).sum()]
        for _ in range(3):
            derivatives += torch.autograd.grad(derivatives[-1].sum(), x, create_graph=True)
        results.append(derivatives)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_strided_input_and_gradient(rng):
    q = quantized(rng, (6, 10))
    x = tensor(rng, (10, 4)).t().requires_grad_()
    assert not x.is_contiguous()
    y = matmul_4bit(x, q)
    torch.testing.assert_close(y, x.contiguous() @ decode(q).t())
    y.backward(tensor(rng, (6, 4)).t())
    assert x.grad.shape == x.shape


@pytest.mark.parametrize(
    ("shape", "rows"), [((0, 4), (2,)), ((3, 0), (2,)), ((3, 4), (0,)), ((3, 4), (2, 0, 1)), ((3, 4), ())], ids=str
)
def test_empty_and_one_dimensional(rng, shape, rows):
    q = quantized(rng, shape)
    x = tensor(rng, (*rows, shape[1])).requires_grad_()
    y = matmul_4bit(x, q)
    torch.testing.assert_close(y, x @ decode(q).t())
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_the_input_is_not_changed_and_not_aliased(rng):
    q, x = quantized(rng, (8, 8)), tensor(rng, (8, 8))
    before = x.clone()
    matmul_4bit(x, q).zero_()
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.empty(2, 10, device="meta"), InvalidTypeError, "x: expected a dense CPU tensor, got .* device meta"),
        (torch.ones(2, 10).to_sparse(), InvalidTypeError, "x: expected a dense CPU tensor, got torch.sparse_coo"),
        (torch.ones(2, 10, dtype=torch.int64), InvalidTypeError, "x: expected float32, .* got torch.int64"),
        (np.ones((2, 10), np.float32), InvalidTypeError, "x: expected a torch.Tensor, got ndarray"),
        (torch.ones(2, 9), InvalidValueError, r"q: expected a matrix with as many columns as x .* \(2, 9\)"),
        (torch.ones(()), InvalidValueError, "q: expected a matrix with as many columns"),
    ],
)
def test_what_is_refused(rng, x, error, message):
    with pytest.raises(error, match=message):
        matmul_4bit(x, quantized(rng, (6, 10)))


def test_wrong_records_and_biases_are_refused(rng):
    with pytest.raises(InvalidTypeError, match="q: expected a Quantized4Bit or a DoubleQuantized4Bit, got Tensor"):
        matmul_4bit(torch.ones(2, 10), torch.ones(6, 10))
    with pytest.raises(InvalidValueError, match=r"bias: expected shape \(6,\), got \(5,\)"):
        matmul_4bit(torch.ones(2, 10), quantized(rng, (6, 10)), torch.ones(5))

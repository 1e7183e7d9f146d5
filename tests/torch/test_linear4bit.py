"""`Linear4bit`: a frozen 4-bit weight with adapters, its state, and how much memory it takes."""

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import quantcore
from quantcore.errors import InvalidTypeError, InvalidValueError

torch = pytest.importorskip("torch")
nn = torch.nn
Linear4bit = pytest.importorskip("quantcore.torch").Linear4bit

OPTIONS = [
    {"quant_type": quant_type, "scale_code": scale_code}
    for quant_type in ("nf4", "fp4", "int4")
    for scale_code in (None, "linear", "dynamic")
]


@pytest.fixture
def linear(rng):
    torch.manual_seed(int(rng.integers(2**31)))
    return nn.Linear(72, 40)


def trained(layer):
    """The layer with adapters that do something."""
    nn.init.normal_(layer.lora_b, std=0.1)
    return layer


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_forward_is_linear_with_the_decoded_weight(linear, options):
    layer = Linear4bit.from_linear(linear, **options)
    x = torch.randn(3, 72)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, linear.bias))
    quantize = quantcore.quantize_4bit if options["scale_code"] is None else quantcore.quantize_4bit_double
    expected = quantize(linear.weight, **{k: v for k, v in options.items() if v is not None})
    assert layer.record == expected
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_only_adapters_and_input_get_gradients(linear):
    layer = trained(Linear4bit.from_linear(linear, rank=4, alpha=8))
    x = torch.randn(5, 72, requires_grad=True)
    grad = torch.randn(5, 40)
    layer(x).backward(grad)
    a, b = (p.detach().clone().requires_grad_() for p in (layer.lora_a, layer.lora_b))
    other = x.detach().clone().requires_grad_()
    (nn.functional.linear(other, layer.weight + 2 * b @ a, linear.bias)).backward(grad)
    for ours, theirs in ((layer.lora_a, a), (layer.lora_b, b), (x, other)):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert layer.bias.grad is None
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"lora_a", "lora_b"}


def test_adapters_start_as_nothing(linear):
    x = torch.randn(5, 72)
    assert torch.equal(Linear4bit.from_linear(linear, rank=4)(x), Linear4bit.from_linear(linear)(x))


def test_dropout_is_on_the_adapters_in_training_only(linear):
    layer = trained(Linear4bit.from_linear(linear, rank=4, dropout=0.5))
    x = torch.randn(5, 72)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_merge(linear):
    layer = trained(Linear4bit.from_linear(linear, rank=4, alpha=2))
    x = torch.randn(5, 72)
    merged = layer.merge()
    assert type(merged) is nn.Linear
    assert merged.weight.requires_grad
    assert merged.bias.requires_grad
    torch.testing.assert_close(merged(x), layer(x))
    merged.bias.data.zero_()
    assert torch.equal(layer.bias, linear.bias)


def test_no_bias():
    layer = Linear4bit.from_linear(nn.Linear(16, 8, bias=False))
    assert layer.bias is None
    assert layer.merge().bias is None
    assert layer(torch.zeros(2, 16)).eq(0).all()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_state_dict_round_trip(linear, options):
    layer = trained(Linear4bit.from_linear(linear, rank=3, **options))
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other = Linear4bit(72, 40, rank=3, **options)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    x = torch.randn(2, 72)
    assert torch.equal(layer(x), other(x))
    assert other.record == layer.record


def test_state_dict_holds_tensors_only(linear):
    save = pytest.importorskip("safetensors.torch").save
    state = Linear4bit.from_linear(linear, scale_code="dynamic").state_dict()
    assert pytest.importorskip("safetensors.torch").load(save(state)).keys() == state.keys()


def test_a_state_of_another_layout_is_refused(linear):
    state = Linear4bit.from_linear(linear, quant_type="nf4").state_dict()
    with pytest.raises(InvalidValueError, match="quant_type: the Linear4bit has 'fp4', the state_dict 'nf4'"):
        Linear4bit(72, 40, quant_type="fp4").load_state_dict(state)
    state["_extra_state"] = torch.frombuffer(bytearray(b'{"version": 2}'), dtype=torch.uint8)
    with pytest.raises(InvalidValueError, match="unknown version; known: 1"):
        Linear4bit(72, 40).load_state_dict(state)
    state["_extra_state"] = "text"
    with pytest.raises(InvalidValueError, match="not what get_extra_state gave"):
        Linear4bit(72, 40).load_state_dict(state)


def test_adapters_come_on_top_of_a_base_without_them(linear):
    base = Linear4bit.from_linear(linear)
    layer = Linear4bit(72, 40, rank=4)
    assert layer.load_state_dict(base.state_dict(), strict=False).missing_keys == ["lora_a", "lora_b"]
    assert layer.record == base.record


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies(linear, duplicate):
    layer = trained(Linear4bit.from_linear(linear, rank=4, scale_code="linear"))
    other = duplicate(layer)
    x = torch.randn(2, 72)
    assert torch.equal(layer(x), other(x))
    other.lora_b.data.zero_()
    other.codes.zero_()
    assert not torch.equal(layer(x), other(x))


@pytest.mark.parametrize("scale_code", [None, "linear", "dynamic"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scales_stay_exact_in_other_dtypes(linear, dtype, scale_code):
    layer = Linear4bit.from_linear(linear, rank=4, scale_code=scale_code)
    record = layer.record
    layer.to(dtype)
    assert layer.lora_a.dtype == layer.bias.dtype == dtype
    assert layer.record == record
    y = layer(torch.randn(2, 72, dtype=dtype))
    assert y.dtype == dtype
    y.float().sum().backward()
    assert layer.lora_b.grad.dtype == dtype


def test_record_of_bitsandbytes(linear):
    bnb = pytest.importorskip("bitsandbytes.functional")
    packed, state = bnb.quantize_4bit(linear.weight.detach(), blocksize=64, quant_type="nf4")
    entries = {"weight": packed} | {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    layer = Linear4bit.from_quantized(quantcore.from_bitsandbytes(entries), linear.bias)
    assert torch.equal(layer.weight, bnb.dequantize_4bit(packed, state).float())


# The second step is the one that counts: the first loads what torch loads late.
MEASURED = """
import torch
from quantcore.torch import Linear4bit

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")).split()[1])

for n in (64, 4096):
    layer = Linear4bit(n, n, False, rank=4)
    x = torch.ones(4, n, requires_grad=True)
    before = peak()
    layer(x).sum().backward()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.may_skip
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' figure of the peak memory")
def test_a_step_takes_little_memory():
    environment = os.environ | {"PYTHONPATH": str(Path(quantcore.__file__).parents[1])}
    command = [sys.executable, "-c", MEASURED]
    child = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert int(child.stdout) < 32 << 10  # KiB; the weight in float32 takes twice as much


def test_fast_path_of_an_encoder_layer():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    for name in ("linear1", "linear2"):
        setattr(layer, name, Linear4bit.from_linear(getattr(layer, name)))
    x = torch.randn(2, 5, 32)
    slow = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), slow)


def test_weights_on_another_device_are_refused(linear):
    layer = Linear4bit.from_linear(linear).to("meta")
    with pytest.raises(InvalidTypeError, match="codes: expected a CPU tensor, got one on device meta"):
        layer(torch.randn(2, 72))


def test_a_broken_buffer_is_refused(linear):
    layer = Linear4bit.from_linear(linear)
    layer.codes = layer.codes[:-1]
    with pytest.raises(InvalidValueError, match="data: expected 1440 elements"):
        layer(torch.randn(2, 72))
    layer = Linear4bit.from_linear(linear)
    layer.scales[3] = np.nan
    with pytest.raises(InvalidValueError, match="scales: must be finite"):
        layer(torch.randn(2, 72))


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"quant_type": "int8"}, InvalidValueError, "quant_type"),
        ({"block_size": 48}, InvalidValueError, "block_size"),
        ({"scale_code": "log"}, InvalidValueError, "scale_code"),
        ({"rank": -1}, InvalidValueError, "rank"),
        ({"rank": 2.0}, InvalidTypeError, "rank"),
        ({"alpha": 0}, InvalidValueError, "alpha"),
        ({"alpha": float("nan")}, InvalidValueError, "alpha"),
        ({"dropout": 1}, InvalidValueError, "dropout"),
        ({"dropout": "0"}, InvalidTypeError, "dropout"),
        ({"alpha": True}, InvalidTypeError, "alpha"),
        ({"scale_code": 3}, InvalidTypeError, "scale_code"),
        ({"bias": "x"}, InvalidTypeError, "bias"),
    ],
)
def test_what_is_refused(options, error, name):
    with pytest.raises(error, match=f"^{name}: "):
        Linear4bit(8, 8, **options)


def test_what_it_is_made_from(rng):
    with pytest.raises(InvalidTypeError, match=r"linear: expected a torch.nn.Linear, got Conv2d"):
        Linear4bit.from_linear(nn.Conv2d(1, 1, 1))
    with pytest.raises(InvalidTypeError, match=r"linear.weight: expected a dense CPU tensor, got .* meta"):
        Linear4bit.from_linear(nn.Linear(8, 8, device="meta"))
    cube = quantcore.quantize_4bit(np.ones((2, 2, 2), np.float32))
    with pytest.raises(InvalidValueError, match=r"q: expected a matrix, got shape \(2, 2, 2\)"):
        Linear4bit.from_quantized(cube)
    with pytest.raises(InvalidValueError, match=r"bias: expected shape \(2,\), got \(3,\)"):
        Linear4bit.from_quantized(quantcore.quantize_4bit(np.ones((2, 2), np.float32)), torch.ones(3))


def test_a_refused_state_changes_nothing(linear):
    ours = Linear4bit.from_linear(linear, quant_type="nf4")
    other = nn.Linear(linear.in_features, linear.out_features)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(InvalidValueError, match=r"^quant_type: the Linear4bit has 'nf4', the state_dict 'fp4'$"):
        ours.load_state_dict(Linear4bit.from_linear(other, quant_type="fp4").state_dict())
    after = ours.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("rank", [0, 2])
def test_an_array_instead_of_a_tensor_is_refused(linear, rank):
    layer = Linear4bit.from_linear(linear, rank=rank)
    with pytest.raises(InvalidTypeError, match=r"^x: expected a torch\.Tensor, got ndarray$"):
        layer(np.zeros((2, linear.in_features), np.float32))


@pytest.mark.parametrize("bias", [np.zeros(3, np.float32), "x", torch.zeros(3, dtype=torch.int64)], ids=type)
def test_a_bias_of_a_wrong_type_is_refused(bias):
    q = quantcore.quantize_4bit(np.ones((3, 4), np.float32))
    with pytest.raises(InvalidTypeError, match=r"^bias: expected "):
        Linear4bit.from_quantized(q, bias)

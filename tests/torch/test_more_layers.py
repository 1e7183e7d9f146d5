"""Layers beyond Linear, Conv and Embedding in QAT: transposed weights, bags, weights that are computed."""

import copy
import warnings
from typing import Any

import numpy as np
import pytest

import quantcore as qc
from quantcore import QuantGranularity

torch = pytest.importorskip("torch")
nn = torch.nn
prune = pytest.importorskip("torch.nn.utils.prune")
parametrizations = nn.utils.parametrizations
functional = pytest.importorskip("quantcore.torch")
FakeQuantize, convert, prepare_qat = functional.FakeQuantize, functional.convert, functional.prepare_qat

IMAGES = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
BAGS = torch.tensor([[1, 2, 2], [7, 0, 3]])

LAYERS: dict[str, tuple[Any, tuple[Any, ...], int]] = {
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (IMAGES[:, :, 0],), 1),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2), (IMAGES,), 1),
    "ConvTranspose2d, size": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (IMAGES, [12, 12]), 1),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 6, 2, bias=False), (IMAGES[:, :, None],), 1),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(9, 6), (BAGS,), 0),
    "EmbeddingBag, offsets": (
        lambda: nn.EmbeddingBag(9, 6, mode="sum", padding_idx=2),
        (BAGS.reshape(-1), torch.tensor([0, 0, 4]), torch.rand(6, generator=torch.Generator().manual_seed(0))), 0,
    ),
    "EmbeddingBag, padding that is not used": (lambda: nn.EmbeddingBag(9, 6, mode="max", padding_idx=8), (BAGS,), 0),
    "EmbeddingBag, int32": (lambda: nn.EmbeddingBag(9, 6, padding_idx=0), (BAGS.int(),), 0),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(5, 6)), (IMAGES,), 0),
    "weight_norm, transposed": (
        lambda: parametrizations.weight_norm(nn.ConvTranspose2d(4, 6, 3), dim=1), (IMAGES,), 1,
    ),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(5, 5)), (IMAGES,), 0),
    "two parametrizations": (
        lambda: parametrizations.spectral_norm(parametrizations.weight_norm(nn.Conv2d(4, 6, 3))).eval(), (IMAGES,), 0,
    ),
}  # fmt: skip


def prepared(name: str, **options: Any) -> tuple[nn.Module, nn.Module, tuple[Any, ...], int]:
    """The layer, the same one in training, what it is called with, the axis of its output channels."""
    make, args, axis = LAYERS[name]
    torch.manual_seed(0)
    plain = make().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = prepare_qat(nn.ModuleList([copy.deepcopy(plain)]), **options)
    assert model.skipped == ()
    return plain, model, args, axis


def fake_quantized(weight: torch.Tensor, axis: int, bits: int = 8) -> torch.Tensor:
    """By torch's own operator with our scales, one for each output channel."""
    values = weight.detach()
    params = qc.calibrate_per_channel(values.numpy(), bits, "symmetric", axis=axis)
    scales, zero_points = torch.tensor(params.scales), torch.zeros(len(params.scales), dtype=torch.int32)
    made = torch.fake_quantize_per_channel_affine(values, scales, zero_points, axis, params.quant_min, params.quant_max)
    assert len(scales) == values.shape[axis]
    return made


def expected(plain: nn.Module, args: tuple[Any, ...], axis: int, bits: int = 8) -> torch.Tensor:
    """torch's own layer with the weight that is fake-quantized."""
    twin = copy.deepcopy(plain)
    twin.__class__ = nn.utils.parametrize.type_before_parametrizations(plain)
    twin._modules.pop("parametrizations", None)
    twin.weight = nn.Parameter(fake_quantized(plain.weight, axis, bits))
    return twin(*args)


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_those_of_torchs_layer_with_the_quantized_weight(name):
    plain, model, args, axis = prepared(name)
    wanted = expected(plain, args, axis)
    assert torch.equal(model[0](*args), wanted)
    assert not torch.equal(model[0](*args), plain(*args))
    state = set(model.state_dict())
    convert(model)
    torch.testing.assert_close(model[0](*args), wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(model[0].weight, fake_quantized(plain.weight, axis))
    assert not [key for key in model.state_dict() if "parametrizations" in key or key.endswith("0.weight")]
    assert "0.weight_quantized.codes" in model.state_dict() and state != set(model.state_dict())


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_reach_the_parameters(name):
    plain, model, args, _ = prepared(name)
    model[0](*args).square().sum().backward()
    plain(*args).square().sum().backward()
    pairs = list(zip(model.parameters(), plain.parameters(), strict=True))
    assert pairs
    for ours, theirs in pairs:
        assert ours.grad is not None
        assert torch.nn.functional.cosine_similarity(ours.grad.ravel(), theirs.grad.ravel(), dim=0) > 0.98


@pytest.mark.parametrize("name", ["ConvTranspose2d", "weight_norm, transposed"])
def test_axis_0_of_a_prototype_means_output_channels(name):
    weight = FakeQuantize(4, granularity=QuantGranularity.per_channel(), observer="mse")
    _, model, args, axis = prepared(name, weight=weight)
    model[0](*args)
    (made,) = (m for m in model.modules() if isinstance(m, FakeQuantize))
    assert made.granularity.axis == axis == 1 and made.scale.numel() == (3 if "Conv" in name else 6)
    assert made.observer.axis == 1 and weight.observer.axis == 0


def test_weight_norm_trains_and_its_copy_is_another_one():
    torch.manual_seed(0)
    model = prepare_qat(nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 6)), nn.ReLU(), nn.Linear(6, 1)))
    x, y = torch.randn(64, 5), torch.randn(64, 1)
    before = (model(x) - y).square().mean().item()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    trained = model(x)
    assert (trained - y).square().mean().item() < 0.9 * before
    again = prepare_qat(model)  # what is prepared already stays as it is
    assert torch.equal(again(x), trained)
    convert(model)
    torch.testing.assert_close(model(x), trained, rtol=1e-5, atol=1e-6)
    assert type(model[0]).__name__ == "QuantizedLinear"


def test_activations_of_bags_are_indices():
    _, model, args, _ = prepared("EmbeddingBag", activation=FakeQuantize(8, observer="min_max"))
    model[0](*args)
    assert sum(isinstance(m, FakeQuantize) for m in model.modules()) == 1


@pytest.mark.may_skip
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's own exporter
def test_transposed_convolutions_are_exported(tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    _, model, args, _ = prepared("ConvTranspose2d")
    wanted = model[0](*args)
    convert(model)
    torch.onnx.export(model[0], args, str(tmp_path / "m.onnx"), dynamo=True, opset_version=21, verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: args[0].numpy()})
    np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.may_skip
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_linear_layer_of_gpt_2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=16)
    torch.manual_seed(0)
    plain = transformers.GPT2LMHeadModel(config).eval()
    model = prepare_qat(copy.deepcopy(plain), activation=FakeQuantize(8, observer="min_max"))
    assert model.skipped == ()
    layer = model.transformer.h[0].mlp.c_fc
    ids = torch.randint(0, 50, (2, 16))
    wanted = model(input_ids=ids).logits
    assert torch.equal(layer.weight, fake_quantized(plain.transformer.h[0].mlp.c_fc.weight, 1))
    assert layer.weight_fake_quant.scale.numel() == 128
    convert(model)
    torch.testing.assert_close(model(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-5)
    assert type(layer).__name__ == "QatConv1D" and type(model.transformer.h[0].mlp.c_fc).__name__ == "QuantizedConv1D"


# Weights that a hook computes

HOOKED: dict[str, tuple[Any, torch.Tensor]] = {
    "weight_norm": (lambda: nn.utils.weight_norm(nn.Linear(5, 6)), IMAGES),
    "weight_norm, convolution": (lambda: nn.utils.weight_norm(nn.Conv2d(4, 6, 3)), IMAGES),
    "weight_norm, transposed": (lambda: nn.utils.weight_norm(nn.ConvTranspose2d(4, 6, 3), dim=1), IMAGES),
    "spectral_norm": (lambda: nn.utils.spectral_norm(nn.Conv2d(4, 6, 3)), IMAGES),
    "pruning": (lambda: prune.l1_unstructured(nn.Linear(5, 6), "weight", 0.5), IMAGES),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch has newer ones
@pytest.mark.parametrize("name", HOOKED)
def test_weights_that_a_hook_computes(name):
    make, x = HOOKED[name]
    axis = int("transposed" in name)

    def built() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(make()).eval()

    plain, model = built(), built()
    before = dict(model.named_parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare_qat(model)
    assert model.skipped == () and all(dict(model.named_parameters())[key] is value for key, value in before.items())
    wanted = plain(x)
    twin = type(plain[0])(*((5, 6) if isinstance(plain[0], nn.Linear) else (4, 6, 3))).eval()
    twin.weight, twin.bias = nn.Parameter(fake_quantized(plain[0].weight, axis)), plain[0].bias
    assert torch.equal(model(x), twin(x)) and not torch.equal(model(x), wanted)
    model(x).square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in before.values())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    again = prepare_qat(built())
    again.load_state_dict(state)
    assert torch.equal(again(x), twin(x))
    assert prepare_qat(model)[0].weight_fake_quant is model[0].weight_fake_quant  # what is prepared stays as it is
    convert(model)
    torch.testing.assert_close(model(x), twin(x), rtol=1e-6, atol=1e-6)
    assert type(model[0]).__name__.startswith("Quantized")
    assert not [key for key in model.state_dict() if key.startswith(("0.weight_g", "0.weight_v", "0.weight_orig"))]
    assert not model[0]._forward_pre_hooks
    copied = copy.deepcopy(model)
    copied.load_state_dict(model.state_dict())
    assert torch.equal(copied(x), model(x))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_weight_of_two_hooks_is_listed():
    model = nn.Sequential(prune.l1_unstructured(nn.Linear(5, 6), "bias", 0.5), nn.Linear(6, 2))
    prune.l1_unstructured(model[1], "weight", 0.5)
    nn.utils.spectral_norm(model[0])
    with pytest.warns(UserWarning, match="left as they are: 0 "):
        assert [entry.name for entry in prepare_qat(model).skipped] == ["0"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_batch_norm_behind_a_weight_that_a_hook_computes_stays():
    model = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(4, 6, 3)), nn.BatchNorm2d(6)).eval()
    assert functional.fold_batch_norms(model) == ()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_is_folded_into_transposed_convolutions(groups, bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=bias), nn.BatchNorm2d(6))
    model[1].weight.data.uniform_(0.5, 2)
    for _ in range(3):
        model(torch.randn(8, 4, 5, 5) * 3 + 1)
    wanted = model.eval()(IMAGES)
    assert functional.fold_batch_norms(model) == ("0",)
    assert type(model[1]) is nn.Identity
    torch.testing.assert_close(model(IMAGES), wanted, rtol=1e-4, atol=1e-5)

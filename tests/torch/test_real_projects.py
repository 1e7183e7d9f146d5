"""QAT in real projects: layers that are not covered, batch normalization, averages of models, several processes."""

import copy
import os
import warnings
from typing import Any

import numpy as np
import pytest

from quantcore import InvalidValueError, QuantGranularity

torch = pytest.importorskip("torch")
nn = torch.nn
functional = pytest.importorskip("quantcore.torch")
fuse_conv_bn_eval = torch.nn.utils.fusion.fuse_conv_bn_eval
FakeQuantize = functional.FakeQuantize
convert = functional.convert
disable_fake_quant = functional.disable_fake_quant
disable_observer = functional.disable_observer
fold_batch_norms = functional.fold_batch_norms
prepare_qat = functional.prepare_qat

PER_CHANNEL = QuantGranularity.per_channel()


def block() -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
    )
    for _ in range(5):
        model(torch.randn(8, 3, 9, 9) * 2 + 1)
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.weight.uniform_(-2, 2)
            norm.bias.uniform_(-1, 1)
    return model.eval()


# Coverage


UNCOVERED: dict[str, Any] = {
    "LSTM": lambda: nn.LSTM(3, 4),
    "GRU": lambda: nn.GRU(3, 4),
    "EmbeddingBag": lambda: nn.EmbeddingBag(5, 3, sparse=True),
    "MultiheadAttention": lambda: nn.MultiheadAttention(4, 2),
    "Bilinear": lambda: nn.Bilinear(2, 3, 4),
    "ParametrizedBilinear": lambda: nn.utils.parametrizations.weight_norm(nn.Bilinear(2, 3, 4)),
}


@pytest.mark.parametrize("kind", UNCOVERED)
def test_what_is_not_covered_is_listed_with_a_warning(kind):
    model = nn.ModuleDict({"other": UNCOVERED[kind](), "fc": nn.Linear(3, 4), "norm": nn.LayerNorm(4)})
    with pytest.warns(UserWarning, match=rf"prepare_qat: left as they are: other \({kind}\)"):
        prepared = prepare_qat(model)
    assert [(entry.name, entry.kind) for entry in prepared.skipped if entry.name == "other"] == [("other", kind)]
    assert all(entry.reason for entry in prepared.skipped)
    assert {entry.name for entry in prepared.skipped} <= {"other", "other.out_proj"}


def test_sparse_embeddings_are_listed_and_train():
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 2))
    with pytest.warns(UserWarning, match=r"0 \(Embedding\)"):
        prepare_qat(model)
    assert "sparse" in model.skipped[0].reason
    model(torch.tensor([1, 2])).sum().backward()
    assert model[0].weight.grad.is_sparse


def test_a_model_with_nothing_to_prepare_says_so():
    with pytest.warns(UserWarning, match="the model has no Linear.*nothing was prepared"):
        assert prepare_qat(nn.Sequential(nn.ReLU())).skipped == ()
    model = prepare_qat(nn.Sequential(nn.Linear(2, 2)))
    assert prepare_qat(model).skipped == ()  # again: nothing left to do, and nothing to say


def test_converting_a_model_that_was_not_prepared_says_so():
    with pytest.warns(UserWarning, match="no layer that prepare_qat prepared: nothing was converted"):
        convert(nn.Sequential(nn.Linear(2, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = convert(prepare_qat(nn.Sequential(nn.Linear(2, 2), nn.ReLU())))
        convert(model)  # again: nothing left to do, and nothing to say


def test_errors_name_the_layer():
    model = prepare_qat(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), activation=FakeQuantize(observer="min_max"))
    with pytest.raises(InvalidValueError, match=r"^0\.input: must be finite, got nan at flat index 3"):
        model(torch.tensor([[0.0, 1.0], [2.0, np.nan]]))
    with torch.no_grad():
        model[1].raw_weight[1, 0] = np.inf
    with pytest.raises(InvalidValueError, match=r"^1\.weight: must be finite, got inf at flat index 2"):
        model(torch.ones(1, 2))


# Batch normalization


def test_folding_changes_nothing_but_the_layers():
    model, x = block(), torch.randn(2, 3, 9, 9)
    expected = model(x)
    assert fold_batch_norms(model) == ("0", "3")
    assert [type(m) for m in model] == [nn.Conv2d, nn.Identity, nn.ReLU, nn.Conv2d, nn.Identity]
    assert torch.allclose(model(x), expected, atol=1e-4)
    assert fold_batch_norms(model) == ()


@pytest.mark.parametrize("when", ["prepare", "convert"])
def test_folding_in_qat_and_in_convert(when):
    model, x = block(), torch.randn(2, 3, 9, 9)
    expected = model(x)
    weight = FakeQuantize(granularity=PER_CHANNEL, observer="min_max")
    prepare_qat(model, weight=weight, fold_batch_norm=when == "prepare")
    model(x)
    convert(model, fold_batch_norm=when == "convert")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert (model(x) - expected).abs().max() < 0.02 * expected.abs().max()


class Residual(nn.Module):
    """Norms that torch.fx has to tell apart: one of a sum, one of a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.of_a, self.of_sum, self.of_c = (nn.BatchNorm1d(4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b(self.of_a(self.a(x)))
        return self.of_c(self.c(self.c(self.of_sum(x + y))))


def test_only_norms_of_one_layer_are_folded():
    model = Residual().train()
    for _ in range(4):
        model(torch.randn(16, 4) * 3)
    model.eval()
    x = torch.randn(5, 4)
    expected = model(x)
    assert fold_batch_norms(model) == ("a",)
    assert torch.allclose(model(x), expected, atol=1e-5)


def test_fuse_conv_bn_eval_on_a_converted_model():
    model, x = block(), torch.randn(2, 3, 9, 9)
    prepare_qat(model, weight=FakeQuantize(granularity=PER_CHANNEL, observer="current"))
    convert(model)
    expected = model[1](model[0](x))
    codes = model[0].weight_quantized.codes
    fused = fuse_conv_bn_eval(model[0], model[1])
    assert torch.allclose(fused(x), expected, atol=1e-4)  # the codes are the same, but for signs
    assert torch.equal(fused.weight_quantized.codes.abs(), codes.abs())
    assert torch.equal(model[0].weight_quantized.codes, codes)


# Averages, files, several processes


@pytest.mark.parametrize("learn_scale", [False, True])
@pytest.mark.parametrize("use_buffers", [False, True])
def test_averaged_models(learn_scale, use_buffers):
    torch.manual_seed(0)
    activation = FakeQuantize(observer="moving_average", symmetric=False, learn_scale=learn_scale)
    model = prepare_qat(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), activation=activation)
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=use_buffers)
    for _ in range(3):
        model(torch.randn(5, 4))
        averaged.update_parameters(model)
    x = torch.randn(5, 4)
    averaged.apply(disable_observer)
    model.apply(disable_observer)
    assert torch.allclose(averaged(x), model(x), atol=0.2)


@pytest.mark.parametrize("observer", ["moving_average", "mse"])
def test_exponential_averages_of_the_state(observer):
    model = prepare_qat(nn.Sequential(nn.Linear(4, 2)), activation=FakeQuantize(observer=observer))
    average = copy.deepcopy(model)
    lengths = [v.shape for v in model.state_dict().values()]
    for _ in range(3):
        model(torch.randn(5, 4))
        if observer == "moving_average":
            assert [v.shape for v in model.state_dict().values()] == lengths
            for ours, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                ours.copy_(0.5 * ours + 0.5 * new)
    for ours, new in zip(average.parameters(), model.parameters(), strict=True):
        ours.data.lerp_(new, 0.5)


def test_a_module_used_twice_goes_through_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    layer = nn.Linear(4, 4)
    for converted in (False, True):
        model = prepare_qat(nn.ModuleDict({"a": layer, "b": layer}), activation=FakeQuantize(observer="min_max"))
        model["a"](torch.randn(3, 4))
        if converted:
            convert(model)
        other = copy.deepcopy(model)
        safetensors.save_model(model, str(tmp_path / f"{converted}.safetensors"))
        safetensors.load_model(other, str(tmp_path / f"{converted}.safetensors"))
        x = torch.randn(3, 4)
        assert torch.equal(other["b"](x), model["b"](x))
        layer = nn.Linear(4, 4)


@pytest.mark.parametrize("bits", [9, 12, 16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("observer", ["min_max", "mse", "entropy", "percentile"])
def test_activations_of_up_to_16_bits(bits, symmetric, observer):
    x = torch.randn(40, 50)
    layer = copy.deepcopy(FakeQuantize(bits, symmetric, observer=observer))
    y = layer(x)
    fake = torch.fake_quantize_per_tensor_affine(
        x, layer.scale[0], layer.zero_point[0], layer.quant_min, layer.quant_max
    )
    assert torch.equal(y, fake)
    assert len(torch.unique(y)) > 256
    again = FakeQuantize(bits, symmetric, observer=observer)
    again.load_state_dict(layer.state_dict())
    assert again.observer.to_dict() == layer.observer.to_dict()
    with pytest.raises(InvalidValueError, match="bits"):
        FakeQuantize(17)
    with pytest.raises(InvalidValueError, match=f"codes of {bits} bits are only fake-quantized"):
        convert(prepare_qat(nn.Linear(2, 2), weight=FakeQuantize(bits)))


def train(rank: int, world: int, port: int, results: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    torch.manual_seed(0)
    found = {}
    for observer in ("min_max", "moving_average", "mse"):
        for learn_scale in (False, True):
            activation = FakeQuantize(symmetric=False, observer=observer, learn_scale=learn_scale)
            model = prepare_qat(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), activation=activation)
            wrapped = nn.parallel.DistributedDataParallel(model) if world > 1 else model
            optimizer = torch.optim.SGD(model.parameters(), 0.0)
            for step in range(2):
                x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
                wrapped(x[rank::world]).square().mean().backward()
                optimizer.step()
            found[f"{observer} {learn_scale}"] = model[0].input_fake_quant.scale.tolist()
    results[rank] = found
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_observers_of_two_processes_see_the_whole_batch():
    import socket

    def run(world: int) -> dict[int, Any]:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        with torch.multiprocessing.Manager() as manager:
            results = manager.dict()
            torch.multiprocessing.spawn(train, (world, port, results), nprocs=world)
            return dict(results)

    alone, together = run(1), run(2)
    assert together[0] == together[1] == alone[0]


def test_switches_still_reach_every_module():
    model = prepare_qat(nn.Sequential(nn.Linear(2, 2)), activation=FakeQuantize())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.ones(1, 2))
    model.apply(disable_fake_quant)
    assert torch.equal(model[0].weight, model[0].raw_weight)

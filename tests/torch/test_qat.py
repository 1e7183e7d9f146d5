"""`prepare_qat` and `convert`: layers get replacements with the same parameters, then codes with the same outputs."""

import copy
import io
import pickle

import numpy as np
import pytest

import quantcore
from quantcore import QuantGranularity
from quantcore.errors import InvalidTypeError, InvalidValueError
from tests.support.marks import slow_but_first

torch = pytest.importorskip("torch")
nn = torch.nn
qt = pytest.importorskip("quantcore.torch")
layers = pytest.importorskip("quantcore.torch.layers")
FakeQuantize, convert, prepare_qat = qt.FakeQuantize, qt.convert, qt.prepare_qat

CHANNELS = QuantGranularity.per_channel(0)


class Network(nn.Module):
    """Every layer that is supported, one used twice, and the embedding's weight tied to the head's."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.conv = nn.Conv1d(16, 16, 3, padding=1, groups=2)
        self.norm = nn.LayerNorm(16)
        self.mix = nn.Linear(16, 16)
        self.mix_again = self.mix
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        x = self.norm(x)
        return self.head(self.mix_again(self.mix(x).relu()))


@pytest.fixture
def model(rng):
    torch.manual_seed(int(rng.integers(2**31)))
    return Network()


@pytest.fixture
def tokens(rng):
    return torch.from_numpy(rng.integers(0, 30, (4, 9)))


PROTOTYPES = {
    "default": None,
    "per channel": FakeQuantize(4, granularity=CHANNELS, observer="current"),
    "per tensor": FakeQuantize(4, symmetric=False, observer="min_max"),
    "per group": FakeQuantize(3, granularity=QuantGranularity.per_group(8), observer="current"),
    "axis 1": FakeQuantize(4, granularity=QuantGranularity.per_channel(1), observer="current"),
    "moving": FakeQuantize(4, granularity=CHANNELS, observer="moving_average", narrow_range=False),
    "learned": FakeQuantize(4, granularity=CHANNELS, learn_scale=True),
    "learned, asymmetric": FakeQuantize(4, symmetric=False, learn_scale=True),
}
ACTIVATION = FakeQuantize(8, symmetric=False, observer="moving_average")


def trained(model, tokens, steps=3):
    """The model after some steps; they leave it changed since its last forward pass."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("activation", [None, ACTIVATION], ids=["weights only", "activations"])
@pytest.mark.parametrize("weight", slow_but_first(PROTOTYPES.values(), n_fast=2), ids=PROTOTYPES)
def test_convert_keeps_outputs_to_the_last_bit(model, tokens, weight, activation):
    prepare_qat(model, weight=weight, activation=activation)
    trained(model, tokens).eval()
    model.apply(qt.disable_observer)
    expected = model(tokens)
    converted = convert(copy.deepcopy(model))
    assert torch.equal(converted(tokens), expected)
    assert torch.equal(converted(tokens[:0]), expected[:0])
    assert not [name for name, _ in converted.named_parameters() if name.endswith("weight") and "norm" not in name]


def test_a_weight_found_anew_is_converted_as_it_is_now(model, tokens):
    trained(prepare_qat(model), tokens)
    converted = convert(copy.deepcopy(model))  # no forward pass since the last step
    assert torch.equal(converted(tokens), model(tokens))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(model, tokens, dtype):
    model.to(dtype)
    prepare_qat(model, weight=PROTOTYPES["per channel"])
    expected = model(tokens)
    assert expected.dtype == dtype
    converted = convert(copy.deepcopy(model))
    assert torch.equal(converted(tokens), expected)
    scale = converted.mix.weight_quantized.scale.clone()
    converted.float()
    assert converted(tokens).dtype == torch.float32
    assert torch.equal(converted.mix.weight_quantized.scale, scale)


def test_parameters_stay_the_same_objects(model, tokens):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    names = {name: id(parameter) for name, parameter in model.named_parameters()}
    state = copy.deepcopy(model.state_dict())
    assert prepare_qat(model) is model
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == names
    model(tokens).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.mix.raw_weight, state["mix.weight"])
    model.load_state_dict(state, strict=False)
    assert torch.equal(model.mix.raw_weight, state["mix.weight"])


def test_gradients_are_those_of_the_fake_quantized_weight(rng):
    linear = nn.Linear(12, 5)
    weight = linear.weight.detach().clone().requires_grad_()
    twin = prepare_qat(linear, weight=FakeQuantize(3, observer="current"))
    x = torch.randn(4, 12)
    params = quantcore.calibrate_per_tensor(weight, 3)
    expected = nn.functional.linear(x, qt.fake_quantize(weight, params), linear.bias)
    assert torch.equal(twin(x), expected)
    twin(x).square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(linear.weight.grad, weight.grad)


def test_ties_stay_tied(model, tokens):
    prepare_qat(model, weight=PROTOTYPES["learned"])
    assert model.mix is model.mix_again
    assert model.head.raw_weight is model.embedding.raw_weight
    assert model.head.weight_fake_quant is model.embedding.weight_fake_quant
    trained(model, tokens)
    assert torch.equal(model.head.weight, model.embedding.weight)
    convert(model)
    assert model.mix is model.mix_again
    assert model.head.weight_quantized is model.embedding.weight_quantized
    assert len(list(model.head.weight_quantized.buffers())) == 4


def test_twins(model):
    prepare_qat(model, activation=ACTIVATION)
    assert type(model.conv) is layers.QatConv1d
    assert isinstance(model.conv, nn.Conv1d)
    assert model.conv.padding == (1,)
    assert type(model.norm) is nn.LayerNorm
    assert not hasattr(model.embedding, "input_fake_quant")
    assert model.mix.input_fake_quant is not model.head.input_fake_quant
    assert not ACTIVATION.is_calibrated
    before = model.mix
    prepare_qat(model)  # has nothing left to do
    assert model.mix is before
    convert(model)
    assert type(model.embedding) is layers.QuantizedEmbedding


@pytest.mark.parametrize(("kind", "shape"), [(nn.Conv2d, (2, 4, 7, 7)), (nn.Conv3d, (1, 4, 5, 5, 5))])
def test_convolutions(kind, shape):
    conv = kind(4, 6, 3, stride=2, padding=1, padding_mode="circular")
    twin = prepare_qat(conv, weight=PROTOTYPES["per channel"])
    x = torch.randn(shape)
    expected = twin(x)
    assert not torch.equal(expected, conv(x))
    assert torch.equal(convert(twin)(x), expected)


def test_hooks_stay(model, tokens):
    calls = []
    model.mix.register_forward_hook(lambda *_: calls.append("mix"))
    prepare_qat(model)
    model(tokens)
    convert(model)
    model(tokens)
    assert len(calls) == 4


@pytest.mark.parametrize("is_converted", [False, True])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(model, tokens, duplicate, is_converted):
    trained(prepare_qat(model, weight=PROTOTYPES["learned"], activation=ACTIVATION), tokens)
    model.apply(qt.disable_observer)
    if is_converted:
        convert(model)
    other = duplicate(model)
    assert torch.equal(other(tokens), model(tokens))
    for parameter in other.parameters():
        parameter.data.zero_()
    assert not torch.equal(other(tokens), model(tokens))


@pytest.mark.parametrize("is_converted", [False, True])
@pytest.mark.parametrize("weight", slow_but_first(PROTOTYPES.values(), n_fast=2), ids=PROTOTYPES)
def test_state_dict_round_trip(model, tokens, weight, is_converted):
    def build(model):
        prepare_qat(model, weight=weight, activation=ACTIVATION)
        return convert(model) if is_converted else model

    prepare_qat(model, weight=weight, activation=ACTIVATION)
    trained(model, tokens).apply(qt.disable_observer)
    if is_converted:
        convert(model)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = build(Network())
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(tokens), model(tokens))


def test_codes_of_another_layout_are_refused(model):
    state = convert(prepare_qat(copy.deepcopy(model), weight=FakeQuantize(4, observer="current"))).state_dict()
    other = convert(prepare_qat(model, weight=FakeQuantize(5, observer="current")))
    with pytest.raises(InvalidValueError, match="bits: the QuantizedWeight has 5, the state_dict 4"):
        other.load_state_dict(state)


def test_records(model, tokens):
    prepare_qat(model, weight=PROTOTYPES["per channel"])
    expected = quantcore.quantize_tensor(model.mix.raw_weight, CHANNELS, bits=4)
    convert(model)
    assert model.mix.weight_quantized.record == expected
    assert model.mix.weight_quantized.codes.dtype == torch.int8


def test_rows_of_an_embedding(rng):
    table = rng.standard_normal((11, 10), dtype=np.float32)
    for granularity in (None, CHANNELS, QuantGranularity.per_channel(-1), QuantGranularity.per_group(4)):
        q = quantcore.quantize_tensor(table, granularity, quantcore.QuantMode.ASYMMETRIC, 4)
        weight = layers.QuantizedWeight(q, torch.float32)
        for indices in (torch.tensor(3), torch.tensor([[1, 1], [10, 0]]), torch.empty((2, 0), dtype=torch.int64)):
            assert torch.equal(weight.rows(indices), weight()[indices])
        with pytest.raises(IndexError):
            weight.rows(torch.tensor([11]))


def test_which_modules(model):
    prepare_qat(model, modules=[nn.Conv1d, "head"])
    assert [type(m) for m in (model.conv, model.head, model.mix)] == [layers.QatConv1d, layers.QatLinear, nn.Linear]


def test_a_name_stands_for_all_layers_that_end_in_it():
    model = nn.ModuleDict({name: nn.ModuleDict({"up": nn.Linear(2, 2), "blow_up": nn.Linear(2, 2)}) for name in "ab"})
    prepare_qat(model, modules=["up"])
    assert [name for name, m in model.named_modules() if type(m) is layers.QatLinear] == ["a.up", "b.up"]
    model["up"] = nn.Linear(2, 2)
    prepare_qat(model, modules=["up", "a.blow_up"])  # the first is now a module of that name
    assert type(model["up"]) is type(model["a"]["blow_up"]) is layers.QatLinear
    assert type(model["b"]["blow_up"]) is nn.Linear


class Head(nn.Linear):
    """A subclass may do anything with its weight."""


@pytest.mark.parametrize(
    ("modules", "error", "message"),
    [
        ([nn.LSTM], InvalidTypeError, "modules: expected Linear, .*, EmbeddingBag or names, got <class .*LSTM"),
        (["rnn"], InvalidTypeError, "modules: 'rnn' is a LSTM that cannot be replaced; supported: Linear"),
        (["table"], InvalidTypeError, "modules: 'table' is a Embedding that cannot be replaced"),
        (["head"], InvalidTypeError, "modules: 'head' is a Head that cannot be replaced"),
        (["absent"], InvalidValueError, "modules: the model has no module 'absent'"),
        ("head", InvalidTypeError, "modules: expected types or names in a list or tuple, got 'head'"),
        ([3], InvalidTypeError, "modules: expected .* got 3"),
    ],
)
def test_what_is_not_supported_is_named_if_asked_for(modules, error, message):
    parts = {
        "rnn": nn.LSTM(2, 2),
        "head": Head(2, 2),
        "table": nn.Embedding(3, 2, max_norm=1.0),
        "fine": nn.Linear(2, 2),
    }
    model = nn.ModuleDict(parts)
    with pytest.raises(error, match=message):
        prepare_qat(model, modules=modules)
    assert type(model["fine"]) is nn.Linear
    with pytest.warns(UserWarning, match=r"left as they are: rnn \(LSTM\), head \(Head\), table \(Embedding\)"):
        prepare_qat(model)
    assert [type(model[name]) for name in parts] == [nn.LSTM, Head, nn.Embedding, layers.QatLinear]


def test_wrong_arguments(model):
    with pytest.raises(InvalidTypeError, match=r"model: expected a torch.nn.Module, got int"):
        prepare_qat(3)
    with pytest.raises(InvalidTypeError, match=r"model: expected a torch.nn.Module, got int"):
        convert(3)
    with pytest.raises(InvalidTypeError, match=r"weight: expected a quantcore.torch.FakeQuantize"):
        prepare_qat(model, weight=4)
    with pytest.raises(InvalidTypeError, match=r"weight: expected a dense CPU tensor, got .* meta"):
        prepare_qat(nn.Linear(2, 2, device="meta"))(torch.ones(1, 2))


def test_fast_path_of_an_encoder_layer_is_quantized_too():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    with pytest.warns(UserWarning, match="MultiheadAttention"):
        prepare_qat(layer, weight=FakeQuantize(3, observer="current"), activation=ACTIVATION)
    x = torch.randn(2, 5, 32)
    layer(x)
    layer.apply(qt.disable_observer)
    slow = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), slow)
        assert torch.equal(convert(layer)(x), layer(x))
        torch.testing.assert_close(layer(x), slow)


def test_a_refused_state_leaves_a_weight_as_it_was():
    def weight(bits):
        prepared = prepare_qat(nn.Linear(4, 3), weight=FakeQuantize(bits, granularity=CHANNELS))
        return convert(prepared).weight_quantized

    ours = weight(8)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(InvalidValueError, match=r"^bits: "):
        ours.load_state_dict(weight(4).state_dict())
    after = ours.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_keyword_inputs_are_fake_quantized(rng):
    x = torch.from_numpy(rng.standard_normal((2, 4), dtype=np.float32))
    layer = prepare_qat(nn.Sequential(nn.Linear(4, 4)), activation=FakeQuantize(3))[0]
    y = layer(input=x)
    assert layer.input_fake_quant.is_calibrated
    assert torch.equal(y, layer(x))
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'input'"):
        layer()


@pytest.mark.parametrize("learn_scale", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", [None, CHANNELS, QuantGranularity.per_channel(1)], ids=str)
@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (lambda: nn.Linear(0, 3), torch.ones(2, 0)),
        (lambda: nn.Linear(3, 0), torch.ones(2, 3)),
        (lambda: nn.Embedding(5, 0), torch.tensor([4, 1])),
    ],
    ids=["no inputs", "no outputs", "no columns"],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_weights_are_converted(layer, x, granularity, symmetric, learn_scale):
    weight = FakeQuantize(4, symmetric, granularity=granularity, learn_scale=learn_scale)
    model = prepare_qat(layer(), weight=weight)
    expected = model(x)
    assert torch.equal(convert(model)(x), expected)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("prototype", slow_but_first(PROTOTYPES.values(), n_fast=2), ids=PROTOTYPES)
def test_reading_a_weight_observes_nothing(model, tokens, prototype, used):
    prepare_qat(model, weight=prototype)
    if used:
        trained(model, tokens)
    for layer in (model.mix, model.conv, model.embedding):
        before = {name: value.clone() for name, value in layer.state_dict().items()}
        weight = layer.weight
        assert weight.shape == layer.raw_weight.shape
        after = layer.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert torch.equal(layer.weight_fake_quant(layer.raw_weight), weight)  # what the next forward pass uses


def test_a_weight_that_is_read_only_is_converted_as_it_is(rng):
    """Its layer is never called: another module multiplies with it."""
    layer = prepare_qat(nn.Linear(6, 4), weight=FakeQuantize(4)).apply(qt.disable_observer)
    weight = layer.weight
    weight.sum().backward()
    assert layer.raw_weight.grad.all()
    assert torch.equal(convert(layer).weight, weight)

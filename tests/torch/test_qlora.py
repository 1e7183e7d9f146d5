"""`prepare_qlora` and `merge_qlora`: whole models with layers of 4 bits and adapters, and back."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest

import quantcore
from quantcore.errors import InvalidTypeError, InvalidValueError

torch = pytest.importorskip("torch")
nn = torch.nn
qt = pytest.importorskip("quantcore.torch")
Linear4bit, Skipped, merge_qlora, prepare_qlora = qt.Linear4bit, qt.Skipped, qt.merge_qlora, qt.prepare_qlora


class Block(nn.Module):
    """A layer that is used twice under two names, and others."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.kq_proj = nn.Linear(32, 64), nn.Linear(32, 64, bias=False)
        self.out = nn.Linear(64, 32)

    def forward(self, x):
        return x + self.out(torch.relu(self.q_proj(x) + self.kq_proj(x)))


class Model(nn.Module):
    """Tokens to logits; the head is tied to the embedding, and a layer is shared."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 32)
        self.layers = nn.ModuleList([Block(), Block()])
        self.layers[1].out = self.layers[0].out
        self.norm = nn.LayerNorm(32)
        self.lm_head = nn.Linear(32, 12, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))


IDS = torch.arange(12).reshape(2, 6)
REPLACED = {f"layers.{i}.{name}" for i in range(2) for name in ("q_proj", "kq_proj", "out")}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def four_bit(model):
    return {name for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, Linear4bit)}


def adapted(model):
    return {name for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, Linear4bit) and m.rank}


def trained(model):
    """The model with adapters that do something."""
    for module in model.modules():
        if isinstance(module, Linear4bit) and module.rank:
            nn.init.normal_(module.lora_b, std=0.2)
    return model


def test_all_linear_layers_but_the_tied_head_become_4_bits(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepare_qlora(model) is model
    assert four_bit(model) == adapted(model) == REPLACED
    assert model.layers[0].out is model.layers[1].out
    assert {layer.rank for layer in model.modules() if isinstance(layer, Linear4bit)} == {8}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert [(entry.name, entry.kind) for entry in model.skipped] == [("embed", "Embedding"), ("lm_head", "Linear")]
    assert model.skipped[0].reason in (
        f"only {kinds} themselves become 4 bits" for kinds in ("Linear", "Linear and Conv1D")
    )
    assert model.skipped[1].reason == "its weight is also that of embed"
    assert model.lm_head.weight is model.embed.weight
    assert len(repr(model)) < 2000


@pytest.mark.parametrize("scale_code", [None, "linear", "dynamic"])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4", "int4"])
def test_weights_are_those_of_the_records(model, quant_type, scale_code):
    plain = copy.deepcopy(model)
    prepare_qlora(model, quant_type=quant_type, scale_code=scale_code, block_size=32)
    quantize = quantcore.quantize_4bit if scale_code is None else quantcore.quantize_4bit_double
    more = {} if scale_code is None else {"scale_code": scale_code}
    for name in REPLACED - {"layers.1.out"}:
        weight = plain.get_submodule(name).weight
        assert model.get_submodule(name).record == quantize(weight, quant_type=quant_type, block_size=32, **more)
        plain.get_submodule(name).weight.data = model.get_submodule(name).weight
    torch.testing.assert_close(model(IDS), plain(IDS))


@pytest.mark.slow
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_codes_of_a_whole_model_are_those_of_bitsandbytes(model, quant_type, nested):
    bnb = pytest.importorskip("bitsandbytes.functional")
    plain = copy.deepcopy(model)
    prepare_qlora(model, quant_type=quant_type, scale_code="dynamic" if nested else None)
    for name in REPLACED - {"layers.1.out"}:
        packed, state = bnb.quantize_4bit(
            plain.get_submodule(name).weight.detach(), blocksize=64, quant_type=quant_type, compress_statistics=nested
        )
        layer = model.get_submodule(name)
        assert torch.equal(layer.codes, packed.reshape(-1))
        assert torch.equal(layer.quantized_scales if nested else layer.scales, state.absmax)


def test_adapters_learn_and_nothing_else_moves(model):
    prepare_qlora(model, rank=4, alpha=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(IDS).flatten(0, 1), IDS.flip(1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, _ in model.named_parameters() if ".lora_" in name
    }
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".lora_" in name}


def test_names_stand_for_all_layers_that_end_in_them(model):
    prepare_qlora(model, adapters=["q_proj", "layers.1.kq_proj"], exclude=["layers.0.out"], rank=2, dropout=0.5)
    assert adapted(model) == {"layers.0.q_proj", "layers.1.q_proj", "layers.1.kq_proj"}
    assert four_bit(model) == REPLACED - {"layers.0.out", "layers.1.out"}
    assert model.layers[0].q_proj.dropout == 0.5 and model.layers[0].kq_proj.dropout == 0
    assert [(entry.name, entry.reason) for entry in model.skipped][1] == ("layers.0.out", "excluded")


def test_a_module_stands_for_what_it_holds(model):
    prepare_qlora(model, adapters=["layers.1"], exclude=["0"])
    assert four_bit(model) == adapted(model) == {"layers.1.q_proj", "layers.1.kq_proj"}


def test_modules_by_name_and_type(model):
    prepare_qlora(model, modules=["q_proj"], rank=0)
    assert four_bit(model) == {"layers.0.q_proj", "layers.1.q_proj"} and not adapted(model)
    assert not [name for name, p in model.named_parameters() if p.requires_grad]
    assert Skipped("layers.0.out", "Linear", "not among the modules asked for") in model.skipped
    prepare_qlora(model, modules=[nn.Linear])
    assert four_bit(model) == REPLACED
    assert adapted(model) == REPLACED - {"layers.0.q_proj", "layers.1.q_proj"}  # those are left as they are


def test_heads_and_the_like_are_kept_unless_they_are_named():
    def build():
        names = ("lm_head", "classifier", "embed_in", "router", "up", "lora_A")
        return nn.ModuleDict({name: nn.Linear(8, 8) for name in names})

    assert four_bit(prepare_qlora(build())) == {"up"}
    model = prepare_qlora(build(), modules=[nn.Linear, "classifier"])
    assert four_bit(model) == {"up", "classifier"}
    assert {entry.name: entry.reason for entry in model.skipped} == {
        "lm_head": "the output head", "embed_in": "an embedding", "router": "a router of experts",
        "lora_A": "an adapter",
    }  # fmt: skip


def test_a_linear_layer_itself():
    linear = nn.Linear(64, 8).eval()
    layer = prepare_qlora(linear, rank=2)
    assert isinstance(layer, Linear4bit) and not layer.training and layer.skipped == ()
    assert type(linear) is nn.Linear
    merged = merge_qlora(layer)
    assert type(merged) is nn.Linear and not merged.training


def test_hooks_and_modes_stay(model):
    calls = []
    model.layers[0].out.register_forward_hook(lambda *_: calls.append("after"))
    model.layers[0].out.register_forward_pre_hook(lambda *_, **__: calls.append("before"), with_kwargs=True)
    model.layers[0].q_proj.eval()
    prepare_qlora(model)
    assert [model.layers[0].q_proj.training, model.layers[1].q_proj.training] == [False, True]
    model(IDS)
    merge_qlora(model)
    model(IDS)
    assert calls == ["before", "after"] * 4


class Head(nn.Linear):
    """A subclass may do anything with its weight."""


def with_forward(linear):
    linear.forward = lambda x: x @ linear.weight.T
    return linear


UNUSUAL = {
    "a subclass": (lambda: Head(4, 4), "only Linear.* themselves become 4 bits"),
    "attention": (lambda: nn.MultiheadAttention(4, 2), "only Linear.* themselves become 4 bits"),
    "parametrizations": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "computed from other"),
    "a hook": (lambda: nn.utils.spectral_norm(nn.Linear(4, 4)), "computed from other"),
    "its own forward": (lambda: with_forward(nn.Linear(4, 4)), "its forward is not that of its class"),
    "no inputs": (lambda: nn.Linear(0, 4), "its weight is empty"),
    "no parameter": (lambda: nn.utils.prune.identity(nn.Linear(4, 4), "weight"), "computed from other"),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors", "ignore::FutureWarning")
@pytest.mark.parametrize("name", UNUSUAL)
def test_what_cannot_be_replaced_is_listed_with_a_warning(name):
    make, reason = UNUSUAL[name]

    def build():
        return nn.ModuleDict({"other": make(), "fine": nn.Linear(4, 4)})

    left = "other.out_proj" if name == "attention" else "other"
    with pytest.raises(InvalidTypeError, match=rf"^modules: '{left}' is a \w+ that cannot be replaced; .*{reason}"):
        prepare_qlora(build(), modules=[left])
    model = build()
    weights = {key: value.clone() for key, value in model["other"].state_dict().items()}
    with pytest.warns(UserWarning, match=rf"^prepare_qlora: left as they are: {left} \(\w+\); see the model's"):
        prepare_qlora(model)
    assert four_bit(model) == {"fine"}
    assert all(torch.equal(value, weights[key]) for key, value in model["other"].state_dict().items())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        prepare_qlora(build(), exclude=["other"])


def test_weights_that_two_layers_share_stay(model):
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    model = nn.ModuleDict({"a": first, "b": second, "c": nn.Linear(8, 8)})
    with pytest.raises(InvalidTypeError, match=r"^modules: 'b' is a Linear .*; its weight is also that of a$"):
        prepare_qlora(model, modules=["b"])
    with pytest.warns(UserWarning, match=r"left as they are: a \(Linear\), b \(Linear\);"):
        prepare_qlora(model)
    assert four_bit(model) == {"c"}
    assert model["a"].weight is model["b"].weight


def test_a_model_with_nothing_to_replace_says_so():
    with pytest.warns(UserWarning, match=r"^prepare_qlora: no layer becomes 4 bits; see the model's `skipped`$"):
        model = prepare_qlora(nn.Sequential(nn.Conv1d(2, 2, 2)))
    assert [entry.kind for entry in model.skipped] == ["Conv1d"] and not model[0].weight.requires_grad
    with pytest.warns(UserWarning, match=r"^merge_qlora: the model has no Linear4bit: nothing was merged$"):
        merge_qlora(model)


def test_again_there_is_nothing_left_to_do(model):
    prepare_qlora(model, rank=2)
    before = dict(model.named_modules())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare_qlora(model, rank=4)
    assert dict(model.named_modules()) == before and model.layers[0].out.lora_a.requires_grad


def test_state_dict_round_trip(model):
    trained(prepare_qlora(model, rank=3, scale_code="dynamic"))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = prepare_qlora(Model(), rank=3, scale_code="dynamic")
    assert not torch.equal(other(IDS), model(IDS))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(IDS), model(IDS))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(model, duplicate):
    trained(prepare_qlora(model))
    other = duplicate(model)
    assert torch.equal(other(IDS), model(IDS)) and other.skipped == model.skipped
    assert other.layers[0].out is other.layers[1].out
    other.layers[0].q_proj.lora_b.data.zero_()
    assert not torch.equal(other(IDS), model(IDS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merging_gives_float_layers_of_the_models_dtype(model, dtype):
    names = model.state_dict().keys()
    trained(prepare_qlora(model.to(dtype).eval(), rank=2))
    expected = model(IDS)
    assert merge_qlora(model) is model
    assert not four_bit(model) and model.state_dict().keys() == names
    assert {value.dtype for value in model.state_dict().values()} == {dtype}
    assert model.layers[0].out is model.layers[1].out and type(model.layers[0].out) is nn.Linear
    assert not any(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(model(IDS), expected, rtol=0, atol={torch.float32: 1e-4}.get(dtype, 0.5))


def test_merging_to_another_dtype(model):
    merge_qlora(prepare_qlora(model), dtype=torch.float64)
    assert model.layers[0].out.weight.dtype == model.layers[0].out.bias.dtype == torch.float64
    assert model.norm.weight.dtype == torch.float32
    assert merge_qlora(prepare_qlora(nn.Linear(4, 4, bias=False).half())).weight.dtype == torch.float32


def test_adapters_are_written_for_peft(model, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    trained(prepare_qlora(model, rank=2, adapters=["q_proj"]))
    qt.save_peft_adapter(model, tmp_path)
    found = safetensors.load_file(tmp_path / "adapter_model.safetensors")
    assert found.keys() == {f"base_model.model.layers.{i}.q_proj.lora_{part}.weight" for i in range(2) for part in "AB"}
    assert torch.equal(found["base_model.model.layers.1.q_proj.lora_B.weight"], model.layers[1].q_proj.lora_b)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"quant_type": "nf5"}, InvalidValueError, r"^quant_type: .*'nf5'"),
        ({"block_size": 48}, InvalidValueError, r"^block_size: .*48"),
        ({"scale_code": "log"}, InvalidValueError, r"^scale_code: .*'log'"),
        ({"rank": -1}, InvalidValueError, r"^rank: expected an integer from 0 to 2147483647, got -1$"),
        ({"rank": 2.5}, InvalidTypeError, r"^rank: expected an integer from 0 to 2147483647, got 2.5$"),
        ({"alpha": 0}, InvalidValueError, r"^alpha: expected a positive number, got 0$"),
        ({"dropout": 1}, InvalidValueError, r"^dropout: expected a number in \[0, 1\), got 1$"),
        ({"rank": 0, "adapters": ["out"]}, InvalidValueError, r"^rank: expected an integer >= 1 for .* got 0$"),
        ({"adapters": "out"}, InvalidTypeError, r"^adapters: expected an iterable of names of modules, got 'out'$"),
        ({"adapters": ["absent"]}, InvalidValueError, r"^adapters: the model has no module 'absent'$"),
        ({"adapters": ["embed"]}, InvalidValueError, r"^adapters: 'embed' is no layer that becomes 4 bits, and"),
        ({"adapters": ["out"], "exclude": ["out"]}, InvalidValueError, r"^adapters: 'out' is no layer that becomes"),
        ({"exclude": "out"}, InvalidTypeError, r"^exclude: expected an iterable of names of modules, got 'out'$"),
        ({"exclude": [3]}, InvalidTypeError, r"^exclude: expected names of modules, got 3$"),
        ({"exclude": ["absent"]}, InvalidValueError, r"^exclude: the model has no module 'absent'$"),
        ({"modules": "out"}, InvalidTypeError, r"^modules: expected types or names in a list or tuple, got 'out'$"),
        ({"modules": [nn.Conv1d]}, InvalidTypeError, r"^modules: expected Linear.* or names, got <class .*Conv1d"),
        ({"modules": ["absent"]}, InvalidValueError, r"^modules: the model has no module 'absent'$"),
        ({"modules": ["lm_head"]}, InvalidTypeError, r"^modules: 'lm_head' is a Linear that cannot be .* of embed$"),
    ],
    ids=str,
)
def test_wrong_arguments_change_nothing(model, options, error, message):
    with pytest.raises(error, match=message):
        prepare_qlora(model, **options)
    assert not four_bit(model) and all(p.requires_grad for p in model.parameters())


def test_no_model():
    for function in (prepare_qlora, merge_qlora):
        with pytest.raises(InvalidTypeError, match=r"^model: expected a torch.nn.Module, got int$"):
            function(3)
    with pytest.raises(InvalidTypeError, match=r"^dtype: expected a float torch.dtype, got torch.int8$"):
        merge_qlora(nn.Linear(2, 2), dtype=torch.int8)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda layer: layer.weight.data[3].fill_(np.nan), r"^layers.1.kq_proj.weight: must be finite, got nan"),
        (lambda layer: layer.to("meta"), r"^layers.1.kq_proj.weight: expected a dense CPU tensor, got .* meta$"),
        (
            lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight.data.to(torch.float8_e5m2))),
            r"^layers.1.kq_proj.weight: expected float32, float16, bfloat16 or float64, got torch.float8_e5m2$",
        ),
    ],
)
def test_a_bad_weight_is_named_and_the_model_unchanged(model, spoil, message):
    spoil(model.layers[1].kq_proj)
    with pytest.raises((InvalidTypeError, InvalidValueError), match=message):
        prepare_qlora(model)
    assert not four_bit(model) and model.layers[0].q_proj.weight.requires_grad

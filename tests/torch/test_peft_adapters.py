"""Adapters of `Linear4bit` in the files of PEFT: their layout, and PEFT computes the same with them."""

import json
import os

import ml_dtypes
import pytest
from safetensors.numpy import load_file

from quantcore.errors import InvalidTypeError, InvalidValueError, OutputFileError

torch = pytest.importorskip("torch")
nn = torch.nn
qt = pytest.importorskip("quantcore.torch")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.o_proj = nn.Linear(64, 48), nn.Linear(48, 64, bias=False)

    def forward(self, x):
        return x + self.o_proj(torch.relu(self.q_proj(x)))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 64)
        self.layers = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(64, 10)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def adapted(model, **options):
    """The model with 4-bit layers, whose adapters do something, and the same with their decoded weights."""
    decoded = Model()
    decoded.load_state_dict(model.state_dict())
    for i, block in enumerate(model.layers):
        for name, linear in list(block.named_children()):
            own = options | ({"rank": 2, "alpha": 5.0} if (i, name) == (1, "o_proj") else {})
            layer = qt.Linear4bit.from_linear(linear, **own)
            nn.init.normal_(layer.lora_b, std=0.2)
            setattr(block, name, layer)
            getattr(decoded.layers[i], name).weight.data = layer.weight
    return model.eval(), decoded.eval()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def test_files_have_the_layout_of_peft(model, tmp_path):
    model, _ = adapted(model, rank=4, alpha=8, dropout=0.1)
    model.head = qt.Linear4bit.from_linear(model.head)  # without adapters
    model.layers[0].q_proj.bfloat16()
    qt.save_peft_adapter(model, tmp_path / "new" / "adapter", base_model="someone/model", task_type="CAUSAL_LM")
    assert sorted(os.listdir(tmp_path / "new" / "adapter")) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((tmp_path / "new" / "adapter" / "adapter_config.json").read_text())
    names = [f"layers.{i}.{name}" for i in range(2) for name in ("o_proj", "q_proj")]
    assert config == {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": names,
        "rank_pattern": {"layers.1.o_proj": 2}, "alpha_pattern": {"layers.1.o_proj": 5}, "bias": "none",
        "fan_in_fan_out": False, "inference_mode": True, "base_model_name_or_path": "someone/model",
        "task_type": "CAUSAL_LM",
    }  # fmt: skip
    found = load_file(tmp_path / "new" / "adapter" / "adapter_model.safetensors")
    assert found.keys() == {f"base_model.model.{name}.lora_{part}.weight" for name in names for part in "AB"}
    layer = model.layers[1].o_proj
    assert (found["base_model.model.layers.1.o_proj.lora_A.weight"] == layer.lora_a.detach().numpy()).all()
    assert found["base_model.model.layers.0.q_proj.lora_B.weight"].dtype == ml_dtypes.bfloat16
    with pytest.raises(OutputFileError, match=r"exists"):
        qt.save_peft_adapter(model, tmp_path / "new" / "adapter")
    qt.save_peft_adapter(model, tmp_path / "new" / "adapter", force=True)


def test_entries_of_a_layer_are_copies(model):
    layer = qt.Linear4bit.from_linear(model.head, rank=3)
    entries = layer.to_peft()
    assert {name: tuple(t.shape) for name, t in entries.items()} == {
        "lora_A.weight": (3, 64),
        "lora_B.weight": (10, 3),
    }
    entries["lora_B.weight"] += 1
    assert not layer.lora_b.any() and not entries["lora_A.weight"].requires_grad
    with pytest.raises(InvalidValueError, match=r"no adapters"):
        qt.Linear4bit.from_linear(model.head).to_peft()


def test_what_cannot_be_saved_is_refused(model, tmp_path):
    for wrong, message in (
        (model, r"^model: expected a module that holds Linear4bit layers with adapters \(rank > 0\)$"),
        (qt.Linear4bit.from_linear(model.head, rank=2), r"^model: .*, got such a layer itself; its to_peft\(\) gives"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            qt.save_peft_adapter(wrong, tmp_path / "x")
    with pytest.raises(InvalidTypeError, match=r"^model: "):
        qt.save_peft_adapter("model", tmp_path / "x")
    with pytest.raises(InvalidTypeError, match=r"^base_model: "):
        qt.save_peft_adapter(model, tmp_path / "x", base_model=3)
    adapted(model, rank=2)
    model.layers[0].q_proj.dropout = 0.5
    with pytest.raises(InvalidValueError, match=r"one dropout for all layers, but .* has 0.5"):
        qt.save_peft_adapter(model, tmp_path / "x")
    model.layers[0].q_proj.dropout = 0.0
    model.double()
    with pytest.raises(InvalidTypeError, match=r"expected float32, float16 or bfloat16, got torch.float64"):
        qt.save_peft_adapter(model, tmp_path / "x")
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.may_skip
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_peft_computes_the_same(model, dropout, tmp_path):
    peft = pytest.importorskip("peft")
    model, decoded = adapted(model, rank=4, alpha=8, dropout=dropout)
    qt.save_peft_adapter(model, tmp_path)
    ids = torch.arange(10)[None]
    plain = decoded(ids).detach()
    loaded = peft.PeftModel.from_pretrained(decoded, tmp_path).eval()
    with torch.no_grad():
        assert not torch.allclose(plain, model(ids))
        torch.testing.assert_close(loaded(ids), model(ids))
        torch.testing.assert_close(loaded.merge_and_unload()(ids), model(ids))

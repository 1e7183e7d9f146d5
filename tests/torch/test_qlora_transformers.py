"""`prepare_qlora` on models of transformers: the layers and outputs of its own 4-bit models, and PEFT's adapters."""

import copy
from types import ModuleType
from typing import Any

import pytest

from quantcore.conversion import quantize_checkpoint
from tests.support.tiny_models import MODELS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
qt = pytest.importorskip("quantcore.torch")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_skip,
    pytest.mark.filterwarnings("ignore"),  # those of transformers and of what it imports
]

MAJOR = int(transformers.__version__.split(".")[0])
MULTIPLIED_BY_HAND = {"WavLM": 8} | ({"Mamba": 2} if MAJOR >= 5 else {})
"""Models of which transformers makes some layers 4 bits, so many, whose packed weights its own forward cannot use."""
NAMES = [
    "Llama", "Llama, tied", "Llama, classifier", "Gemma 2", "OPT, projected", "GPT-2", "GPT-2, untied", "GPT-BigCode",
    "T5", "T5 v1.1", "BART", "BERT, masked", "DistilBERT", "ALBERT", "Mixtral", "ViT", "LLaVA", *MULTIPLIED_BY_HAND,
]  # fmt: skip
ADAPTED = {"Llama, tied": ["q_proj", "down_proj"], "GPT-2": ["c_attn", "mlp.c_proj"], "T5": ["q", "v"]}


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def make(name: str) -> Any:
    return MODELS[name].make(transformers, torch)


def logits(name: str, model: Any) -> Any:
    out = model(**MODELS[name].example(torch))
    return out.logits if "logits" in out else out[0]


def four_bit(model: Any) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, qt.Linear4bit)}


def trained(model: Any) -> Any:
    """The model with adapters that do something."""
    for module in model.modules():
        if isinstance(module, qt.Linear4bit) and module.rank:
            torch.nn.init.normal_(module.lora_b, std=0.1)
    return model


def quantize_by_transformers(name: str, folder: Any) -> Any:
    pytest.importorskip("accelerate")
    bitsandbytes: ModuleType = pytest.importorskip("bitsandbytes")
    make(name).save_pretrained(folder)
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    kind = getattr(transformers, MODELS[name].model)
    model = kind.from_pretrained(folder, dtype=torch.float32, quantization_config=config).eval()
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False  # that path is in bfloat16, and not for every shape
    return model


@pytest.mark.parametrize("name", NAMES)
def test_layers_and_outputs_are_those_of_transformers_own_model(name, tmp_path):
    own = quantize_by_transformers(name, tmp_path)
    theirs = {n for n, module in own.named_modules() if type(module).__name__ == "Linear4bit"}
    model = make(name)
    assert qt.prepare_qlora(model, rank=2) is model
    ours = four_bit(model)
    if name in MULTIPLIED_BY_HAND:
        assert ours < theirs and len(theirs - ours) == MULTIPLIED_BY_HAND[name]
    else:
        assert ours == theirs
        with torch.no_grad():
            expected = logits(name, own)
            assert (logits(name, model) - expected).norm() < 1e-3 * expected.norm()
    kept = {entry.name: entry.reason for entry in model.skipped}
    linear = {n for n, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D")}
    assert linear <= kept.keys() and not ours & kept.keys()


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_learn(name):
    model = qt.prepare_qlora(make(name), adapters=ADAPTED[name], rank=4)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert parameters and all(".lora_" in n for n in parameters)
    optimizer = torch.optim.Adam(parameters.values(), lr=0.02)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        found = logits(name, model).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(found, torch.arange(len(found)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert {n for n, p in model.named_parameters() if p.grad is not None} == parameters.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ADAPTED)
def test_merged_models_have_the_layers_and_files_of_transformers(name, dtype, tmp_path):
    plain = make(name).to(dtype)
    model = trained(qt.prepare_qlora(copy.deepcopy(plain), adapters=ADAPTED[name], rank=4))
    with torch.no_grad():
        expected = logits(name, model)
        qt.merge_qlora(model)
        assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
        distance = (logits(name, model) - expected).norm()
        assert distance < (1e-4 if dtype == torch.float32 else 0.05) * expected.norm()
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path, dtype=dtype).state_dict()
        assert again.keys() == model.state_dict().keys() == plain.state_dict().keys()
        assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ADAPTED)
def test_peft_computes_the_same_with_the_adapters(name, tmp_path):
    peft = pytest.importorskip("peft")
    model = trained(qt.prepare_qlora(make(name), adapters=ADAPTED[name], rank=4, alpha=6))
    decoded = qt.merge_qlora(qt.prepare_qlora(make(name), rank=0))
    qt.save_peft_adapter(model, tmp_path)
    with torch.no_grad():
        plain = logits(name, decoded)
        loaded = peft.PeftModel.from_pretrained(decoded, tmp_path).eval()
        expected = logits(name, model)
        assert not torch.allclose(plain, expected, atol=1e-3)
        torch.testing.assert_close(logits(name, loaded), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ADAPTED)
def test_folders_of_our_own_are_loaded_into_models_without_memory(name, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    plain = make(name)
    plain.save_pretrained(tmp_path / "floats")
    quantize_checkpoint(tmp_path / "floats", tmp_path / "nf4", "nf4", double_quant=True)
    with accelerate.init_empty_weights():
        empty = type(plain)(plain.config)
    empty.tie_weights()
    loaded = qt.load_qlora(empty.eval(), tmp_path / "nf4", adapters=ADAPTED[name])
    expected = qt.prepare_qlora(plain, scale_code="dynamic", adapters=ADAPTED[name])
    assert four_bit(loaded) == four_bit(expected)
    assert torch.equal(logits(name, loaded), logits(name, expected))
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))


@pytest.mark.parametrize("name", ADAPTED)
def test_folders_of_transformers_are_loaded(name, tmp_path):
    quantize_by_transformers(name, tmp_path / "floats").save_pretrained(tmp_path / "own")
    loaded = qt.load_qlora(make(name), tmp_path / "own", rank=0)
    expected = qt.prepare_qlora(make(name), rank=0)
    assert four_bit(loaded) == four_bit(expected)
    torch.testing.assert_close(logits(name, loaded), logits(name, expected), rtol=1e-3, atol=1e-3)


def test_a_model_within_another_is_judged_by_its_own_rules():
    class Wrapper(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model, self.up, self.score = model, torch.nn.Linear(64, 64), torch.nn.Linear(64, 2)

    wrapper = qt.prepare_qlora(Wrapper(make("T5")))
    assert four_bit(wrapper) == {"up", *(f"model.{name}" for name in four_bit(qt.prepare_qlora(make("T5"))))}
    kept = {entry.name: entry.reason for entry in wrapper.skipped}
    assert kept["score"] == "the output head"
    assert kept["model.encoder.block.0.layer.1.DenseReluDense.wo"].startswith("transformers keeps it")

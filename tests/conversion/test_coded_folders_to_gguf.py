"""Hugging Face folders whose weights are codes become the GGUF file of the same folder decoded, whatever the layout."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantcore.conversion import dequantize_checkpoint, quantize_checkpoint, quantize_model
from quantcore.conversion.checkpoint_rules import decisions
from quantcore.models import open_model
from tests.support.hf_models import MODELS, make_model, write_json

pytest.importorskip("gguf")
LAYOUTS = ("fp8", "nf4", "nf4, twice")


@pytest.fixture(autouse=True)
def without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "ask_module_tree", lambda folder, shapes: "")


def to_fp8(source, folder):
    """Matrices as E4M3 with scales of 64 x 32 elements, fused experts too."""
    shutil.copytree(source, folder)
    tensors, coded = load_file(source / "model.safetensors"), {}
    for name, values in tensors.items():
        is_linear = values.ndim > 1 and "embed" not in name and "wte" not in name and "wpe" not in name
        if not is_linear:
            coded[name] = values
            continue
        *stacked, rows, columns = values.shape
        counts = (*stacked, -(-rows // 64), -(-columns // 32))
        scales = np.random.default_rng(len(name)).lognormal(-3, 0.5, counts).astype(np.float32)
        coded[name] = (values * 100).astype(ml_dtypes.float8_e4m3fn)
        coded[f"{name}_scale_inv"] = scales
    save_file(coded, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    write_json(
        folder / "config.json", config | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 32]}}
    )


@pytest.mark.parametrize("qtype", ["F16", "Q4_K_M"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"gpt-oss"}))
def test_file_is_that_of_the_decoded_folder(name, layout, qtype, tmp_path):
    make_model(name, tmp_path / "floats" / "tiny", "BF16")
    coded, decoded = tmp_path / "coded" / "tiny", tmp_path / "decoded" / "tiny"
    if layout == "fp8":
        to_fp8(tmp_path / "floats" / "tiny", coded)
    else:
        quantize_checkpoint(tmp_path / "floats" / "tiny", coded, "nf4", double_quant="twice" in layout)
    dequantize_checkpoint(coded, decoded, "F32")
    report = quantize_model(coded, tmp_path / "coded.gguf", qtype)
    quantize_model(decoded, tmp_path / "decoded.gguf", qtype)
    assert (tmp_path / "coded.gguf").read_bytes() == (tmp_path / "decoded.gguf").read_bytes()
    kind = "F8_E4M3" if layout == "fp8" else "NF4"
    assert any(t.source_type == kind for t in report.tensors)
    n_bytes = (coded / "model.safetensors").stat().st_size
    assert report.source_bytes == pytest.approx(n_bytes, rel=0.3)


@pytest.mark.parametrize("qtype", ["F32", "F16", "MXFP4_MOE", "COPY"])
def test_experts_of_gpt_oss_keep_their_codes(qtype, tmp_path):
    """The values are those of the checkpoint decoded, in files of floats, too, as the converter has it."""
    folder = make_model("gpt-oss", tmp_path / "tiny", "BF16")
    report = quantize_model(folder, tmp_path / "out.gguf", qtype)
    assert sum((t.source_type, t.target_type) == ("MXFP4", "MXFP4") for t in report.tensors) == 6
    dequantize_checkpoint(folder, tmp_path / "decoded", "F32")
    decoded = load_file(tmp_path / "decoded" / "model.safetensors")
    with open_model(tmp_path / "out.gguf") as model:
        for layer in range(2):
            experts = f"model.layers.{layer}.mlp.experts"
            gate_up = decoded[f"{experts}.gate_up_proj"].swapaxes(-1, -2)
            expected = {"gate": gate_up[:, ::2], "up": gate_up[:, 1::2]}
            expected["down"] = decoded[f"{experts}.down_proj"].swapaxes(-1, -2)
            for word, values in expected.items():
                found = model.tensors[f"blk.{layer}.ffn_{word}_exps.weight"]
                assert found.shape == values.shape and np.array_equal(found.values(), values.reshape(-1))


@pytest.mark.parametrize("qtype", ["Q8_0", "IQ4_XS", "MXFP4"])
def test_keep_names(qtype, tmp_path):
    """Without the names of llama.cpp, GPT-2's matrices are as the model has them, not as bitsandbytes packs them."""
    make_model("gpt2", tmp_path / "floats", "BF16")
    quantize_checkpoint(tmp_path / "floats", tmp_path / "coded", "nf4")
    dequantize_checkpoint(tmp_path / "coded", tmp_path / "decoded", "F32")
    for folder in ("coded", "decoded"):
        quantize_model(tmp_path / folder, tmp_path / f"{folder}.gguf", qtype, keep_names=True)
    assert (tmp_path / "coded.gguf").read_bytes() == (tmp_path / "decoded.gguf").read_bytes()

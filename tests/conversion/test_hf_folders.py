"""Hugging Face folders become the files of llama.cpp's converter, byte for byte; what is wrong with one is named."""

import hashlib
import json
import re
import shutil
import sys

import numpy as np
import pytest

from quantcore.conversion import quantize_model
from quantcore.conversion.hf.encoding import encode
from quantcore.conversion.hf.pre_tokenizers import name_by_pattern
from quantcore.conversion.hf.registry import ARCHITECTURES
from quantcore.conversion.hf.sentencepiece import read_pieces
from quantcore.errors import FileFormatError, MissingExtraError
from quantcore.files.disk import OutputFile
from quantcore.gguf import GGUFReader
from quantcore.models import open_model
from quantcore.safetensors.writer import SafetensorsWriter, TensorSpec
from tests.support.hf_models import MODELS, byte_pairs, make_model, write_json, write_weights
from tests.support.make_hf_golden import GOLDEN, KINDS

pytest.importorskip("gguf")


@pytest.fixture
def llama(tmp_path):
    return make_model("llama", tmp_path / "tiny")


def change(path, **changes):
    """Set members of a JSON object, or remove those that are ..."""
    found = json.loads(path.read_text()) | changes
    write_json(path, {key: value for key, value in found.items() if value is not ...})


def refusal(folder, **options):
    """The one line of a refusal, which leaves nothing behind."""
    out = folder.with_name("out.gguf")
    with pytest.raises(FileFormatError) as caught:
        quantize_model(folder, out, "F32", **options)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("source", "kind"), KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_file_is_that_of_llama_cpps_converter(name, source, kind, tmp_path):
    folder = make_model(name, tmp_path / "tiny", source)
    quantize_model(folder, tmp_path / "out.gguf", kind)
    expected = json.loads((GOLDEN / "folders.json").read_text())[name][f"{source} to {kind}"]
    assert hashlib.sha256((tmp_path / "out.gguf").read_bytes()).hexdigest() == expected


def test_every_architecture_has_a_tiny_model():
    others = {"LLaMAForCausalLM", "BertForMaskedLM", "BertForSequenceClassification", "Qwen2Model", "Qwen3Model"}
    assert set(ARCHITECTURES) == {model[0] for model in MODELS.values()} | others | {"Gemma3ForConditionalGeneration"}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["Q4_K_M", "Q8_0"])
def test_quantized_file_is_that_of_the_converters_file(name, kind, tmp_path):
    folder = make_model(name, tmp_path / "tiny")
    quantize_model(folder, tmp_path / "floats.gguf", "F32")
    # The experts of gpt-oss are MXFP4 in a file of floats, too.
    quantize_model(tmp_path / "floats.gguf", tmp_path / "twice.gguf", kind, allow_requantize=True)
    quantize_model(folder, tmp_path / "once.gguf", kind)
    assert (tmp_path / "once.gguf").read_bytes() == (tmp_path / "twice.gguf").read_bytes()


def test_shards_give_the_same_file(llama, tmp_path):
    quantize_model(llama, tmp_path / "one.gguf", "F16")
    one = llama / "model.safetensors"
    with open_model(one) as model:
        tensors = {t.name: (t.shape, t.values().reshape(t.shape)) for t in model.tensors.values()}
    # In shards, the converter has the tensors of one after those of another.
    names = sorted(tensors)
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    one.unlink()
    index = {}
    for i, part in enumerate(parts, 1):
        shard = f"model-{i:05}-of-00002.safetensors"
        with OutputFile(llama / shard) as file:
            writer = SafetensorsWriter(file, [TensorSpec(n, "F32", tensors[n][0]) for n in part], {})
            for n in part:
                writer.write(n, 0, np.ascontiguousarray(tensors[n][1]).reshape(-1).view(np.uint8))
        index |= dict.fromkeys(part, shard)
    write_json(llama / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    quantize_model(llama, tmp_path / "two.gguf", "F16")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()
    (llama / "model-00002-of-00002.safetensors").unlink()
    for path in ("one.gguf", "two.gguf"):
        (tmp_path / path).unlink()
    assert "model-00002-of-00002.safetensors" in refusal(llama)


def test_part_of_a_model_with_pictures(tmp_path):
    folder = make_model("gemma3", tmp_path / "tiny")
    quantize_model(folder, tmp_path / "text.gguf", "F32")
    config = json.loads((folder / "config.json").read_text())
    config.pop("architectures")
    both = {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": config,
        "vision_config": {"hidden_size": 8},
    }  # fmt: skip
    write_json(folder / "config.json", both)
    shapes = {f"language_model.{name}": shape for name, shape in MODELS["gemma3"][2].items()}
    shapes |= {"vision_tower.x.weight": (4, 4), "multi_modal_projector.y": (4,)}
    write_weights(folder / "model.safetensors", shapes, config["vocab_size"], "F32")
    quantize_model(folder, tmp_path / "both.gguf", "F32")
    tensors = [[t.name for t in GGUFReader(tmp_path / name).tensors] for name in ("text.gguf", "both.gguf")]
    assert tensors[0] == tensors[1]


def test_other_architectures_are_named(llama):
    change(llama / "config.json", architectures=["MambaForCausalLM"])
    assert re.search("config.json: architecture 'MambaForCausalLM' is not converted; .* --keep-names", refusal(llama))


@pytest.mark.parametrize("text", ["", "[1]", '{"architectures": ["LlamaForCausalLM"], ', '{"model_type": "llama"}'])
def test_damaged_descriptions_are_refused(text, llama):
    (llama / "config.json").write_text(text)
    assert "config.json: " in refusal(llama)


def test_names_are_kept_on_request(llama, tmp_path):
    change(llama / "config.json", architectures=["MambaForCausalLM"])
    report = quantize_model(llama, tmp_path / "out.gguf", "Q8_0", keep_names=True)
    assert "model.layers.0.mlp.up_proj.weight" in {t.name for t in report.tensors}
    assert any("llama.cpp does not run the file" in notice for notice in report.notices)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hidden_size", "hidden_size or n_embd is missing"),
        ("num_hidden_layers", "num_hidden_layers is missing"),
        ("num_attention_heads", "num_attention_heads or n_head is missing"),
        ("intermediate_size", "intermediate_size is missing"),
        ("vocab_size", "vocab_size is missing"),
    ],
)
def test_missing_hyperparameters_are_named(name, words, llama):
    change(llama / "config.json", **{name: ...})
    message = refusal(llama)
    assert "config.json" in message and words.split()[-3] in message and name in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "3 attention heads cannot share 2 heads"),
        ({"num_attention_heads": 6, "num_key_value_heads": 2}, "64 rows are not 6 heads of even size"),
        ({"num_attention_heads": 0}, "num_attention_heads: expected an integer >= 1, got 0"),
        ({"num_hidden_layers": 3}, "3 layers, but the checkpoint has no tensors of layer 2"),
        ({"num_hidden_layers": 1}, "has no place in llama.cpp's llama of 1 layers"),
        ({"hidden_size": "64"}, "hidden_size: expected an integer, got '64'"),
        ({"rms_norm_eps": [1]}, r"rms_norm_eps: expected a number, got \[1\]"),
        ({"rope_scaling": "yarn"}, "rope_scaling: expected an object, got 'yarn'"),
        ({"num_hidden_layers": 10**9}, "1000000000 layers, but the checkpoint has 21 tensors"),
        ({"vocab_size": 2**31}, "vocab_size is 2147483648, but no tensor of the checkpoint is so large"),
        ({"head_dim": 2**31}, "head_dim is 2147483648, but no tensor"),
        ({"vocab_size": 100}, "tokens up to id 262, but vocab_size is 100"),
    ],
)
def test_wrong_hyperparameters_are_named(changes, words, llama):
    change(llama / "config.json", **changes)
    assert re.search(words, refusal(llama))


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3", "bert"])
def test_missing_tokenizers_are_named(name, tmp_path):
    folder = make_model(name, tmp_path / "tiny")
    for file in ("tokenizer.json", "tokenizer.model"):
        (folder / file).unlink(missing_ok=True)
    assert re.search("has no tokenizer: tokenizer.(json|model) is missing", refusal(folder))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"tokenizer_config.json": {"tokenizer_class": "CodeGenTokenizer"}},
            "does not tell how 'CodeGenTokenizer' cuts",
        ),
        ({"tokenizer_config.json": {"eos_token": "<eos>"}}, "the special token '<eos>' is not in vocab.json"),
        ({"vocab.json": {"a": "b"}}, "vocab.json: expected tokens with their ids"),
        ({"merges.txt": "#version: 0.2\na b\nabc\n"}, "merges.txt: expected two tokens in a line, got 'abc'"),
        ({"merges.txt": b"\xff"}, "merges.txt: is not UTF-8"),
        ({"merges.txt": None}, "tokenizer.json is missing; transformers writes tokenizer.json: AutoTokenizer"),
    ],
)
def test_vocabularies_without_tokenizer_json_are_refused_in_one_line(files, words, tmp_path):
    folder = make_model("gpt2 of vocab.json", tmp_path / "tiny")
    for name, content in files.items():
        if content is None:
            (folder / name).unlink()
        elif isinstance(content, dict):
            write_json(folder / name, content)
        else:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert words in refusal(folder)


def test_unknown_pre_tokenizers_are_named(llama):
    byte_pairs(llama, {"type": "WhitespaceSplit"})
    assert re.search(r"pre_tokenizer: llama.cpp has no name for this one \(WhitespaceSplit\)", refusal(llama))


@pytest.mark.parametrize(
    "damage",
    [
        {"model": {"type": "BPE", "vocab": {"a": "b"}, "merges": []}},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]]}},
        {"model": None},
        {"added_tokens": [{"id": 0}]},
        {"added_tokens": 3},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": 1}},
    ],
)
def test_damaged_tokenizers_are_refused(damage, llama):
    change(llama / "tokenizer.json", **damage)
    assert "tiny" in refusal(llama)


@pytest.mark.parametrize("name", ["llama of sentencepiece", "gemma2", "gemma3", "phi3"])
@pytest.mark.parametrize("entry", [None, [1], {}, {"content": None}, {"content": {"a": 1}}])
def test_damaged_added_tokens_are_refused(name, entry, tmp_path):
    folder = make_model(name, tmp_path / "tiny")
    change(folder / "tokenizer_config.json", added_tokens_decoder={"5": entry})
    assert "tokenizer: damaged" in refusal(folder)


@pytest.mark.parametrize(
    "data", [b"", b"\x0a", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"text, no pieces"]
)
def test_damaged_pieces_are_refused(data, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(FileFormatError, match=r"tokenizer\.model: "):
        read_pieces(tmp_path / "tokenizer.model")


def test_missing_experts_are_named(tmp_path):
    folder = make_model("mixtral", tmp_path / "tiny")
    change(folder / "config.json", num_local_experts=3)
    assert "layer 0 has 6 of 9 tensors of its experts" in refusal(folder)


def test_notice_of_a_vocabulary_that_llama_cpp_does_not_list(llama, tmp_path):
    report = quantize_model(llama, tmp_path / "out.gguf", "F32")
    assert [notice for notice in report.notices if notice.startswith("pre-tokenizer: smollm")]


def test_without_the_extra(llama, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"\[hf\]"):
        quantize_model(llama, tmp_path / "out.gguf", "F32")


def test_folder_is_named_in_the_file(llama, tmp_path):
    moved = tmp_path / "My-Model-7B"
    shutil.move(llama, moved)
    quantize_model(moved, tmp_path / "out.gguf", "F32")
    assert GGUFReader(tmp_path / "out.gguf").value("general.name") == "My Model 7B"


def split(regex):
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    cut = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, bytes_]}


LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def test_patterns_of_pre_tokenizers():
    assert name_by_pattern(split(LLAMA_3)) == "llama-bpe"
    assert name_by_pattern(split(LLAMA_3.replace("{1,3}", ""))) == "qwen2"
    assert name_by_pattern({"type": "ByteLevel", "add_prefix_space": False}) == "gpt-2"
    assert name_by_pattern(split(r"\w+")) is None and name_by_pattern(None) is None


def test_encoding_cuts_words_by_the_pattern(tmp_path):
    byte_pairs(tmp_path, split(LLAMA_3))
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    names = {i: token for token, i in spec["model"]["vocab"].items()}
    pieces = [names[i] for i in encode(spec, "the in the 12é\n")]
    assert pieces == ["t", "he", "Ġ", "in", "Ġthe", "Ġ", "1", "2", "Ã", "©", "Ċ"]


def test_rerankers_are_refused(tmp_path):
    assert "a reranker of Qwen3 is not converted" in refusal(make_model("qwen3", tmp_path / "Qwen3-Reranker-0.6B"))

"""GGUF files become the Hugging Face folders that they were made of."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from quantcore.cli import main
from quantcore.conversion import dequantize_model, quantize_checkpoint, quantize_model
from quantcore.conversion.gguf_pipeline import OutputPart, PlannedTensor, copy_slab, write_model
from quantcore.conversion.options import ConversionOptions
from quantcore.errors import FileFormatError, InvalidValueError, MissingExtraError, OutputFileError
from quantcore.gguf import GGUFReader
from quantcore.gguf.values import KeyValue
from quantcore.models import open_model
from quantcore.models.tensors import ggml_type
from tests.support.hf_models import EXPERTS, MODELS, RETURNING, make_model

pytest.importorskip("gguf")

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt")


def values(path):
    with open_model(path) as model:
        return {t.name: t.values().reshape(t.shape) for t in model.tensors.values()}


def expected_values(folder):
    """What a folder's file of floats still has, by the names of transformers 4."""
    found = {}
    for name, array in values(folder).items():
        if name.startswith("pooler."):
            continue  # is not used by llama.cpp
        if name.endswith("mlp.experts.gate_up_proj"):
            base = name.removesuffix("gate_up_proj")
            for e in range(EXPERTS):
                gate, up = np.split(array[e], 2)
                found |= {f"{base}{e}.gate_proj.weight": gate, f"{base}{e}.up_proj.weight": up}
        elif name.endswith("mlp.experts.down_proj"):
            base = name.removesuffix("down_proj")
            found |= {f"{base}{e}.down_proj.weight": array[e] for e in range(EXPERTS)}
        else:
            found[name] = array
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        assert np.array_equal(found[name].view(np.uint32), array.view(np.uint32)), name


@pytest.mark.parametrize("name", RETURNING)
def test_folder_comes_back_bit_for_bit(name, tmp_path):
    folder = make_model(name, tmp_path / "tiny")
    quantize_model(folder, tmp_path / "floats.gguf", "F32")
    report = dequantize_model(tmp_path / "floats.gguf", tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["config.json", "model.safetensors"]
    assert any("no tokenizer is written" in notice for notice in report.notices)
    assert_same(values(tmp_path / "back"), expected_values(folder))


@pytest.mark.parametrize("kind", ["F16", "BF16"])
@pytest.mark.parametrize("name", RETURNING)
def test_folder_of_halves_comes_back(name, kind, tmp_path):
    folder = make_model(name, tmp_path / "tiny", kind)
    quantize_model(folder, tmp_path / "halves.gguf", kind)
    dequantize_model(tmp_path / "halves.gguf", tmp_path / "back", kind)
    with open_model(tmp_path / "back") as model:
        assert {t.type for t in model.tensors.values()} == {kind}
    assert json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"].endswith(kind[-2:])
    assert_same(values(tmp_path / "back"), expected_values(folder))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M"])
@pytest.mark.parametrize("name", RETURNING)
def test_quantized_file_becomes_what_its_floats_become(name, kind, tmp_path):
    quantize_model(make_model(name, tmp_path / "tiny"), tmp_path / "quantized.gguf", kind)
    dequantize_model(tmp_path / "quantized.gguf", tmp_path / "floats.gguf")
    for stem in ("quantized", "floats"):
        dequantize_model(tmp_path / f"{stem}.gguf", tmp_path / stem)
    assert_same(values(tmp_path / "quantized"), values(tmp_path / "floats"))
    configs = [(tmp_path / stem / "config.json").read_text() for stem in ("quantized", "floats")]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("name", RETURNING)
def test_folder_makes_the_same_file_again(name, tmp_path):
    folder, back = make_model(name, tmp_path / "tiny"), tmp_path / "back" / "tiny"
    quantize_model(folder, tmp_path / "first.gguf", "F32")
    dequantize_model(tmp_path / "first.gguf", back)
    for file in TOKENIZERS:
        if (folder / file).exists():
            shutil.copy(folder / file, back)
    quantize_model(back, tmp_path / "second.gguf", "F32")
    first, second = (GGUFReader(tmp_path / f"{stem}.gguf") for stem in ("first", "second"))
    assert_same(values(tmp_path / "second.gguf"), values(tmp_path / "first.gguf"))
    kvs, again = ({kv.key: kv.value for kv in reader.kvs} for reader in (first, second))
    # What follows from others is told for some, but not for all of them.
    optional = {f"{kvs['general.architecture']}.attention.{word}_length" for word in ("key", "value")}
    assert {key: value for key, value in again.items() if key not in optional - kvs.keys()} == kvs


def test_shards(tmp_path):
    quantize_model(make_model("llama", tmp_path / "tiny"), tmp_path / "q.gguf", "Q8_0")
    assert main(["dequantize", str(tmp_path / "q.gguf"), str(tmp_path / "back"), "BF16", "--split-max-size", "1M"]) == 0
    dequantize_model(tmp_path / "q.gguf", tmp_path / "cut", split_max_size=20_000)
    dequantize_model(tmp_path / "q.gguf", tmp_path / "whole.safetensors")
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    files = {path.name for path in (tmp_path / "cut").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == files and len(files) > 3
    assert f"model-00001-of-{len(files):05d}.safetensors" in files
    assert_same(values(tmp_path / "cut"), values(tmp_path / "whole.safetensors"))
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in values(tmp_path / "whole.safetensors").values())


def changed(path, out, change):
    """A copy of a GGUF file without some keys and tensors, or with others."""
    with open_model(path) as model:
        kvs, tensors = change(list(model.container.kvs), list(model.stored))
        plan = [PlannedTensor(tensor, ggml_type(tensor)) for tensor in tensors]
        options = ConversionOptions(out, True, False, None, None)
        write_model([OutputPart(out, tuple(kvs), plan)], options, (), compute=copy_slab)
    return out


@pytest.fixture
def llama(tmp_path):
    quantize_model(make_model("llama", tmp_path / "tiny"), tmp_path / "llama.gguf", "F32")
    return tmp_path / "llama.gguf"


def empty(name):
    return lambda kvs, tensors: (
        kvs,
        [replace(t, shape=(0, 64), nbytes=0) if t.name == name else t for t in tensors],
    )


def rename(**names):
    return lambda kvs, tensors: (kvs, [replace(t, name=names.get(t.name.split(".")[0], t.name)) for t in tensors])


def test_tensor_without_a_place_is_named(llama, tmp_path):
    path = changed(llama, tmp_path / "other.gguf", rename(output_norm="blk.0.other.weight"))
    with pytest.raises(FileFormatError, match=r"tensor 'blk\.0\.other\.weight': has no place .*--keep-names"):
        dequantize_model(path, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert main(["dequantize", str(path), str(tmp_path / "back"), "--keep-names"]) == 0
    assert values(tmp_path / "back").keys() == values(path).keys()
    assert not (tmp_path / "back" / "config.json").exists()


def test_other_architectures_keep_names_and_shapes(llama, tmp_path):
    quantize_model(llama, tmp_path / "other.gguf", "F32", arch="unheard")
    report = dequantize_model(tmp_path / "other.gguf", tmp_path / "back")
    assert_same(values(tmp_path / "back"), values(llama))
    assert [n for n in report.notices if "architecture 'unheard' is not one of those that are known" in n]


def test_containers_with_the_names_of_a_checkpoint_keep_them(tmp_path):
    folder = make_model("llama", tmp_path / "tiny")
    quantize_model(folder, tmp_path / "kept.gguf", "F32", keep_names=True)
    report = dequantize_model(tmp_path / "kept.gguf", tmp_path / "back")
    assert_same(values(tmp_path / "back"), values(folder))
    assert "not those of llama.cpp" in report.notices[0]


def drop(key):
    return lambda kvs, tensors: ([kv for kv in kvs if kv.key != key], tensors)


def put(key, value, kind):
    return lambda kvs, tensors: ([*(kv for kv in kvs if kv.key != key), KeyValue.of(key, value, kind)], tensors)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("llama.logit_scale", 2.0, "float32"), "llama.logit_scale has no place in it"),
        (put("llama.context_length", "long", "string"), "llama.context_length: expected an integer, got 'long'"),
        (drop("llama.context_length"), "llama.context_length is missing"),
        (put("llama.rope.dimension_count", 8, "uint32"), "differ: [8, 16]"),
        (put("llama.rope.scaling.type", "longrope", "string"), "'longrope' is not understood"),
    ],
)
def test_config_is_not_guessed(change, words, llama, tmp_path):
    report = dequantize_model(changed(llama, tmp_path / "other.gguf", change), tmp_path / "back")
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["model.safetensors"]
    assert [notice for notice in report.notices if notice.startswith("config.json is not written") and words in notice]
    assert_same(values(tmp_path / "back"), values(tmp_path / "tiny"))


def reshape(name, *shape):
    return lambda kvs, tensors: (kvs, [replace(t, shape=shape) if t.name == name else t for t in tensors])


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("mixtral", reshape("blk.0.ffn_up_exps.weight", 2 * 96, 64), "is no stack of experts"),
        ("mixtral", reshape("blk.0.ffn_up_exps.weight", 2 * 96 * 64, 1, 1), "is no stack of experts"),
        ("llama", empty("blk.0.attn_q.weight"), "has no elements"),
    ],
)
def test_odd_shapes_are_named(name, change, words, tmp_path):
    quantize_model(make_model(name, tmp_path / "tiny"), tmp_path / "first.gguf", "F32")
    with pytest.raises(FileFormatError, match=words):
        dequantize_model(changed(tmp_path / "first.gguf", tmp_path / "other.gguf", change), tmp_path / "back")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("llama.attention.head_count", 3, "uint32"), "64 rows are not 3 heads of even size"),
        (put("llama.attention.head_count", 0, "uint32"), "expected an integer >= 1, got 0"),
        (drop("llama.attention.head_count"), "llama.attention.head_count is missing"),
        (put("llama.block_count", 10**9, "uint32"), "1000000000 layers, but there are 21 tensors"),
        (drop("llama.block_count"), "llama.block_count is missing"),
        (put("llama.block_count", 1, "uint32"), "has no place in a Hugging Face checkpoint"),
    ],
)
def test_wrong_metadata_are_named(change, words, llama, tmp_path):
    with pytest.raises(FileFormatError, match=words):
        dequantize_model(changed(llama, tmp_path / "other.gguf", change), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_refusals(llama, tmp_path, monkeypatch):
    with pytest.raises(InvalidValueError, match="keep_names, split_max_size: go with a checkpoint"):
        dequantize_model(llama, tmp_path / "out.gguf", keep_names=True)
    with pytest.raises(OutputFileError, match="is not a folder"):
        dequantize_model(llama, tmp_path / "tiny" / "config.json")
    with pytest.raises(OutputFileError, match=r"x\.pt: is not a folder; a single file is named \*\.safetensors or"):
        dequantize_model(llama, tmp_path / "x.pt")
    with pytest.raises(OutputFileError, match=r"x\.bin: is not a folder; a single file is named \*\.safetensors$"):
        quantize_checkpoint(tmp_path / "tiny", tmp_path / "x.bin", "nf4")
    with pytest.raises(OutputFileError, match=r"model\.safetensors: exists already"):
        dequantize_model(llama, tmp_path / "tiny")
    with pytest.raises(FileFormatError, match="is safetensors already"):
        dequantize_model(tmp_path / "tiny", tmp_path / "back")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"\[hf\]"):
        dequantize_model(llama, tmp_path / "back")


@pytest.mark.slow
@pytest.mark.may_skip
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in RETURNING if "transformers 5" not in name])
def test_transformers_computes_the_same(name, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = make_model(name, tmp_path / "tiny")
    quantize_model(folder, tmp_path / "floats.gguf", "F32")
    dequantize_model(tmp_path / "floats.gguf", tmp_path / "back")
    # What the tiny folders do not say, and llama.cpp takes for granted.
    said = {"tie_word_embeddings": "lm_head.weight" not in MODELS[name][2], "norm_topk_prob": True, "pad_token_id": 0}
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | said))
    kind = transformers.AutoModel if name == "bert" else transformers.AutoModelForCausalLM
    tokens = torch.arange(5, 5 + 24).reshape(2, 12) % 20
    outputs = []
    for path in (folder, tmp_path / "back"):
        model, loading = kind.from_pretrained(
            path, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
        )
        assert not loading["unexpected_keys"] and not loading["mismatched_keys"]
        assert {key for key in loading["missing_keys"] if not key.startswith("pooler.")} <= {"lm_head.weight"}
        outputs.append(model.eval()(tokens)[0].detach().numpy())
    assert np.isfinite(outputs[0]).all() and np.ptp(outputs[0]) > 0.1
    assert np.array_equal(*outputs)

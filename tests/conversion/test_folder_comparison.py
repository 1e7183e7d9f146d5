"""A Hugging Face folder is compared with GGUF files under the names and in the arrangement that these have."""

import json
import math
import sys
from dataclasses import replace

import pytest

from quantcore.cli import main
from quantcore.conversion import compare_models, quantize_checkpoint, quantize_model
from quantcore.errors import InvalidValueError, MissingExtraError
from tests.support.hf_models import MODELS, make_model
from tests.support.marks import slow_but_first

pytest.importorskip("gguf")


@pytest.mark.parametrize("name", slow_but_first(MODELS))
def test_a_file_of_floats_is_the_folder(name, tmp_path):
    folder, file = make_model(name, tmp_path / "tiny"), tmp_path / "f32.gguf"
    quantize_model(folder, file, "F32")
    for pair in ((folder, file), (file, folder), (folder / "model.safetensors", file)):
        found = compare_models(*pair)
        assert (found.missing, found.extra, found.empty) == ((), (), ())
        assert len(found.tensors) > 4 and all(math.isinf(t.stats.sqnr_db) for t in found.tensors)


@pytest.mark.parametrize(
    "name", slow_but_first(["llama", "qwen3moe of transformers 5", "gpt2", "gemma3", "gpt-oss of floats"])
)
def test_figures_are_those_of_the_file_of_floats(name, tmp_path):
    folder, floats, quantized = make_model(name, tmp_path / "tiny"), tmp_path / "f32.gguf", tmp_path / "q.gguf"
    quantize_model(folder, floats, "F32")
    quantize_model(folder, quantized, "Q4_0")
    expected = compare_models(floats, quantized)
    assert not math.isinf(expected.total.sqnr_db)
    for n_threads in (1, 2):
        found = compare_models(folder, quantized, n_threads=n_threads)
        assert replace(found, notices=expected.notices) == expected


def test_other_pairs_keep_their_names(tmp_path):
    folder = make_model("llama", tmp_path / "tiny")
    quantize_model(folder, tmp_path / "kept.gguf", "F32", keep_names=True)
    assert "model.embed_tokens.weight" in {t.name for t in compare_models(folder, tmp_path / "kept.gguf").tensors}
    quantize_checkpoint(folder, tmp_path / "nf4", "nf4")
    assert "model.embed_tokens.weight" in {t.name for t in compare_models(folder, tmp_path / "nf4").tensors}


def test_a_packed_folder_beside_a_gguf_file(tmp_path):
    """Both ways of quantizing a folder, one of them measured against the other."""
    folder = make_model("llama", tmp_path / "tiny")
    quantize_model(folder, tmp_path / "f32.gguf", "F32")
    quantize_checkpoint(folder, tmp_path / "nf4", "nf4")
    found = compare_models(tmp_path / "f32.gguf", tmp_path / "nf4")
    expected = compare_models(folder, tmp_path / "nf4")
    assert (found.missing, found.extra) == ((), ())
    assert found.total.mse == pytest.approx(expected.total.mse, rel=1e-12)  # other rows are summed first


def test_an_architecture_that_is_not_converted(tmp_path):
    folder = make_model("llama", tmp_path / "tiny")
    quantize_model(folder, tmp_path / "f32.gguf", "F32")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["OtherLM"]}), encoding="utf-8")
    with pytest.raises(InvalidValueError, match=r"no tensor of weights in common .* compare with what quantize makes"):
        compare_models(folder, tmp_path / "f32.gguf")


def test_without_gguf(tmp_path, monkeypatch):
    folder = make_model("llama", tmp_path / "tiny")
    quantize_model(folder, tmp_path / "f32.gguf", "F32")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"quantcore-quantization\[hf\]"):
        compare_models(folder, tmp_path / "f32.gguf")


def test_report_and_program(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    folder, file = make_model("llama", tmp_path / "tiny"), tmp_path / "q.gguf"
    quantize_model(folder, file, "Q8_0")
    assert main(["compare", str(folder), str(file), "--json", "--no-progress"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["missing"] and "blk.0.attn_q.weight" in {t["name"] for t in found["tensors"]}
    assert main(["report", str(folder), str(file), "-o", str(tmp_path / "page.html"), "--no-progress"]) == 0
    assert "blk.0.attn_q.weight" in (tmp_path / "page.html").read_text(encoding="utf-8")

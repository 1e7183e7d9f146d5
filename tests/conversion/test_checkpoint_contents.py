"""Tensors that are no weights never stop a conversion, and the files that go with the weights go along."""

import os

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantcore.conversion import dequantize_checkpoint, quantize_checkpoint, quantize_model
from quantcore.errors import InvalidValueError, OutputFileError
from tests.support.model_files import normal

WEIGHT = {"layers.0.q.weight": normal(4, 64)}
KEPT_IN_GGUF = {
    "ids": np.arange(4),
    "small": np.arange(4, dtype=np.int8),
    "scalar": np.array(2.5, np.float32),
    "count": np.array(3),
}
NO_PLACE = {
    "blob": np.arange(9, dtype=np.uint8),
    "mask": np.ones((2, 2), bool),
    "u16": np.ones(3, np.uint16),
    "u32": np.ones(3, np.uint32),
    "u64": np.ones(3, np.uint64),
    "complex": np.ones(3, np.complex64),
    "empty": np.zeros((0, 64), np.float32),
    "empty.weight": np.zeros((2, 0), np.float32),
    "flag": np.array(True),
}
MASK = {"attn.bias": np.full((8, 8), -np.inf, np.float32), "attn.masked": np.array(-np.inf, np.float16)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_safetensors_keeps_every_kind(folder, tmp_path):
    tensors = WEIGHT | KEPT_IN_GGUF | NO_PLACE | MASK
    save_file(tensors, folder / "model.safetensors")
    quantize_checkpoint(folder, tmp_path / "nf4", "nf4")
    dequantize_checkpoint(tmp_path / "nf4", tmp_path / "back")
    for output in ("nf4", "back"):
        found = load_file(tmp_path / output / "model.safetensors")
        for name in KEPT_IN_GGUF | NO_PLACE | MASK:
            assert found[name].dtype == tensors[name].dtype
            assert np.array_equal(found[name], tensors[name]), name
    assert "layers.0.q.weight.absmax" in load_file(tmp_path / "nf4" / "model.safetensors")


def test_gguf_keeps_what_it_can_and_names_the_rest(folder, tmp_path):
    save_file(WEIGHT | KEPT_IN_GGUF | NO_PLACE, folder / "model.safetensors")
    report = quantize_model(folder, tmp_path / "out.gguf", "Q8_0", arch="llama")
    found = {t.name: t for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    without_elements = {name for name, values in NO_PLACE.items() if not values.size}
    assert without_elements and set(found) == set(WEIGHT | KEPT_IN_GGUF) | without_elements
    for name, values in KEPT_IN_GGUF.items():
        assert np.array_equal(found[name].data, values.reshape(-1))
    left_out = {notice.split(":")[0] for notice in report.notices if "left out" in notice}
    assert left_out == set(NO_PLACE) - without_elements


def test_excluded_weights_may_hold_anything(folder, tmp_path):
    values = normal(4, 64)
    values[1, 2] = np.nan
    save_file(WEIGHT | {"layers.1.q.weight": values}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"'layers\.1\.q\.weight': must be finite"):
        quantize_checkpoint(folder, tmp_path / "out", "nf4")
    assert os.listdir(tmp_path) == ["in"]
    quantize_checkpoint(folder, tmp_path / "out", "nf4", exclude=[r"layers\.1"])
    found = load_file(tmp_path / "out" / "model.safetensors")["layers.1.q.weight"]
    assert np.array_equal(found, values, equal_nan=True)


COPIED = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt",
    "merges.txt", "special_tokens_map.json", "added_tokens.json", "generation_config.json", "chat_template.jinja",
    "chat_template.json", "preprocessor_config.json", "processor_config.json", "modeling_x.py", "configuration_x.py",
    "additional_chat_templates/tools.jinja",
)  # fmt: skip
NOT_COPIED = ("README.md", "pytorch_model.bin", "onnx/model.onnx", "training_args.bin", "tokenizer.json.bak.bin")


@pytest.fixture
def complete(folder):
    save_file(WEIGHT, folder / "model.safetensors")
    for name in COPIED + NOT_COPIED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name * 3)
    os.mkfifo(folder / "tokenizer_fifo.json")
    (folder / "blob").write_text("linked")
    (folder / "vocab.bpe").symlink_to("blob")
    return folder


def files(folder):
    return {os.path.relpath(path, folder): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_companions_are_copied(complete, tmp_path):
    quantize_checkpoint(complete, tmp_path / "out", "nf4")
    dequantize_checkpoint(tmp_path / "out", tmp_path / "back")
    for output in ("out", "back"):
        (tmp_path / output / "model.safetensors").unlink()
        assert files(tmp_path / output) == {name: name * 3 for name in COPIED} | {"vocab.bpe": "linked"}
        assert not (tmp_path / output / "vocab.bpe").is_symlink()
    quantize_checkpoint(complete, tmp_path / "one.safetensors", "nf4")
    assert sorted(os.listdir(tmp_path)) == ["back", "in", "one.safetensors", "out"]


def test_companions_are_written_with_the_weights_or_not_at_all(complete, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tokenizer.json").write_text("precious")
    with pytest.raises(OutputFileError, match=r"tokenizer\.json: exists already"):
        quantize_checkpoint(complete, tmp_path / "out", "nf4")
    assert files(tmp_path / "out") == {"tokenizer.json": "precious"}
    save_file({"layers.0.q.weight": np.full((4, 64), np.nan, np.float32)}, complete / "model.safetensors")
    with pytest.raises(ValueError, match="must be finite"):
        quantize_checkpoint(complete, tmp_path / "out", "nf4", force=True)
    assert files(tmp_path / "out") == {"tokenizer.json": "precious"}
    with pytest.raises(ValueError, match="must be finite"):
        quantize_checkpoint(complete, tmp_path / "new", "nf4")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("qtype", ["Q4_0", "F16", "F32"])
def test_gguf_keeps_masks_of_minus_infinity(qtype, folder, tmp_path):
    half = np.where(np.tri(600, 600, dtype=bool), 0, -np.inf).astype(np.float16)
    save_file(WEIGHT | MASK | {"h.0.mask": half, "alibi": np.array([-1.5, -np.inf])}, folder / "model.safetensors")
    quantize_model(folder, tmp_path / "out.gguf", qtype)
    found = {t.name: t for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    for name, values in (MASK | {"h.0.mask": half}).items():
        assert found[name].data.dtype == values.dtype
        assert found[name].data.tobytes() == values.tobytes()
    assert found["alibi"].data.tolist() == [-1.5, -np.inf]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_other_values_of_a_mask_are_refused(value, dtype, folder, tmp_path):
    mask = np.array([[0, -np.inf], [value, 0]], dtype)
    save_file(WEIGHT | {"h.0.mask": mask}, folder / "model.safetensors")
    with pytest.raises(InvalidValueError, match=rf"^tensor 'h\.0\.mask': must be finite, got {value} at flat index 2$"):
        quantize_model(folder, tmp_path / "out.gguf", "Q4_0")
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("name", ["a.weight", "norm.bias"])
def test_minus_infinity_in_a_parameter_is_refused(name, folder, tmp_path):
    save_file(WEIGHT | {name: np.array([0, -np.inf], np.float32)}, folder / "model.safetensors")
    with pytest.raises(InvalidValueError, match=rf"^tensor '{name}': must be finite, got -inf at flat index 1$"):
        quantize_model(folder, tmp_path / "out.gguf", "Q4_0")

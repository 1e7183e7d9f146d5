"""config.json of a checkpoint that is quantized: read strictly, carried over, and told what was done."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore.conversion import dequantize_checkpoint, quantize_checkpoint
from quantcore.errors import FileFormatError, InvalidTypeError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    save_file({"a.weight": np.ones((4, 64), np.float32)}, tmp_path / "in" / "model.safetensors")
    return tmp_path / "in"


def test_infinity_which_python_writes_into_some_of_them_is_kept(folder, tmp_path):
    config = {"model_type": "mamba2", "time_step_limit": [0.0, float("inf")]}
    (folder / "config.json").write_text(json.dumps(config))
    quantize_checkpoint(folder, tmp_path / "out", "nf4")
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert found.pop("quantization_config")["bnb_4bit_quant_type"] == "nf4"
    assert found == config
    dequantize_checkpoint(tmp_path / "out", tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == config


BAD = {
    "a list": (b"[1]", "must be a JSON object"),
    "half": (b'{"a"', "not valid JSON"),
    "duplicate": (b'{"model_type": "a", "model_type": "b"}', "duplicate keys"),
    "deep": (b"[" * 200_000, "not valid JSON"),
}


@pytest.mark.parametrize(("text", "problem"), BAD.values(), ids=BAD)
def test_what_is_refused(text, problem, folder, tmp_path):
    (folder / "config.json").write_bytes(text)
    with pytest.raises(FileFormatError) as refusal:
        quantize_checkpoint(folder, tmp_path / "out", "nf4")
    assert str(refusal.value).startswith(f"{folder / 'config.json'}: config: ") and problem in str(refusal.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["double_quant", "force", "dry_run"])
def test_flags_are_true_or_false(flag, folder, tmp_path):
    with pytest.raises(InvalidTypeError, match=rf"^{flag}: expected a bool, got 'no'$"):
        quantize_checkpoint(folder, tmp_path / "out", "nf4", **{flag: "no"})
    assert not (tmp_path / "out").exists()

"""The command line with checkpoints in NF4 and FP4."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quantcore import (
    DoubleQuantized4Bit,
    Quantized4Bit,
    dequantize_4bit,
    from_bitsandbytes,
    quantize_4bit,
    quantize_4bit_double,
)
from quantcore.conversion.checkpoint_rules.names import COMMON_HEADS
from tests.support.command_line import is_one_line, normal

# NF4 and FP4


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder of two shards, as transformers saves it."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    shards = {
        "model-00001-of-00002.safetensors": {"embed.weight": normal(8, 64), "layers.0.q.weight": normal(33, 7)},
        "model-00002-of-00002.safetensors": {
            "layers.1.q.weight": normal(64, 64).astype("f2"),
            "layers.1.norm": normal(3),
            "layers.1.table": normal(4, 5),
        },
    }
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def entries_of(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file or a folder, by the safetensors library."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {name: array for file in files for name, array in load_file(file).items()}


def quantized(values: np.ndarray, entries: dict[str, np.ndarray], name: str) -> Quantized4Bit | DoubleQuantized4Bit:
    parts = {key: array for key, array in entries.items() if key == name or key.startswith(f"{name}.")}
    assert len(parts) > 3 and from_bitsandbytes(parts).shape == values.shape
    return from_bitsandbytes(parts)


CODES = {
    "nf4": (["nf4"], quantize_4bit, {"quant_type": "nf4"}),
    "FP4": (["FP4", "-j", "1"], quantize_4bit, {"quant_type": "fp4"}),
    "--block-size": (["nf4", "--block-size", "128"], quantize_4bit, {"quant_type": "nf4", "block_size": 128}),
    "--double-quant": (
        ["fp4", "--double-quant"], quantize_4bit_double, {"quant_type": "fp4", "scale_code": "dynamic"}
    ),
}  # fmt: skip


NOTES = [
    "quantcore: note: embed.weight: kept (an embedding)",
    "quantcore: note: layers.1.table: kept (its name does not end in .weight)",
]


@pytest.mark.parametrize("target", ["new/folder", "one.safetensors"])
@pytest.mark.parametrize(("flags", "quantize", "options"), CODES.values(), ids=CODES)
def test_checkpoint_to_four_bits(flags, quantize, options, target, call, checkpoint, tmp_path):
    status, text, err = call("quantize", checkpoint, tmp_path / target, *flags)
    assert status == 0 and text.startswith(f"{tmp_path / target}: 2 of 5 tensors converted, ")
    assert err.splitlines() == NOTES
    before, after = entries_of(checkpoint), entries_of(tmp_path / target)
    for name in ("layers.0.q.weight", "layers.1.q.weight"):
        assert quantized(before[name], after, name) == quantize(before[name], **options)
    for name in ("embed.weight", "layers.1.norm", "layers.1.table"):
        assert np.array_equal(after[name], before[name])
    if target == "new/folder":
        assert sorted(os.listdir(tmp_path / target)) == sorted(os.listdir(checkpoint))
        config = json.loads((tmp_path / target / "config.json").read_text())
        assert config["model_type"] == "llama"
        assert config["quantization_config"]["bnb_4bit_quant_type"] == options["quant_type"]
        assert config["quantization_config"]["bnb_4bit_use_double_quant"] == ("--double-quant" in flags)
        assert config["quantization_config"]["llm_int8_skip_modules"] == sorted({"embed", *COMMON_HEADS})
    assert call("inspect", tmp_path / target).status == 0


def test_exclude_keeps_weights(call, checkpoint, tmp_path):
    flags = ["--exclude", r"layers\.0", "--exclude", "embed|table"]
    status, text, err = call("quantize", checkpoint, tmp_path / "out", "nf4", *flags, "--json")
    assert (status, err) == (0, "")
    changed = {t["name"] for t in json.loads(text)["tensors"] if t["source_type"] != t["target_type"]}
    assert changed == {"layers.1.q.weight"}
    assert np.array_equal(entries_of(tmp_path / "out")["layers.0.q.weight"], normal(33, 7))


@pytest.mark.parametrize(("types", "dtypes"), [([], ["f4", "f2"]), (["f32"], ["f4", "f4"]), (["F16"], ["f2", "f2"])])
def test_checkpoint_back_to_floats(types, dtypes, call, checkpoint, tmp_path):
    assert call("quantize", checkpoint, tmp_path / "quantized", "nf4").status == 0
    status, text, err = call("dequantize", tmp_path / "quantized", tmp_path / "floats", *types)
    assert (status, err) == (0, "") and "2 of 5 tensors converted" in text
    before, after = entries_of(checkpoint), entries_of(tmp_path / "floats")
    assert after.keys() == before.keys()
    for name, dtype in zip(("layers.0.q.weight", "layers.1.q.weight"), dtypes, strict=True):
        expected = dequantize_4bit(quantize_4bit(before[name], quant_type="nf4"), dtype=dtype)
        assert after[name].dtype == dtype and np.array_equal(after[name], expected)
    assert json.loads((tmp_path / "floats" / "config.json").read_text()) == {"model_type": "llama"}


def test_checkpoint_dry_run(call, checkpoint, tmp_path):
    status, text, err = call("quantize", checkpoint, tmp_path / "out", "nf4", "--dry-run")
    assert status == 0 and err.splitlines() == NOTES
    assert re.search(
        r"^layers\.1\.q\.weight +64x64 +F16 +NF4 +\S+ \S+ +name: a matrix named \.weight$", text, re.MULTILINE
    )
    assert re.search(r"^embed\.weight +8x64 +F32 +F32 +\S+ \S+ +name: an embedding$", text, re.MULTILINE)
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_checkpoint_that_cannot_be_quantized_changes_nothing(call, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert call("quantize", checkpoint, out, "nf4").status == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for arguments, problem in (
        ([checkpoint, out, "fp4"], "exists already; --force"),
        ([out, tmp_path / "again", "nf4"], "is quantized already"),
        ([checkpoint, checkpoint, "nf4", "--force"], "same file as the input"),
        ([checkpoint, "", "nf4"], "output"),
    ):
        status, text, err = call("quantize", *arguments)
        assert (status, text) == (1, "") and is_one_line(err.splitlines(keepends=True)[-1]) and problem in err
    values = normal(64, 64)
    values[33, 3] = np.inf
    save_file(
        {"layers.1.q.weight": values, "layers.1.norm": normal(3), "layers.1.table": normal(4, 5)},
        sorted(checkpoint.glob("*.safetensors"))[1],
    )
    for arguments in ([out, "fp4", "--force"], [tmp_path / "a" / "b", "fp4"], [tmp_path / "one.safetensors", "fp4"]):
        status, text, err = call("quantize", checkpoint, *arguments)
        assert (status, text) == (1, "") and "'layers.1.q.weight': must be finite, got inf at flat index 2115" in err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "out"]

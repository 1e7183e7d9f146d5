"""`quantcore compare`: the table, the JSON, the gate, and every tensor that is not compared named."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore.conversion import compare_models, quantize_model
from tests.support.command_line import is_one_line
from tests.support.models import Tensor, write_gguf


@pytest.fixture
def pair(rng: np.random.Generator, tmp_path: Path) -> tuple[Path, Path]:
    tensors = {f"blk.{i}.ffn_up.weight": rng.standard_normal((8, 64)).astype(np.float32) for i in range(3)}
    save_file(tensors | {"norm.weight": np.ones(64, np.float32)}, tmp_path / "ref.safetensors")
    types = [(r"blk\.1", "Q8_0"), (r"blk\.2", "F16")]
    quantize_model(tmp_path / "ref.safetensors", tmp_path / "q.gguf", "Q4_0", tensor_types=types)
    return tmp_path / "ref.safetensors", tmp_path / "q.gguf"


def test_table(call, pair):
    status, text, err = call("compare", *pair)
    lines = [line.split() for line in text.splitlines()]
    assert (status, err) == (0, "")
    assert lines[0] == ["tensor", "type", "SQNR", "dB", "MSE", "max", "error", "cosine", "bits", "per", "weight"]
    assert [line[:2] for line in lines[1:5]] == [
        ["blk.0.ffn_up.weight", "Q4_0"], ["blk.1.ffn_up.weight", "Q8_0"], ["blk.2.ffn_up.weight", "F16"],
        ["norm.weight", "F32"],
    ]  # fmt: skip
    result = compare_models(*pair)
    for line, t in zip(lines[1:5], result.tensors, strict=True):
        expected = "exact" if np.isinf(t.stats.sqnr_db) else f"{t.stats.sqnr_db:.2f}"
        assert line[2:] == [
            expected, f"{t.stats.mse:.3g}", f"{t.stats.max_error:.3g}", f"{t.stats.cosine_similarity:.6f}",
            f"{t.bits_per_weight:.2f}",
        ]  # fmt: skip
    assert lines[5][0] == "(total)" and lines[5][1] == f"{result.total.sqnr_db:.2f}"
    assert text.splitlines()[6] == "6.2 KiB -> 2.1 KiB"


def test_json(call, pair):
    status, text, err = call("compare", *pair, "--json")
    assert (status, err) == (0, "")

    def refuse(name: str) -> None:
        raise AssertionError(name)

    parsed = json.loads(text, parse_constant=refuse)
    result = compare_models(*pair)
    assert parsed["total"]["sqnr_db"] == result.total.sqnr_db
    assert [t["name"] for t in parsed["tensors"]] == [t.name for t in result.tensors]
    assert parsed["tensors"][-1]["sqnr_db"] == "inf"


def test_gate(call, pair):
    worst = compare_models(*pair).worst.stats.sqnr_db
    assert call("compare", *pair, "--fail-under-sqnr", worst)[::2] == (0, "")
    status, text, err = call("compare", *pair, "--fail-under-sqnr", worst + 0.01)
    assert status == 3 and text.startswith("tensor")
    assert err.startswith("quantcore: quality gate failed: 1 of 4 tensors below ")
    status, text, _ = call("compare", *pair, f"--fail-under-sqnr={worst + 1e-6}", "--json")
    assert status == 3 and json.loads(text)["total"]["sqnr_db"] > worst


def test_gate_fails_for_a_missing_tensor(call, tmp_path, rng):
    w = rng.standard_normal(8).astype(np.float32)
    save_file({"w": w, "lost": w}, tmp_path / "x.safetensors")
    save_file({"w": w, "new\n\x1b[2J": w, "none": w[:0]}, tmp_path / "y.safetensors")
    status, _, err = call("compare", tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert status == 0
    assert sorted(err.splitlines()) == [
        "quantcore: note: lost: missing in QUANT",
        "quantcore: note: new \\x1b[2J: only in QUANT",
        "quantcore: note: none: only in QUANT",
    ]
    status, _, err = call("compare", tmp_path / "x.safetensors", tmp_path / "y.safetensors", "--fail-under-sqnr=10")
    assert status == 3 and err.splitlines()[-1].endswith("0 of 1 tensors below 10 dB, 1 missing")


def test_errors(call, pair, tmp_path, rng):
    save_file({"norm.weight": np.ones((8, 8), np.float32)}, tmp_path / "other.safetensors")
    for arguments, problem in [
        ([pair[0], tmp_path / "none"], "No such file"),
        ([pair[0], tmp_path / "other.safetensors"], "'norm.weight': has shape (64,)"),
        ([pair[0], __file__], "header"),
    ]:
        status, text, err = call("compare", *arguments)
        assert (status, text) == (1, "") and err.startswith("quantcore: error: ") and err.count("\n") == 1
        assert problem in err


def test_a_folder_and_the_gguf_file_of_it(call, tmp_path, rng):
    """What quantize makes of a Hugging Face folder has other names than the folder."""
    w = rng.standard_normal((4, 32)).astype(np.float32)
    save_file({"model.norm.weight": w}, tmp_path / "model.safetensors")
    write_gguf(tmp_path / "a.gguf", [Tensor("output_norm.weight", w)])
    write_gguf(tmp_path / "b.gguf", [Tensor("other.weight", w)])
    hint = f"names of its own; compare with what quantize makes of {tmp_path} in F32"
    for pair, is_said in (((tmp_path, "a.gguf"), True), (("a.gguf", tmp_path), True), (("a.gguf", "b.gguf"), False)):
        status, text, err = call("compare", *(tmp_path / path for path in pair))
        assert (status, text) == (1, "") and is_one_line(err) and "no tensor of weights in common" in err
        assert (hint in err) == is_said


@pytest.mark.parametrize("flags", [["--fail-under-sqnr", "x"], ["--fail-under-sqnr", "nan"], ["-j", "0"], ["--force"]])
def test_usage(flags, call, pair):
    status, text, err = call("compare", *pair, *flags)
    assert (status, text) == (2, "") and flags[0].strip("-")[0] in err


def test_threads_give_the_same_text(call, pair):
    assert call("compare", *pair, "-j1") == call("compare", *pair, "-j3")

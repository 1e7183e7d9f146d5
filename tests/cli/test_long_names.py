"""Names of a megabyte, and other text out of a file, in every table, notice and error of the command line."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore.cli import main
from tests.support.gguf_bytes import ARCHITECTURE, KV, U8, Tensor, build_gguf, text_kv
from tests.support.hostile_cases import written
from tests.support.memory import memory_below

LONG = "n" * 2**20
WIDEST = 4100  # of a line; paths are shown whole


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def checkpoint(folder, tensors, name="in"):
    (folder / name).mkdir()
    save_file(tensors, folder / name / "model.safetensors")
    return name


def weights(suffix=".weight", **other):
    values = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    return {LONG + suffix: values, "a.weight": np.ones((64, 64), np.float32), **other}


def run(capsys, *arguments, status):
    with memory_below(200 * 2**20):
        assert main([str(a) for a in arguments]) == status
    out, err = capsys.readouterr()
    for line in (*out.split("\n"), *err.split("\n")):
        assert len(line) < WIDEST, line[:200]
        assert line.isprintable(), line[:200]
    return out + err


def test_inspect_shows_2000_rows_beside_a_name_of_a_megabyte(tmp_path, capsys):
    tensors = {f"t{i}": np.zeros(1, np.float32) for i in range(2000)}
    folder = checkpoint(tmp_path, {LONG: np.zeros(1, np.float32)} | tensors)
    out = run(capsys, "inspect", folder, status=0)
    assert len(out) < 1 << 20 and "nnn..." in out and "t1999" in out
    assert main(["inspect", folder, "--json"]) == 0
    assert {t["name"] for t in json.loads(capsys.readouterr().out)["tensors"]} == {LONG, *tensors}


def test_inspect_cuts_keys_values_and_shapes(tmp_path, capsys):
    header = {"__metadata__": {LONG: LONG}, "w": {"dtype": "F32", "shape": [1] * 5 * 10**4, "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path = written(tmp_path, struct.pack("<Q", len(text)) + text + bytes(4), "x.safetensors")
    out = run(capsys, "inspect", path, status=0)
    assert len(out) < 5000 and "nnn..." in out and "1x1x1" in out
    kvs = (ARCHITECTURE, KV(b"k" * 65535, U8, b"\1"), text_kv(b"x", b"v" * 10**6))
    path = written(tmp_path, build_gguf(kvs=kvs, tensors=(Tensor(b"n" * 127),)))
    out = run(capsys, "inspect", path, status=0)
    assert len(out) < 5000 and "kkk..." in out and "vvv..." in out and "n" * 127 in out


ERRORS = {
    "quantize to GGUF": (["quantize", "in", "out.gguf", "Q8_0"], weights(), "GGUF names have 1 to 63 bytes"),
    "NaN": (
        ["quantize", "in", "out", "nf4"],
        {LONG + ".weight": np.full((64, 64), np.nan, np.float32)},
        "must be finite",
    ),
    "state without codes": (
        ["quantize", "in", "out", "nf4"],
        weights(**{LONG + ".quant_state.bitsandbytes__nf4": np.zeros(3, np.uint8)}),
        "missing (the packed codes)",
    ),
    "state that is no JSON": (
        ["dequantize", "in", "out"],
        weights(**{LONG + ".weight.quant_state.bitsandbytes__nf4": np.zeros(3, np.uint8)}),
        "not valid JSON",
    ),
    "state of a weight that is missing": (
        ["dequantize", "in", "out"],
        {LONG + ".quant_state.bitsandbytes__nf4": np.zeros(3, np.uint8)},
        "missing",
    ),
    "state of a wrong type": (
        ["dequantize", "in", "out"],
        {LONG + end: np.zeros(3) for end in ("", ".quant_state.bitsandbytes__nf4", ".absmax")},
        "expected U8 or F32",
    ),
    "no type to choose": (["suggest", "in", "--bits-per-weight", "0.1"], weights(), "budget|smallest|bits"),
    "NaN to suggest": (
        ["suggest", "in", "--bits-per-weight", "8"],
        {LONG + ".weight": np.full((64, 64), np.nan, np.float32)},
        "must be finite",
    ),
    "NaN to calibrate": (["calibrate", "in/model.safetensors"], {LONG: np.float32([np.nan])}, "must be finite"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("command", "tensors", "problem"), ERRORS.values(), ids=ERRORS)
def test_errors_cut_names(command, tensors, problem, tmp_path, capsys):
    checkpoint(tmp_path, tensors)
    text = run(capsys, *command, status=1)
    assert any(word in text for word in problem.split("|")), text
    assert text.count("\n") == 1


@pytest.mark.slow
def test_commands_cut_names_in_tables_and_notes(tmp_path, capsys):
    others = {LONG + ".norm.weight": np.ones((2, 64), np.float32), LONG + "e": np.ones((0, 3), np.float32)}
    checkpoint(tmp_path, weights(**others))
    checkpoint(tmp_path, weights(**{LONG + "only": np.ones(3, np.float32)}), "other")
    run(capsys, "quantize", "in", "out", "nf4", "--dry-run", status=0)
    run(capsys, "quantize", "in", "out", "nf4", status=0)
    out = run(capsys, "compare", "in", "out", status=0)
    assert "has no elements" in out
    out = run(capsys, "compare", "in", "other", status=0)
    assert "missing in QUANT" in out and "only in QUANT" in out
    run(capsys, "report", "in", "other", "-o", "report.html", status=0)
    assert (tmp_path / "report.html").stat().st_size < 1 << 20
    run(capsys, "calibrate", "in/model.safetensors", "--exclude", "e$", status=0)
    save_file({LONG + ".weight": np.ones((64, 65), np.float32)}, tmp_path / "shape.safetensors")
    assert "has shape" in run(capsys, "compare", "in", "shape.safetensors", status=1)

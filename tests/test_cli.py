"""The command line: what each command and flag does, one line for every error, and nothing else on either stream.

Most tests call `main` in this process; those on signals, pipes and terminals start the program.
"""

import errno
import io
import json
import os
import pty
import re
import resource
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import quantcore
from quantcore import (
    DoubleQuantized4Bit,
    Quantized4Bit,
    dequantize_4bit,
    from_bitsandbytes,
    quantize_4bit,
    quantize_4bit_double,
)
from quantcore.cli import main
from quantcore.digits import digits_weights, evaluate_formats, top1_accuracy
from quantcore.gguf import GGUFReader, dequantize_model, quantize_model
from tests.models import KeyValue, Tensor, gguf, write_gguf
from tests.test_large import write_sparse_gguf

# As a user's shell starts it: buffered output.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
ENVIRONMENT |= {"PYTHONPATH": str(Path(quantcore.__file__).parents[1]), "PYTHONIOENCODING": "utf-8"}
PROGRAM = [sys.executable, "-P", "-m", "quantcore"]
COMMANDS = ("quantize", "dequantize", "calibrate", "compare", "report", "suggest", "bench", "inspect", "demo")
ALL_FLAGS = (
    "--pure", "--tensor-type", "--output-tensor-type", "--token-embedding-type", "--leave-output-tensor",
    "--allow-requantize", "--arch", "--dry-run", "-j", "--threads", "--force", "--json", "--no-progress",
    "--double-quant", "--block-size", "--exclude",
)  # fmt: skip
OLD = b"precious"
NASTY = "a\nb\x1b[2J\u202e"


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "env": ENVIRONMENT, "timeout": 120} | options
    return subprocess.run([*PROGRAM, *map(str, arguments)], text=True, **options)


def is_one_line(text: str) -> bool:
    return text.startswith("quantcore: ") and text.endswith("\n") and text[:-1].isprintable()


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    names = ("token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight")
    tensors = [Tensor(name, normal(8, 64, seed=i)) for i, name in enumerate(names)]
    write_gguf(tmp_path / "in.gguf", [*tensors, Tensor("output_norm.weight", normal(64))])
    return tmp_path / "in.gguf"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.gguf"


# What the commands do

FLAGS = {
    "TYPE in lower case": (["q8_0"], {"qtype": "Q8_0"}),
    "F16": (["F16"], {"qtype": "F16"}),
    "BF16": (["bf16"], {"qtype": "BF16"}),
    "F32": (["F32"], {"qtype": "F32"}),
    "mixed": (["Q4_0"], {"qtype": "Q4_0"}),
    "--pure": (["Q4_0", "--pure"], {"qtype": "Q4_0", "pure": True}),
    "--tensor-type": (
        ["--tensor-type", "ffn_up=Q4_0", "--tensor-type", r"blk\..*=f16", "Q8_0"],
        {"qtype": "Q8_0", "tensor_types": [("ffn_up", "Q4_0"), (r"blk\..*", "F16")]},
    ),
    "--tensor-type with =": (["Q8_0", "--tensor-type", "u(?=p)=F16"], {"qtype": "Q8_0", "tensor_types": [("up", 1)]}),
    "--output-tensor-type": (["Q8_0", "--output-tensor-type", "f32"], {"qtype": "Q8_0", "output_tensor_type": "F32"}),
    "--token-embedding-type": (["Q8_0", "--token-embedding-type=F16"], {"qtype": "Q8_0", "token_embedding_type": 1}),
    "--leave-output-tensor": (["Q8_0", "--leave-output-tensor"], {"qtype": "Q8_0", "leave_output_tensor": True}),
    "--arch": (["Q8_0", "--arch", "bert"], {"qtype": "Q8_0", "arch": "bert"}),
    "-j": (["Q8_0", "-j", "1"], {"qtype": "Q8_0"}),
    "-jN": (["Q8_0", "-j3"], {"qtype": "Q8_0"}),
    "--threads": (["Q8_0", "--threads", "2"], {"qtype": "Q8_0"}),
    "--no-progress": (["--no-progress", "Q8_0"], {"qtype": "Q8_0"}),
}  # fmt: skip


@pytest.mark.parametrize(("flags", "options"), FLAGS.values(), ids=FLAGS)
def test_quantize_does_what_quantize_model_does(flags, options, call, model, out, tmp_path):
    report = quantize_model(model, tmp_path / "expected.gguf", **options)
    status, text, err = call("quantize", model, out, *flags)
    assert status == 0
    assert out.read_bytes() == (tmp_path / "expected.gguf").read_bytes()
    assert err == "".join(f"quantcore: note: {notice}\n" for notice in report.notices)
    n_changed = sum(t.source_type != t.target_type for t in report.tensors)
    assert re.fullmatch(rf"{out}: {n_changed} of 5 tensors converted, .* -> .*, [\d.]+ bits a weight\n", text)


def test_threads_reach_the_library(call, model, out, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "quantcore.cli.convert.quantize_model", lambda *_, n_threads, **__: seen.append(n_threads) or 1 / 0
    )
    for flags in ([], ["-j", "7"]):
        with pytest.raises(ZeroDivisionError):
            call("quantize", model, out, "Q8_0", *flags)
    assert seen == [None, 7]


def test_sizes_in_the_summary(call, model, out):
    text = call("quantize", model, out, "Q4_0", "--pure").out
    # 4 matrices of 512 weights and 64 float32.
    assert "8.2 KiB -> 1.4 KiB" in text
    assert f"{8 * (4 * 288 + 256) / (4 * 512 + 64):.2f} bits a weight" in text


def test_requantize(call, model, out, tmp_path):
    quantize_model(model, tmp_path / "q8.gguf", "Q8_0")
    status, text, err = call("quantize", tmp_path / "q8.gguf", out, "Q4_0")
    assert (status, text) == (1, "") and is_one_line(err) and "--allow-requantize" in err
    assert call("quantize", tmp_path / "q8.gguf", out, "Q4_0", "--allow-requantize").status == 0
    quantize_model(tmp_path / "q8.gguf", tmp_path / "expected.gguf", "Q4_0", allow_requantize=True)
    assert out.read_bytes() == (tmp_path / "expected.gguf").read_bytes()


@pytest.mark.parametrize(("types", "expected"), [([], "F32"), (["f16"], "F16"), (["BF16", "-j", "2"], "BF16")])
def test_dequantize_does_what_dequantize_model_does(types, expected, call, model, out, tmp_path):
    quantize_model(model, tmp_path / "q.gguf", "Q4_0")
    dequantize_model(tmp_path / "q.gguf", tmp_path / "expected.gguf", expected)
    status, text, err = call("dequantize", tmp_path / "q.gguf", out, *types)
    assert (status, err) == (0, "") and "4 of 5 tensors converted" in text
    assert out.read_bytes() == (tmp_path / "expected.gguf").read_bytes()


def test_json_report(call, model, out, tmp_path):
    status, text, err = call("quantize", model, out, "Q4_0", "--json")
    report = quantize_model(model, tmp_path / "expected.gguf", "Q4_0")
    assert status == 0 and json.loads(text) == report.to_dict()
    assert err == f"quantcore: note: {report.notices[0]}\n"
    status, text, err = call("dequantize", out, tmp_path / "floats.gguf", "--json")
    assert (status, err) == (0, "")
    assert {t["target_type"] for t in json.loads(text)["tensors"]} == {"F32"}


def test_dry_run_shows_every_tensor_and_writes_nothing(call, model, out, tmp_path):
    status, text, err = call("quantize", model, out, "Q4_0", "--dry-run")
    assert status == 0 and is_one_line(err) and os.listdir(tmp_path) == ["in.gguf"]
    head, *rows, summary = [line.split() for line in text.splitlines()]
    assert head == ["tensor", "shape", "from", "to", "size"]
    report = quantize_model(model, out, "Q4_0")
    assert [row[:4] for row in rows] == [
        [t.name, "x".join(map(str, t.shape)), t.source_type, t.target_type] for t in report.tensors
    ]
    assert [row[4:] for row in rows if row[0] == "blk.0.attn_q.weight"] == [["288", "B"]]
    assert "4 of 5 tensors converted" in " ".join(summary)
    out.unlink()
    status, text, _ = call("quantize", model, out, "Q4_0", "--dry-run", "--json")
    assert json.loads(text) == report.to_dict() and not out.exists()


@pytest.mark.parametrize("command", [["quantize", "Q8_0"], ["dequantize", "F16"]])
def test_existing_output_needs_force(command, call, model, out):
    out.write_bytes(OLD)
    arguments = [command[0], model, out, command[1]]
    status, text, err = call(*arguments)
    assert (status, text) == (1, "") and is_one_line(err) and "--force" in err and str(out) in err
    assert out.read_bytes() == OLD
    assert call(*arguments, "--force").status == 0
    assert {t.name for t in gguf.GGUFReader(out).tensors} == {t.name for t in gguf.GGUFReader(model).tensors}


def test_inspect_gguf(call, model, out):
    quantize_model(model, out, "Q4_0", pure=True)
    status, text, err = call("inspect", out)
    assert (status, err) == (0, "")
    assert text.startswith(f"{out}: GGUF 3, 5 tensors, 1.4 KiB\n")
    assert re.search(r"^general\.architecture +llama$", text, re.MULTILINE)
    assert re.search(r"^output\.weight +8x64 +Q4_0 +288 B$", text, re.MULTILINE)
    status, text, err = call("inspect", out, "--json")
    description = json.loads(text)
    assert (status, err, description["path"], description["alignment"]) == (0, "", str(out), 32)
    fields = {n: f.contents() for n, f in gguf.GGUFReader(out).fields.items() if not n.startswith("GGUF.")}
    assert description["metadata"].keys() == fields.keys()
    assert all(value == pytest.approx(fields[name]) for name, value in description["metadata"].items())
    assert [(t["name"], t["shape"], t["type"], t["bytes"]) for t in description["tensors"]] == [
        (t.name, t.shape[::-1].tolist(), t.tensor_type.name, t.n_bytes) for t in gguf.GGUFReader(out).tensors
    ]


def test_inspect_values_that_json_has_no_numbers_for(call, tmp_path):
    key_values = [
        KeyValue("x.inf", float("inf"), "FLOAT32"),
        KeyValue("x.list", [1.5, float("nan"), float("-inf")], "ARRAY", "FLOAT64"),
        KeyValue("x.long", list(range(100)), "ARRAY", "INT32"),
        KeyValue("x.tokens", [b"\xff\n", "\u00e9"], "ARRAY", "STRING"),
    ]
    write_gguf(tmp_path / "in.gguf", [], key_values=key_values)
    status, text, err = call("inspect", tmp_path / "in.gguf", "--json")
    assert (status, err) == (0, "")
    metadata = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["metadata"]
    assert metadata["x.inf"] == "inf" and metadata["x.list"] == [1.5, "nan", "-inf"]
    assert metadata["x.long"]["length"] == 100 and metadata["x.tokens"] == ["\\xff\n", "\u00e9"]
    text = call("inspect", tmp_path / "in.gguf").out
    assert re.search(r"^x\.list +\[1\.5, nan, -inf\]$", text, re.MULTILINE)
    assert re.search(r"^x\.long +\[0, 1, .*\] \(100 items\)$", text, re.MULTILINE)


def test_inspect_safetensors(call, tmp_path):
    save_file({"a": normal(2, 3), "b": np.zeros(4, np.uint8)}, tmp_path / "model.safetensors", {"format": "pt"})
    for path in (tmp_path, tmp_path / "model.safetensors"):
        status, text, err = call("inspect", path)
        assert (status, err) == (0, "") and text.startswith(f"{path}: safetensors, 2 tensors, 28 B\n")
        assert re.search(r"^a +2x3 +F32 +24 B$", text, re.MULTILINE)
        description = json.loads(call("inspect", "--json", path).out)
        assert description["metadata"] == {"format": "pt"}
        assert {t["name"]: t["type"] for t in description["tensors"]} == {"a": "F32", "b": "U8"}


def test_demo(call):
    status, text, err = call("demo")
    assert (status, err) == (0, "")
    results = {result.format: result for result in evaluate_formats()}
    _, head, *lines = text.splitlines()
    assert re.split("  +", head.strip()) == ["format", "bits a weight", "size", "SQNR dB", "top-1 accuracy"]
    rows = {line.split()[0]: re.split("  +", line.strip())[1:] for line in lines}
    assert list(rows) == list(results) == ["F32", "F16", "BF16", "Q8_0", "Q4_0"]
    for name, (bits, size, sqnr, accuracy) in rows.items():
        result = results[name]
        assert bits == f"{result.bits_per_weight:.2f}" and size == f"{result.file_bytes / 1024:.1f} KiB"
        assert sqnr == ("exact" if name == "F32" else f"{result.sqnr_db:.1f}")
        assert accuracy == f"{100 * result.top1_accuracy:.2f} %"
    sizes = [float(rows[name][1].split()[0]) for name in ("Q4_0", "Q8_0", "F32")]
    assert sizes == sorted(set(sizes))
    reference = 100 * top1_accuracy(digits_weights())
    assert float(rows["F32"][3].split()[0]) == pytest.approx(reference, abs=0.005)
    assert float(rows["Q8_0"][3].split()[0]) == pytest.approx(reference, abs=0.5)


def test_demo_as_json(call):
    status, text, err = call("demo", "--json")
    assert (status, err) == (0, "")
    rows = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    results = evaluate_formats()
    for name in ("format", "bits_per_weight", "file_bytes", "top1_accuracy"):
        assert [row[name] for row in rows] == [getattr(result, name) for result in results]
    assert rows[-1]["layer_sqnr_db"] == results[-1].layer_sqnr_db


def test_demo_keeps_its_files(call, tmp_path):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        assert call("demo", "-o", folder).status == 0
    assert sorted(os.listdir(folder)) == [f"digits-{name}.gguf" for name in ("BF16", "F16", "F32", "Q4_0", "Q8_0")]
    reader = gguf.GGUFReader(folder / "digits-Q4_0.gguf")
    assert {t.name: t.tensor_type.name for t in reader.tensors}["fc2.weight"] == "Q4_0"
    assert [t.data.shape for t in reader.tensors if t.name == "fc2.weight"] == [(128, 256 // 32 * 18)]


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


@pytest.mark.parametrize("target", ["new/folder", "one.safetensors"])
@pytest.mark.parametrize(("flags", "quantize", "options"), CODES.values(), ids=CODES)
def test_checkpoint_to_four_bits(flags, quantize, options, target, call, checkpoint, tmp_path):
    status, text, err = call("quantize", checkpoint, tmp_path / target, *flags)
    assert status == 0 and text.startswith(f"{tmp_path / target}: 2 of 5 tensors converted, ")
    assert is_one_line(err) and "note: embed.weight: kept" in err
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
        assert set(config["quantization_config"]["llm_int8_skip_modules"]) - {"layers.1.table"} == {"embed"}
    assert call("inspect", tmp_path / target).status == 0


def test_exclude_keeps_weights(call, checkpoint, tmp_path):
    flags = ["--exclude", r"layers\.0", "--exclude", "embed"]
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
    assert status == 0 and is_one_line(err)
    assert re.search(r"^layers\.1\.q\.weight +64x64 +F16 +NF4 ", text, re.MULTILINE)
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


# Usage


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)], ids=["quantcore", *COMMANDS])
def test_help(arguments, call):
    status, text, err = call(*arguments, "--help")
    assert (status, err) == (0, "") and text.startswith(" ".join(["usage: quantcore", *arguments]))
    listed = COMMANDS if not arguments else ALL_FLAGS if arguments == ["quantize"] else ["--json"]
    assert [name for name in listed if name not in text] == []


def test_version(call):
    assert call("--version") == (0, f"quantcore {quantcore.__version__} ({quantcore.isa()})\n", "")


USAGE = {
    "nothing": ([], "COMMAND"),
    "unknown command": (["frobnicate"], "frobnicate"),
    "unknown command with a line break": ([NASTY], "b"),
    "no arguments": (["quantize"], "IN"),
    "no output": (["quantize", "in"], "OUT"),
    "no type": (["quantize", "in", "out"], "TYPE"),
    "unknown type": (["quantize", "in", "out", "Q9_9"], "Q9_9"),
    "type without kernels": (["quantize", "in", "out", "Q4_K"], "Q4_K"),
    "unknown flag": (["quantize", "in", "out", "Q4_0", "--frobnicate"], "--frobnicate"),
    "one argument more": (["quantize", "in", "out", "Q4_0", NASTY], "a"),
    "-j 0": (["quantize", "in", "out", "Q4_0", "-j", "0"], "-j"),
    "-j -1": (["quantize", "in", "out", "Q4_0", "-j", "-1"], "-j"),
    "-j 1.5": (["quantize", "in", "out", "Q4_0", "-j", "1.5"], "-j"),
    "-j two": (["dequantize", "in", "out", "-j", "two"], "-j"),
    "-j of 5000 digits": (["quantize", "in", "out", "Q4_0", "-j", "9" * 5000], "-j"),
    "--tensor-type without type": (["quantize", "in", "out", "Q4_0", "--tensor-type", "attn"], "--tensor-type"),
    "--tensor-type without regex": (["quantize", "in", "out", "Q4_0", "--tensor-type", "=Q8_0"], "--tensor-type"),
    "--tensor-type, no regex": (["quantize", "in", "out", "Q4_0", "--tensor-type", "(=Q8_0"], "--tensor-type"),
    "--tensor-type, no type": (["quantize", "in", "out", "Q4_0", "--tensor-type", "a=Q9"], "--tensor-type"),
    "--output-tensor-type": (["quantize", "in", "out", "Q4_0", "--output-tensor-type", "Q9"], "--output-tensor-type"),
    "--token-embedding-type": (["quantize", "in", "out", "Q4_0", "--token-embedding-type"], "--token-embedding-type"),
    "--pure with nf4": (["quantize", "in", "out", "nf4", "--pure"], "--pure"),
    "--tensor-type with fp4": (["quantize", "in", "out", "fp4", "--tensor-type", "a=Q8_0"], "--tensor-type"),
    "--double-quant with Q4_0": (["quantize", "in", "out", "Q4_0", "--double-quant"], "--double-quant"),
    "--block-size with Q8_0": (["quantize", "in", "out", "Q8_0", "--block-size", "64"], "--block-size"),
    "--block-size 33": (["quantize", "in", "out", "nf4", "--block-size", "33"], "--block-size"),
    "--block-size 8192": (["quantize", "in", "out", "nf4", "--block-size", "8192"], "--block-size"),
    "--exclude with F16": (["quantize", "in", "out", "F16", "--exclude", "a"], "--exclude"),
    "--exclude, no regex": (["quantize", "in", "out", "nf4", "--exclude", "("], "--exclude"),
    "dequantize to nf4": (["dequantize", "in", "out", "nf4"], "NF4"),
    "dequantize to Q4_0": (["dequantize", "in", "out", "Q4_0"], "Q4_0"),
    "inspect nothing": (["inspect"], "FILE"),
    "demo with an argument": (["demo", "x"], "x"),
}


@pytest.mark.parametrize(("arguments", "named"), USAGE.values(), ids=USAGE)
def test_usage_error_is_one_line_and_2(arguments, named, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, text, err = call(*arguments)
    assert (status, text) == (2, "") and is_one_line(err), err
    assert err.startswith("quantcore: error: ") and named in err and "--help shows the usage" in err
    assert os.listdir(tmp_path) == []


# Errors


def written(name: str, data: bytes = b"", *, folder: bool = False) -> Callable[[Path], Path]:
    def make(parent: Path) -> Path:
        path = parent / name
        path.mkdir() if folder else path.write_bytes(data)
        return path

    return make


BAD_INPUTS = {
    "missing": (lambda folder: folder / "missing.gguf", "No such file"),
    "missing, with a line break": (lambda folder: folder / NASTY, "No such file"),
    "empty folder": (written("model", folder=True), "has neither"),
    "empty file": (written("empty.gguf"), "magic"),
    "text": (written("text.gguf", b"hello " * 100), "magic"),
    "text as safetensors": (written("model.safetensors", b"hello " * 100), "header length"),
    "pickle": (written("model.bin", b"\x80\x02}q\x00."), "pickle"),
    "in a file": (lambda folder: written("a")(folder) / "b.gguf", "Not a directory"),
}


@pytest.mark.parametrize("command", ["quantize", "dequantize", "inspect"])
@pytest.mark.parametrize(("make", "problem"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_one_line_and_1(command, make, problem, call, tmp_path):
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    outputs = {
        "quantize": [tmp_path / "out", "Q4_0", "--json"],
        "dequantize": [tmp_path / "out"],
        "inspect": ["--json"],
    }
    status, text, err = call(command, path, *outputs[command])
    assert (status, text) == (1, "") and is_one_line(err), err
    assert err.startswith("quantcore: error: ") and problem in err
    assert str(path).replace(NASTY, "a") in err
    assert sorted(tmp_path.rglob("*")) == before


BAD_OUTPUTS = {
    "empty": (lambda folder: "", "output"),
    "missing folder": (lambda folder: folder / "missing" / "out.gguf", "No such file"),
    "in a file": (lambda folder: written("a")(folder) / "out.gguf", "Not a directory"),
    "folder": (written("folder", folder=True), "not a regular file"),
    "/dev/null": (lambda folder: "/dev/null", "not a regular file"),
    "the input": (lambda folder: folder / "in.gguf", "same file as the input"),
    "name too long": (lambda folder: folder / ("x" * 300), "File name too long"),
}


@pytest.mark.parametrize(("make", "problem"), BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
def test_bad_output_is_one_line_and_1(make, problem, call, model, monkeypatch):
    monkeypatch.chdir(model.parent)
    path = make(model.parent)
    before = sorted(model.parent.rglob("*"))
    status, text, err = call("quantize", model, path, "Q8_0", "--force")
    assert (status, text) == (1, "") and is_one_line(err) and problem in err, err
    assert sorted(model.parent.rglob("*")) == before


def test_bad_value_is_named(call, out, tmp_path):
    values = normal(4, 64)
    values[2, 3] = np.nan
    write_gguf(tmp_path / "in.gguf", [Tensor("blk.0.ffn_up.weight", values)])
    status, text, err = call("quantize", tmp_path / "in.gguf", out, "Q4_0")
    assert (status, text) == (1, "") and is_one_line(err)
    assert "'blk.0.ffn_up.weight'" in err and "nan" in err and "131" in err
    assert os.listdir(tmp_path) == ["in.gguf"]


def test_file_size_limit_is_one_line_and_1(call, model, out):
    out.write_bytes(OLD)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        status, text, err = call("quantize", model, out, "Q8_0", "--force")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (status, text, err) == (1, "", f"quantcore: error: {os.strerror(errno.EFBIG)}\n")
    assert out.read_bytes() == OLD and sorted(os.listdir(out.parent)) == ["in.gguf", "out.gguf"]


@pytest.mark.parametrize(("error", "line"), [(MemoryError(), "out of memory"), (MemoryError("x"), "out of memory (x)")])
def test_out_of_memory_is_one_line_and_1(error, line, call, model, out, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("quantcore.cli.convert.quantize_model", fail)
    assert call("quantize", model, out, "Q8_0") == (1, "", f"quantcore: error: {line}\n")


def test_names_cannot_drive_the_terminal(call, tmp_path):
    write_gguf(tmp_path / "in.gguf", [Tensor(f"{NASTY}.weight", normal(2, 33))])
    status, text, err = call("quantize", tmp_path / "in.gguf", tmp_path / NASTY, "Q4_0", "--dry-run")
    assert status == 0 and is_one_line(err) and "stored as F16" in err
    assert len(text.splitlines()) == 3 and all(line.isprintable() for line in text.splitlines())


def test_standard_output_outlives_an_error(capfd):
    assert main(["inspect", "/nonexistent"]) == 1
    os.write(1, b"still here")
    assert capfd.readouterr().out == "still here"


# As a program of its own


def test_program(model, out):
    assert run("--version").stdout == f"quantcore {quantcore.__version__} ({quantcore.isa()})\n"
    result = run("quantize", model, out, "Q4_0", "--json")
    assert result.returncode == 0 and len(json.loads(result.stdout)["tensors"]) == 5
    assert is_one_line(result.stderr) and "note: output.weight" in result.stderr
    result = run("quantize", model, out, "Q4_0")
    assert (result.returncode, result.stdout) == (1, "") and is_one_line(result.stderr)
    result = run("quantize", model)
    assert (result.returncode, result.stdout) == (2, "") and is_one_line(result.stderr)


def test_paths_that_are_no_text(model, tmp_path):
    output = tmp_path / os.fsdecode(b"caf\xe9.gguf")
    result = run("quantize", model, output, "Q8_0")
    assert (result.returncode, result.stderr) == (0, "") and "caf\\udce9.gguf: 4 of 5" in result.stdout
    result = run("inspect", output)
    assert (result.returncode, result.stderr) == (0, "")
    result = run("inspect", f"{output}x")
    assert result.returncode == 1 and is_one_line(result.stderr)


@pytest.fixture
def long_listing(tmp_path: Path) -> Path:
    """A model whose listing does not fit into a pipe."""
    write_gguf(
        tmp_path / "long.gguf", [Tensor(f"blk.{i}.a.very.long.name.of.a.vector", normal(1)) for i in range(3000)]
    )
    return tmp_path / "long.gguf"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_reader_that_goes_away(flags, long_listing):
    command = [*PROGRAM, "inspect", str(long_listing), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("arguments", [["inspect"], ["--help"], ["demo", "--json"]], ids=" ".join)
def test_reader_that_was_never_there(arguments, model):
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [*arguments, model] if arguments == ["inspect"] else arguments
    result = run(*arguments, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--json"], ["--help"]], ids=" ".join)
def test_full_standard_output_is_one_line_and_1(arguments, long_listing):
    arguments = [*arguments, long_listing] if "inspect" in arguments else arguments
    with open("/dev/full", "w") as full:
        result = run(*arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (1, f"quantcore: error: {os.strerror(errno.ENOSPC)}\n")


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_streams(closed, model, out):
    command = shlex.join([*PROGRAM, "quantize", str(model), str(out), "Q4_0"])
    result = subprocess.run(
        ["sh", "-c", f"{command} {closed}"], capture_output=True, env=ENVIRONMENT, text=True, timeout=60
    )
    assert result.returncode == 0 and "Traceback" not in result.stderr
    assert {t.name for t in gguf.GGUFReader(out).tensors} == {t.name for t in gguf.GGUFReader(model).tensors}
    result = subprocess.run(
        ["sh", "-c", f"{command} {closed}"], capture_output=True, env=ENVIRONMENT, text=True, timeout=60
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert is_one_line(result.stderr) == ("2>" not in closed)


def on_terminal(*arguments: object) -> tuple[int, bytes, bytes]:
    """Run with stderr on a terminal: exit status, stdout and what the terminal got."""
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    # Every step is shown, however fast it is.
    environment = ENVIRONMENT | {"TQDM_MININTERVAL": "0", "TERM": "xterm"}
    command = [*PROGRAM, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = bytearray()
        try:
            while data := os.read(master, 1 << 16):
                shown += data
        except OSError as error:
            assert error.errno == errno.EIO  # the terminal's other end is closed
        os.close(master)
        out = process.stdout.read()
    return process.returncode, out, bytes(shown)


def test_progress_bar_on_a_terminal(model, out, tmp_path):
    status, text, shown = on_terminal("quantize", model, out, "Q8_0")
    assert status == 0 and b"5 tensors converted" in text
    assert b"quantize: " in shown and b"100%" in shown and b"\n" not in shown
    status, text, shown = on_terminal("dequantize", out, tmp_path / "floats.gguf", "--json")
    assert status == 0 and json.loads(text)
    assert b"dequantize: " in shown and b"100%" in shown


@pytest.mark.parametrize("flags", [["--no-progress"], ["--dry-run", "--no-progress"]])
def test_no_progress_bar_if_it_is_not_wanted(flags, model, out):
    status, _, shown = on_terminal("quantize", model, out, "Q8_0", *flags)
    assert (status, shown) == (0, b"")


def test_error_on_a_terminal_is_a_line_of_its_own(model, out):
    out.write_bytes(OLD)
    status, text, shown = on_terminal("quantize", model, out, "Q8_0")
    assert (status, text) == (1, b"")
    assert shown.endswith(b"replaces it\r\n") and shown.split(b"\r")[-2].startswith(b"quantcore: error: ")


def test_no_progress_bar_without_a_terminal_or_tqdm(call, model, out, monkeypatch, capsys):
    assert call("quantize", model, out, "Q8_0").err == ""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["quantize", str(model), str(out), "Q8_0", "--force"]) == 0
    assert "quantize: " in terminal.getvalue()
    monkeypatch.setitem(sys.modules, "tqdm", None)
    terminal.truncate(0)
    assert main(["quantize", str(model), str(out), "Q8_0", "--force"]) == 0
    assert terminal.getvalue() == ""


# Python takes no notice of Ctrl-C in a process that was started in the background.
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from quantcore.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("force", [False, True])
def test_ctrl_c_leaves_nothing(force, tmp_path):
    source, folder = tmp_path / "in.gguf", tmp_path / "out"
    write_sparse_gguf(source, {"a.weight": (1 << 14, 1 << 15)})  # 2 GiB
    folder.mkdir()
    output = folder / "out.gguf"
    if force:
        output.write_bytes(OLD)
    command = [sys.executable, "-P", "-c", INTERRUPTIBLE, "quantize", str(source), str(output), "Q8_0", "--json"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, *["--force"] * force], text=True, env=ENVIRONMENT, **streams) as process:
        while not any(path.stat().st_size for path in folder.iterdir() if path != output):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        text, err = process.communicate(timeout=60)
    assert (process.returncode, text, err) == (130, "", "quantcore: interrupted\n")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == ({"out.gguf": OLD} if force else {})


def test_readers_agree_on_what_the_program_wrote(model, out):
    assert run("quantize", model, out, "Q4_0", "--pure").returncode == 0
    with GGUFReader(out) as ours:
        theirs = gguf.GGUFReader(out)
        assert [(t.name, t.offset, t.nbytes) for t in ours.tensors] == [
            (t.name, t.data_offset, t.n_bytes) for t in theirs.tensors
        ]

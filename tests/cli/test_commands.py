"""The command line: what each command and flag does, called in this process."""

import json
import os
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore.conversion import dequantize_model, quantize_model
from quantcore.demo.digits import DEFAULT_FORMATS, digits_weights, evaluate_formats, top1_accuracy
from tests.support.command_line import OLD, is_one_line, normal
from tests.support.models import KeyValue, gguf, write_gguf

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
    assert re.fullmatch(rf"{out}: {n_changed} of 5 tensors converted, .* -> .*, [\d.]+ bits per weight\n", text)


def test_threads_reach_the_library(call, model, out, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "quantcore.cli.quantize.quantize_model", lambda *_, n_threads, **__: seen.append(n_threads) or 1 / 0
    )
    for flags in ([], ["-j", "7"]):
        with pytest.raises(ZeroDivisionError):
            call("quantize", model, out, "Q8_0", *flags)
    assert seen == [None, 7]


def test_sizes_in_the_summary(call, model, out):
    text = call("quantize", model, out, "Q4_0", "--pure").out
    # 4 matrices of 512 weights and 64 float32.
    assert "8.2 KiB -> 1.4 KiB" in text
    assert f"{8 * (4 * 288 + 256) / (4 * 512 + 64):.2f} bits per weight" in text


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
    _, head, *lines, note = text.splitlines()
    assert note.startswith("Rows have 64, 256 and 128 weights")
    assert re.split("  +", head.strip()) == ["format", "bits per weight", "size", "SQNR dB", "top-1 accuracy"]
    rows = {line.split()[0]: re.split("  +", line.strip())[1:] for line in lines}
    assert list(rows) == list(results) and {"F32", "F16", "BF16", "Q8_0", "Q6_K", "Q4_0"} <= set(rows)
    for name, (bits, size, sqnr, accuracy) in rows.items():
        result = results[name]
        assert bits == f"{result.bits_per_weight:.2f}" and size == f"{result.file_bytes / 1024:.1f} KiB"
        assert sqnr == ("exact" if result.sqnr_db == float("inf") else f"{result.sqnr_db:.1f}")
        assert accuracy == f"{100 * result.top1_accuracy:.2f} %"
    sizes = [float(rows[name][1].split()[0]) for name in ("Q4_0", "Q8_0", "F32")]
    assert sizes == sorted(set(sizes))
    reference = 100 * top1_accuracy(digits_weights())
    assert float(rows["F32"][3].split()[0]) == pytest.approx(reference, abs=0.005)
    assert float(rows["Q8_0"][3].split()[0]) == pytest.approx(reference, abs=0.5)


@pytest.mark.slow
def test_demo_as_json(call):
    status, text, err = call("demo", "--json")
    assert (status, err) == (0, "")
    rows = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    results = evaluate_formats()
    for name in ("format", "bits_per_weight", "file_bytes", "top1_accuracy"):
        assert [row[name] for row in rows] == [getattr(result, name) for result in results]
    for row, result in zip(rows, results, strict=True):  # JSON has no number for the infinity of exact values
        assert {name: float(figure) for name, figure in row["layer_sqnr_db"].items()} == result.layer_sqnr_db


@pytest.mark.slow
def test_demo_keeps_its_files(call, tmp_path):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        assert call("demo", "-o", folder).status == 0
    assert set(os.listdir(folder)) == {f"digits-{t.name}.gguf" for t in DEFAULT_FORMATS}
    reader = gguf.GGUFReader(folder / "digits-Q4_0.gguf")
    assert {t.name: t.tensor_type.name for t in reader.tensors}["fc2.weight"] == "Q4_0"
    assert [t.data.shape for t in reader.tensors if t.name == "fc2.weight"] == [(128, 256 // 32 * 18)]

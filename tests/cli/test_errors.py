"""The command line used wrongly: one line for every error, and nothing else on either stream."""

import errno
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import quantcore
from quantcore.cli import main
from tests.support.command_line import OLD, is_one_line, normal
from tests.support.marks import slow_but_first
from tests.support.models import Tensor, write_gguf

COMMANDS = (
    "inspect",
    "suggest",
    "quantize",
    "compare",
    "report",
    "dequantize",
    "split",
    "merge",
    "imatrix",
    "calibrate",
    "bench",
    "demo",
    "doctor",
    "completion",
)
ALL_FLAGS = (
    "--pure", "--tensor-type", "--output-tensor-type", "--token-embedding-type", "--leave-output-tensor",
    "--allow-requantize", "--arch", "--dry-run", "-j", "--threads", "--force", "--json", "--no-progress",
    "--double-quant", "--block-size", "--exclude", "--imatrix", "--include-weights", "--exclude-weights",
    "--tensor-type-file", "--prune-layers", "--override-kv", "--no-fallback",
)  # fmt: skip
NASTY = "a\nb\x1b[2J\u202e"


# Usage


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)], ids=["quantcore", *COMMANDS])
def test_help(arguments, call):
    status, text, err = call(*arguments, "--help")
    assert (status, err) == (0, "") and text.startswith(" ".join(["usage: quantcore", *arguments]))
    flags = {"quantize": ALL_FLAGS, "imatrix": ("show", "merge"), "completion": ("bash", "zsh", "fish")}
    listed = COMMANDS if not arguments else flags.get(arguments[0], ("--json",))
    assert [name for name in listed if name not in text] == []


def test_commands_are_listed_in_the_order_of_a_workflow(call):
    text = call("--help").out
    assert re.findall(r"^    ([a-z]+)\b", text, re.MULTILINE) == list(COMMANDS)
    assert "exit codes: 0 done, 1 bad input or I/O, 2 usage, 3 quality gate failed" in text


def test_without_arguments_the_help_is_printed(call):
    assert call() == call("--help")


@pytest.mark.parametrize(
    "arguments", slow_but_first([[], *([command] for command in COMMANDS)], n_fast=2), ids=["quantcore", *COMMANDS]
)
def test_help_ends_with_an_example_that_works(arguments, call, tmp_path, monkeypatch):
    if arguments == ["report"]:
        pytest.importorskip("matplotlib")
    lines = call(*arguments, "--help").out.rpartition("\nexample:\n")[2].splitlines()
    monkeypatch.chdir(tmp_path)
    for line in lines:
        program, *words = shlex.split(line)
        if program == "quantcore":
            assert call(*words).status == 0
        else:
            assert program == "python"
            subprocess.run([sys.executable, *words], check=True)
    assert words[:1] == (arguments or ["demo"])


def test_version(call):
    assert call("--version") == (0, f"quantcore {quantcore.__version__} ({quantcore.isa()})\n", "")


USAGE = {
    "nothing but a flag": (["--json"], "--json; the flags of a command stand after its name"),
    "flag before the command": (["--json", "inspect", "in"], "--json; the flags of a command stand after its name"),
    "mistyped flag before the command": (["--verson"], "--verson; did you mean --version?"),
    "letter that is no flag": (["-v"], "unrecognized arguments: -v"),
    "unknown command": (["frobnicate"], "'frobnicate'; the commands are inspect, suggest, quantize"),
    "mistyped command": (["quantise", "in", "out", "Q4_0"], "'quantise'; did you mean quantize?"),
    "command in capitals": (["INSPECT"], "did you mean inspect?"),
    "mistyped flag": (["inspect", "in", "--jsno"], "--jsno; did you mean --json?"),
    "mistyped flag with a value": (["demo", "--ouptut=x"], "did you mean --output?"),
    "mistyped flag, and nothing else": (["inspect", "--jsno"], "--jsno; did you mean --json?"),
    "mistyped flag instead of one that must be": (["suggest", "in", "--bit-per-weight=4"], "mean --bits-per-weight?"),
    "mistyped flag where another must be": (["report", "a", "b", "--ouptut", "c"], "--ouptut; did you mean --output?"),
    "word with one dash": (["quantize", "-help"], "-help; did you mean --help?"),
    "flags alike": (["quantize", "in", "out", "Q4_0", "--purge"], "--purge; did you mean --pure?"),
    "flag that is cut short": (["compare", "a", "b", "--fail-under", "3"], "mean --fail-under-sqnr?"),
    "flag that is the beginning of others": (
        ["quantize", "in", "--output", "o", "F16"],
        "--output; OUT is given without",
    ),
    "flag for an argument": (["quantize", "in", "out", "--type", "Q4_0"], "--type Q4_0; TYPE is given without a flag"),
    "letter for an argument": (["dequantize", "in", "-o", "out"], "-o; OUT is given without a flag"),
    "value at a letter": (["suggest", "in", "-j4"], "--bits-per-weight --bytes is required"),
    "value at a letter, with =": (["suggest", "in", "-j=4"], "--bits-per-weight --bytes is required"),
    "flag after --": (["report", "--", "--ouptut", "c"], "-o/--output"),
    "mistyped word": (["calibrate", "in", "--method", "minmax"], "did you mean min_max?"),
    "mistyped inner command": (["imatrix", "shwo"], "did you mean show?"),
    "all parts": (["merge", "a", "b", "c", "d"], "c d; one part is enough, the others are found by its name"),
    "flag like no other": (["demo", "--qqqq"], "--qqqq (quantcore demo --help"),
    "unknown command with a line break": ([NASTY], "b"),
    "no arguments": (["quantize"], "IN"),
    "no output": (["quantize", "in"], "OUT"),
    "no type": (["quantize", "in", "out"], "TYPE"),
    "unknown type": (["quantize", "in", "out", "Q9_9"], "Q9_9"),
    "type without kernels": (["quantize", "in", "out", "Q8_K"], "Q8_K"),
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
    "--effort with nf4": (["quantize", "in", "out", "nf4", "--effort", "best"], "--effort"),
    "--effort most": (["quantize", "in", "out", "Q4_0", "--effort", "most"], "--effort"),
    "--tensor-type with fp4": (["quantize", "in", "out", "fp4", "--tensor-type", "a=Q8_0"], "--tensor-type"),
    "--double-quant with Q4_0": (["quantize", "in", "out", "Q4_0", "--double-quant"], "--double-quant"),
    "--block-size with Q8_0": (["quantize", "in", "out", "Q8_0", "--block-size", "64"], "--block-size"),
    "--block-size 33": (["quantize", "in", "out", "nf4", "--block-size", "33"], "--block-size"),
    "--block-size 8192": (["quantize", "in", "out", "nf4", "--block-size", "8192"], "--block-size"),
    "--exclude with F16": (["quantize", "in", "out", "F16", "--exclude", "a"], "--exclude"),
    "--exclude, no regex": (["quantize", "in", "out", "nf4", "--exclude", "("], "--exclude"),
    "dequantize to nf4": (["dequantize", "in", "out", "nf4"], "expected one of F32, F16, BF16, got 'nf4'"),
    "dequantize to float16": (["dequantize", "in", "out", "float16"], "'float16'; did you mean F16?"),
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


@pytest.mark.parametrize(
    ("name", "is_hub_name"),
    [
        ("someone/Model-1.5B", True),
        ("folder/Model-1.5B", False),
        ("someone/model.gguf", False),
        ("some/one/model", False),
        ("model", False),
        ("../model", False),
        ("someone/mo\ndel", False),
    ],
)
def test_a_name_of_the_hub_is_told_from_a_path(name, is_hub_name, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    status, text, err = call("quantize", name, "out.gguf", "Q4_0")
    assert (status, text) == (1, "") and is_one_line(err) and ": No such file or directory" in err
    assert (f"; if it is a model on the Hugging Face hub: hf download {name} --local-dir FOLDER" in err) == is_hub_name


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
    assert (status, text, err) == (1, "", f"quantcore: error: {out}: {os.strerror(errno.EFBIG)}\n")
    assert out.read_bytes() == OLD and sorted(os.listdir(out.parent)) == ["in.gguf", "out.gguf"]


@pytest.mark.parametrize(("error", "line"), [(MemoryError(), "out of memory"), (MemoryError("x"), "out of memory (x)")])
def test_out_of_memory_is_one_line_and_1(error, line, call, model, out, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("quantcore.cli.quantize.quantize_model", fail)
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

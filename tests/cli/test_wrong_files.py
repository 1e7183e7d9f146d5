"""The command line given a file of the wrong kind, a URL, or a name that it cannot print."""

import gzip
import io
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore import Calibrator
from quantcore.calibration.state_files import load_statistics, save_statistics
from tests.support.command_line import ENVIRONMENT, PROGRAM, is_one_line, normal, write_model

NAME = "clé.weight"


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, normal(2, 3))
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=normal(2, 3))
    return file.getvalue()


def zarr_in_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("air/zarr.json", "{}")
    return file.getvalue()


KINDS: dict[str, tuple[bytes, str, str]] = {
    "npy": (npy(), "a .npy array of NumPy", "quantcore calibrate takes it"),
    "npz": (npz(), "an .npz archive of NumPy", "quantcore calibrate takes it"),
    "parquet": (b"PAR1" + bytes(100), "a Parquet file", "quantcore calibrate takes it"),
    "zarr": (zarr_in_zip(), "a zarr array or group", "quantcore calibrate takes it"),
    "arrow": (b"ARROW1\0\0" + bytes(100), "an Arrow file", "save its columns"),
    "ggml": (b"lmgg" + bytes(100), "a ggml file from before GGUF", "llama.cpp's converters make a GGUF file of it"),
    "ggjt": (b"tjgg\x03\0\0\0" + bytes(100), "a ggml file from before GGUF", "llama.cpp's converters"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file", "safetensors or .npz"),
    "gzip": (gzip.compress(b"GGUF"), "a compressed file", "decompress it first"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS", "git lfs pull"),
    "html": (b"<!DOCTYPE html>\n<title>404</title>", "a page of HTML", "instead of sending the file"),
    "pickle": (b"\x80\x02}q\0.", "a pickle (PyTorch)", "pickle files are never opened; use safetensors"),
    "statistics": (b"", "a statistics file of quantcore calibrate", "quantcore calibrate --merge takes it"),
}


def write_kind(kind: str, path: Path) -> Path:
    if kind == "statistics":
        calibrator = Calibrator.min_max()
        calibrator.observe(normal(10))
        save_statistics(path, {"a": calibrator})
    else:
        path.write_bytes(KINDS[kind][0])
    return path


COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "inspect": lambda path, out: ["inspect", path],
    "quantize": lambda path, out: ["quantize", path, out, "Q8_0"],
    "quantize to nf4": lambda path, out: ["quantize", path, out.with_suffix(".safetensors"), "nf4"],
    "dequantize": lambda path, out: ["dequantize", path, out],
    "split": lambda path, out: ["split", path, out],
    "merge": lambda path, out: ["merge", path, out],
    "compare": lambda path, out: ["compare", path, path],
    "report": lambda path, out: ["report", path, path, "-o", out],
    "suggest": lambda path, out: ["suggest", path, "--bits-per-weight", "5"],
}


@pytest.mark.parametrize("suffix", ["bin", "gguf", "safetensors", "json"])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_file_is_called_by_its_right_name(kind, command, suffix, call, tmp_path):
    path = write_kind(kind, tmp_path / f"in.{suffix}")
    status, text, err = call(*COMMANDS[command](path, tmp_path / "out.gguf"))
    assert (status, text) == (1, "") and is_one_line(err), err
    if suffix == "json" and command == "quantize to nf4" and kind != "statistics":  # an index is JSON
        assert "not valid JSON" in err
    else:
        assert f"{path}: is {KINDS[kind][1]}, not " in err and KINDS[kind][2] in err
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("command", COMMANDS)
def test_text_is_no_model(command, call, tmp_path):
    (tmp_path / "in.csv").write_text("1.5,2.5,3.5\n" * 9)
    status, text, err = call(*COMMANDS[command](tmp_path / "in.csv", tmp_path / "out.gguf"))
    assert (status, text) == (1, "") and is_one_line(err)
    assert "in.csv: header length: " in err and ": no safetensors file, or one that was cut short" in err


@pytest.mark.parametrize("name", ["in.csv", "in"])
def test_text_is_nothing_to_calibrate_on(name, call, tmp_path):
    (tmp_path / name).write_text("1.5,2.5,3.5\n" * 9)
    status, text, err = call("calibrate", tmp_path / name)
    assert (status, text) == (1, "") and is_one_line(err)
    assert f"{name}: is no .npy, .npz, Parquet or zarr file, and no model in GGUF or safetensors" in err


def test_gguf_for_safetensors_and_the_other_way_round(call, tmp_path):
    gguf = write_model(tmp_path / "in.gguf")
    status, text, err = call("quantize", gguf, tmp_path / "out", "nf4")
    assert (status, text) == (1, "") and is_one_line(err)
    assert f"{gguf}: is a GGUF file, not safetensors: quantcore quantize takes it for GGUF types" in err
    (tmp_path / "model.safetensors").write_bytes(gguf.read_bytes())
    status, text, err = call("quantize", tmp_path, tmp_path / "out", "nf4")
    assert (status, text) == (1, "") and "model.safetensors: is a GGUF file, not safetensors" in err
    # Where both will do, the content decides.
    assert call("inspect", tmp_path / "model.safetensors").out.split(": ")[1].startswith("GGUF 3")
    save_file({"a": normal(2, 32)}, tmp_path / "renamed.gguf")
    assert call("inspect", tmp_path / "renamed.gguf").out.split(": ")[1].startswith("safetensors")
    assert not (tmp_path / "out").exists()


def test_calibrate_and_its_statistics(call, tmp_path):
    stats = write_kind("statistics", tmp_path / "stats.json")
    status, text, err = call("calibrate", stats)
    assert (status, text) == (1, "") and is_one_line(err)
    assert "is a statistics file of quantcore calibrate" in err and "quantcore calibrate --merge takes it" in err
    for kind in ("npy", "npz", "parquet", "zarr"):
        status, text, err = call("calibrate", "--merge", stats, write_kind(kind, tmp_path / "x"))
        assert (status, text) == (1, "") and is_one_line(err)
        assert KINDS[kind][1] in err and "without --merge" in err
    assert call("calibrate", "--merge", stats).status == 0


def test_a_missing_output_folder_is_named(call, tmp_path):
    model = write_model(tmp_path / "in.gguf")
    stats = write_kind("statistics", tmp_path / "stats.json")
    out = tmp_path / "no such folder" / "out"
    for arguments in (
        ["quantize", model, out, "Q8_0"],
        ["dequantize", model, out.with_suffix(".gguf")],
        ["report", model, model, "-o", out],
        ["calibrate", "--merge", stats, "-o", out],
    ):
        status, text, err = call(*arguments)
        assert (status, text) == (1, "") and is_one_line(err)
        assert f"to the folder {tmp_path}/no such folder: No such file or directory" in err and "partial" not in err


def test_urls_are_no_paths(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path / "in.gguf")
    np.save("x.npy", normal(3))
    url = "s3://bucket/folder//model.gguf"
    for arguments in (
        *(make(url, tmp_path / "out.gguf") for name, make in COMMANDS.items() if name != "quantize to nf4"),
        ["quantize", url, "out", "nf4"],
        ["calibrate", url],
        ["calibrate", "--merge", url],
        ["quantize", model, url, "Q8_0"],
        ["dequantize", model, url],
        ["report", model, model, "-o", url],
        ["calibrate", "x.npy", "-o", url],
        ["demo", "-o", url],
    ):
        status, text, err = call(*arguments)
        assert (status, text) == (1, "") and is_one_line(err), arguments
        assert f"{url}: is a URL; only paths of the local file system" in err
    assert sorted(os.listdir(tmp_path)) == ["in.gguf", "x.npy"]


# Standard output


def test_statistics_on_stdout(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", normal(40))
    status, text, err = call("calibrate", "x.npy", "-o", "-")
    assert (status, err) == (0, "") and os.listdir(tmp_path) == ["x.npy"]
    assert call("calibrate", "x.npy", "-o", "s.json").status == 0
    assert text == Path("s.json").read_text()
    Path("again.json").write_text(text)
    assert load_statistics("again.json")["values"].num_batches == 1
    assert call("calibrate", "--merge", "s.json", "-o", "-").out == text
    status, text, err = call("calibrate", "x.npy", "-o", "-", "--json")
    assert (status, text) == (2, "") and is_one_line(err) and "--json" in err


def test_other_outputs_are_files(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "in.gguf")
    for arguments in (
        ["quantize", "in.gguf", "-", "Q8_0"],
        ["dequantize", "in.gguf", "-"],
        ["report", "in.gguf", "in.gguf", "-o", "-"],
        ["demo", "-o", "-"],
    ):
        status, text, err = call(*arguments)
        assert (status, text) == (2, "") and is_one_line(err) and "not stdout; ./- is a file of this name" in err
    assert os.listdir(tmp_path) == ["in.gguf"]
    assert call("quantize", "in.gguf", "./-", "Q8_0").status == 0
    assert sorted(os.listdir(tmp_path)) == ["-", "in.gguf"]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "cp437"])
def test_names_that_stdout_cannot_encode_are_escaped(encoding, tmp_path):
    save_file({NAME: normal(8, 64), "名.weight": normal(8, 64)}, tmp_path / "é.safetensors")
    out = tmp_path / "ü.gguf"

    def run(*arguments: object) -> subprocess.CompletedProcess[bytes]:
        command = [*PROGRAM, *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, env=ENVIRONMENT | {"PYTHONIOENCODING": encoding}, timeout=60
        )

    for arguments in (
        ["quantize", tmp_path / "é.safetensors", out, "Q8_0"],
        ["inspect", out],
        ["inspect", out, "--json"],
        ["compare", tmp_path / "é.safetensors", out],
        ["suggest", tmp_path / "é.safetensors", "--bits-per-weight", "9"],
        ["calibrate", tmp_path / "é.safetensors", "-o", tmp_path / "ö.json"],
        ["dequantize", out, tmp_path / "ä.gguf"],
    ):
        child = run(*arguments)
        assert child.returncode == 0 and b"Traceback" not in child.stderr, (arguments, child.stderr)
        assert child.stdout
    assert b"\\u540d.weight" in run("inspect", out).stdout
    assert ("clé".encode(encoding.split(":")[0], "backslashreplace")) in run("inspect", out).stdout


@pytest.mark.slow
def test_a_full_disk_under_stdout_is_named():
    with open("/dev/full", "wb") as full:
        child = subprocess.run([*PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=60)
    assert child.returncode == 1
    assert child.stderr == b"quantcore: error: standard output: No space left on device\n"


# Arguments and settings


PATTERNS = {
    "a{99999999999999}": "the repetition number is too large",
    "(" * 5000 + ")" * 5000: "it is nested too deeply",
    "(" * 200_000: "it is nested too deeply",
    "(?L)a": "flag",
    "(": "missing )",
    "a\nb(": "missing )",
}


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: repr(pattern)[:20])
def test_patterns_that_python_cannot_compile(pattern, call):
    for arguments in (
        ["quantize", "in", "out", "Q8_0", "--tensor-type", f"{pattern}=Q8_0"],
        ["quantize", "in", "out", "nf4", "--exclude", pattern],
        ["calibrate", "in", "--exclude", pattern],
    ):
        status, text, err = call(*arguments)
        assert (status, text) == (2, "") and is_one_line(err) and len(err) < 400
        assert "is not a regular expression" in err and PATTERNS[pattern] in err


def test_a_pattern_that_python_warns_of(call, tmp_path):
    model = write_model(tmp_path / "in.gguf")
    status, _, err = call("quantize", model, tmp_path / "out.gguf", "Q8_0", "--tensor-type", "[[a]ttn=Q8_0")
    assert (status, err) == (0, "")


@pytest.mark.parametrize("text", ["9" * 5000, "x" * 5000, "-" + "9" * 5000])
def test_long_numbers_are_one_short_line(text, call):
    for arguments in (
        ["quantize", "in", "out", "Q8_0", f"-j={text}"],
        ["quantize", "in", "out", "nf4", f"--block-size={text}"],
        ["calibrate", "in", f"--axis={text}"],
        ["calibrate", "in", f"--bits={text}"],
        ["calibrate", "in", f"--lower={text}x", "--method=percentile"],
        ["bench", f"--size={text}"],
        ["bench", f"--seed={text}"],
        ["compare", "a", "b", f"--fail-under-sqnr={text}"],
    ):
        status, out, err = call(*arguments)
        assert (status, out) == (2, "") and is_one_line(err) and len(err) < 400, arguments


@pytest.mark.slow
def test_a_backend_that_matplotlib_does_not_know(tmp_path):
    pytest.importorskip("matplotlib")
    model = write_model(tmp_path / "in.gguf")
    command = [*PROGRAM, "report", str(model), str(model), "-o", str(tmp_path / "r.html")]
    environment = ENVIRONMENT | {"MPLBACKEND": "foo"}
    child = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert (child.returncode, child.stdout) == (1, "") and is_one_line(child.stderr)
    assert "MPLBACKEND: 'foo': matplotlib does not accept it" in child.stderr


TWICE = """
import os
from quantcore._base.plotting import import_matplotlib
for _ in range(2):
    try:
        import_matplotlib("plot")
    except ValueError as error:
        print(str(error)[:18])
del os.environ["MPLBACKEND"]
print(import_matplotlib("plot").figure.Figure.__name__)
"""


@pytest.mark.slow
def test_matplotlib_can_be_imported_once_its_backend_is_right():
    pytest.importorskip("matplotlib")
    command = [PROGRAM[0], "-c", TWICE]
    child = subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT | {"MPLBACKEND": "foo"}, timeout=120
    )
    assert (child.stdout, child.stderr) == ("MPLBACKEND: 'foo':\n" * 2 + "Figure\n", "")

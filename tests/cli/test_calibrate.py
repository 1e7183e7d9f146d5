"""`quantcore calibrate` does what the library does, and says in one line what is wrong."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcore import Calibrator
from quantcore.calibration.files import calibrate_files
from quantcore.calibration.state_files import load_statistics, save_statistics
from quantcore.cli import main
from tests.conftest import Result
from tests.support.command_line import ENVIRONMENT, PROGRAM, is_one_line

F32 = np.float32


@pytest.fixture
def call(call: Callable[..., Result]) -> Callable[..., Result]:
    """As conftest's, of this command."""
    return lambda *arguments: call("calibrate", *arguments)


@pytest.fixture
def data(tmp_path: Path, rng: np.random.Generator) -> list[Path]:
    """Three batches of two activations."""
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.npz")
        np.savez(paths[-1], fc1=rng.standard_normal((5, 60)).astype(F32), fc2=rng.standard_normal((5, 7)))
    return paths


FLAGS: dict[str, tuple[list[str], Calibrator]] = {
    "default": ([], Calibrator.min_max()),
    "min_max": (["--method", "min_max"], Calibrator.min_max()),
    "dashes": (["--method", "Min-Max"], Calibrator.min_max()),
    "bits": (["--bits", "4"], Calibrator.min_max(4)),
    "asymmetric": (["--asymmetric"], Calibrator.min_max(8, False)),
    "axis": (["--axis", "0"], Calibrator.min_max(axis=0)),
    "axis from the end": (["--axis", "-1", "--method=percentile"], Calibrator.percentile(axis=-1)),
    "full range": (["--full-range"], Calibrator.min_max(narrow_range=False)),
    "percentile": (["--method", "percentile"], Calibrator.percentile()),
    "percentiles": (
        ["--method", "percentile", "--lower", "1", "--upper=98.5", "--asymmetric"],
        Calibrator.percentile(8, False, 1, 98.5),
    ),
    "moving average": (["--method", "moving_average"], Calibrator.moving_average()),
    "constant": (
        ["--method", "moving-average", "--averaging-constant", "0.5"],
        Calibrator.moving_average(averaging_constant=0.5),
    ),
    "entropy": (["--method", "entropy", "--axis", "0"], Calibrator.entropy(axis=0)),
    "threads": (["-j", "1"], Calibrator.min_max()),
}


@pytest.mark.parametrize(("flags", "calibrator"), FLAGS.values(), ids=FLAGS)
def test_does_what_calibrate_files_does(flags, calibrator, call, data, tmp_path):
    wanted = calibrate_files(data, calibrator)
    status, text, err = call(*data, *flags, "-o", tmp_path / "stats.json")
    assert (status, err) == (0, "")
    found = load_statistics(tmp_path / "stats.json")
    assert {name: c.to_dict() for name, c in found.items()} == {name: c.to_dict() for name, c in wanted.items()}
    head, *rows = text.splitlines()
    assert head.split()[:4] == ["array", "method", "bits", "scales"]
    assert [row.split()[:2] for row in rows] == [[name, calibrator.method.name] for name in ("fc1", "fc2")]
    for row, result in zip(rows, (c.compute() for c in wanted.values()), strict=True):
        assert f"{np.min(result.scale):.6g}" in row
        assert str(np.size(result.scale)) == row.split()[3]


def test_json_is_all_there_is_on_stdout(call, data, tmp_path):
    status, text, err = call(*data, "--json", "--method", "entropy")
    assert (status, err) == (0, "")
    content = json.loads(text)
    wanted = {name: c.compute().to_dict() for name, c in calibrate_files(data, Calibrator.entropy()).items()}
    assert content == {"output": None, "results": wanted}
    assert list(tmp_path.glob("*.json")) == []
    content = json.loads(call(*data, "--json", "-o", tmp_path / "s.json").out)
    assert content["output"] == str(tmp_path / "s.json")


def test_merging_is_calibrating_on_all(call, data, tmp_path):
    for i, path in enumerate(data):
        assert call(path, "--method", "percentile", "-o", tmp_path / f"s{i}.json").status == 0
    parts = [tmp_path / f"s{i}.json" for i in range(3)]
    status, text, err = call("--merge", *parts, "-o", tmp_path / "merged.json")
    assert (status, err) == (0, "")
    assert text == call(*data, "--method", "percentile", "-o", tmp_path / "whole.json").out
    assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_excluded_arrays_are_left_out(call, data):
    assert "fc2" in call(*data).out
    assert "fc2" not in call(*data, "--exclude", "2$").out
    status, _, err = call(*data, "--exclude", "fc")
    assert status == 1
    assert "no arrays" in err


def test_an_existing_output_needs_force(call, data, tmp_path):
    path = tmp_path / "stats.json"
    path.write_text("precious")
    status, text, err = call(*data, "-o", path)
    assert (status, text) == (1, "")
    assert is_one_line(err)
    assert "--force" in err
    assert path.read_text() == "precious"
    assert call(*data, "-o", path, "--force").status == 0
    assert set(load_statistics(path)) == {"fc1", "fc2"}


@pytest.mark.parametrize("flags", [[], ["--merge"]])
def test_the_output_cannot_be_an_input(flags, call, data, tmp_path):
    source = data[0]
    if flags:
        source = tmp_path / "a.json"
        save_statistics(source, calibrate_files(data, Calibrator.min_max()))
    before = source.read_bytes()
    status, _, err = call(*flags, source, "-o", source, "--force")
    assert status == 1
    assert "same file as the input" in err
    assert source.read_bytes() == before


USAGE: dict[str, tuple[list[str], str]] = {
    "no files": ([], "FILE"),
    "unknown method": (["x", "--method", "kl"], "--method"),
    "bits 9": (["x", "--bits", "9"], "bits"),
    "bits a float": (["x", "--bits", "8.0"], "--bits"),
    "axis a word": (["x", "--axis", "first"], "--axis"),
    "lower without percentile": (["x", "--lower", "1"], "--lower goes with --method percentile"),
    "upper with mse": (["x", "--method", "mse", "--upper", "99"], "--upper"),
    "constant with min_max": (["x", "--averaging-constant", "0.1"], "--averaging-constant"),
    "constant 0": (["x", "--method", "moving_average", "--averaging-constant", "0"], "averaging_constant"),
    "percentile 101": (["x", "--method", "percentile", "--upper", "101"], "upper"),
    "percentile NaN": (["x", "--method", "percentile", "--lower", "nan"], "lower"),
    "percentiles crossed": (["x", "--method", "percentile", "--lower", "60", "--upper", "40"], "lower"),
    "full range and asymmetric": (["x", "--full-range", "--asymmetric"], "--full-range"),
    "method with merge": (["x", "--merge", "--method", "mse"], "--method does not go with --merge"),
    "axis 0 with merge": (["x", "--merge", "--axis", "0"], "--axis"),
    "exclude with merge": (["x", "--merge", "--exclude", "a"], "--exclude"),
    "asymmetric with merge": (["x", "--merge", "--asymmetric"], "--asymmetric"),
    "a bad pattern": (["x", "--exclude", "("], "--exclude"),
    "no threads": (["x", "-j", "0"], "--threads"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage(case, call):
    arguments, problem = USAGE[case]
    status, text, err = call(*arguments)
    assert (status, text) == (2, "")
    assert is_one_line(err)
    assert problem in err


def test_bad_input_is_one_line(call, data, tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\1\0")
    (tmp_path / "bad.json").write_text('{"format": 1}')
    np.save(tmp_path / "nan.npy", np.array([1, np.nan]))
    np.save(tmp_path / "object.npy", np.array([None]), allow_pickle=True)
    for arguments, problem in (
        ([tmp_path / "none.npy"], "No such file"),
        ([tmp_path / "bad.npy"], "header length"),
        ([tmp_path / "object.npy"], "object array"),
        ([tmp_path / "nan.npy"], "nan.npy: must be finite, got nan"),
        ([*data, "--axis", "2"], "axis 2 is out of range"),
        (["--merge", tmp_path / "bad.json"], "format"),
        (["--merge", data[0]], "not valid JSON"),
    ):
        status, text, err = call(*arguments, "-o", tmp_path / "out.json")
        assert (status, text) == (1, ""), arguments
        assert is_one_line(err)
        assert problem in err
        assert not (tmp_path / "out.json").exists()


def test_progress_bar(data, capsys, monkeypatch):
    pytest.importorskip("tqdm")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["calibrate", *map(str, data)]) == 0
    assert "calibrate: " in terminal.getvalue()
    terminal.truncate(0)
    terminal.seek(0)
    assert main(["calibrate", *map(str, data), "--no-progress"]) == 0
    assert terminal.getvalue() == ""


@pytest.mark.slow
def test_as_a_program(data, tmp_path):
    def program(*arguments: object) -> Any:
        command = [*PROGRAM, "calibrate", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)

    child = program(*data, "--method", "moving-average", "-o", tmp_path / "s.json", "--json")
    assert (child.returncode, child.stderr) == (0, "")
    assert set(json.loads(child.stdout)["results"]) == {"fc1", "fc2"}
    child = program("--merge", tmp_path / "s.json", tmp_path / "s.json")
    assert (child.returncode, child.stdout) == (1, "")
    assert "moving averages do not merge" in child.stderr
    assert is_one_line(child.stderr)

"""`split`, `merge` and the split models of the other commands."""

import json

import pytest

from tests.support.command_line import is_one_line, write_model


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_model(tmp_path / "in.gguf")


def test_split_and_merge(model, call, tmp_path):
    status, text, err = call("split", "in.gguf", "parts", "--split-max-tensors", 2, "-j1")
    assert (status, err) == (0, "") and "parts-00003-of-00003.gguf" in text
    status, text, err = call("merge", "parts-00002-of-00003.gguf", "out.gguf", "--json")
    assert (status, err) == (0, "")
    assert json.loads(text)["parts"] == [{"path": "out.gguf", "n_tensors": 5, "n_bytes": 4 * 2048 + 256}]
    assert call("compare", "in.gguf", "parts-00001-of-00003.gguf")[0] == 0
    assert "GGUF 3 in 3 parts, 5 tensors" in call("inspect", "parts-00001-of-00003.gguf")[1]
    for output in (["kept.gguf", "Q8_0", "--keep-split"], ["cut", "Q8_0", "--split-max-size", "2K"]):
        status, text, _ = call("quantize", "parts-00001-of-00003.gguf", *output)
        assert status == 0 and f"{output[0][:3]}" in text and ".gguf to 0000" in text
    assert len(list(tmp_path.glob("kept-*"))) == 3 and len(list(tmp_path.glob("cut-*"))) > 1
    (tmp_path / "parts-00002-of-00003.gguf").unlink()
    for command in (["inspect"], ["quantize", "x.gguf", "Q8_0"], ["merge", "x.gguf"], ["compare", "in.gguf"]):
        status, text, err = call(command[0], "parts-00001-of-00003.gguf", *command[1:])
        assert (status, text) == (1, "") and is_one_line(err)
        assert "parts-00002-of-00003.gguf: part 2 of 3 is missing" in err
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("flags", [
    ("--split-max-size", "5T"), ("--split-max-size", "0M"), ("--split-max-size", "M"), ("--split-max-tensors", "0"),
    ("--split-max-size", "-1G"), ("--split-max-size", "1G", "--split-max-tensors", "1"),
])  # fmt: skip
def test_usage(flags, model, call):
    for command in (["split", "in.gguf", "x"], ["quantize", "in.gguf", "x", "Q8_0"]):
        status, text, err = call(*command, *flags)
        assert (status, text) == (2, "") and is_one_line(err) and flags[0] in err
    status, _, err = call("quantize", "in.gguf", "x", "nf4", *flags[:1], "1")
    assert status == 2

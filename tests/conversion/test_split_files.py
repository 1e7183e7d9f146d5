"""Split models: the parts of gguf-split and of llama-quantize's `keep_split` byte for byte, all of them or none."""

import json
from pathlib import Path

import numpy as np
import pytest

from quantcore.conversion import dequantize_model, merge_model, quantize_model, split_model
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError, OutputFileError
from quantcore.gguf import open_gguf
from tests.support import gguf_split, llama_client
from tests.support.make_golden_splits import CASES, MAX_TENSORS, PATH
from tests.support.model_files import contents, normal, write_model
from tests.support.quantize_cases import SOURCES, digest

needs_xllamacpp = pytest.mark.skipif(not llama_client.is_installed("xllamacpp"), reason="needs xllamacpp")
LIMITS = [
    {"max_tensors": 20},
    {"max_tensors": 1, "no_tensor_first": True},
    {"max_tensors": 75},
    {"max_size": 20_000},
    {"max_size": 16 * 1024, "no_tensor_first": True},
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "llama.gguf"
    path.write_bytes(SOURCES["llama"].build())
    return path


def parts_of(prefix: Path) -> list[Path]:
    return sorted(prefix.parent.glob(f"{prefix.name}-?????-of-?????.gguf"))


@needs_xllamacpp
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_split_and_merge_give_the_files_of_gguf_split(limits, source, tmp_path):
    n_parts = gguf_split.split(source, tmp_path / "theirs", **limits)
    report = split_model(source, tmp_path / "ours.gguf", **limits)
    ours, theirs = parts_of(tmp_path / "ours"), parts_of(tmp_path / "theirs")
    assert len(ours) == len(theirs) == n_parts and [part.path for part in report.parts] == list(map(str, ours))
    for a, b in zip(ours, theirs, strict=True):
        assert a.read_bytes() == b.read_bytes()
    gguf_split.merge(theirs, tmp_path / "theirs.gguf")
    merge_model(ours[-1], tmp_path / "ours.gguf")
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()
    # What was merged is cut anew, and so is what is split.
    gguf_split.split(tmp_path / "theirs.gguf", tmp_path / "again", max_tensors=30)
    for i, given in enumerate((tmp_path / "ours.gguf", ours[0])):
        split_model(given, tmp_path / f"mine{i}", max_tensors=30)
        for a, b in zip(parts_of(tmp_path / f"mine{i}"), parts_of(tmp_path / "again"), strict=True):
            assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("name", CASES)
def test_keep_split_gives_the_files_of_llama_quantize(name, tmp_path):
    model, file_type, ours, _ = CASES[name]
    source = tmp_path / "in.gguf"
    source.write_bytes(SOURCES[model].build())
    report = split_model(source, tmp_path / "in", max_tensors=MAX_TENSORS)
    report = quantize_model(report.parts[1].path, tmp_path / "out.gguf", file_type, keep_split=True, **ours)
    found = [digest(path.read_bytes()) for path in parts_of(tmp_path / "out")]
    assert found == json.loads(PATH.read_text())["files"][name] and len(found) == len(report.parts) > 1


def test_a_split_model_is_one_model(source, tmp_path):
    parts = split_model(source, tmp_path / "in", max_tensors=10).parts
    quantize_model(source, tmp_path / "whole.gguf", "Q4_K_M")
    quantize_model(parts[3].path, tmp_path / "joined.gguf", "Q4_K_M")
    assert (tmp_path / "joined.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    dequantize_model(parts[0].path, tmp_path / "floats.gguf", "F16")
    with open_gguf(tmp_path / "floats.gguf") as model:
        assert len(model.tensors) == 75 and model.value("split.count") is None


def test_quantized_parts_are_those_of_the_quantized_file(source, tmp_path):
    quantize_model(source, tmp_path / "whole.gguf", "Q4_K_M")
    for ours, theirs in (
        ({"split_max_size": 9000}, {"max_size": 9000}),
        ({"split_max_tensors": 9}, {"max_tensors": 9}),
    ):
        report = quantize_model(source, tmp_path / "a", "Q4_K_M", force=True, **ours)
        split_model(tmp_path / "whole.gguf", tmp_path / "b", force=True, **theirs)
        made = [Path(path) for path in report.parts]
        assert len(made) > 2 and all(path.name.startswith("a-0") for path in made)
        for path in made:
            assert path.read_bytes() == path.with_name("b" + path.name[1:]).read_bytes()


def test_one_part_is_called_a_part(source, tmp_path):
    report = quantize_model(source, tmp_path / "out.gguf", "Q8_0", keep_split=True)
    quantize_model(source, tmp_path / "plain.gguf", "COPY")
    (path,) = report.parts
    assert path.endswith("out-00001-of-00001.gguf")
    with open_gguf(path) as model:
        assert model.value("split.count") is None and [t.name for t in model.tensors] == list(SOURCES["llama"].tensors)


def test_values_are_copied_as_they_are(tmp_path):
    values = np.array([[np.nan, np.inf] * 16], np.float32)
    write_model(tmp_path / "in.gguf", ("a.weight", values), ("b.weight", values))
    parts = split_model(tmp_path / "in.gguf", tmp_path / "in", max_tensors=1).parts
    merge_model(parts[0].path, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes().count(values.tobytes()) == 2


def test_all_parts_appear_or_none(source, tmp_path):
    split_model(source, tmp_path / "in", max_tensors=20)
    (tmp_path / "out-00003-of-00004.gguf").write_bytes(b"old")
    with pytest.raises(OutputFileError, match=r"out-00003-of-00004\.gguf: exists already"):
        split_model(source, tmp_path / "out", max_tensors=20)
    assert parts_of(tmp_path / "out") == [tmp_path / "out-00003-of-00004.gguf"]
    write_model(tmp_path / "bad.gguf", ("a.weight", normal(2, 32)), ("b.weight", np.full((2, 32), np.nan, np.float32)))
    with pytest.raises(InvalidValueError, match=r"tensor 'b\.weight': must be finite"):
        quantize_model(tmp_path / "bad.gguf", tmp_path / "worse", "Q8_0", split_max_tensors=1)
    assert parts_of(tmp_path / "worse") == [] and not list(tmp_path.glob(".*"))
    with pytest.raises(OutputFileError, match="is the same file as the input"):
        quantize_model(tmp_path / "in-00002-of-00004.gguf", tmp_path / "in", "Q8_0", keep_split=True, force=True)


def test_a_dry_run_writes_nothing(source, tmp_path):
    report = split_model(source, tmp_path / "out", max_size=100_000, dry_run=True)
    assert sum(part.n_tensors for part in report.parts) == 75 and parts_of(tmp_path / "out") == []
    assert sum(part.n_bytes for part in report.parts) == 276 * 1024


def test_parts_at_the_end_without_tensors_are_left_out(tmp_path):
    matrices = [(f"blk.{i}.attn_q.weight", normal(2, 32, seed=i)) for i in range(4)]
    path = write_model(tmp_path / "in.gguf", *matrices)
    split_model(path, tmp_path / "in", max_tensors=1)
    first = tmp_path / "in-00001-of-00004.gguf"
    quantize_model(first, tmp_path / "out", "Q8_0", keep_split=True, prune_layers=[2, 3])
    quantize_model(first, tmp_path / "one", "Q8_0", keep_split=True, prune_layers=[1, 2, 3])
    assert [part.name for part in parts_of(tmp_path / "out")] == ["out-00001-of-00002.gguf", "out-00002-of-00002.gguf"]
    assert [part.name for part in parts_of(tmp_path / "one")] == ["one-00001-of-00001.gguf"]
    merge_model(tmp_path / "out-00001-of-00002.gguf", tmp_path / "merged.gguf")
    quantize_model(path, tmp_path / "whole.gguf", "Q8_0", prune_layers=[2, 3])
    assert contents(tmp_path / "merged.gguf") == contents(tmp_path / "whole.gguf")


def test_refusals(source, tmp_path):
    with pytest.raises(FileFormatError, match=r"llama\.gguf: split\.count: missing or 0"):
        merge_model(source, tmp_path / "out.gguf")
    with pytest.raises(InvalidValueError, match="only one of the two"):
        split_model(source, tmp_path / "out", max_size=1, max_tensors=1)
    with pytest.raises(InvalidValueError, match="max_tensors: expected"):
        split_model(source, tmp_path / "out", max_tensors=0)
    with pytest.raises(InvalidValueError, match="keep_split, split_max_size: only one"):
        quantize_model(source, tmp_path / "out", "Q8_0", keep_split=True, split_max_size=5)
    with pytest.raises(InvalidTypeError, match="split_max_tensors"):
        quantize_model(source, tmp_path / "out", "Q8_0", split_max_tensors="5")
    split_model(source, tmp_path / "in", max_tensors=2)
    with pytest.raises(InvalidValueError, match=r"keep_split: part \d+ of 38 would have no tensors"):
        quantize_model(tmp_path / "in-00001-of-00038.gguf", tmp_path / "out", "Q8_0", keep_split=True, prune_layers=[4])
    assert parts_of(tmp_path / "out") == []

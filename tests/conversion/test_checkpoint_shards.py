"""Shards that several processes write: the files of one process, together or none; nothing is done twice or trusted.

The processes are calls of this one here; `tests/dask` has a cluster.
"""

import errno
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore.conversion import checkpoint_shards, quantize_checkpoint
from quantcore.conversion.checkpoint_shards import Recipe, write_part
from quantcore.errors import FileFormatError, InvalidValueError, OutputFileError
from tests.support.parts import DOUBLE, Stopped, convert, expected, parts_in, stop, write_all
from tests.support.sharded import contents_of, write_shards


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.mark.parametrize("code", [{}, DOUBLE | {"block_size": 128}, {"quant_type": "fp4", "quant_storage": "bfloat16"}])
def test_the_files_of_one_process(code, source, target, tmp_path):
    report = convert(source, target, **code)
    assert contents_of(target) == expected(source, tmp_path, **code)
    assert report == quantize_checkpoint(source, tmp_path / "again", **({"quant_type": "nf4"} | code))


def test_a_single_file_becomes_a_folder(source, target, tmp_path):
    shard = next(source.glob("*.safetensors"))
    convert(shard, target)
    assert contents_of(target) == expected(shard, tmp_path)
    with pytest.raises(OutputFileError, match=r"expected a folder; one file is written by one process"):
        convert(shard, tmp_path / "one.safetensors")
    assert not (tmp_path / "one.safetensors").exists()


@pytest.mark.parametrize("n_shards", [0, 1, 4])
def test_goes_on_where_it_stopped(n_shards, source, target, tmp_path):
    before = stop(source, target, n_shards)
    assert not [name for name in contents_of(target) if not name.startswith(".")]
    done: list[int] = []

    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        done.extend(numbers)
        write_all(recipe, numbers)

    convert(source, target, run)
    assert done == list(range(n_shards, 4))
    assert contents_of(target) == expected(source, tmp_path)
    shards = sorted(target.glob("*.safetensors"))
    found = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in shards]
    assert found[:n_shards] == list(before.values())


@pytest.mark.parametrize("change", ["values", "time", "config", "code", "version", "layout"])
def test_parts_of_another_plan_are_not_taken(change, source, target, tmp_path, monkeypatch):
    stop(source, target, 3)
    shard, code = sorted(source.glob("*.safetensors"))[1], {}
    status = shard.stat()
    if change == "values":  # the sizes, the header and, as far as the clock is coarse, the time stay
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "time":
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns - 1))
    elif change == "config":
        (source / "config.json").write_text('{"some": "thing"}')
    elif change == "code":
        code = DOUBLE
    elif change == "version":
        monkeypatch.setattr(checkpoint_shards, "__version__", "0.0.1")
    else:
        (source / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    done: list[int] = []

    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        done.extend(numbers)
        write_all(recipe, numbers)

    convert(source, target, run, **code)
    assert done == [0, 1, 2, 3]
    assert contents_of(target) == expected(source, tmp_path, **code)


def spoil_nothing(path: Path) -> None:
    path.unlink()


def spoil_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def spoil_tensors(path: Path) -> None:
    path.unlink()
    save_file({"other": np.zeros(4, np.float32)}, path, {"format": "pt"})


def spoil_kind(path: Path) -> None:
    path.rename(path.parent.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent.parent / "elsewhere")


@pytest.mark.parametrize("spoil", [spoil_nothing, spoil_bytes, spoil_tensors, spoil_kind])
def test_a_part_that_is_not_what_it_should_be_is_written_anew(spoil, source, target, tmp_path):
    stop(source, target, 3)
    spoil(parts_in(target)[1])
    done: list[int] = []

    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        done.extend(numbers)
        write_all(recipe, numbers)

    convert(source, target, run)
    assert done == [1, 3]
    assert contents_of(target) == expected(source, tmp_path)


def open_to_others(folder: Path) -> None:
    folder.chmod(0o770)


def become_a_link(folder: Path) -> None:
    folder.rename(folder.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent / "elsewhere")


def become_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"")


@pytest.mark.parametrize("spoil", [open_to_others, become_a_link, become_a_file])
def test_a_folder_that_others_may_have_filled_is_refused(spoil, source, target):
    stop(source, target)
    (folder,) = target.glob(".quantcore-*")
    spoil(folder)
    with pytest.raises(OutputFileError, match=r"\.parts: is not a folder of this user that nobody else can write"):
        convert(source, target)
    assert [path.name for path in target.iterdir()] == [folder.name]


@pytest.mark.parametrize("moment", ["before", "while", "after"])
def test_a_source_that_changes(moment, source, target, monkeypatch):
    shard = sorted(source.glob("*.safetensors"))[2]
    real = checkpoint_shards.write_shard

    def touch(*_: object) -> None:
        os.utime(shard, ns=(0, 0))

    def write_shard(*arguments: Any) -> None:
        real(*arguments)
        touch()

    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        if moment == "before":
            touch()
        write_all(recipe, numbers)
        touch()

    if moment == "while":
        monkeypatch.setattr(checkpoint_shards, "write_shard", write_shard)
    with pytest.raises(FileFormatError, match="changed since the conversion was planned"):
        convert(source, target, run)
    if moment == "after":
        assert [path.name for path in parts_in(target)] == ["00000", "00001", "00002", "00003", "lock"]
    else:
        assert not target.exists()


def test_another_version_in_the_other_process(source, target, monkeypatch):
    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        monkeypatch.setattr(checkpoint_shards, "__version__", "0.0.1")
        write_all(recipe, numbers)

    with pytest.raises(FileFormatError, match="planned by another version of quantcore than"):
        convert(source, target, run)


def test_bad_values_leave_nothing(source, target):
    name = "model-00001-of-00004.safetensors"
    save_file({"layers.0.weight": np.full((64, 256), np.nan, np.float32)}, source / name)
    index = json.loads((source / "model.safetensors.index.json").read_text())
    del index["weight_map"]["layers.0.bias"]
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidValueError, match=r"layers\.0\.weight"):
        convert(source, target, lambda recipe, numbers: write_part(recipe, 0, 1))
    assert not target.exists()


def test_an_output_that_appears_meanwhile(source, target, tmp_path):
    theirs = target / "model-00003-of-00004.safetensors"

    def run(recipe: Recipe, numbers: Sequence[int]) -> None:
        write_all(recipe, numbers)
        theirs.write_bytes(b"theirs")

    with pytest.raises(OutputFileError, match="exists already"):
        convert(source, target, run)
    assert {path.name for path in target.iterdir()} == {theirs.name, parts_in(target)[0].parent.name}
    assert theirs.read_bytes() == b"theirs" and len(parts_in(target)) == 5
    with pytest.raises(OutputFileError, match="exists already"):
        convert(source, target)
    convert(source, target, Stopped, force=True)  # there is nothing left to run
    assert contents_of(target) == expected(source, tmp_path)


def test_without_hard_links(source, target, tmp_path, monkeypatch):
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    stop(source, target)
    convert(source, target)
    assert contents_of(target) == expected(source, tmp_path)


@pytest.mark.parametrize("kind", [os.fsencode, str])
def test_paths_of_other_types(kind, source, target, tmp_path):
    convert(kind(source), kind(target))
    assert contents_of(target) == expected(source, tmp_path)


def test_only_the_header_of_a_shard_identifies_it(source, target, tmp_path, monkeypatch):
    """Whatever it is called: tensors may be larger than the memory."""
    shard = next(source.glob("*.safetensors")).rename(tmp_path / "model.st")
    read = checkpoint_shards.InputFile.read
    sizes: list[int] = []

    def reading(file: Any, offset: int, count: int) -> Any:
        sizes.append(count)
        return read(file, offset, count)

    monkeypatch.setattr(checkpoint_shards.InputFile, "read", reading)
    convert(shard, target)
    assert 8 < max(sizes) < 4096 < shard.stat().st_size
    assert contents_of(target) == expected(shard, tmp_path)

"""Parts of a split model: opened as one by any of their names; a wrong part is named in one line."""

import struct
from pathlib import Path

import pytest

from quantcore.errors import FileFormatError
from quantcore.gguf import open_gguf
from quantcore.models import open_model
from tests.support.descriptors import none_opened_since, open_descriptors
from tests.support.gguf_bytes import ARCHITECTURE, I32, KV, U16, U32, Tensor, build_gguf


def split_kvs(number: int, count: int, n_tensors: int) -> dict[bytes, KV]:
    return {
        b"split.no": KV(b"split.no", U16, struct.pack("<H", number)),
        b"split.count": KV(b"split.count", U16, struct.pack("<H", count)),
        b"split.tensors.count": KV(b"split.tensors.count", I32, struct.pack("<i", n_tensors)),
    }


def part(number: int, *names: bytes, count: int = 3, n_tensors: int = 4, **changed: KV | None) -> bytes:
    """A part; `changed` replaces or removes one of its keys, without "split." and with _ for the second dot."""
    kvs = split_kvs(number, count, n_tensors)
    for name, kv in changed.items():
        key = f"split.{name.replace('_', '.')}".encode()
        kvs = {k: v for k, v in kvs.items() if k != key} | ({key: kv} if kv else {})
    return build_gguf(kvs=[*([ARCHITECTURE] if number == 0 else []), *kvs.values()], tensors=[Tensor(n) for n in names])


GOOD = (part(0), part(1, b"a", b"b"), part(2, b"c", b"d"))


def write(folder: Path, files: dict[int, bytes | None]) -> list[Path]:
    """The good parts but for `files`; None leaves one out."""
    paths = [folder / f"m-0000{i + 1}-of-00003.gguf" for i in range(3)]
    for i, path in enumerate(paths):
        data = files.get(i, GOOD[i])
        if data is not None:
            path.write_bytes(data)
    return paths


@pytest.mark.parametrize("opened", range(3))
def test_any_part_opens_the_model(opened, tmp_path, monkeypatch):
    paths = write(tmp_path, {})
    with open_model(paths[opened]) as model:
        assert list(model.tensors) == ["a", "b", "c", "d"] and model.paths == tuple(paths)
        assert model.container.value("general.architecture") == "llama"
        assert model.tensors["d"].values()[0] == -4 and model.container.part_of("d") == 2
    monkeypatch.chdir(tmp_path)
    with open_gguf(paths[opened].name) as gguf:
        assert gguf.path == paths[opened].name and len(gguf.parts) == 3


def test_notices_name_the_part(tmp_path):
    paths = write(tmp_path, {2: GOOD[2] + bytes(7)})
    with open_gguf(paths[0]) as model:
        assert model.notices == ("part 3: 7 bytes after the last tensor are not read",)


_WRONG_TYPE = KV(b"split.count", U32, struct.pack("<I", 3))
REFUSED = {
    "missing": ({1: None}, 0, r"m-00002-of-00003\.gguf: part 2 of 3 is missing \(.*m-00001-of-00003\.gguf needs it\)"),
    "first one missing": ({0: None}, 2, r"m-00001-of-00003\.gguf: part 1 of 3 is missing"),
    "reordered": ({1: GOOD[2], 2: GOOD[1]}, 0, r"m-00002-of-00003\.gguf: split\.no: expected 1 in part 2, got 2"),
    "reordered and opened": ({1: GOOD[2], 2: GOOD[1]}, 1, r"m-00002-.*: is part 3 of 3, whose name ends in -00003-of-"),
    "repeated": ({2: GOOD[1]}, 0, r"m-00003-of-00003\.gguf: split\.no: expected 2 in part 3, got 1"),
    "of another number": ({2: part(2, b"c", count=4)}, 0, r"m-00003-.*: split\.count: expected 3 in part 3, got 4"),
    "of another model": ({2: part(2, b"c", n_tensors=9)}, 0, r"m-00003-.*: split\.tensors\.count: expected 4 .* got 9"),
    "with a tensor twice": ({2: part(2, b"c", b"a")}, 0, r"m-00003-.*: tensor 'a' is in .*m-00002-of-00003\.gguf as"),
    "with too few tensors": ({2: part(2, b"c")}, 0, r"m-00001-.*: split\.tensors\.count: 4, but the parts have 3"),
    "without a number": ({1: part(1, b"a", no=None)}, 0, r"m-00002-.*: split\.no: missing in a part"),
    "whole": ({1: part(1, b"a", count=0)}, 0, r"m-00002-.*: split\.count: expected 3 in part 2, got 0"),
    "without a total": ({0: part(0, tensors_count=None)}, 0, r"m-00001-.*: split\.tensors\.count: missing"),
    "with a number too large": ({0: part(7)}, 0, r"m-00001-.*: split\.no: 7 of 3 parts"),
    "malformed": ({1: GOOD[1][:-40]}, 0, r"m-00002-of-00003\.gguf: data of tensor 'b'"),
    "no GGUF": ({1: bytes(64)}, 0, r"m-00002-of-00003\.gguf: magic"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_part_is_named(case, tmp_path):
    files, opened, message = REFUSED[case]
    paths = write(tmp_path, files)
    with pytest.raises(FileFormatError, match=message) as caught:
        open_gguf(paths[opened])
    assert "\n" not in str(caught.value)


def test_a_type_that_llama_does_not_read(tmp_path):
    kvs = [*split_kvs(0, 3, 4).values()][::2]
    (tmp_path / "x.gguf").write_bytes(build_gguf(kvs=[*kvs, _WRONG_TYPE]))
    with pytest.raises(FileFormatError, match=r"x\.gguf: split\.count: expected type UINT16, got UINT32"):
        open_gguf(tmp_path / "x.gguf")


def test_a_part_under_another_name(tmp_path):
    paths = write(tmp_path, {})
    other = paths[0].rename(tmp_path / "model.gguf")
    with pytest.raises(FileFormatError, match=r"model\.gguf: is part 1 of 3, whose name ends in -00001-of-00003\.gguf"):
        open_gguf(other)


@pytest.mark.parametrize("count", [0, 1])
def test_a_model_of_one_file(count, tmp_path):
    (tmp_path / "x.gguf").write_bytes(build_gguf(kvs=[*split_kvs(0, count, 9).values()]))
    with open_gguf(tmp_path / "x.gguf") as model:
        assert len(model.parts) == 1


def test_a_refused_model_leaves_no_file_open(tmp_path):
    paths, before = write(tmp_path, {2: bytes(64)}), open_descriptors()
    with pytest.raises(FileFormatError):
        open_gguf(paths[0])
    assert none_opened_since(before)

"""Files: what is refused before anything is written, links, names, permissions, inputs."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from quantcore.errors import FileFormatError, OutputFileError
from quantcore.files.disk import InputFile, OutputFile, check_output, label
from tests.support.descriptors import none_opened_since, open_descriptors
from tests.support.marks import needs_posix
from tests.support.output_files import NEW, OLD, names, write

# What is refused before anything is written


def test_new_output_is_written(tmp_path):
    write(tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == NEW
    assert names(tmp_path) == {"out.gguf"}


def test_existing_output_is_refused(old):
    with pytest.raises(OutputFileError, match=r"out\.gguf: exists already; --force"):
        write(old)
    assert old.read_bytes() == OLD and names(old.parent) == {"out.gguf"}


def test_force_replaces_an_existing_output(old):
    write(old, force=True)
    assert old.read_bytes() == NEW and names(old.parent) == {"out.gguf"}


ALIASES = {
    "same path": lambda path: path,
    "relative path": lambda path: Path(os.path.relpath(path)),
    "via ..": lambda path: path.parent / "sub" / ".." / path.name,
    "hard link": lambda path: linked(os.link, path),
    "symbolic link": lambda path: linked(os.symlink, path),
    "through a linked folder": lambda path: linked(os.symlink, path, path.parent) / path.name,
}


def linked(link: Callable[[Path, Path], None], path: Path, target: Path | None = None) -> Path:
    alias = path.parent / "sub" / "alias"
    link(target or path, alias)
    return alias


@needs_posix
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("alias", ALIASES.values(), ids=ALIASES)
@pytest.mark.parametrize("which", ["output", "input"])
def test_output_that_is_an_input_is_refused(which, alias, force, old, tmp_path):
    (tmp_path / "sub").mkdir()
    pair = [old, alias(old)]
    output, source = pair if which == "input" else pair[::-1]
    with pytest.raises(OutputFileError, match="same file as the input"):
        write(output, force=force, inputs=(__file__, source))
    assert old.read_bytes() == OLD
    assert names(tmp_path) == {"out.gguf", "sub"}


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


def link_to_folder(folder: Path) -> Path:
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("folder")
    return folder / "link"


IRREGULAR = {
    "folder": lambda folder: folder,
    "link to a folder": link_to_folder,
    "FIFO": fifo,
    "/dev/null": lambda folder: Path("/dev/null"),
}


@needs_posix
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("make", IRREGULAR.values(), ids=IRREGULAR)
def test_output_that_is_no_regular_file_is_refused(make, force, tmp_path):
    path = make(tmp_path)
    before = names(tmp_path)
    with pytest.raises(OutputFileError, match="not a regular file"):
        write(path, force=force)
    assert names(tmp_path) == before


@pytest.mark.parametrize("path", ["", "missing/out.gguf"])
def test_output_that_cannot_be_is_refused_at_once(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for force in (False, True):
        with pytest.raises(OSError) as caught, OutputFile(path, force=force):
            pytest.fail("the block was entered")
        assert os.path.dirname(path) in str(caught.value)
    assert names(tmp_path) == set()


def test_check_output_writes_nothing(old, tmp_path):
    check_output(tmp_path / "new.gguf")
    check_output(old, force=True, inputs=(__file__,))
    assert names(tmp_path) == {"out.gguf"} and old.read_bytes() == OLD


# Links, names, permissions


@needs_posix
def test_symbolic_link_is_followed_and_kept(old, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(old.name)
    with pytest.raises(OutputFileError, match="exists already"):
        write(link)
    write(link, force=True)
    assert link.is_symlink() and os.readlink(link) == "out.gguf"
    assert old.read_bytes() == NEW


@needs_posix
def test_dangling_link_is_an_existing_output(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("target")
    with pytest.raises(OutputFileError, match="exists already"):
        write(link)
    assert names(tmp_path) == {"link"}
    write(link, force=True)
    assert link.is_symlink() and (tmp_path / "target").read_bytes() == NEW


def test_replaced_file_leaves_its_other_hard_links_alone(old, tmp_path):
    os.link(old, tmp_path / "backup")
    write(old, force=True)
    assert (tmp_path / "backup").read_bytes() == OLD and old.read_bytes() == NEW


@needs_posix
@pytest.mark.parametrize("name", ["x" * 246, "x" * 247, "x" * 255, "\u00e9" * 127, "a\nb\x1b[2J", " ", "-"])
def test_any_name_that_the_file_system_takes(name, tmp_path):
    for force in (False, True):
        write(tmp_path / name, force=force)
        assert names(tmp_path) == {name}
    assert (tmp_path / name).read_bytes() == NEW


@needs_posix
def test_long_names_that_differ_at_the_end_do_not_meet(tmp_path):
    first, second = ("x" * 254 + end for end in "ab")
    with OutputFile(tmp_path / first) as file:
        file.write(b"first")
        write(tmp_path / second)
    assert (tmp_path / first).read_bytes() == b"first" and (tmp_path / second).read_bytes() == NEW
    assert names(tmp_path) == {first, second}


@needs_posix
def test_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(OSError) as caught:
        write(tmp_path / ("x" * 256))
    assert caught.value.errno == errno.ENAMETOOLONG
    assert names(tmp_path) == set()


@needs_posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
@pytest.mark.parametrize("force", [False, True])
def test_permissions_follow_the_umask(umask, mode, force, tmp_path):
    former = os.umask(umask)
    try:
        write(tmp_path / "out.gguf", force=force)
    finally:
        os.umask(former)
    assert stat.S_IMODE((tmp_path / "out.gguf").stat().st_mode) == mode


@needs_posix
def test_path_with_a_newline_gives_one_line(tmp_path):
    path = tmp_path / "a\nb\x1b[2J\u202e"
    path.write_bytes(OLD)
    for options in ({}, {"force": True, "inputs": (path,)}):
        with pytest.raises(OutputFileError) as caught:
            write(path, **options)
        assert str(caught.value).isprintable()
    with InputFile(path) as file, pytest.raises(FileFormatError) as caught:
        file.read(5, 100)
    assert str(caught.value).isprintable()
    assert label(path) == f"{tmp_path}/a\\nb\\x1b[2J\\u202e"
    assert label(os.fsdecode(b"caf\xe9")) == "caf\\udce9"


# Inputs


def test_input_is_read_by_position(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(NEW)
    with InputFile(path) as file:
        assert file.size == len(NEW) and file.path == path
        assert file.read(1000, 3) == NEW[1000:1003]
        buffer = bytearray(10)
        file.read_into(5, memoryview(buffer)[2:6])
        assert buffer == b"\0\0" + NEW[5:9] + b"\0\0\0\0"
        assert file.read(0, 0) == file.read(len(NEW), 0) == b""


@needs_posix
def test_input_is_read_on_after_a_short_read(tmp_path, monkeypatch):
    path = tmp_path / "in"
    path.write_bytes(NEW)
    real_preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda d, buffers, offset: real_preadv(d, [buffers[0][:999]], offset))
    with InputFile(path) as file:
        assert file.read(1, len(NEW) - 1) == NEW[1:]


def test_input_that_shrinks_is_reported(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(bytes(1000))
    with InputFile(path) as file:
        os.truncate(path, 500)
        assert file.read(400, 100) == bytes(100)
        with pytest.raises(FileFormatError, match=r"in: ends at offset 500 while 150 more bytes .* had 1000 bytes"):
            file.read(450, 200)


@needs_posix
@pytest.mark.parametrize("make", IRREGULAR.values(), ids=IRREGULAR)
def test_input_that_is_no_regular_file_is_refused(make, tmp_path):
    path = make(tmp_path)
    descriptors = open_descriptors()
    with pytest.raises(FileFormatError, match="not a regular file"):
        InputFile(path)
    assert none_opened_since(descriptors)

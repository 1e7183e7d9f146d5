"""The temporaries beside an output: nobody's file is removed, nobody's file is published, none of ours is left."""

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quantcore.errors import OutputBusyError, OutputFileError
from quantcore.files import disk
from quantcore.files.disk import OutputFile
from tests.support.descriptors import none_opened_since, open_descriptors
from tests.support.output_files import NEW, OLD, names, write

fcntl = pytest.importorskip("fcntl")  # Windows has its own tests, beside this file

NAME = "out.gguf"
LEFT_OVER = f".{NAME}.{'0123456789abcdef' * 2}.partial"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """Whatever a test does, no descriptor stays open."""
    before = open_descriptors()
    yield
    assert none_opened_since(before)


def failing(number: int, calls: list[object] | None = None) -> Callable[..., None]:
    def fail(*arguments: object, **_: object) -> None:
        if calls is not None:
            calls.append(arguments)
        raise OSError(number, os.strerror(number))

    return fail


def test_names_cannot_be_guessed(tmp_path):
    seen = set()
    for _ in range(10):
        with OutputFile(tmp_path / NAME, force=True):
            seen |= names(tmp_path) - {NAME}
    assert len(seen) == 10
    assert all(re.fullmatch(r"\.out\.gguf\.[0-9a-f]{32}\.partial", name) for name in seen)


@pytest.mark.parametrize("name", [f".{NAME}.partial", f".{NAME}.tmp", LEFT_OVER])
def test_an_input_that_is_named_like_a_temporary_is_not_removed(name, tmp_path):
    source = tmp_path / name
    source.write_bytes(OLD)
    write(tmp_path / NAME, inputs=(source,))
    assert source.read_bytes() == OLD and (tmp_path / NAME).read_bytes() == NEW


def test_an_input_is_known_under_every_name(tmp_path):
    (tmp_path / LEFT_OVER).write_bytes(OLD)
    (tmp_path / "sub").mkdir()
    for link, alias in ((os.link, tmp_path / "hard"), (os.symlink, tmp_path / "sub" / "soft")):
        link(tmp_path / LEFT_OVER, alias)
        write(tmp_path / NAME, force=True, inputs=(__file__, alias))
        assert (tmp_path / LEFT_OVER).read_bytes() == OLD


@pytest.mark.parametrize("force", [False, True])
def test_what_a_killed_run_left_is_removed(force, tmp_path):
    for suffix in ("partial", "replaced"):
        (tmp_path / LEFT_OVER).with_suffix(f".{suffix}").write_bytes(OLD)
    write(tmp_path / NAME, force=force)
    write(tmp_path / NAME, force=True)
    assert names(tmp_path) == {NAME}


def test_the_old_output_that_a_killed_run_left_is_kept_until_there_is_a_new_one(tmp_path):
    old = (tmp_path / LEFT_OVER).with_suffix(".replaced")
    old.write_bytes(OLD)
    with pytest.raises(ZeroDivisionError), OutputFile(tmp_path / NAME, force=True):
        raise ZeroDivisionError
    assert names(tmp_path) == {old.name} and old.read_bytes() == OLD


SOMEBODY_ELSES = {
    "no digits": f".{NAME}.partial",
    "too few digits": LEFT_OVER.replace("0123", ""),
    "other digits": LEFT_OVER.replace("f", "F"),
    "another output": f".other{LEFT_OVER}",
    "a longer name": f"{LEFT_OVER}.bak",
    "no dot in front": LEFT_OVER[1:],
}


@pytest.mark.parametrize("name", SOMEBODY_ELSES.values(), ids=SOMEBODY_ELSES)
def test_files_of_other_names_are_left_alone(name, tmp_path):
    (tmp_path / name).write_bytes(OLD)
    write(tmp_path / NAME)
    assert (tmp_path / name).read_bytes() == OLD and (tmp_path / NAME).read_bytes() == NEW


PLANTED = {
    "link to a file": lambda place, victim: place.symlink_to(victim),
    "FIFO": lambda place, victim: os.mkfifo(place),
    "folder": lambda place, victim: place.mkdir(),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_what_is_no_file_is_left_alone_and_not_written_through(plant, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(OLD)
    plant(tmp_path / LEFT_OVER, victim)
    write(tmp_path / NAME)
    assert names(tmp_path) == {"victim", LEFT_OVER, NAME} and victim.read_bytes() == OLD


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file of another user")
def test_a_file_of_another_user_is_left_alone(tmp_path):
    (tmp_path / LEFT_OVER).write_bytes(OLD)
    os.chown(tmp_path / LEFT_OVER, 12345, 12345)
    write(tmp_path / NAME)
    assert (tmp_path / LEFT_OVER).read_bytes() == OLD


def test_a_file_that_somebody_has_locked_is_left_alone(tmp_path):
    (tmp_path / LEFT_OVER).write_bytes(OLD)
    with open(tmp_path / LEFT_OVER, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OutputBusyError, match="another process is writing it"):
            write(tmp_path / NAME)
    assert names(tmp_path) == {LEFT_OVER} and (tmp_path / LEFT_OVER).read_bytes() == OLD


# A temporary that somebody replaces


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("by", ["a file", "a link", "nothing"])
def test_a_temporary_that_was_replaced_is_not_published(by, force, tmp_path):
    path = tmp_path / NAME
    if force:
        path.write_bytes(OLD)
    problem = "removed or replaced while it was being written"
    with pytest.raises(OutputFileError, match=problem), OutputFile(path, force=force) as file:
        file.write(NEW)
        (partial,) = names(tmp_path) - {NAME}
        os.unlink(tmp_path / partial)
        if by == "a file":
            (tmp_path / partial).write_bytes(b"theirs")
        elif by == "a link":
            (tmp_path / partial).symlink_to("/etc/passwd")
    assert names(tmp_path) == {*([NAME] if force else []), *([partial] if by != "nothing" else [])}
    assert not force or path.read_bytes() == OLD
    assert by != "a file" or (tmp_path / partial).read_bytes() == b"theirs"


def test_a_temporary_that_was_replaced_is_not_removed_on_failure(tmp_path):
    with pytest.raises(ZeroDivisionError), OutputFile(tmp_path / NAME):
        (partial,) = tmp_path.iterdir()
        partial.unlink()
        partial.write_bytes(b"theirs")
        raise ZeroDivisionError
    assert partial.read_bytes() == b"theirs"


# File systems and folders that lack something


@pytest.mark.parametrize("number", NO_LOCKS)
@pytest.mark.parametrize("force", [False, True])
def test_a_file_system_without_locks(force, number, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    (tmp_path / LEFT_OVER).write_bytes(OLD)
    write(tmp_path / NAME, force=force)
    with pytest.raises(ZeroDivisionError), OutputFile(tmp_path / "other"):
        raise ZeroDivisionError
    assert names(tmp_path) == {NAME, LEFT_OVER}  # whose it is cannot be told
    assert (tmp_path / NAME).read_bytes() == NEW


@pytest.mark.parametrize("succeeds", [False, True])
def test_a_temporary_that_cannot_be_removed(succeeds, tmp_path, monkeypatch):
    calls: list[object] = []
    monkeypatch.setattr(os, "unlink", failing(errno.EIO, calls))
    try:
        with OutputFile(tmp_path / NAME) as file:
            file.write(NEW)
            assert succeeds or 1 / 0
    except ZeroDivisionError:
        assert not succeeds
    monkeypatch.undo()
    assert calls and (tmp_path / NAME).exists() == succeeds
    write(tmp_path / NAME, force=True)
    assert names(tmp_path) == {NAME}


def test_a_folder_that_may_be_written_but_not_read():
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if is_root:
            os.chown(folder, 65534, 65534)
        folder.chmod(0o300)
        if is_root:
            os.seteuid(65534)
        try:
            write(folder / NAME)
            write(folder / NAME, OLD, force=True)
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o700)
        assert names(folder) == {NAME} and (folder / NAME).read_bytes() == OLD


@pytest.mark.parametrize(("number", "is_written"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_folder_that_cannot_be_synced(number, is_written, tmp_path, monkeypatch):
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            failing(number)()
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if is_written:
        write(tmp_path / NAME)
    else:
        with pytest.raises(OSError, match=re.escape(str(tmp_path))):
            write(tmp_path / NAME)
    assert names(tmp_path) == ({NAME} if is_written else set())


# Errors name the output, not the temporary in it


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("call", ["pwrite", "fsync", "link", "open"])
def test_errors_name_the_output(call, number, tmp_path, monkeypatch):
    with pytest.raises(OSError) as caught, monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        write(tmp_path / NAME)
    assert caught.value.errno == number
    assert caught.value.filename == str(tmp_path / NAME)
    assert names(tmp_path) == set()


def test_errors_of_reading_name_the_input(tmp_path, monkeypatch):
    (tmp_path / "in").write_bytes(OLD)
    with disk.InputFile(tmp_path / "in") as file, pytest.raises(OSError) as caught:
        monkeypatch.setattr(os, "preadv", failing(errno.EIO))
        file.read(0, 1)
    assert caught.value.filename == str(tmp_path / "in")


def test_a_missing_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path, problem in (
        (tmp_path / "no" / NAME, f"to the folder {tmp_path}/no: No such file or directory"),
        (tmp_path / "file" / NAME, f"to the folder {tmp_path}/file: Not a directory"),
    ):
        for force in (False, True):
            with pytest.raises(OutputFileError, match=re.escape(problem)) as caught:
                disk.check_output(path, force=force)
            assert "partial" not in str(caught.value)


@pytest.mark.parametrize("url", ["s3://bucket/key/model.gguf", "https://host/model.gguf", "file:///tmp/x", "hf://a/b"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_url_is_refused_as_such(kind, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (disk.InputFile, disk.check_output, OutputFile):
        with pytest.raises(ValueError, match="is a URL; only paths of the local file system") as caught:
            use(kind(url))
        assert str(caught.value).startswith(str(kind(url)))
    assert names(tmp_path) == set()


def test_a_folder_may_be_called_like_a_scheme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:").mkdir()
    write("s3:/out.gguf")
    assert (tmp_path / "s3:" / NAME).read_bytes() == NEW


def test_a_path_with_a_nul_is_refused():
    for use in (disk.InputFile, disk.check_output):
        with pytest.raises(ValueError, match="path: must not hold a NUL"):
            use("a\0b")

"""An output appears whole or not at all, whatever happens meanwhile; an input is read by position and may shrink."""

import contextlib
import errno
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import quantcore
from quantcore import _files
from quantcore._files import InputFile, OutputFile, check_output, label
from quantcore.errors import FileFormatError, OutputFileError

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(quantcore.__file__).parents[1])}
OLD = b"precious"
NEW = bytes(range(256)) * 5000


def write(path: Path | str, data: bytes = NEW, **options: object) -> None:
    with OutputFile(path, **options) as file:
        for start in range(0, len(data), 70_000):
            file.write(data[start : start + 70_000])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def start_child(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An output from an earlier run."""
    path = tmp_path / "out.gguf"
    path.write_bytes(OLD)
    return path


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


def test_symbolic_link_is_followed_and_kept(old, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(old.name)
    with pytest.raises(OutputFileError, match="exists already"):
        write(link)
    write(link, force=True)
    assert link.is_symlink() and os.readlink(link) == "out.gguf"
    assert old.read_bytes() == NEW


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


@pytest.mark.parametrize("name", ["x" * 246, "x" * 247, "x" * 255, "\u00e9" * 127, "a\nb\x1b[2J", " ", "-"])
def test_any_name_that_the_file_system_takes(name, tmp_path):
    for force in (False, True):
        write(tmp_path / name, force=force)
        assert names(tmp_path) == {name}
    assert (tmp_path / name).read_bytes() == NEW


def test_long_names_that_differ_at_the_end_do_not_meet(tmp_path):
    first, second = ("x" * 254 + end for end in "ab")
    with OutputFile(tmp_path / first) as file:
        file.write(b"first")
        write(tmp_path / second)
    assert (tmp_path / first).read_bytes() == b"first" and (tmp_path / second).read_bytes() == NEW
    assert names(tmp_path) == {first, second}


def test_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(OSError) as caught:
        write(tmp_path / ("x" * 256))
    assert caught.value.errno == errno.ENAMETOOLONG
    assert names(tmp_path) == set()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
@pytest.mark.parametrize("force", [False, True])
def test_permissions_follow_the_umask(umask, mode, force, tmp_path):
    former = os.umask(umask)
    try:
        write(tmp_path / "out.gguf", force=force)
    finally:
        os.umask(former)
    assert stat.S_IMODE((tmp_path / "out.gguf").stat().st_mode) == mode


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


# What goes wrong while the file is written


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_nothing_is_left_of_an_interrupted_output(error, force, tmp_path):
    path = tmp_path / "out.gguf"
    if force:
        path.write_bytes(OLD)
    descriptors = os.listdir("/dev/fd")
    with pytest.raises(error), OutputFile(path, force=force) as file:
        file.write(NEW)
        assert len(names(tmp_path)) == 1 + force  # the partial file is in the same folder
        raise error
    assert names(tmp_path) == ({"out.gguf"} if force else set())
    assert not force or path.read_bytes() == OLD
    assert os.listdir("/dev/fd") == descriptors


def test_old_output_is_there_until_the_new_one_is_complete(old):
    with OutputFile(old, force=True) as file:
        file.write(NEW)
        assert old.read_bytes() == OLD
    assert old.read_bytes() == NEW


def test_output_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "out.gguf"
    with pytest.raises(OutputFileError, match=r"out\.gguf: appeared while"), OutputFile(path) as file:
        file.write(NEW)
        path.write_bytes(OLD)
    assert path.read_bytes() == OLD and names(tmp_path) == {"out.gguf"}


def test_output_that_appears_meanwhile_is_replaced_by_force(tmp_path):
    path = tmp_path / "out.gguf"
    with OutputFile(path, force=True) as file:
        file.write(NEW)
        path.write_bytes(OLD)
    assert path.read_bytes() == NEW and names(tmp_path) == {"out.gguf"}


def test_write_goes_on_after_a_short_one(tmp_path, monkeypatch):
    real_write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real_write(descriptor, data[:1000], offset))
    write(tmp_path / "out.gguf")
    monkeypatch.undo()
    assert (tmp_path / "out.gguf").read_bytes() == NEW


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="Linux")
def test_long_runs_are_sent_to_the_disk_while_more_is_written(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(_files, "_RUN_BYTES", 1000)
    monkeypatch.setattr(os, "posix_fadvise", lambda _, offset, size, __: sent.append((offset, size)))
    with OutputFile(tmp_path / "out.gguf") as file:
        for size in (600, 600, 999, 1):
            file.write(bytes(size))
        file.write_at(5000, bytes(900))
        file.write_at(9000, bytes(900))  # a run of its own
        file.write_at(9900, bytes(100))
    assert sent == [(0, 1200), (1200, 1000), (9000, 1000)]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="Linux")
def test_a_system_that_takes_no_advice_writes_all_the_same(tmp_path, monkeypatch):
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(_files, "_RUN_BYTES", 1)
    monkeypatch.setattr(os, "posix_fadvise", unsupported)
    write(tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == NEW


@pytest.mark.parametrize("force", [False, True])
def test_data_are_on_the_disk_before_the_name_is_given_and_the_name_before_the_end(force, old, monkeypatch):
    path = old if force else old.with_name("new.gguf")
    synced = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        has_name = path.exists() and path.read_bytes() == NEW
        synced.append(("folder" if stat.S_ISDIR(status.st_mode) else status.st_size, has_name))

    monkeypatch.setattr(os, "fsync", fsync)
    write(path, force=force)
    assert synced == [(len(NEW), False), ("folder", True)]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("call", ["fsync", "pwrite", "replace"])
def test_call_that_fails_leaves_the_old_output(call, error, old, monkeypatch):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        write(old, force=True)
    monkeypatch.undo()
    assert old.read_bytes() == OLD and names(old.parent) == {"out.gguf"}


@pytest.mark.parametrize(("number", "is_written"), [(errno.EPERM, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_file_system_without_hard_links(number, is_written, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    with contextlib.nullcontext() if is_written else pytest.raises(OSError):
        write(tmp_path / "out.gguf")
    assert names(tmp_path) == ({"out.gguf"} if is_written else set())


@contextlib.contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_file_size_limit_leaves_the_old_output(old):
    with file_size_limit(len(NEW) - 1), pytest.raises(OSError) as caught:
        write(old, force=True)
    assert caught.value.errno == errno.EFBIG
    assert old.read_bytes() == OLD and names(old.parent) == {"out.gguf"}
    with file_size_limit(len(NEW)):
        write(old, force=True)
    assert old.read_bytes() == NEW


ON_A_FULL_DISK = """
import errno, json, os, sys
from pathlib import Path
from quantcore._files import OutputFile
folder = Path(sys.argv[1])
old = folder / "out.gguf"
old.write_bytes(b"precious")
try:
    with OutputFile(old, force=True) as file:
        for _ in range(100):
            file.write(bytes(100_000))
    outcome = "written"
except OSError as error:
    outcome = errno.errorcode[error.errno]
print(json.dumps([outcome, os.listdir(folder), old.read_bytes().decode()]))
"""


@pytest.mark.may_skip
@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="needs root for a file system of its own")
def test_full_disk_leaves_the_old_output(tmp_path):
    mounted = 'mount -t tmpfs -o size=1m none "$1" || exit 77; exec "$2" -P -c "$3" "$1"'
    command = ["unshare", "-m", "sh", "-c", mounted, "sh", str(tmp_path), sys.executable, ON_A_FULL_DISK]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip(f"cannot mount: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == ["ENOSPC", ["out.gguf"], "precious"]


def test_folder_that_may_not_be_written():
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "old.gguf").write_bytes(OLD)
        folder.chmod(0o555)
        if is_root:
            os.seteuid(65534)
        try:
            for path, force in ((folder / "old.gguf", True), (folder / "new.gguf", False)):
                with pytest.raises(PermissionError, match="Permission denied"):
                    write(path, force=force)
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o755)
        assert names(folder) == {"old.gguf"} and (folder / "old.gguf").read_bytes() == OLD


# Partial files of other processes

WRITER = """
import sys
from quantcore._files import OutputFile
with OutputFile(sys.argv[1], force=True) as file:
    file.write(b"theirs")
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    child = start_child(WRITER, path)
    try:
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("force", [False, True])
def test_partial_file_of_a_killed_process_is_removed(force, tmp_path):
    path = tmp_path / "out.gguf"
    with another_writer(path) as child:
        child.kill()
        child.wait()
        assert len(names(tmp_path)) == 1  # what is to be removed
    assert not path.exists()
    write(path, force=force)
    assert path.read_bytes() == NEW and names(tmp_path) == {"out.gguf"}


def test_partial_file_of_a_killed_process_is_removed_even_if_it_is_the_output(tmp_path):
    """Killed between giving the file its name and removing the other one."""
    path = tmp_path / "out.gguf"
    with another_writer(path) as child:
        child.kill()
        child.wait()
        (partial,) = tmp_path.iterdir()
        os.link(partial, path)
    write(path, force=True)
    assert path.read_bytes() == NEW and names(tmp_path) == {"out.gguf"}


@pytest.mark.parametrize("force", [False, True])
def test_output_that_another_process_writes_is_refused(force, tmp_path):
    path = tmp_path / "out.gguf"
    with another_writer(path) as child:
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        with pytest.raises(OutputFileError, match=r"out\.gguf: another process is writing it"):
            write(path, force=force)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
        child.communicate("")
        assert child.returncode == 0
    assert path.read_bytes() == b"theirs" and names(tmp_path) == {"out.gguf"}


def test_output_that_this_process_writes_already_is_refused(tmp_path):
    path = tmp_path / "out.gguf"
    with OutputFile(path) as file:
        file.write(OLD)
        with pytest.raises(OutputFileError, match="another process is writing it"):
            write(path)
    assert path.read_bytes() == OLD and names(tmp_path) == {"out.gguf"}


def test_two_outputs_in_one_folder_do_not_meet(tmp_path):
    with OutputFile(tmp_path / "a") as a, OutputFile(tmp_path / "b") as b:
        a.write(b"1")
        b.write(b"2")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}


PLANTED = {
    "link to a file": lambda partial, victim: partial.symlink_to(victim),
    "FIFO": lambda partial, victim: os.mkfifo(partial),
    "folder": lambda partial, victim: partial.mkdir(),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_nothing_is_written_through_a_planted_partial_file(plant, tmp_path):
    path, victim = tmp_path / "sub" / "out.gguf", tmp_path / "victim"
    victim.write_bytes(OLD)
    path.parent.mkdir()
    with OutputFile(path):
        (name,) = names(path.parent)
    path.unlink()
    plant(path.parent / name, victim)
    with pytest.raises(OSError):
        write(path)
    assert victim.read_bytes() == OLD and names(path.parent) == {name}


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


@pytest.mark.parametrize("make", IRREGULAR.values(), ids=IRREGULAR)
def test_input_that_is_no_regular_file_is_refused(make, tmp_path):
    path = make(tmp_path)
    descriptors = os.listdir("/dev/fd")
    with pytest.raises(FileFormatError, match="not a regular file"):
        InputFile(path)
    assert os.listdir("/dev/fd") == descriptors

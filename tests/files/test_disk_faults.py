"""Files: what goes wrong while one is written, and partial files of other processes."""

import contextlib
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import quantcore
from quantcore.errors import OutputFileError
from quantcore.files import disk
from quantcore.files.disk import OutputFile
from tests.support.descriptors import none_opened_since, open_descriptors
from tests.support.marks import slow_but_first
from tests.support.output_files import NEW, OLD, names, write

resource = pytest.importorskip("resource")  # Windows has its own tests, beside this file

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(quantcore.__file__).parents[1])}


def start_child(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


# What goes wrong while the file is written


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_nothing_is_left_of_an_interrupted_output(error, force, tmp_path):
    path = tmp_path / "out.gguf"
    if force:
        path.write_bytes(OLD)
    descriptors = open_descriptors()
    with pytest.raises(error), OutputFile(path, force=force) as file:
        file.write(NEW)
        assert len(names(tmp_path)) == 1 + force  # the partial file is in the same folder
        raise error
    assert names(tmp_path) == ({"out.gguf"} if force else set())
    assert not force or path.read_bytes() == OLD
    assert none_opened_since(descriptors)


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
    monkeypatch.setattr(disk, "_RUN_BYTES", 1000)
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

    monkeypatch.setattr(disk, "_RUN_BYTES", 1)
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
from quantcore.files.disk import OutputFile
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
from quantcore.files.disk import OutputFile
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


@pytest.mark.parametrize("force", slow_but_first([True, False]))
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


@pytest.mark.parametrize("force", slow_but_first([True, False]))
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

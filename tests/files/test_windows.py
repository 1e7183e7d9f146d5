"""Files on Windows, by a stand-in for its calls: they go to this system, but refuse what Windows refuses.

`os` lacks what it lacks there, a name cannot be moved or removed while a descriptor is open that does not share that,
and a folder cannot be opened.
"""

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quantcore as qc
from quantcore.errors import FileFormatError, OutputFileError
from quantcore.files import system
from quantcore.files.disk import InputFile, OutputFile, OutputFiles
from tests.support.command_line import write_model
from tests.support.levels import python

fcntl = pytest.importorskip("fcntl")
pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the stand-in reads Linux' descriptors")

ABSENT = (
    "pread", "preadv", "pwrite", "pwritev", "posix_fadvise", "geteuid", "fchmod",
    "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_DIRECTORY", "sched_getaffinity", "sysconf",
)  # fmt: skip
OPEN, SAME_FILE = os.open, os.path.samestat
SHARES_ALL = 7


class Kernel:
    """`_winapi` and `msvcrt`, of which `open_osfhandle` makes a descriptor of a handle."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.sharing: list[os.stat_result] = []
        self.locked: dict[int, int] = {}

    def CreateFile(self, name, access, share, security, creation, attributes, template) -> int:
        assert isinstance(name, str) and (security, template) == (0, 0)
        if os.path.isdir(name):
            raise PermissionError(errno.EACCES, "Access is denied")
        if attributes & 0x00200000 and os.path.islink(name):
            raise OSError(errno.EINVAL, "a reparse point is opened instead")
        flags = {(0x80000000, 3): os.O_RDONLY, (0x40000000, 1): os.O_WRONLY | os.O_CREAT | os.O_EXCL}[access, creation]
        descriptor = OPEN(name, flags, 0o666)
        assert share == SHARES_ALL
        self.sharing.append(os.fstat(descriptor))
        return descriptor + 1000

    def open_osfhandle(self, handle: int, flags: int) -> int:
        assert flags & 0x8000 and flags & 0x80  # bytes as they are, and not for child processes
        return handle - 1000

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        assert (mode, count) == (self.LK_NBLCK, 1)
        assert os.lseek(descriptor, 0, os.SEEK_CUR) > 1 << 42  # locked bytes can be neither read nor written there
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    def refuse_if_open(self, path: object) -> None:
        try:
            status = os.lstat(path)
        except OSError:
            return
        for name in os.listdir("/proc/self/fd"):
            try:
                opened = os.fstat(int(name))
            except OSError:
                continue
            is_this = stat.S_ISREG(opened.st_mode) and SAME_FILE(opened, status)
            if is_this and not any(SAME_FILE(opened, shared) for shared in self.sharing):
                raise PermissionError(errno.EACCES, "The process cannot access the file", os.fspath(path))


@pytest.fixture
def windows(monkeypatch, tmp_path):
    kernel = Kernel()
    monkeypatch.setattr(system, "SYSTEM", system.Windows(msvcrt=kernel, winapi=kernel))
    for name in ABSENT:
        monkeypatch.delattr(os, name, raising=False)
    for name in ("replace", "rename", "unlink"):
        real = getattr(os, name)

        def call(path, *rest, real=real):
            for each in (path, *rest):
                kernel.refuse_if_open(each)
            return real(path, *rest)

        monkeypatch.setattr(os, name, call)
    real_link = os.link
    monkeypatch.setattr(os, "link", lambda path, name: real_link(path, name))

    def open_(path, flags, *rest):
        assert flags & os.O_CREAT or not os.path.isdir(path), "Windows opens no folders"
        return OPEN(path, flags, *rest)

    monkeypatch.setattr(os, "open", open_)
    return kernel


def test_the_stand_in_refuses_what_windows_refuses(windows, tmp_path):
    path = tmp_path / "held"
    path.write_bytes(b"x")
    with open(path, "rb"), pytest.raises(PermissionError):
        os.unlink(path)
    with pytest.raises(AttributeError):
        os.pwrite(1, b"", 0)
    os.unlink(path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def convert_all(source: Path, folder: Path) -> dict[str, bytes]:
    """Every kind of output that a model becomes, each written twice; their bytes by name."""
    folder.mkdir()
    options: dict[str, Any] = {"force": True, "n_threads": 2}
    for _ in range(2):
        qc.quantize_model(source, folder / "q4.gguf", "Q4_0", **options)
        qc.dequantize_model(folder / "q4.gguf", folder / "floats.gguf", **options)
        qc.split_model(folder / "q4.gguf", folder / "part", max_tensors=2, **options)
        qc.merge_model(next(iter(sorted(folder.glob("part-*")))), folder / "merged.gguf", **options)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_models_are_the_same_files(windows, tmp_path, monkeypatch):
    write_model(tmp_path / "in.gguf")
    on_windows = convert_all(tmp_path / "in.gguf", tmp_path / "windows")
    monkeypatch.undo()
    assert on_windows == convert_all(tmp_path / "in.gguf", tmp_path / "posix")


OPTIONAL = ("arrow", "dask", "onnx", "torch", "zarr", "__main__", "_kernels")  # or need no second import
IMPORT = """
import importlib, os, pkgutil, sys, types
import numpy, pathlib, subprocess
for name in {absent}:
    if hasattr(os, name):
        delattr(os, name)
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
sys.modules.update(msvcrt=types.ModuleType("msvcrt"), _winapi=types.ModuleType("_winapi"))
import quantcore
os.name = "nt"
from quantcore.files import system
os.name = "posix"
assert isinstance(system.SYSTEM, system.Windows)
for module in pkgutil.walk_packages(quantcore.__path__, "quantcore."):
    if module.name.split(".")[1] not in {optional}:
        importlib.import_module(module.name)
quantcore.dequantize(quantcore.quantize(numpy.zeros((8, 64), "float32"), "Q4_0"), "Q4_0")
assert quantcore.get_num_threads() >= 1
"""


@pytest.mark.slow
def test_everything_is_imported_without_what_windows_lacks():
    child = python(IMPORT.format(absent=(*ABSENT, "fork"), optional=OPTIONAL))
    assert (child.returncode, child.stderr) == (0, "")


def test_outputs_get_their_names_together_or_not_at_all(windows, tmp_path):
    old = {"a": b"old a", "b": b"old b"}
    for name, data in old.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(RuntimeError), OutputFiles(force=True) as files:
        for name in old:
            files.open(tmp_path / name).write(b"new")
        raise RuntimeError
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old
    with OutputFiles(force=True) as files:
        for name in old:
            files.open(tmp_path / name).write(b"new " + name.encode())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new a", "b": b"new b"}


def test_an_output_that_is_written_is_locked_and_a_stale_one_removed(windows, tmp_path):
    with OutputFile(tmp_path / "out") as first:
        first.write(b"1")
        with pytest.raises(OutputFileError, match="another process is writing it"), OutputFile(tmp_path / "out"):
            pass
    assert names(tmp_path) == ["out"]
    (tmp_path / f".out.{'0' * 32}.partial").write_bytes(b"left by a killed process")
    with OutputFile(tmp_path / "out", force=True) as second:
        second.write_at(1, b"b")
        second.write_at(0, b"a")
    assert names(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"ab"


def test_threads_read_at_their_own_places(windows, tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 1 << 16, np.uint8).tobytes()
    (tmp_path / "in").write_bytes(data)
    wrong: list[int] = []
    with InputFile(tmp_path / "in") as file:

        def read(start: int) -> None:
            for offset in range(start, len(data) - 64, 256):
                if file.read(offset, 64) != data[offset : offset + 64]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read, args=(64 * i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with pytest.raises(FileFormatError, match=f"ends at offset {len(data)}"):
            file.read(len(data) - 1, 2)
    assert wrong == []


def test_what_is_no_file_is_refused_by_name(windows, tmp_path):
    with pytest.raises(PermissionError) as caught:
        InputFile(tmp_path)
    assert caught.value.filename == str(tmp_path)
    with pytest.raises(FileNotFoundError):
        InputFile(tmp_path / "missing")

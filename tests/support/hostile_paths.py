"""Makers of paths that are no plain files, or far larger than what is in them: each takes an empty folder."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

Maker = Callable[[Path], Path]


def sparse(head: bytes, size: int, name: str = "sparse.gguf") -> Maker:
    """Return a maker of a file that begins with `head` and is `size` bytes long, all but the head a hole."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(head)
        os.truncate(path, size)
        return path

    return make


def holed(before: bytes, after: bytes, size: int, name: str = "sparse.gguf") -> Maker:
    """Return a maker of a file with a hole of `size` bytes between two parts."""

    def make(folder: Path) -> Path:
        path = folder / name
        with path.open("wb") as file:
            file.write(before)
            file.seek(size, os.SEEK_CUR)
            file.write(after)
        return path

    return make


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo.gguf")
    return folder / "fifo.gguf"


def unix_socket(folder: Path) -> Path:
    # Bound by its short name: the path of a socket may not be longer than about 100 bytes.
    here = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("socket.gguf")
    finally:
        os.fchdir(here)
        os.close(here)
    return folder / "socket.gguf"


def a_folder(folder: Path) -> Path:
    (folder / "folder.gguf").mkdir()
    return folder / "folder.gguf"


def link(name: str, target: str) -> Maker:
    """Return a maker of a symbolic link."""

    def make(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return make

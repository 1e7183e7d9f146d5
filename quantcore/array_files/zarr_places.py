"""Where the arrays of a zarr hierarchy lie, by names and metadata alone, in a folder or a .zip; nothing is decoded."""

import contextlib
import os
import posixpath
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from quantcore._base.text import brief, printable
from quantcore.array_files.npz import is_zip
from quantcore.errors import FileFormatError, QuantcoreError
from quantcore.files.disk import InputFile
from quantcore.files.kinds import ZARR_NAMES
from quantcore.files.strict_json import parse_object

MOST_CHUNK_BYTES = 1 << 31
"""The limit of a chunk, which is decoded as a whole."""
_V3, _V2_ARRAY, _V2_GROUP = ZARR_NAMES
_MOST_METADATA_BYTES, _METADATA = 100_000_000, "metadata"


def is_zarr(path: Path) -> bool:
    """Whether it is a folder with the metadata of a zarr array or group, or a .zip that holds such metadata."""
    if path.is_dir():
        return any((path / name).exists() for name in ZARR_NAMES)
    if not path.is_file():
        return False
    with InputFile(path) as file:
        if not is_zip(bytes(file.read(0, min(4, file.size)))):
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(posixpath.basename(name) in ZARR_NAMES for name in archive.namelist())
    except Exception:  # it may be anything: what it is, others say
        return False


def in_folder(folder: Path, label: str) -> list[str]:
    """The paths of the arrays below a folder, in the order of their names; "" is the folder itself."""
    found: list[str] = []
    pending = [""]
    seen: set[str] = set()
    while pending:
        place = pending.pop()
        here = folder / place if place else folder
        kind = _kind(_files(here), label_of(label, place))
        if kind == "array":
            found.append(place)
        if kind != "group" or (real := os.path.realpath(here)) in seen:  # links may lead back
            continue
        seen.add(real)
        names = sorted((entry.name for entry in os.scandir(here) if entry.is_dir()), reverse=True)
        pending += [f"{place}/{name}" if place else name for name in names]
    return found


def in_archive(path: Path, label: str) -> list[str]:
    """The paths of the arrays in a .zip."""
    with refusals(label), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.file_size > MOST_CHUNK_BYTES:
                name = brief(printable(info.filename))
                raise FileFormatError(f"{label}: {name}: {info.file_size} bytes, the limit is {MOST_CHUNK_BYTES}")
        names = set(archive.namelist())
        places = sorted({posixpath.dirname(name) for name in names if posixpath.basename(name) in ZARR_NAMES})

        def read(place: str) -> Callable[[str], bytes | None]:
            def bytes_of(name: str) -> bytes | None:
                inside = posixpath.join(place, name)
                if inside not in names:
                    return None
                _check_size(archive.getinfo(inside).file_size, label_of(label, inside))
                return archive.read(inside)

            return bytes_of

        return [place for place in places if _kind(read(place), label_of(label, place)) == "array"]


def _files(folder: Path) -> Callable[[str], bytes | None]:
    """Reads the metadata files of a folder; None where there is none."""

    def bytes_of(name: str) -> bytes | None:
        if not (folder / name).exists():
            return None
        with InputFile(folder / name) as file:
            return bytes(file.read_whole(_MOST_METADATA_BYTES, _METADATA))

    return bytes_of


def _kind(read: Callable[[str], bytes | None], label: str) -> str | None:
    """ "array", "group", or None for what is neither."""
    if (data := read(_V3)) is not None:
        kind = parse_object(data, label, _V3, nan=True).get("node_type")
        if kind not in ("array", "group"):
            raise FileFormatError(f"{label}: {_V3}: node_type: expected 'array' or 'group', got {brief(kind)}")
        return str(kind)
    if read(_V2_ARRAY) is not None:
        return "array"
    return "group" if read(_V2_GROUP) is not None else None


def _check_size(size: int, label: str) -> None:
    if size > _MOST_METADATA_BYTES:
        raise FileFormatError(f"{label}: {size} bytes, the limit of {_METADATA} is {_MOST_METADATA_BYTES}")


def label_of(label: str, place: str) -> str:
    return f"{label}: {printable(place)}" if place else label


@contextlib.contextmanager
def refusals(label: str) -> Iterator[None]:
    """Whatever zarr and its codecs raise about damaged data, as one line that names the array."""
    try:
        yield
    except FileFormatError as error:
        raise error if str(error).startswith(label) else FileFormatError(f"{label}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, QuantcoreError) else f"{type(error).__name__}: {error}"
        raise FileFormatError(f"{label}: {' '.join(text.split())[:200]}") from None

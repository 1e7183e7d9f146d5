"""Outputs and folders for the tests of files."""

from pathlib import Path

from quantcore.files.disk import OutputFile

OLD = b"precious"
NEW = bytes(range(256)) * 5000


def write(path: Path | str, data: bytes = NEW, **options: object) -> None:
    with OutputFile(path, **options) as file:
        for start in range(0, len(data), 70_000):
            file.write(data[start : start + 70_000])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}

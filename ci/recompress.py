# /// script
# dependencies = ["zopfli==0.4.3"]
# ///
"""The same files in smaller wheels: written anew with Zopfli, whose output every unzip reads.

Usage: python ci/recompress.py WHEEL...
"""

import argparse
import zipfile
from pathlib import Path

import zopfli.zlib


class Deflate:
    """What `zipfile` asks of a compressor; the bare stream is what is between zlib's header and its checksum."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def compress(self, data: bytes) -> bytes:
        self._parts.append(bytes(data))
        return b""

    def flush(self) -> bytes:
        return bytes(zopfli.zlib.compress(b"".join(self._parts), numiterations=5)[2:-4])


def recompress(wheel: Path) -> None:
    """Write a wheel anew; its files are compared before it takes the place of the old one."""
    smaller = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(smaller, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            member.compress_type = zipfile.ZIP_DEFLATED
            with new.open(member, "w") as file:
                file._compressor = Deflate()
                file.write(data)
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(smaller) as new:
        assert old.namelist() == new.namelist()
        assert all(old.read(name) == new.read(name) for name in old.namelist())
    print(f"{wheel.name}: {wheel.stat().st_size:,} -> {smaller.stat().st_size:,} bytes")
    smaller.replace(wheel)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("wheels", nargs="+", type=Path)
    for wheel in parser.parse_args().wheels:
        recompress(wheel)


if __name__ == "__main__":
    main()

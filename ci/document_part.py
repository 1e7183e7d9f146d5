"""A part of a document that a module makes: it stands between two lines that name the module."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DocumentPart:
    """What `make` returns belongs into `document`; `module` is what its two lines say makes it."""

    document: Path
    module: str
    make: Callable[[], str]

    def updated(self, text: str) -> str:
        """The document with the part of today between its lines."""
        begin, end = (f"<!-- made by python -m {self.module}: {word} -->" for word in ("begin", "end"))
        before, found, rest = text.partition(begin)
        _, also_found, after = rest.partition(end)
        if not found or not also_found:
            raise SystemExit(f"{self.document}: needs the lines {begin!r} and {end!r}")
        return f"{before}{begin}\n{self.make()}\n{end}{after}"

    def main(self, description: str) -> int:
        """Rewrite the document; with --check, exit 1 if that would change it."""
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the document is stale")
        options = parser.parse_args()
        text = self.document.read_text()
        if self.updated(text) == text:
            return 0
        if options.check:
            print(f"{self.document}: stale, run python -m {self.module}", file=sys.stderr)
            return 1
        self.document.write_text(self.updated(text))
        return 0

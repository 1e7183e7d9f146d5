"""Where the golden vectors are and how they are read: `tests/golden/FORMAT.json`, one file a format.

A file says what made it and what the fields of a vector are, and holds one vector a line. It is written once, by
`tests.support.make_golden`, and never regenerated: it is evidence of what the genuine library once wrote.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "golden"


def path_of(format_name: str) -> Path:
    return FOLDER / f"{format_name.lower()}.json"


def list_formats() -> list[str]:
    """The formats that have a file, in lower case."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_vectors(format_name: str) -> list[list[Any]]:
    vectors: list[list[Any]] = json.loads(path_of(format_name).read_text())["vectors"]
    return vectors

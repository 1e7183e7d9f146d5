"""What describes the project says the same in every place: the version, the Pythons."""

import re
import tomllib
from pathlib import Path

from quantcore import __version__

ROOT = Path(__file__).parents[1]


def test_version_to_cite_is_that_of_the_package():
    citation, readme = ((ROOT / name).read_text() for name in ("CITATION.cff", "README.md"))
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [__version__]
    assert re.findall(r"version = \{(.*?)\}", readme) == [__version__]


def test_classifiers_name_the_pythons_from_the_oldest_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    minors = [int(found[1]) for line in project["classifiers"] if (found := re.search(r":: 3\.(\d+)$", line))]
    assert minors == list(range(minors[0], minors[-1] + 1)) and project["requires-python"] == f">=3.{minors[0]}"

"""The extras that messages and documents name are those of pyproject.toml, under the distribution's own name."""

import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import quantcore
from quantcore._base.extras import DISTRIBUTION, EXTRAS, install_hint
from quantcore.errors import MissingExtraError

ROOT = Path(quantcore.__file__).parents[1]
PROJECT = (
    tomllib.loads((ROOT / "pyproject.toml").read_text())["project"] if (ROOT / "pyproject.toml").exists() else None
)
needs_checkout = pytest.mark.skipif(PROJECT is None, reason="not in a checkout: no pyproject.toml")


def requirements(extra: str) -> list[str]:
    return [re.match(r"[\w-]+", line)[0] for line in PROJECT["optional-dependencies"][extra]]


@needs_checkout
def test_name_and_extras_are_those_of_the_project():
    assert PROJECT["name"] == DISTRIBUTION
    for package, extra in EXTRAS.items():
        assert package in requirements(extra)


@needs_checkout
def test_extras_that_include_others_use_the_own_name():
    extras = PROJECT["optional-dependencies"]
    lines = [line for lines in extras.values() for line in lines if line.startswith("quantcore")]
    assert len(lines) == 5
    for line in lines:
        assert set(re.fullmatch(rf"{DISTRIBUTION}\[([\w,]+)\]", line)[1].split(",")) <= set(extras)


@needs_checkout
def test_documents_and_sources_name_no_other_distribution():
    files = [*ROOT.glob("*.md"), *(path for suffix in ("py", "md") for path in ROOT.glob(f"*/**/*.{suffix}"))]
    assert {ROOT / "README.md", ROOT / "docs" / "torch.md", Path(quantcore.__file__)} <= set(files)
    pattern = re.compile(r"pip install '?(quantcore[\w-]*)\[([\w,]+)\]")
    named, extras = set(), set()
    for path in files:
        for name, listed in pattern.findall(path.read_text()):
            named.add(name)
            extras |= set(listed.split(","))
    assert extras <= set(PROJECT["optional-dependencies"])
    assert named == {DISTRIBUTION}


def test_hint_is_a_command_for_a_shell():
    assert install_hint("report") == "pip install 'quantcore-quantization[report]'"


def test_bfloat16_by_name_without_ml_dtypes(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    packed = quantcore.quantize(np.ones((2, 32), np.float32), "Q8_0")
    with pytest.raises(MissingExtraError, match=r"dtype: 'bfloat16' needs ml_dtypes: pip install .*\[bfloat16\]'"):
        quantcore.dequantize(packed, "Q8_0", dtype="bfloat16")

"""Marks that several test modules use. A slow test is left out of plain `pytest`: see the root's `conftest.py`."""

import os
from collections.abc import Iterable
from typing import Any

import pytest

needs_posix = pytest.mark.skipif(os.name != "posix", reason="Windows has other links, names, permissions and devices")


def slow_but_first(values: Iterable[Any], n_fast: int = 1) -> list[Any]:
    """The values as parameters, all but the first of them marked slow: the fast set has one case of each kind."""
    return [value if i < n_fast else pytest.param(value, marks=pytest.mark.slow) for i, value in enumerate(values)]

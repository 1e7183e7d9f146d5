"""The CPU levels for the tests. A level is chosen once, at import: any other one runs in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import quantcore
from quantcore import _kernels
from tests.support.marks import slow_but_first

# This process computes what its own level gives; a child at the same one would only do so again.
every_other_level = pytest.mark.parametrize(
    "level", slow_but_first(level for level in _kernels.SUPPORTED_LEVELS if level != _kernels.LEVEL)
)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that finds this very quantcore, and these tests behind it."""
    roots = [Path(quantcore.__file__).parents[1], Path(__file__).parents[2]]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, roots))} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, timeout=120)


def at_level(level: str, function: FunctionType, *arguments: int) -> Any:
    """What a function of a test module returns at a level, by way of JSON; floats come back the same."""
    call = f"{function.__name__}(*{list(arguments)})"
    code = f"import json, quantcore; from {function.__module__} import {function.__name__}; "
    child = python(code + f"print(json.dumps([quantcore.isa(), {call}]))", QUANTCORE_ISA=level)
    assert child.returncode == 0, child.stderr
    isa, result = json.loads(child.stdout)
    assert isa == level
    return result


def differences(found: dict[str, Any], expected: dict[str, Any]) -> set[str]:
    """The names of the results that differ."""
    return {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
